"""Rasters through GDAL: opening files and reading windows of them."""
