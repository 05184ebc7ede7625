"""Geometry, raster I/O, blending and execution on Dask. Knows no network and no orchestrator."""
