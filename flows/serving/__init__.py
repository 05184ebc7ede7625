"""The web map of a folder of results: tiles, pixels, polygons, metrics."""
