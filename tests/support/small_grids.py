"""Grids of every kind, and labels on them."""

from __future__ import annotations

import numpy as np
import rioxarray  # noqa: F401  (the accessor .rio)
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass

CLASSES = [LabelClass(0, "bare land", (200, 180, 120)), LabelClass(1, "water", (30, 90, 200))]
LAEA = "+proj=laea +lat_0=-3 +lon_0=-60 +datum=WGS84 +units=m +type=crs"
NORTH_UP = Affine(30, 0, 600000, 0, -30, 9700000)
GRIDS = {
    "projected": GeoBox((70, 110), NORTH_UP, "EPSG:32620"),
    "geographic": GeoBox((70, 110), Affine(1e-4, 0, 12.5, 0, -7e-5, 46.1), "EPSG:4326"),
    "no code": GeoBox((70, 110), NORTH_UP, LAEA),
    "rotated": GeoBox((70, 110), NORTH_UP @ Affine.rotation(20), "EPSG:32620"),
    "no CRS": GeoBox((70, 110), Affine.identity(), None),
}


def make_labels(grid: GeoBox) -> np.ndarray:
    labels = np.random.default_rng(0).integers(0, 2, grid.shape, dtype=np.uint8)
    labels[:20, :40] = NODATA
    return labels
