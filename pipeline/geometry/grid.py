"""Comparing grids: odc-geo's ``GeoBox``, which is a CRS, an affine transform and (height, width)."""

from __future__ import annotations

from odc.geo.geobox import GeoBox

_TOLERANCE = 0.01
"""Pixels by which the corners of equal grids may differ."""


def measure_corner_offset(grid: GeoBox, other: GeoBox) -> float:
    """Return how far the corners of two grids of one CRS lie apart at most, in pixels of ``other``."""
    to_other = ~other.transform @ grid.transform
    offset = 0.0
    for x, y in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        col, row = to_other @ (x * grid.width, y * grid.height)
        offset = max(offset, abs(col - x * other.width), abs(row - y * other.height))
    return offset


def is_same_grid(grid: GeoBox, other: GeoBox) -> bool:
    """Return whether each pixel (row, column) is the same place in both grids; the CRS are not compared."""
    return bool(grid.shape == other.shape) and measure_corner_offset(grid, other) < _TOLERANCE
