"""Pure geometry: grids, windows, tiles, chunks, tapers, votes and areas of pixels; no files."""
