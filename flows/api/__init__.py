"""Seamline in Python: the functions that ``import seamline`` offers to scripts and notebooks."""
