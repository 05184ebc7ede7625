"""Outline the labels of a scene on Earth, as GeoJSON has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.area_mask import list_polygons, repair_polygons
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.stac.earth import EarthGrid, Outline, outline_cells

_SAMPLED_POINTS = 48
"""Points along either side of an area at which its outline is checked."""

_TOLERANCE = 0.01
"""Share of the points that may lie on the wrong side of an outline, and how near to it, in edges of a square as large:
the limb of a disk is approximated by chords."""

_DECIMALS = 7
"""Of degrees, which is about a centimetre."""

_BISECTIONS = 32
"""Steps to find the limb of the Earth between a point on it and one past it."""


def compute_footprint(grid: GeoBox, area: Outline | None = None) -> Outline | None:
    """Return the outline of an area of a grid in longitude and latitude (WGS 84).

    The edges are densified, since a straight edge of the grid is a curve there. An area across the antimeridian gives
    one part on each side of it (RFC 7946, section 3.1.9). An area over a pole reaches up to the pole. What of the area
    lies past the edge of a map of the world, or past the limb of the Earth, is left out. Where the projected edges
    enclose something else than the area, as those along the edge of a map do, the outline is made of cells of a degree
    or less.

    Args:
        grid: the grid.
        area: in pixels (column, row). ``None``: the whole grid.

    Returns:
        The outline, valid and in multiples of 10⁻⁷ degrees; None without a CRS, and where nothing of the area is on
        Earth.
    """
    if grid.crs is None:
        return None
    height, width = grid.shape
    dense = shapely.segmentize(shapely.box(0, 0, width, height) if area is None else area, max(height, width) / 32)
    shapely.prepare(dense)
    earth = EarthGrid.from_grid(grid)
    points = _sample_points(dense)
    points = points[np.isfinite(earth.locate(points)).all(axis=1)]
    if not len(points):
        return None
    nearest = np.square(points - points.mean(axis=0)).sum(axis=1).argmin()
    outline = _project_edges(dense, points[nearest : nearest + 1], earth)
    if not _is_outline_of(outline, dense, points, earth):
        outline = outline_cells(dense, points, earth)
    return _make_polygons(outline)


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
        area = shapely.MultiPolygon(list_polygons(shapely.intersection(repair_polygons(in_pixels), area)))
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
    return round(geometry, _DECIMALS) if isinstance(geometry, float) else geometry


def _sample_points(area: Outline) -> NDArray[np.float64]:
    """Return points (n, 2) in an area, evenly spread and one for certain."""
    left, top, right, bottom = area.bounds
    steps = (np.arange(_SAMPLED_POINTS) + 0.5) / _SAMPLED_POINTS
    points = np.stack(np.meshgrid(left + steps * (right - left), top + steps * (bottom - top)), axis=-1).reshape(-1, 2)
    return np.concatenate(
        [points[shapely.contains_xy(area, points)], np.asarray(area.representative_point().coords)[:, :2]]
    )


def _project_edges(area: Outline, inside: NDArray[np.float64], earth: EarthGrid) -> shapely.Geometry:
    """Return what the edges of an area enclose in degrees.

    Args:
        area: in pixels, its edges densified.
        inside: (1, 2) in pixels, a point of the area on Earth.
        earth: where pixels are.
    """

    def enclose(ring: shapely.LinearRing) -> shapely.Geometry:
        return _enclose_ring(*earth.locate(_pull_onto_earth(np.asarray(ring.coords), inside, earth)).T)

    polygons = [
        shapely.difference(enclose(part.exterior), shapely.union_all([enclose(hole) for hole in part.interiors]))
        for part in shapely.get_parts(area)
    ]
    return shapely.union_all(polygons)


def _is_outline_of(outline: Any, area: Outline, points: NDArray[np.float64], earth: EarthGrid) -> bool:
    """Return whether points of an area lie in an outline, and points in the outline belong to the area.

    Args:
        outline: in degrees.
        area: in pixels.
        points: (n, 2) in pixels, points of the area on Earth.
        earth: where pixels are.
    """
    if not outline.is_valid or outline.area == 0:
        return False
    margin = _TOLERANCE * outline.area**0.5
    wide, narrow = shapely.buffer(outline, margin), shapely.buffer(outline, -margin)
    if (~shapely.contains_xy(wide, earth.locate(points))).mean() > _TOLERANCE:
        return False
    enclosed = [_sample_points(part) for part in shapely.get_parts(narrow) if part.area > 0]
    return not enclosed or bool((~earth.covers(area, np.concatenate(enclosed))).mean() <= _TOLERANCE)


def _make_polygons(outline: shapely.Geometry) -> Outline | None:
    """Return the polygons of an outline, valid also when its coordinates are rounded; None if there are none."""
    rounded = shapely.set_precision(outline, 10.0**-_DECIMALS)
    for shape in (rounded, outline):  # of what is smaller than rounding tells
        polygons = [part for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon) and part.area > 0]
        if polygons:
            if not shapely.MultiPolygon(polygons).is_valid:  # parts share an edge, as at a corner that is a pole
                polygons = list(shapely.get_parts(shapely.union_all(polygons)))
            parts = [shapely.geometry.polygon.orient(part) for part in polygons]
            return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return None


def _pull_onto_earth(points: NDArray[np.float64], inside: NDArray[np.float64], earth: EarthGrid) -> NDArray[np.float64]:
    """Move points that look past the Earth, such as the corners of a full disk, towards one inside, up to the limb.

    Args:
        points: (n, 2) in pixels.
        inside: (1, 2) in pixels, a point on Earth.
        earth: where pixels are.
    """
    points = points.copy()
    past = ~np.isfinite(earth.locate(points)).all(axis=1)
    if not past.any():
        return points
    outward = points[past] - inside
    on_earth, beyond = np.zeros(len(outward)), np.ones(len(outward))
    for _ in range(_BISECTIONS):
        middle = (on_earth + beyond) / 2
        is_on_earth = np.isfinite(earth.locate(inside + middle[:, None] * outward)).all(axis=1)
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
    shape = repair_polygons(shapely.Polygon(np.column_stack([lon, lat])).simplify(tolerance))
    worlds = [
        shapely.affinity.translate(shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90)), -turn)
        for turn in (-360, 0, 360)
    ]
    # Joins parts from different worlds that touch each other.
    return shapely.union_all(worlds)
