"""Many scenes: where they come from, which are new, what became of them."""
