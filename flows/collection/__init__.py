"""Collections of scenes: where the scenes come from, which of them are new, and how each ended."""
