"""Simulated scenes whose true labels are known."""
