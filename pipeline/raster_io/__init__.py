"""Rasters through GDAL: opening files, reading windows of them and identifying their content."""
