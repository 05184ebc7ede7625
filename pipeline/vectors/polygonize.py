"""Labels as polygons, window by window: pieces of each window are joined across the borders between them.

A region is what polygonising the whole raster would give: pixels of one class that touch at their sides. Its pieces are
found in each window alone, and numbered; where two windows meet, pieces of one class on both sides of the border belong
together (union-find). Windows come row by row; a region is done, and leaves the memory, when the border below
the last row of windows does not cut it any more.

    row of windows 0   │ a  a │ a  b │      regions of the border below: a, c, b
                       │ a  c │ c  b │      a is cut to the right: it waits for the next window
                       ┼──────┼──────┼
    row of windows 1   │ c  c │ d  b │      a does not reach this row: it is done
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.pixel_area import AreaArray, iter_row_bands
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.storage.atomic import atomic_write, open_npz
from seamline.pipeline.vectors.simplify import Simplification

SIDES: dict[str, Any] = {"top": np.s_[0], "bottom": np.s_[-1], "left": np.s_[:, 0], "right": np.s_[:, -1]}
"""The pixels along each border of a window."""


@dataclass(frozen=True)
class Pieces:
    """Polygons of one window, in pixels of the scene, and the sums over their pixels.

    ``edges`` has, for each of ``SIDES``, the piece of every pixel along that border, counted from 1, 0 where there is
    no label. The others have one value a piece, in that order: ``area`` and ``confidence`` are sums of what each of
    its pixels has.
    """

    window: Window
    edges: dict[str, NDArray[np.int32]]
    labels: NDArray[np.uint8]
    geometries: NDArray[np.object_]
    pixels: NDArray[np.int64]
    area: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @property
    def inner(self) -> NDArray[np.bool_]:
        """Which pieces touch no border of the window."""
        inner = np.ones(len(self.labels) + 1, np.bool_)
        for edge in self.edges.values():
            inner[edge] = False
        return inner[1:]

    def save(self, path: Path) -> None:
        """Write to ``path``, which appears whole or not at all."""
        points: NDArray[np.float64] = np.zeros((0, 2))
        rings: NDArray[Any] = np.zeros(1, np.int64)
        polygons: NDArray[Any] = np.zeros(1, np.int64)
        if len(self.geometries):
            _, points, (rings, polygons) = shapely.to_ragged_array(self.geometries)
        with atomic_write(path, shared=True) as part, part.open("wb") as file:
            np.savez(
                file, points=points.astype(np.int32), rings=rings, polygons=polygons, labels=self.labels,
                pixels=self.pixels, area=self.area, confidence=self.confidence,
                window=[getattr(self.window, at.name) for at in fields(Window)],
                **self.edges,  # type: ignore[arg-type]
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Self:
        """What ``save`` wrote."""
        with open_npz(path) as file:
            geometries = np.empty(0, object)
            if len(file["labels"]):
                points = file["points"].astype(np.float64)
                offsets = file["rings"], file["polygons"]
                geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, offsets)
            window = Window(*file["window"].tolist())
            edges = {side: file[side] for side in SIDES}
            sums = file["pixels"], file["area"], file["confidence"]
            return cls(window, edges, file["labels"], geometries, *sums)


@dataclass(frozen=True)
class Region:
    """Pixels of one class that touch at their sides: ``geometry`` in pixels of the scene, sums over its pixels."""

    label: int
    geometry: shapely.Polygon
    pixels: int
    area: float
    confidence: float


def trace_pieces(
    window: Window,
    labels: NDArray[np.uint8],
    area: AreaArray,
    confidence: NDArray[np.number[Any]] | None = None,
    simplification: Simplification | None = None,
) -> Pieces:
    """The pieces of a window.

    Args:
        window: where the labels lie in the scene.
        labels: (height, width), ``NODATA`` for none.
        area: (height, width), what each pixel covers.
        confidence: (height, width); ``None``: 1 everywhere.
        simplification: of this window; ``None``: every corner of a pixel is kept.
    """
    numbers, kinds = number_pieces(labels)
    count = int(np.count_nonzero(kinds != NODATA))  # pieces of nodata come last
    geometries = _trace_outlines(numbers, count if simplification is None else len(kinds), window)
    if simplification is not None:
        geometries = simplification.simplify_polygons(geometries, window)[:count]
    numbers[numbers > count] = 0
    pixels, areas, sure = sum_over_pieces(numbers, count, area, confidence)
    edges = {side: numbers[at].copy() for side, at in SIDES.items()}
    return Pieces(window, edges, kinds[:count], geometries, pixels, areas, sure)


def number_pieces(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The piece of each pixel (height, width), counted from 1 by label and place, and each one's label.

    Pixels of nodata have pieces too, the last ones.
    """
    numbers = np.zeros(labels.shape, np.int32)
    kinds: list[NDArray[np.uint8]] = []
    count = 0
    for label in np.unique(labels):
        found, more = ndimage.label(labels == label)  # by sides, as GDAL does
        np.add(found, count, out=numbers, where=found > 0)
        kinds.append(np.full(more, label, np.uint8))
        count += more
    return numbers, np.concatenate(kinds) if kinds else np.zeros(0, np.uint8)


def sum_over_pieces(
    numbers: NDArray[np.int32],
    count: int,
    area: AreaArray,
    confidence: NDArray[np.number[Any]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pixels, area and confidence of pieces 1 to ``count``; the arguments are those of ``trace_pieces``."""
    pixels = np.zeros(count + 1, np.int64)
    areas, sure = np.zeros((2, count + 1))
    for rows in iter_row_bands(*numbers.shape):
        flat = numbers[rows].ravel()
        pixels += np.bincount(flat, minlength=count + 1)
        areas += np.bincount(flat, area[rows].ravel(), count + 1)
        if confidence is not None:
            sure += np.bincount(flat, confidence[rows].ravel(), count + 1)
    return pixels[1:], areas[1:], (pixels.astype(np.float64) if confidence is None else sure)[1:]


def _trace_outlines(numbers: NDArray[np.int32], count: int, window: Window) -> NDArray[np.object_]:
    """The polygons of pieces 1 to ``count``, in pixels of the scene."""
    rings: list[list[list[tuple[float, float]]]] = [[] for _ in range(count)]
    place = Affine.translation(window.col, window.row)
    for shape, number in shapes(numbers, mask=(numbers > 0) & (numbers <= count), connectivity=4, transform=place):
        rings[int(number) - 1] = shape["coordinates"]
    lengths = [len(ring) for polygon in rings for ring in polygon]
    points = np.fromiter(
        chain.from_iterable(chain.from_iterable(chain.from_iterable(rings))), np.float64, 2 * sum(lengths)
    )
    offsets = _compute_offsets(lengths), _compute_offsets([len(polygon) for polygon in rings])
    found = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points.reshape(-1, 2), offsets)
    return np.asarray(found, object)


def _compute_offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def join_regions(windows: Iterable[Pieces], width: int, *, simplified: bool = False) -> Iterator[Region]:
    """The regions of a scene of ``width`` columns, from the pieces of its windows, row by row, left to right.

    Of ``simplified`` pieces every point is kept, so that neighbours keep the same ones; otherwise there are no points
    on straight lines.
    """
    joining = _RegionJoiner(width, dissolve_pieces if simplified else _dissolve_and_straighten)
    for part in windows:
        yield from joining.take(part)
    yield from joining.finish()


Dissolve = Callable[[list[shapely.Polygon]], shapely.Polygon]
"""Makes one polygon of pieces."""


@dataclass
class _OpenRegion:
    """A region that a border still cuts."""

    label: int
    geometries: list[shapely.Polygon]
    pixels: int
    area: float
    confidence: float

    def join(self, other: _OpenRegion) -> None:
        self.geometries += other.geometries
        self.pixels += other.pixels
        self.area += other.area
        self.confidence += other.confidence

    def closed(self, dissolve: Dissolve) -> Region:
        whole = self.geometries[0] if len(self.geometries) == 1 else dissolve(self.geometries)
        return Region(self.label, whole, self.pixels, self.area, self.confidence)


@dataclass
class _RegionJoiner:
    """The sweep: regions that are open, and what of them lies at the borders of what has been seen."""

    width: int
    dissolve: Dissolve
    parents: dict[int, int] = field(default_factory=dict)
    open: dict[int, _OpenRegion] = field(default_factory=dict)
    count: int = 0
    row: int = -1

    def __post_init__(self) -> None:
        self.above, self.below = np.zeros((2, self.width), np.int64)  # numbers of open pieces, 0 for none
        self.above_labels, self.below_labels = np.full((2, self.width), NODATA, np.uint8)
        self.left = np.zeros(0, np.int64)
        self.left_labels = np.zeros(0, np.uint8)

    def take(self, part: Pieces) -> Iterator[Region]:
        """Join a window to what lies above and to the left of it; regions that end in it."""
        window = part.window
        if window.row != self.row:
            yield from self._next_row(window.row)
        inner = part.inner
        for number in np.flatnonzero(inner).tolist():
            yield _OpenRegion(*self._piece(part, number)).closed(self.dissolve)
        names = np.zeros(len(inner) + 1, np.int64)
        for number in np.flatnonzero(~inner).tolist():
            self.count += 1
            names[number + 1] = self.count
            self.parents[self.count] = self.count
            self.open[self.count] = _OpenRegion(*self._piece(part, number))
        labels = np.append(NODATA, part.labels).astype(np.uint8)
        edges = {side: (names[numbers], labels[numbers]) for side, numbers in part.edges.items()}
        cols = slice(window.col, window.stop_col)
        self._unite(edges["top"], (self.above[cols], self.above_labels[cols]))
        if window.col:
            self._unite(edges["left"], (self.left, self.left_labels))
        self.left, self.left_labels = edges["right"]
        self.below[cols], self.below_labels[cols] = edges["bottom"]

    def finish(self) -> Iterator[Region]:
        """The regions that are still open when there is no more."""
        for found in self.open.values():
            yield found.closed(self.dissolve)
        self.open.clear()

    @staticmethod
    def _piece(part: Pieces, number: int) -> tuple[int, list[shapely.Polygon], int, float, float]:
        return (
            int(part.labels[number]), [part.geometries[number]], int(part.pixels[number]),
            float(part.area[number]), float(part.confidence[number]),
        )  # fmt: skip

    def _next_row(self, row: int) -> Iterator[Region]:
        """Close what the border below the finished row does not cut."""
        self.row = row
        self.above, self.above_labels = self.below.copy(), self.below_labels.copy()
        self.below[:], self.below_labels[:] = 0, NODATA
        cut = {self._root(int(name)) for name in np.unique(self.above) if name}
        for name in [name for name in self.open if name not in cut]:
            yield self.open.pop(name).closed(self.dissolve)
        roots = {int(name): self._root(int(name)) for name in np.unique(self.above) if name}
        self.above = np.array([roots.get(int(name), 0) for name in self.above], np.int64)
        self.parents = {name: name for name in cut}

    def _unite(
        self,
        ours: tuple[NDArray[np.int64], NDArray[np.uint8]],
        theirs: tuple[NDArray[np.int64], NDArray[np.uint8]],
    ) -> None:
        """Join what is of one class on both sides of a border."""
        same = (ours[1] == theirs[1]) & (ours[1] != NODATA) & (theirs[0] > 0)
        for one, other in np.unique(np.column_stack([ours[0][same], theirs[0][same]]), axis=0):
            first, second = self._root(int(one)), self._root(int(other))
            if first == second:
                continue
            if len(self.open[first].geometries) < len(self.open[second].geometries):
                first, second = second, first
            self.parents[second] = first
            self.open[first].join(self.open.pop(second))

    def _root(self, name: int) -> int:
        while self.parents[name] != name:
            self.parents[name] = self.parents[self.parents[name]]
            name = self.parents[name]
        return name


def dissolve_pieces(parts: list[shapely.Polygon]) -> shapely.Polygon:
    """One polygon of pieces that lie side by side."""
    return _add_holes(_union_exteriors(parts), parts)


def _dissolve_and_straighten(parts: list[shapely.Polygon]) -> shapely.Polygon:
    return _add_holes(remove_collinear_points(_union_exteriors(parts)), parts)


def _union_exteriors(parts: list[shapely.Polygon]) -> Any:
    """Without the holes that pieces have: what encloses one of them is one piece alone."""
    return shapely.union_all([shapely.Polygon(part.exterior) for part in parts])


def _add_holes(outline: shapely.Polygon, parts: list[shapely.Polygon]) -> shapely.Polygon:
    holes = [hole for part in parts for hole in part.interiors]
    return shapely.Polygon(outline.exterior, [*outline.interiors, *holes]) if holes else outline


def remove_collinear_points(polygon: Any) -> shapely.Polygon:
    """The same polygon without points on straight lines, the first and last included."""
    return shapely.Polygon(_find_corners(polygon.exterior), [_find_corners(ring) for ring in polygon.interiors])


def _find_corners(ring: shapely.LinearRing) -> NDArray[np.float64]:
    points: NDArray[np.float64] = shapely.get_coordinates(ring)[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns: NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = points[turns]
    return corners
