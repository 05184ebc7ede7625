"""Where a scene lies on Earth: its outline as GeoJSON has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
from numpy.typing import NDArray
from pyproj import Transformer

from pipeline.grid import GeoBox

__all__ = ["bbox_of", "footprint", "rounded"]


def footprint(grid: GeoBox) -> shapely.Polygon | shapely.MultiPolygon | None:
    """The outline of the grid in longitude and latitude (WGS 84), None without a CRS.

    The edges are densified, since they are curves there. A grid across the antimeridian gives one part on
    each side of it (RFC 7946, section 3.1.9), one over a pole reaches up to the pole.
    """
    if grid.crs is None:
        return None
    ring = _dense_outline(grid)
    lon, lat = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True).transform(*ring)
    seen = np.isfinite(lon) & np.isfinite(lat)  # a corner of a full disk is not on Earth
    lon, lat = np.asarray(lon)[seen], np.asarray(lat)[seen]
    if lon.size < 4:
        return None
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:
        pole = np.copysign(90.0, lat.mean())
        lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
    tolerance = min(np.ptp(lon), np.ptp(lat)) * 1e-4  # a straight edge needs no points on its way
    shape = shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat])).simplify(tolerance))
    worlds = [
        shapely.affinity.translate(shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    merged = shapely.union_all(worlds)  # what is left and right of a cut in the middle of the map is one part
    parts = [shapely.geometry.polygon.orient(part) for part in shapely.get_parts(merged) if part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _dense_outline(grid: GeoBox, points: int = 32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y) of the closed outline in the grid's CRS, ``points`` along each edge."""
    height, width = grid.shape
    along = np.linspace(0, 1, points, endpoint=False)
    zero, one = np.zeros(points), np.ones(points)
    col = np.concatenate([along, one, 1 - along, zero, [0]]) * width
    row = np.concatenate([zero, along, one, 1 - along, [0]]) * height
    x, y = grid.pix2wld(col, row)
    return x, y


def bbox_of(outline: shapely.Polygon | shapely.MultiPolygon) -> list[float]:
    """West, south, east, north; west > east across the antimeridian (RFC 7946, section 5.2)."""
    west, south, east, north = outline.bounds
    bounds = [part.bounds for part in shapely.get_parts(outline)]
    first = min((part[0] for part in bounds if part[2] == 180), default=west)
    last = max((part[2] for part in bounds if part[0] == -180), default=east)
    if (west, east) == (-180, 180) and first - last > 1e-6:  # a gap, not a cut around a pole
        west, east = first, last
    return [round(number, 7) for number in (west, south, east, north)]


def rounded(geometry: Any) -> Any:
    """The same GeoJSON with 7 decimals, a centimetre; JSON without tuples."""
    if isinstance(geometry, Mapping):
        return {key: rounded(value) for key, value in geometry.items()}
    if isinstance(geometry, Sequence) and not isinstance(geometry, str):
        return [rounded(value) for value in geometry]
    return round(geometry, 7) if isinstance(geometry, float) else geometry
