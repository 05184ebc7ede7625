"""Turn networks from elsewhere into model folders, and measure how far they reach."""
