"""One program for each peer of `peers.py`, run in the peer's own environment."""
