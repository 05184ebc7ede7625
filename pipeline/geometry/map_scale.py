"""What a map must say of a scene's grid: how many metres a pixel is wide, and where north lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import Transformer


@dataclass(frozen=True)
class MapScale:
    """How a grid lies on the ellipsoid, in its middle.

    ``pixel_m`` and ``row_m`` are the distances in metres from a pixel to the next one in its row and in its column,
    ``north`` the direction of true north in a picture of the grid: degrees clockwise from up.
    """

    pixel_m: float
    row_m: float
    north: float


def map_scale(grid: GeoBox) -> MapScale | None:
    """How the grid lies; None without a CRS on Earth, and where its middle is not on Earth (a full disk's corner)."""
    if grid.crs is None or not (grid.crs.projected or grid.crs.geographic):
        return None
    crs, (height, width) = grid.crs.proj, grid.shape
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    col = width / 2 + np.array([-0.5, 0.5, 0.0, 0.0])
    row = height / 2 + np.array([0.0, 0.0, 0.5, -0.5])
    lon, lat = to_degrees.transform(*grid.pix2wld(col, row))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    azimuth, _, distance = crs.get_geod().inv(lon[[0, 2]], lat[[0, 2]], lon[[1, 3]], lat[[1, 3]])
    # What a step to the right and one upwards are to the east (first row) and to the north.
    steps = distance * np.stack([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))])
    if not abs(np.linalg.det(steps)) > 0:
        return None
    right, up = np.linalg.solve(steps, [0.0, 1.0])
    return MapScale(float(distance[0]), float(distance[1]), math.degrees(math.atan2(right, up)))


def round_length(limit: float) -> float:
    """The longest length of 1, 2 or 5 times a power of ten that is at most ``limit``."""
    power = 10.0 ** math.floor(math.log10(limit))
    return max(step * power for step in (1, 2, 5) if step * power <= limit)
