"""Names of the files that a run leaves: in the catalogue's folder, and in each scene's folder below it."""

from __future__ import annotations

CATALOG = "catalog.json"
"""In the catalogue's folder: the STAC catalogue that links every scene's item."""
ITEMS = "items.parquet"
"""In the catalogue's folder: all items as one table."""

ITEM = "item.json"
RECORD = "run.json"
COG = "segmentation.tif"
ZARR = "segmentation.zarr"
OVERVIEW = "overview.tif"
PREVIEW = "preview.png"
REPORT = "report.html"
RUN_DIRECTORY = ".run"
"""In a scene's folder while its run is not finished."""
