"""Join the pieces of all windows of a scene to regions, as polygonising the whole raster would give them.

A region is a set of pixels of one label that touch at their sides. Where two windows meet, pieces of one label on both
sides of the border belong together (union-find). Windows come row by row. A region is complete, and leaves the memory,
when the border below the last row of windows does not cut it any more::

    row of windows 0   │ a  a │ a  b │      regions that the border below cuts: a, c, b
                       │ a  c │ c  b │      a is cut to the right: it is joined with the next window
                       ┼──────┼──────┼
    row of windows 1   │ c  c │ d  b │      a does not reach this row: it is complete
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.vectors.polygonize import Pieces

_Dissolve = Callable[[list[shapely.Polygon]], shapely.Polygon]
"""Makes one polygon of pieces."""


@dataclass(frozen=True)
class Region:
    """Pixels of one label that touch at their sides.

    Attributes:
        label: its label.
        geometry: its polygon, in pixels (column, row) of the scene.
        pixels: number of its pixels.
        area: sum of the areas of its pixels.
        confidence: sum of the confidences of its pixels.
    """

    label: int
    geometry: shapely.Polygon
    pixels: int
    area: float
    confidence: float


def join_regions(windows: Iterable[Pieces], width: int, *, simplified: bool = False) -> Iterator[Region]:
    """Join the pieces of all windows of a scene to regions.

    Args:
        windows: pieces of the windows, row by row, from left to right.
        width: columns of the scene.
        simplified: whether the pieces are simplified. Then all their points are kept, so that neighbours keep the same
            ones. Otherwise points on straight lines are removed.

    Yields:
        Regions, as soon as they are complete.
    """
    joiner = _RegionJoiner(width, _dissolve if simplified else _dissolve_and_straighten)
    for pieces in windows:
        yield from joiner.add_window(pieces)
    yield from joiner.finish()


def split_pieces(pieces: Pieces) -> tuple[list[Region], Pieces]:
    """Return the regions that lie within a window, and the pieces that its borders cut."""
    inner = pieces.inner
    whole = [
        Region(
            int(pieces.labels[index]),
            pieces.geometries[index],
            int(pieces.pixels[index]),
            float(pieces.area[index]),
            float(pieces.confidence[index]),
        )
        for index in np.flatnonzero(inner).tolist()
    ]
    return whole, pieces.select(~inner)


@dataclass
class _OpenRegion:
    """A region that a border still cuts."""

    label: int
    geometries: list[shapely.Polygon]
    pixels: int
    area: float
    confidence: float

    @classmethod
    def from_piece(cls, pieces: Pieces, index: int) -> _OpenRegion:
        return cls(
            int(pieces.labels[index]),
            [pieces.geometries[index]],
            int(pieces.pixels[index]),
            float(pieces.area[index]),
            float(pieces.confidence[index]),
        )

    def absorb(self, other: _OpenRegion) -> None:
        """Add the pieces of another region of the same label."""
        self.geometries += other.geometries
        self.pixels += other.pixels
        self.area += other.area
        self.confidence += other.confidence

    def close(self, dissolve: _Dissolve) -> Region:
        """Return the region with its pieces dissolved into one geometry."""
        whole = self.geometries[0] if len(self.geometries) == 1 else dissolve(self.geometries)
        return Region(self.label, whole, self.pixels, self.area, self.confidence)


@dataclass
class _RegionJoiner:
    """Sweep over the windows of a scene that keeps the regions which are not complete.

    Open regions are numbered from 1 in the order in which their first pieces came. 0 stands for none.

    Attributes:
        width: columns of the scene.
        dissolve: makes one polygon of the pieces of a region.
        parents: union-find forest over the numbers of open regions.
        open: the regions at the roots of the forest.
        count: how many numbers were given.
        row: first row of the current row of windows.
    """

    width: int
    dissolve: _Dissolve
    parents: dict[int, int] = field(default_factory=dict)
    open: dict[int, _OpenRegion] = field(default_factory=dict)
    count: int = 0
    row: int = -1

    def __post_init__(self) -> None:
        # Number and label of the open region of each pixel along the borders above and below the current row of
        # windows, and along the right border of the last window.
        self.above, self.below = np.zeros((2, self.width), np.int64)
        self.above_labels, self.below_labels = np.full((2, self.width), NODATA, np.uint8)
        self.left = np.zeros(0, np.int64)
        self.left_labels = np.zeros(0, np.uint8)

    def add_window(self, pieces: Pieces) -> Iterator[Region]:
        """Join a window to its neighbours above and to the left, and yield the regions that are complete by then."""
        window = pieces.window
        if window.row != self.row:
            yield from self._start_row(window.row)
        inner = pieces.inner
        for index in np.flatnonzero(inner).tolist():
            yield _OpenRegion.from_piece(pieces, index).close(self.dissolve)
        numbers = np.zeros(len(inner) + 1, np.int64)
        for index in np.flatnonzero(~inner).tolist():
            self.count += 1
            numbers[index + 1] = self.count
            self.parents[self.count] = self.count
            self.open[self.count] = _OpenRegion.from_piece(pieces, index)
        labels = np.append(NODATA, pieces.labels).astype(np.uint8)
        edges = {side: (numbers[edge], labels[edge]) for side, edge in pieces.edges.items()}
        cols = slice(window.col, window.stop_col)
        self._unite(edges["top"], (self.above[cols], self.above_labels[cols]))
        if window.col:
            self._unite(edges["left"], (self.left, self.left_labels))
        self.left, self.left_labels = edges["right"]
        self.below[cols], self.below_labels[cols] = edges["bottom"]

    def finish(self) -> Iterator[Region]:
        """Yield the regions that are still open after the last window."""
        for region in self.open.values():
            yield region.close(self.dissolve)
        self.open.clear()

    def _start_row(self, row: int) -> Iterator[Region]:
        """Start a row of windows, and yield the regions that the border above it does not cut."""
        self.row = row
        self.above, self.above_labels = self.below.copy(), self.below_labels.copy()
        self.below[:], self.below_labels[:] = 0, NODATA
        roots = {number: self._find_root(number) for number in np.unique(self.above).tolist() if number}
        cut = set(roots.values())
        for number in [number for number in self.open if number not in cut]:
            yield self.open.pop(number).close(self.dissolve)
        self.above = np.array([roots.get(number, 0) for number in self.above.tolist()], np.int64)
        self.parents = {number: number for number in cut}

    def _unite(
        self,
        ours: tuple[NDArray[np.int64], NDArray[np.uint8]],
        theirs: tuple[NDArray[np.int64], NDArray[np.uint8]],
    ) -> None:
        """Join regions of one label on both sides of a border, given as numbers and labels of its pixels."""
        same = (ours[1] == theirs[1]) & (ours[1] != NODATA) & (theirs[0] > 0)
        for one, other in np.unique(np.column_stack([ours[0][same], theirs[0][same]]), axis=0):
            first, second = self._find_root(int(one)), self._find_root(int(other))
            if first == second:
                continue
            # The longer list of polygons is kept, so that few are copied.
            if len(self.open[first].geometries) < len(self.open[second].geometries):
                first, second = second, first
            self.parents[second] = first
            self.open[first].absorb(self.open.pop(second))

    def _find_root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number


def _dissolve(parts: list[shapely.Polygon]) -> shapely.Polygon:
    """Return one polygon of pieces that lie side by side."""
    return _add_holes(_union_exteriors(parts), parts)


def remove_collinear_points(polygon: Any) -> shapely.Polygon:
    """Return the polygon without points on straight lines; the first point of a ring goes too if it lies on one."""
    return shapely.Polygon(_find_corners(polygon.exterior), [_find_corners(ring) for ring in polygon.interiors])


def _dissolve_and_straighten(parts: list[shapely.Polygon]) -> shapely.Polygon:
    return _add_holes(remove_collinear_points(_union_exteriors(parts)), parts)


def _union_exteriors(parts: list[shapely.Polygon]) -> Any:
    """Return the union of pieces without their holes, each of which one piece encloses alone."""
    return shapely.union_all([shapely.Polygon(part.exterior) for part in parts])


def _add_holes(outline: shapely.Polygon, parts: list[shapely.Polygon]) -> shapely.Polygon:
    holes = [hole for part in parts for hole in part.interiors]
    return shapely.Polygon(outline.exterior, [*outline.interiors, *holes]) if holes else outline


def _find_corners(ring: shapely.LinearRing) -> NDArray[np.float64]:
    """Return the points (n, 2) of a ring at which it turns."""
    points: NDArray[np.float64] = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns: NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = points[turns]
    return corners
