"""The rasters that a run writes: Zarr store, COG, overviews, layers beside the labels, styles."""
