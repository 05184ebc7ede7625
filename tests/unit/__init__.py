"""Tests without a cluster, a process or a server: a room at a time."""
