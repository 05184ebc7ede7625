"""Pure geometry: grids, windows, tiles, chunks, tapers, areas of pixels; no files."""
