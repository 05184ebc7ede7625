"""Read published results: open, verify, and compare them with the truth."""
