"""What a map must say of a grid: how many metres a pixel is wide, and where north is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import Transformer


@dataclass(frozen=True)
class MapScale:
    """Scale and orientation of a grid on the ellipsoid, in the middle of the grid.

    Attributes:
        pixel_m: Metres from a pixel to the next one in its row.
        row_m: Metres from a pixel to the next one in its column.
        north: Direction of true north in a picture of the grid, in degrees clockwise from up.
    """

    pixel_m: float
    row_m: float
    north: float


def map_scale(grid: GeoBox) -> MapScale | None:
    """Return scale and orientation of a grid, measured in its middle.

    Returns:
        None if the grid has no CRS on Earth or its middle is not on Earth, such as in the corner of a full-disk image.
    """
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
    # Metres to the east (first row) and to the north (second row) of a step to the right and of a step upwards.
    steps = distance * np.stack([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))])
    if not abs(np.linalg.det(steps)) > 0:
        return None
    right, up = np.linalg.solve(steps, [0.0, 1.0])
    return MapScale(float(distance[0]), float(distance[1]), math.degrees(math.atan2(right, up)))


def round_length(limit: float) -> float:
    """Return the longest length of 1, 2 or 5 times a power of ten that is at most ``limit``."""
    power = 10.0 ** math.floor(math.log10(limit))
    return max(step * power for step in (1, 2, 5) if step * power <= limit)
