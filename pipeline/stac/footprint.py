"""Outline the labels of a scene on Earth, as GeoJSON has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.window import Window

Outline = shapely.Polygon | shapely.MultiPolygon
"""One or more polygons, in pixels (column, row) of a grid or in degrees (longitude, latitude)."""

Locate = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Turns points (n, 2) in pixels (column, row) into degrees (longitude, latitude); not finite past the Earth."""

_SAMPLED_POINTS = 16
"""Points along either side of an area among which one on Earth is looked for."""

_BISECTIONS = 32
"""Steps to find the limb of the Earth between a point on it and one past it."""


def compute_footprint(grid: GeoBox, area: Outline | None = None) -> Outline | None:
    """Return the outline of an area of a grid in longitude and latitude (WGS 84).

    The edges are densified, since a straight edge of the grid is a curve there. An area across the antimeridian gives
    one part on each side of it (RFC 7946, section 3.1.9). An area over a pole reaches up to the pole.

    Args:
        grid: the grid.
        area: in pixels (column, row). ``None``: the whole grid.

    Returns:
        The outline; None without a CRS, and where nothing of the area is on Earth.
    """
    if grid.crs is None:
        return None
    height, width = grid.shape
    dense = shapely.segmentize(shapely.box(0, 0, width, height) if area is None else area, max(height, width) / 32)
    to_degrees = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True)

    def locate(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(to_degrees.transform(*grid.pix2wld(*pixels.T)))

    inside = _find_point_on_earth(dense, locate)
    if inside is None:
        return None

    def enclose(ring: shapely.LinearRing) -> shapely.Geometry:
        return _enclose_ring(*locate(_pull_onto_earth(np.asarray(ring.coords), inside, locate)).T)

    polygons = [
        shapely.difference(enclose(part.exterior), shapely.union_all([enclose(hole) for hole in part.interiors]))
        for part in shapely.get_parts(dense)
    ]
    merged = shapely.union_all(polygons)
    parts = [shapely.geometry.polygon.orient(part) for part in shapely.get_parts(merged) if part.area > 0]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def find_hull_corners(labels: NDArray[np.uint8], window: Window) -> NDArray[np.float64]:
    """Return the corners (n, 2), column and row, of the convex hull of the pixels of a window that have a label.

    Args:
        labels: (height, width) of the window.
        window: where they lie in the scene.
    """
    labelled = labels != NODATA
    (row,) = np.nonzero(labelled.any(axis=1))
    first, stop = labelled[row].argmax(axis=1), window.width - labelled[row, ::-1].argmax(axis=1)
    corners = [np.column_stack([window.col + col, window.row + row + down]) for col in (first, stop) for down in (0, 1)]
    return shapely.get_coordinates(shapely.MultiPoint(np.concatenate(corners)).convex_hull)


def join_hulls(corners: Sequence[NDArray[np.float64]]) -> shapely.Polygon | None:
    """Return the convex hull (column, row) of all labels of a scene from those of its parts; None without labels."""
    hull = shapely.get_coordinates(shapely.MultiPoint(np.concatenate(corners)).convex_hull)
    return shapely.Polygon(hull) if hull.size else None


def compute_labelled_area(grid: GeoBox, hull: shapely.Polygon | None, aoi: str | None) -> Outline | None:
    """Return where a grid has labels, in pixels (column, row): their hull, limited to the area of interest.

    Args:
        grid: the grid.
        hull: convex hull of the labels (column, row). ``None``: the whole grid.
        aoi: area of interest as WKT in the CRS of the grid. ``None``: everything.

    Returns:
        The area; None where it is empty. The footprint of a scene without labels is that of its grid.
    """
    area: Outline = shapely.box(0, 0, *grid.shape[::-1]) if hull is None else hull
    if aoi is not None:
        a, b, c, d, e, f = (~grid.transform)[:6]
        in_pixels = shapely.affinity.affine_transform(shapely.from_wkt(aoi), (a, b, d, e, c, f))
        parts = shapely.get_parts(shapely.intersection(shapely.make_valid(in_pixels), area))
        area = shapely.MultiPolygon([part for part in parts if isinstance(part, shapely.Polygon)])
    return None if area.is_empty else area


def compute_bbox(outline: Outline) -> list[float]:
    """Return west, south, east and north of an outline in degrees; west > east across the antimeridian.

    As defined in RFC 7946, section 5.2.
    """
    west, south, east, north = outline.bounds
    bounds = [part.bounds for part in shapely.get_parts(outline)]
    first = min((part[0] for part in bounds if part[2] == 180), default=west)
    last = max((part[2] for part in bounds if part[0] == -180), default=east)
    # Parts on both sides with a gap between them are one area across the antimeridian. Without a gap the area goes
    # around a pole and is only cut there.
    if (west, east) == (-180, 180) and first - last > 1e-6:
        west, east = first, last
    return [round(number, 7) for number in (west, south, east, north)]


def round_coordinates(geometry: Any) -> Any:
    """Return the same GeoJSON with 7 decimals, which is about a centimetre, and with lists instead of tuples."""
    if isinstance(geometry, Mapping):
        return {key: round_coordinates(value) for key, value in geometry.items()}
    if isinstance(geometry, Sequence) and not isinstance(geometry, str):
        return [round_coordinates(value) for value in geometry]
    return round(geometry, 7) if isinstance(geometry, float) else geometry


def _find_point_on_earth(area: Outline, locate: Locate) -> NDArray[np.float64] | None:
    """Return a point (1, 2) in pixels, in the middle of what of an area is on Earth; None where nothing is."""
    left, top, right, bottom = area.bounds
    steps = (np.arange(_SAMPLED_POINTS) + 0.5) / _SAMPLED_POINTS
    points = np.stack(np.meshgrid(left + steps * (right - left), top + steps * (bottom - top)), axis=-1).reshape(-1, 2)
    points = points[shapely.contains_xy(area, points)]
    points = np.concatenate([points, np.asarray(area.representative_point().coords)])
    points = points[np.isfinite(locate(points)).all(axis=1)]
    if not len(points):
        return None
    nearest = np.square(points - points.mean(axis=0)).sum(axis=1).argmin()
    return points[nearest : nearest + 1]


def _pull_onto_earth(points: NDArray[np.float64], inside: NDArray[np.float64], locate: Locate) -> NDArray[np.float64]:
    """Move points that look past the Earth, such as the corners of a full disk, towards one inside, up to the limb.

    Args:
        points: (n, 2) in pixels.
        inside: (1, 2) in pixels, a point on Earth.
        locate: returns longitudes and latitudes of points; not finite past the Earth.
    """
    points = points.copy()
    past = ~np.isfinite(locate(points)).all(axis=1)
    if not past.any():
        return points
    outward = points[past] - inside
    on_earth, beyond = np.zeros(len(outward)), np.ones(len(outward))
    for _ in range(_BISECTIONS):
        middle = (on_earth + beyond) / 2
        is_on_earth = np.isfinite(locate(inside + middle[:, None] * outward)).all(axis=1)
        on_earth, beyond = np.where(is_on_earth, middle, on_earth), np.where(is_on_earth, beyond, middle)
    points[past] = inside + on_earth[:, None] * outward
    return points


def _enclose_ring(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> shapely.Geometry:
    """Return what a closed ring of points, in degrees, encloses, cut at the antimeridian."""
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:
        # The ring goes around a pole: it is closed along the antimeridian and the pole.
        pole = np.copysign(90.0, lat.mean())
        lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
    # Removes points on straight edges.
    tolerance = min(np.ptp(lon), np.ptp(lat)) * 1e-4
    shape = shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat])).simplify(tolerance))
    worlds = [
        shapely.affinity.translate(shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    # Joins parts from different worlds that touch each other.
    return shapely.union_all(worlds)
