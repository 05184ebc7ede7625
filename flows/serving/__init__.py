"""The web map of a folder of results: page, tiles, pixels, polygons, metrics."""
