"""The grid of a map of many scenes: whole multiples of its resolution, cut into chunks; where scenes lie in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.grid import CrsLink, SceneLocator, check_crs, find_period, link_crs, unwrap
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Blocks, Window

CHUNK = 512
"""Edge in pixels of a chunk of a map: unit of work, of writing and of its Zarr arrays."""
_MOST_PIXELS, _LONGEST_SIDE = 10**12, 2**31
_SNAP = 1e-6
"""Pixels. Bounds this close to a border between pixels lie on it."""
_COARSEST_PIXELS = 360
"""Pixels of a turn around the Earth: a coarser resolution in degrees is taken for one in metres."""
_OUTLINE_CELLS = 64
"""Cells along each side of the lattice of points of a scene that are looked for on the map."""
_SMALLEST, _FLAT = 64, 1 / 8
"""Pixels along the edge of the smallest blocks that are looked at; part of its size by which a block may bend."""
_BISECTIONS = 30
"""Halvings by which the edge of the Earth is found between two points of that lattice."""
_FULL_TURN = 1 / 16
"""Part of a turn around the Earth: a scene that leaves less of it free is taken to go all around."""

Bounds = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) in the CRS of a map."""


@dataclass(frozen=True)
class MapGrid:
    """The grid of a map: pixels of the lattice of all whole multiples of a resolution.

    Maps of one CRS and one resolution fit together, whatever their extent: pixel (row, column) of the lattice has its
    upper left corner at x = column·resolution, y = −row·resolution.

    Raises ``InputError`` for a grid that no map can have.

    Attributes:
        crs: A projected or geographic CRS.
        resolution: Edge of a pixel in units of the CRS.
        left: Column of the first pixel in the lattice.
        top: Row of the first pixel in the lattice; rows go down.
        width: Columns of the map.
        height: Rows of the map.
    """

    crs: CRS
    resolution: float
    left: int
    top: int
    width: int
    height: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "crs", check_crs(self.crs))
        _check_resolution(self.crs, self.resolution)
        size = f"{self.height} × {self.width} pixels"
        if self.height < 1 or self.width < 1:
            raise InputError("extent of the map", got=size, expected="at least one pixel", fix="correct the bounds")
        sides = (abs(self.left), abs(self.top), self.left + self.width, self.top + self.height, self.width, self.height)
        if max(sides) > _LONGEST_SIDE or self.width * self.height > _MOST_PIXELS:
            raise InputError(
                "size of the map",
                got=f"{size} of {self.resolution:g} {_name_unit(self.crs)}",
                expected=f"at most {_MOST_PIXELS:.0e} pixels, and 2^31 from the origin of the CRS",
                fix="choose a coarser resolution, smaller bounds or another CRS",
            )

    @classmethod
    def from_bounds(cls, crs: CRS | str, resolution: float, bounds: Bounds) -> MapGrid:
        """Return the grid of the pixels that meet some bounds.

        Args:
            crs: CRS of the map.
            resolution: Edge of a pixel in units of the CRS.
            bounds: (xmin, ymin, xmax, ymax) in the CRS; they may lie beyond 180° of longitude.

        Raises:
            InputError: no map can have such a grid.
        """
        crs = check_crs(crs)
        _check_resolution(crs, resolution)
        _check_bounds(crs, bounds)
        _refuse_coarser(crs, resolution, max(bounds[2] - bounds[0], bounds[3] - bounds[1]))
        xmin, ymin, xmax, ymax = (side / resolution for side in bounds)
        left, top = math.floor(xmin + _SNAP), math.floor(-ymax + _SNAP)
        right, bottom = math.ceil(xmax - _SNAP), math.ceil(-ymin - _SNAP)
        return cls(crs, resolution, left, top, max(1, right - left), max(1, bottom - top))

    @classmethod
    def from_scenes(cls, crs: CRS | str, resolution: float, grids: Iterable[GeoBox]) -> MapGrid:
        """Return the grid of the chunks that scenes lie in.

        The chunks are those of the whole lattice, so that a map that grows keeps its chunks. Of a map that goes around
        the Earth the shortest part that holds all scenes is taken, which may reach beyond 180°; if that is all of it,
        the map has one turn from -180° on, in whole pixels.

        Args:
            crs: CRS of the map.
            resolution: Edge of a pixel in units of the CRS.
            grids: Grids of the scenes.

        Raises:
            InputError: no map can have such a grid, or a scene is nowhere in the CRS.
        """
        crs = check_crs(crs)
        _check_resolution(crs, resolution)
        found = [_find_bounds(grid, crs) for grid in grids]
        if not found:
            raise InputError("extent of the map", got="no scenes", expected="at least one", fix="give bounds or scenes")
        xmin, ymin, xmax, ymax = np.array(found).T
        turn = find_period(crs)
        first, last = _join_arcs(xmin, xmax, turn, resolution)
        _refuse_coarser(crs, resolution, max(last - first, float(ymax.max() - ymin.min())))
        left, width = _round_to_chunks(first, last, resolution)
        top, height = _round_to_chunks(-ymax.max(), -ymin.min(), resolution)
        if turn and width * resolution > turn:  # no place is on the map twice
            left, width = math.floor(_SNAP - turn / 2 / resolution), math.floor(turn / resolution + _SNAP)
        return cls(crs, resolution, left, top, width, height)

    @property
    def geobox(self) -> GeoBox:
        """The grid as a ``GeoBox``."""
        edge = self.resolution
        transform = Affine(edge, 0, self.left * edge, 0, -edge, -self.top * edge)
        return GeoBox((self.height, self.width), transform, self.crs)

    @property
    def chunks(self) -> list[Index]:
        """All chunks, row by row."""
        rows, cols = -(-self.height // CHUNK), -(-self.width // CHUNK)
        return [Index(row, col) for row in range(rows) for col in range(cols)]

    def window_of(self, chunk: Index) -> Window:
        """Return the pixels of a chunk, counted from the first pixel of the map; the last chunks are cut off."""
        whole = Window(0, 0, self.height, self.width)
        return Window(chunk.row * CHUNK, chunk.col * CHUNK, CHUNK, CHUNK).intersection(whole)


def _name_unit(crs: CRS) -> str:
    return str(crs.proj.axis_info[0].unit_name)


def _check_resolution(crs: CRS, resolution: float) -> None:
    if not (math.isfinite(resolution) and resolution > 0):
        raise InputError("resolution", got=resolution, expected="a length above 0", fix="correct it")
    if crs.geographic and resolution > (coarsest := find_period(crs) / _COARSEST_PIXELS):
        raise InputError(
            "resolution",
            got=f"{resolution:g} {_name_unit(crs)}",
            expected=f"at most {coarsest:g} {_name_unit(crs)}: the CRS {crs.proj.name} is not in metres",
            fix="give the resolution in units of the CRS, such as 0.0001, or a CRS in metres",
        )


def _refuse_coarser(crs: CRS, resolution: float, longest: float) -> None:
    """Refuse a resolution that is coarser than the longer side of what is to be on the map."""
    if resolution > longest * (1 + _SNAP):
        raise InputError(
            "resolution",
            got=f"{resolution:g} {_name_unit(crs)}",
            expected=f"at most {longest:g} {_name_unit(crs)}, the longer side of the map",
            fix="give the edge of a pixel in units of the CRS",
        )


def _check_bounds(crs: CRS, bounds: Bounds) -> None:
    xmin, ymin, xmax, ymax = bounds
    if not (all(map(math.isfinite, bounds)) and xmin < xmax and ymin < ymax):
        raise InputError(
            "bounds of the map", got=bounds, expected="xmin < xmax and ymin < ymax, all finite", fix="correct them"
        )
    turn = find_period(crs)
    is_past_pole = crs.geographic and max(-ymin, ymax) > turn / 4
    if is_past_pole or (turn and xmax - xmin > turn * (1 + _SNAP)):
        raise InputError(
            "bounds of the map",
            got=bounds,
            expected=f"xmax - xmin of at most {turn:.12g}"
            + (f" and y up to {turn / 4:g} {_name_unit(crs)}" if crs.geographic else ", once around the Earth"),
            fix="give them in units of the CRS, or another CRS",
        )


def _round_to_chunks(first: float, last: float, resolution: float) -> tuple[int, int]:
    """Return first pixel and length of the chunks that hold an interval and a pixel more, for what rounding moves."""
    start = math.floor((first / resolution - 1) / CHUNK)
    return start * CHUNK, (math.ceil((last / resolution + 1) / CHUNK) - start) * CHUNK


def _find_bounds(scene: GeoBox, crs: CRS) -> Bounds:
    """Return bounds in the CRS of a map that hold a scene.

    On a map that goes around the Earth the x are those of the shortest arc that holds the scene.
    """
    link = link_crs(check_crs(scene.crs, of_scene=True), crs)
    at = np.linspace(0, 1, _OUTLINE_CELLS + 1)
    col, row = np.meshgrid(at * scene.width, at * scene.height)
    x, y = link.transform(*scene.pix2wld(col, row))
    known = np.isfinite(x)
    if not known.any():
        raise InputError(
            "CRS of the map",
            got=f"{crs}, in which a scene in {scene.crs} is nowhere",
            expected="a CRS in which every scene has a place",
            fix="choose another CRS, or leave the scene out",
        )
    edges = [_find_edge(link, scene, *pair) for pair in _pair_neighbours(col, row, known)]
    if period := link.target_period:
        start, length = _find_arc(np.concatenate([x[known], *(place for place, _ in edges)]), period)
        x, edges = _turn_after(start, x, period), [(_turn_after(start, place, period), north) for place, north in edges]
    low, high = [], []
    for lattice, *sides in zip((x, y), *edges, strict=True):
        bend = _measure_bend(lattice)[known]
        low.append(np.concatenate([lattice[known] - bend, *sides]).min())
        high.append(np.concatenate([lattice[known] + bend, *sides]).max())
    (xmin, ymin), (xmax, ymax) = low, high
    if period:
        poles = _find_poles(scene, crs)
        ymin, ymax = min([ymin, *poles]), max([ymax, *poles])
        if length > (1 - _FULL_TURN) * period or poles or xmax - xmin > period:
            xmin, xmax = -period / 2, period / 2
    return float(xmin), float(ymin), float(xmax), float(ymax)


def _measure_bend(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far values between points of a lattice may lie beyond each point; 0 beside the edge of the Earth."""
    bend = np.zeros_like(lattice)
    with np.errstate(invalid="ignore"):
        bend[1:-1] = np.abs(np.diff(lattice, 2, axis=0))
        bend[:, 1:-1] = np.fmax(bend[:, 1:-1], np.abs(np.diff(lattice, 2, axis=1)))
    return np.where(np.isfinite(bend), bend, 0) / 4  # of a parabola it is an eighth


def _pair_neighbours(
    col: NDArray[np.float64], row: NDArray[np.float64], known: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield neighbouring points of a lattice, (2, n) in pixels, of which the first are on Earth and the second not."""
    points = np.stack([col, row], axis=-1)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        for on_earth, beyond in ((first, second), (second, first)):
            mixed = known[on_earth] & ~known[beyond]
            if mixed.any():
                yield points[on_earth][mixed].T, points[beyond][mixed].T


def _find_edge(
    link: CrsLink, scene: GeoBox, on_earth: NDArray[np.float64], beyond: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Return the last places, in the CRS of the map, between points on Earth and points that are not.

    Args:
        link: From the CRS of the scene to that of the map.
        scene: Grid of the scene.
        on_earth: Points (column, row) of the scene on Earth, (2, n).
        beyond: Points beyond its edge.
    """
    for _ in range(_BISECTIONS):
        middle = (on_earth + beyond) / 2
        is_known = np.isfinite(link.transform(*scene.pix2wld(*middle))[0])
        on_earth, beyond = np.where(is_known, middle, on_earth), np.where(is_known, beyond, middle)
    return link.transform(*scene.pix2wld(*on_earth))


def _turn_after(start: float, x: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """Return x moved by whole turns around the Earth so that none is before ``start``."""
    slack = _SNAP * period  # so that rounding does not move the first one to the end
    with np.errstate(invalid="ignore"):
        return np.asarray(start - slack + (x - start + slack) % period)


def _find_arc(x: NDArray[np.float64], period: float) -> tuple[float, float]:
    """Return start and length of the shortest arc that holds all x of a CRS that goes around the Earth."""
    around = np.unique(x % period)
    gaps = np.diff(around, append=around[0] + period)
    last = int(gaps.argmax())
    return float(around[(last + 1) % len(around)]), float(period - gaps[last])


def _find_poles(scene: GeoBox, crs: CRS) -> list[float]:
    """Return the y of the poles that lie in a scene."""
    lon, lat = np.zeros(2), np.array([-90.0, 90.0])
    degrees = CRS("OGC:CRS84")
    with np.errstate(invalid="ignore"):
        col, row = scene.wld2pix(*link_crs(degrees, scene.crs).transform(lon, lat))
        inside = (col >= 0) & (col <= scene.width) & (row >= 0) & (row <= scene.height)
    _, y = link_crs(degrees, crs).transform(lon, lat)
    if not (np.abs(y[inside]) < find_period(crs)).all():  # on Web Mercator it is infinitely far away
        raise InputError(
            "CRS of the map",
            got=f"{crs}, in which a pole has no place, and a scene that holds it",
            expected="a CRS in which all of every scene has a place",
            fix="choose another CRS, such as EPSG:3995 or EPSG:3031, or give bounds",
        )
    return [float(place) for place in y[inside]]


def _join_arcs(
    first: NDArray[np.float64], last: NDArray[np.float64], period: float, resolution: float
) -> tuple[float, float]:
    """Return the shortest interval of x that holds all intervals [first, last], which may be moved by whole turns.

    Of several shortest ones it is the one that does not cross half a turn.
    """
    if not period:
        return float(first.min()), float(last.max())
    west = -period / 2 - resolution  # a scene that starts at half a turn starts there whatever rounding does
    turned = (first - west) % period + west
    arcs = sorted(zip(turned, turned + (last - first), strict=True))
    reached = max(end for _, end in arcs) - period
    longest, start, stop = 0.0, -period / 2, period / 2
    for begin, end in arcs:
        if begin - reached > longest:
            longest, start, stop = begin - reached, begin, reached + period
        reached = max(reached, end)
    return float(start), float(stop)


def _find_near(locator: SceneLocator, blocks: Blocks) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which blocks may touch a scene, and which bend so little that they hardly touch it otherwise.

    Places are looked at on a lattice that reaches beyond the block on each side, so that an edge of the Earth that
    bulges into the block is seen. Between them a block bends by less than they do.
    """
    at = np.linspace(-blocks.size / 8, blocks.size * 9 / 8, 5)
    x, y = locator.project(*blocks.place(at))
    is_known = np.isfinite(x) & np.isfinite(y)
    pixels = locator.to_pixels(unwrap(x, x[:, 2:3, 2:3], locator.link.target_period), y)
    with np.errstate(invalid="ignore"):
        bend = np.abs(pixels - _flatten(pixels)).max((2, 3))
        low, high = pixels.min((2, 3)) - bend - 1, pixels.max((2, 3)) + bend + 1
        is_flat = is_known.all((1, 2)) & (bend.max(0) <= _FLAT * (high - low).max(0))
    size = np.array(locator.scene.shape)[:, None]
    meets = np.zeros(len(blocks.row), bool)
    for turn in locator.list_turns():
        meets |= ((high + turn >= 0) & (low + turn <= size)).all(0)
    # Larger blocks may hold all of the Earth between the places that are looked at.
    may_be_known = is_known.any((1, 2)) | (blocks.size > CHUNK)
    return may_be_known & (meets | ~is_flat), is_flat


def _flatten(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 5 × 5 places (…, row, column) of blocks as interpolation between their corners would have them."""
    share = np.linspace(0, 1, 5)
    left, right = (pixels[..., :1, at] + (pixels[..., -1:, at] - pixels[..., :1, at]) * share for at in (0, -1))
    return np.asarray(left[..., None] + (right - left)[..., None] * share)


def list_touched_chunks(grid: MapGrid, scene: GeoBox) -> list[Index]:
    """Return the chunks of a map that may hold the centre of a pixel that lies in a scene; never fewer, seldom more.

    The map is cut into quarters as far as they may touch the scene: the time depends on how many chunks that are.

    Args:
        grid: The grid of the map.
        scene: The grid of the scene.

    Returns:
        Chunks, row by row.
    """
    locator = SceneLocator.of(grid.crs, grid.resolution, scene)
    levels = max(0, math.ceil(math.log2(max(grid.height, grid.width) / CHUNK)))
    window = Window(grid.top, grid.left, grid.height, grid.width)
    blocks = Blocks(np.array([grid.top]), np.array([grid.left]), CHUNK << levels)
    touched = []
    while len(blocks.row):
        may_touch, is_flat = _find_near(locator, blocks)
        may_touch &= blocks.meet(window)
        is_settled = may_touch & (is_flat | (blocks.size == _SMALLEST)) & (blocks.size <= CHUNK)
        found = blocks.select(is_settled).shift(-grid.top, -grid.left)
        touched.append(np.stack([found.row, found.col], axis=1) // CHUNK)
        blocks = blocks.select(may_touch & ~is_settled).divide()
    return [Index(*place) for place in np.unique(np.concatenate(touched), axis=0).tolist()]
