"""Labels as polygons: traced by chunk, joined, sieved, simplified, written to files."""
