"""Polygons of an area, and which pixels of a grid lie in it."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.geometry.window import Window


def mask_area(area: str, grid: GeoBox, window: Window) -> NDArray[np.bool_]:
    """Return whether the centre of each pixel of a window lies in an area; the same whatever the window.

    Args:
        area: polygons as WKT in the CRS of the grid.
        grid: the grid.
        window: pixels of the grid.

    Returns:
        Mask (height, width), True = inside.
    """
    polygons = _prepare_polygons(area, threading.get_ident())
    corners = [(window.col, window.row), (window.stop_col, window.row)]
    corners += [(window.stop_col, window.stop_row), (window.col, window.stop_row)]
    box = shapely.Polygon([grid.transform @ corner for corner in corners])
    if shapely.contains(polygons, box):
        return np.ones(window.shape, dtype=bool)
    if not shapely.intersects(polygons, box):
        return np.zeros(window.shape, dtype=bool)
    a, b, c, d, e, f = grid.transform[:6]
    inside = np.empty(window.shape, dtype=bool)
    col = np.arange(window.col, window.stop_col) + 0.5
    for number in range(window.height):  # row by row, because coordinates take sixteen times the memory of the mask
        row = window.row + number + 0.5
        inside[number] = shapely.contains_xy(polygons, a * col + b * row + c, d * col + e * row + f)
    return inside


def list_polygons(shape: shapely.Geometry | None) -> list[shapely.Polygon]:
    """Return the polygons in a geometry that have an area, however nested."""
    if isinstance(shape, shapely.Polygon):
        return [] if shape.is_empty else [shape]
    return [found for part in getattr(shape, "geoms", ()) for found in list_polygons(part)]


def repair_polygons(shape: shapely.Geometry) -> shapely.Geometry:
    """Return a valid geometry of the same polygons.

    Where parts overlap they are united, and where holes overlap nothing is filled. Edges that cross, as in a bow tie,
    enclose what lies on either side. (GEOS's other method takes what is covered twice for outside.)
    """
    return shapely.make_valid(shape, method="structure", keep_collapsed=False)


@lru_cache(maxsize=32)
def _prepare_polygons(area: str, thread: int) -> shapely.Geometry:
    # One geometry for each thread, because the index of a prepared geometry is built on its first use.
    polygons = shapely.from_wkt(area)
    shapely.prepare(polygons)
    return polygons
