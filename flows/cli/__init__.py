"""The command line `seamline`."""
