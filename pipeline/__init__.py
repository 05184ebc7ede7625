"""Scenes in, georeferenced rasters out: geometry, reading, blending, Dask, publishing; no torch, no Prefect."""
