"""Where zones lie on a raster, and how large they are on the ellipsoid.

The edge of a zone is a straight line in the CRS of the zones. In that of the raster it may be a curve: it is cut in
halves until the middle and the quarters of each piece lie within a hundredth of a pixel of the straight line between
its ends. Both zones beside a common edge cut it in the same way, so that nothing is counted twice or lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from seamline.pipeline.analysis.coverage import ZoneEdges
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.area_mask import list_polygons, repair_polygons
from seamline.pipeline.geometry.grid import CrsLink, find_period, link_crs, unwrap

_TOLERANCE = 0.01
"""Pixels that a piece of an edge may bend away from the straight line between its ends."""
_MOST_HALVINGS = 16
_EDGE_CELLS = 32
"""Pieces that an edge across the whole neighbourhood of a raster has at least."""
_LATTICE_CELLS = 32
"""Cells along each side of the lattice of places by which the neighbourhood of a raster is found."""
_MARGIN = 0.1
"""By how much more than its own size the neighbourhood of a raster reaches beyond it on each side."""
_FULL_TURN = 0.9
"""Share of a turn around the Earth from which on a raster counts as one that goes around."""
_AREA_PIECES = 64
"""Pieces of the extent of a zone that an edge is cut to, so that they are nearly geodesics."""
_AREA_DEGREES = 0.25
"""Longest such piece: beside a pole a geodesic between two places on a parallel is a chord of a small circle."""

_Bounds = tuple[float, float, float, float]
_Points = NDArray[np.float64]


class ZonePlacer:
    """Finds the edges of zones on the pixels of one raster."""

    def __init__(self, grid: GeoBox, crs: CRS) -> None:
        """Find what part of the zones' CRS is near the raster.

        Args:
            grid: Grid of the raster, which has a CRS.
            crs: CRS of the zones.
        """
        self._grid, self._link = grid, link_crs(crs, grid.crs)
        period = find_period(crs)
        self._turns = (-period, 0.0, period) if period else (0.0,)
        self._near = _find_neighbourhood(grid, crs)
        left, bottom, right, top = self._near
        self._longest = max((side for side in (right - left, top - bottom) if np.isfinite(side)), default=np.inf)
        self._longest /= _EDGE_CELLS

    def list_near(self, zones: Sequence[shapely.MultiPolygon]) -> list[int]:
        """Return the numbers of the zones whose bounds are near the raster."""
        left, bottom, right, top = np.array([zone.bounds for zone in zones]).reshape(-1, 4).T
        near = np.zeros(len(zones), bool)
        for turn in self._turns:
            near |= (right + turn > self._near[0]) & (left + turn < self._near[2])
        return [int(at) for at in np.flatnonzero(near & (top > self._near[1]) & (bottom < self._near[3]))]

    def place(self, zone: shapely.MultiPolygon, name: object) -> ZoneEdges | None:
        """Return the edges of a zone in pixels of the raster; None if it is not near the raster.

        Args:
            zone: The zone, in its CRS.
            name: Its name, for messages.

        Raises:
            InputError: The zone has no place in the CRS of the raster.
        """
        zone = shapely.orient_polygons(zone)  # the rings of files run either way round, and are valid
        rings = []
        for turn in self._turns:
            part = _clip(shapely.affinity.translate(zone, turn) if turn else zone, self._near)
            rings += [self._place_polygon(polygon, name) for polygon in list_polygons(part)]
        points = np.concatenate(rings) if rings else np.empty((0, 4))
        width = self._grid.width
        turns = np.array([[turn, 0, turn, 0] for turn in self._list_turns()])
        placed = np.concatenate([points + turn for turn in turns])
        edges = ZoneEdges(placed) if len(placed) else None
        if edges is None or edges.columns[0] >= width or edges.columns[1] <= 0:
            return None
        return None if edges.rows[0] >= self._grid.height or edges.rows[1] <= 0 else edges

    def _list_turns(self) -> list[float]:
        """Return by how many pixels turns around the Earth move a place, if the raster is one on which they do."""
        period = self._link.target_period
        col = period / self._grid.transform.a if period and not self._grid.transform.b else 0
        return [-col, 0.0, col] if col else [0.0]

    def _place_polygon(self, polygon: shapely.Polygon, name: object) -> _Points:
        """Return the edges (n, 4) of a polygon in pixels, which run down on its left side.

        Its holes run the other way round than its outer ring.
        """
        outer, middle = self._place_ring(polygon.exterior, name, None)
        rings = [outer, *(self._place_ring(ring, name, middle)[0] for ring in polygon.interiors)]
        x, y = (outer - outer[0]).T
        is_reversed = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
        edges = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in rings])
        return edges[:, [2, 3, 0, 1]] if is_reversed else edges

    def _place_ring(self, ring: shapely.LinearRing, name: object, middle: float | None) -> tuple[_Points, float]:
        """Return the points (n, 2) of a ring in pixels, and the middle of its x in the CRS of the raster."""
        x, y = _cut_ring(shapely.get_coordinates(ring), self._link, self._grid, self._longest)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputError(
                f"zone {name}",
                got=f"a place that is nowhere in {_name_crs(self._grid)}, the CRS of the results",
                expected="zones that lie where it is defined",
                fix="cut them to the neighbourhood of the results with `ogr2ogr -clipsrc …`",
            )
        period = self._link.target_period
        if period:
            x = np.unwrap(x, period=period)
            if abs(x[-1] - x[0]) > period / 2:
                raise InputError(
                    f"zone {name}",
                    got=f"a pole in it, which is no point in {_name_crs(self._grid)}, the CRS of the results",
                    expected="zones without a pole",
                    fix="cut it in halves from pole to equator, or take results in a polar CRS",
                )
            # Holes lie on the turn of their ring, and this on that of the raster.
            near = self._grid.transform @ (self._grid.width / 2, self._grid.height / 2)
            center = (x.min() + x.max()) / 2
            x = x + (float(unwrap(center, near[0] if middle is None else middle, period)) - center)
        return _to_pixels(self._grid, x, y), (x.min() + x.max()) / 2


def measure_zone(zone: shapely.MultiPolygon, crs: CRS) -> float:
    """Return the area of a zone on the ellipsoid of its CRS in m²; NaN if the CRS has no ellipsoid."""
    if zone.is_empty:
        return 0.0
    geodetic = crs.proj.geodetic_crs
    if geodetic is None:
        return float("nan")
    to_angles = Transformer.from_crs(crs.proj, geodetic, always_xy=True)
    degrees = np.degrees(geodetic.axis_info[0].unit_conversion_factor)
    left, bottom, right, top = zone.bounds
    pieces: list[shapely.Geometry] = [zone]
    if crs.geographic and (right - left) * degrees > 90:  # geodesics between distant meridians take another way
        steps = np.arange(left, right, 45 / degrees)
        pieces = [shapely.intersection(zone, shapely.box(at, bottom, at + 45 / degrees, top)) for at in steps]
    longest = max(right - left, top - bottom) / _AREA_PIECES
    if crs.geographic:
        longest = min(longest, _AREA_DEGREES / degrees)
    total, geod = 0.0, crs.proj.get_geod()
    for polygon in (part for piece in pieces for part in list_polygons(piece)):
        total += _measure_polygon(polygon, longest, to_angles, degrees, geod)
    return total


def _measure_polygon(
    polygon: shapely.Polygon, longest: float, to_angles: Transformer, degrees: float, geod: Geod
) -> float:
    areas = []
    for ring in (polygon.exterior, *polygon.interiors):
        points = shapely.get_coordinates(shapely.segmentize(ring, longest))
        lon, lat = np.asarray(to_angles.transform(*points.T)) * degrees
        areas.append(abs(geod.polygon_area_perimeter(lon[:-1], lat[:-1])[0]))
    return float(areas[0] - sum(areas[1:]))


def _name_crs(grid: GeoBox) -> str:
    return grid.crs.proj.name if grid.crs else "no CRS"


def _to_pixels(grid: GeoBox, x: _Points, y: _Points) -> _Points:
    """Return (column, row), (n, 2), of places in the CRS of a grid."""
    a, b, c, d, e, f = grid.transform[:6]
    east, north, scale = x - c, y - f, a * e - b * d
    if not b and not d:
        return np.stack([east / a, north / e], axis=-1)
    return np.stack([(e * east - b * north) / scale, (a * north - d * east) / scale], axis=-1)


def _cut_ring(points: _Points, link: CrsLink, grid: GeoBox, longest: float) -> tuple[_Points, _Points]:
    """Return x and y in the CRS of a grid of the points of a ring, with as many more as its edges bend.

    Args:
        points: Points (n, 2) of the ring in the CRS of the zones.
        link: From that CRS to that of the grid.
        grid: The grid.
        longest: Edges that are longer are cut whether they seem to bend or not.
    """
    if link.transformer is None:
        return points[:, 0], points[:, 1]
    placed = np.stack(link.transform(*points.T), axis=-1)
    is_open = np.ones(len(points) - 1, bool)
    for _ in range(_MOST_HALVINGS):
        at = np.flatnonzero(is_open)
        if not len(at):
            break
        first, last = points[at], points[at + 1]
        middle = (first + last) / 2
        there = np.stack(link.transform(*middle.T), axis=-1)
        bends = _measure_bend(grid, link, placed[at], there, placed[at + 1], 0.5) > _TOLERANCE
        bends |= np.hypot(*(last - first).T) > longest
        calm = np.flatnonzero(~bends)  # an edge may bend to both sides
        for begin, end in ((first, middle), (middle, last)):
            quarter = np.stack(link.transform(*((begin[calm] + end[calm]) / 2).T), axis=-1)
            share = 0.25 if begin is first else 0.75
            far = _measure_bend(grid, link, placed[at[calm]], quarter, placed[at[calm] + 1], share) > _TOLERANCE
            bends[calm] |= far
        at, middle, there = at[bends], middle[bends], there[bends]
        points, placed = np.insert(points, at + 1, middle, axis=0), np.insert(placed, at + 1, there, axis=0)
        is_open = np.zeros(len(points) - 1, bool)
        new = at + np.arange(len(at))
        is_open[new] = is_open[new + 1] = True
    return placed[:, 0], placed[:, 1]


def _measure_bend(
    grid: GeoBox, link: CrsLink, first: _Points, between: _Points, last: _Points, share: float
) -> NDArray[np.float64]:
    """Return how far, in pixels, places lie from where a straight line has them; NaN where a place is nowhere."""
    with np.errstate(invalid="ignore"):
        end = unwrap(last[:, 0], first[:, 0], link.target_period)
        x = unwrap(between[:, 0], first[:, 0], link.target_period) - (first[:, 0] * (1 - share) + end * share)
        y = between[:, 1] - (first[:, 1] * (1 - share) + last[:, 1] * share)
        c, f = grid.transform[2], grid.transform[5]
        return np.asarray(np.hypot(*_to_pixels(grid, x + c, y + f).T))


def _find_neighbourhood(grid: GeoBox, crs: CRS) -> _Bounds:
    """Return the bounds of a grid in another CRS with a margin, at most once around the Earth.

    Longitudes may continue beyond 180°. Where the grid holds a pole, or reaches beyond the edge of its projection, all
    are near.
    """
    at = np.linspace(0, 1, _LATTICE_CELLS + 1)
    col, row = np.meshgrid(at * grid.width, at * grid.height)
    x, y = link_crs(grid.crs, crs).transform(*grid.pix2wld(col, row))
    known, period = np.isfinite(x) & np.isfinite(y), find_period(crs)
    if not known.all():
        side = period / 2 or np.inf
        return -side, -np.inf, side, np.inf
    if period:
        x = np.unwrap(np.unwrap(x, axis=1, period=period), axis=0, period=period)
    left, right, bottom, top = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    if period and right - left > _FULL_TURN * period:  # around the Earth or a pole
        left, right = -period / 2, period / 2
    margin = max(right - left, top - bottom) * _MARGIN
    beside = min(margin, (period - (right - left)) / 2) if period else margin
    return left - beside, bottom - margin, right + beside, top + margin


def _clip(zone: shapely.MultiPolygon, near: _Bounds) -> shapely.Geometry:
    """Return the part of a zone that lies within bounds."""
    left, bottom, right, top = zone.bounds
    if right <= near[0] or left >= near[2] or top <= near[1] or bottom >= near[3]:
        return shapely.MultiPolygon()
    if left >= near[0] and right <= near[2] and bottom >= near[1] and top <= near[3]:
        return zone
    low, high = np.maximum(near[:2], [left - 1, bottom - 1]), np.minimum(near[2:], [right + 1, top + 1])
    return shapely.intersection(zone if zone.is_valid else repair_polygons(zone), shapely.box(*low, *high))
