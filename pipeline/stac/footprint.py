"""Where the labels of a scene lie on Earth: their outline as GeoJSON has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.products.cog import iter_row_windows

Outline = shapely.Polygon | shapely.MultiPolygon


def compute_footprint(grid: GeoBox, area: Outline | None = None) -> Outline | None:
    """The outline of ``area`` (column, row; default: the whole grid) in longitude and latitude (WGS 84).

    None without a CRS. The edges are densified, since they are curves there. An area across the antimeridian gives one
    part on each side of it (RFC 7946, section 3.1.9), one over a pole reaches up to the pole.
    """
    if grid.crs is None:
        return None
    height, width = grid.shape
    dense = shapely.segmentize(shapely.box(0, 0, width, height) if area is None else area, max(height, width) / 32)
    to_degrees = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True)

    def inside(ring: shapely.LinearRing) -> shapely.Geometry:
        col, row = np.asarray(ring.coords).T
        return _enclose_ring(*to_degrees.transform(*grid.pix2wld(col, row)))

    found = [
        shapely.difference(inside(part.exterior), shapely.union_all([inside(hole) for hole in part.interiors]))
        for part in shapely.get_parts(dense)
    ]
    merged = shapely.union_all(found)
    parts = [shapely.geometry.polygon.orient(part) for part in shapely.get_parts(merged) if part.area > 0]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts) if parts else None


def _enclose_ring(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> shapely.Geometry:
    """What a closed ring of points encloses, cut at the antimeridian."""
    seen = np.isfinite(lon) & np.isfinite(lat)  # a corner of a full disk is not on Earth
    lon, lat = np.asarray(lon)[seen], np.asarray(lat)[seen]
    if lon.size < 4:
        return shapely.Polygon()
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
    return shapely.union_all(worlds)  # what is left and right of a cut in the middle of the map is one part


def compute_labelled_hull(labels: zarr.Array[Any]) -> shapely.Polygon | None:
    """The convex hull (column, row) of all pixels that have a label; None without such.

    Reads ``labels`` (y, x) one row of Zarr chunks at a time.
    """
    hull = np.empty((0, 2))
    for band in iter_row_windows(labels):
        known = labels[band.to_slices()] != NODATA
        (row,) = np.nonzero(known.any(axis=1))
        first, last = known[row].argmax(axis=1), band.width - known[row, ::-1].argmax(axis=1)
        corners = [np.column_stack([col, band.row + row + down]) for col in (first, last) for down in (0, 1)]
        hull = shapely.get_coordinates(shapely.MultiPoint(np.concatenate([hull, *corners])).convex_hull)
    return shapely.Polygon(hull) if hull.size else None


def compute_labelled_area(grid: GeoBox, hull: shapely.Polygon | None, aoi: str | None) -> Outline | None:
    """Where on the grid labels are (column, row): the ``hull`` of them, in it the ``aoi`` (WKT in the grid's CRS).

    None where that is nothing: a scene without data lies where its grid is.
    """
    area: Outline = shapely.box(0, 0, *grid.shape[::-1]) if hull is None else hull
    if aoi is not None:
        a, b, c, d, e, f = (~grid.transform)[:6]
        placed = shapely.affinity.affine_transform(shapely.from_wkt(aoi), (a, b, d, e, c, f))
        parts = shapely.get_parts(shapely.intersection(shapely.make_valid(placed), area))
        area = shapely.MultiPolygon([part for part in parts if isinstance(part, shapely.Polygon)])
    return None if area.is_empty else area


def compute_bbox(outline: Outline) -> list[float]:
    """West, south, east, north; west > east across the antimeridian (RFC 7946, section 5.2)."""
    west, south, east, north = outline.bounds
    bounds = [part.bounds for part in shapely.get_parts(outline)]
    first = min((part[0] for part in bounds if part[2] == 180), default=west)
    last = max((part[2] for part in bounds if part[0] == -180), default=east)
    if (west, east) == (-180, 180) and first - last > 1e-6:  # a gap, not a cut around a pole
        west, east = first, last
    return [round(number, 7) for number in (west, south, east, north)]


def round_coordinates(geometry: Any) -> Any:
    """The same GeoJSON with 7 decimals, a centimetre; JSON without tuples."""
    if isinstance(geometry, Mapping):
        return {key: round_coordinates(value) for key, value in geometry.items()}
    if isinstance(geometry, Sequence) and not isinstance(geometry, str):
        return [round_coordinates(value) for value in geometry]
    return round(geometry, 7) if isinstance(geometry, float) else geometry
