"""What a network computes on: copies to and from a device, waiting for it, its memory, CUDA graphs."""
