"""What a model is, without torch: its configuration, its document, its weights on disk, and what was measured of it."""
