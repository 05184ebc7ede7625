"""The command line ``seamline``."""
