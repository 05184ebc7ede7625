"""Polygons of a scene cut into blocks of vector tiles, in whole units of the highest zoom.

Neighbours have the same corners along their common border: straight sides of polygons get a corner at each pixel before
they are projected and rounded. So the rounded polygons leave no gap and do not overlap, and neither do those that are
cut. A block is a square of tiles, which is one tile of a lower zoom; a margin around it belongs to its pieces too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.vectors.web_mercator import TILE_UNITS, WebMercator

BUFFER = 64
"""Units around a tile that its polygons reach beyond it, so that a map draws no line along its edge."""
_BLOCK_ZOOMS = 2
"""Zooms between the tiles of a block and the block."""
_SCHEMA = pa.schema([pa.field("row", pa.int64()), pa.field("geometry", pa.binary())])


@dataclass(frozen=True)
class Blocks:
    """The blocks of a scene's tiles: squares of tiles of the highest zoom.

    Attributes:
        zoom: the highest zoom.
    """

    zoom: int

    @property
    def block_zoom(self) -> int:
        """Zoom at which a block is one tile."""
        return self.zoom - _BLOCK_ZOOMS

    @property
    def tiles(self) -> int:
        """Tiles along each side of a block."""
        return 1 << _BLOCK_ZOOMS

    @property
    def units(self) -> int:
        """Units along each side of a block."""
        return TILE_UNITS << _BLOCK_ZOOMS

    @property
    def margin(self) -> int:
        """Units around a block in which it has pieces: the buffer of a tile of its own size."""
        return BUFFER << _BLOCK_ZOOMS


@dataclass(frozen=True)
class Shift:
    """Moves points (n, 2) by x and y."""

    x: float
    y: float

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the moved points."""
        moved: NDArray[np.float64] = points + np.array([self.x, self.y])
        return moved


@dataclass(frozen=True)
class CutFile:
    """Pieces of polygons in a Parquet file with a row group for each block.

    Attributes:
        path: the file.
        blocks: the block of each of its row groups.
        bounds: (xmin, ymin, xmax, ymax) of the polygons before they were cut; None without any.
    """

    path: Path
    blocks: tuple[Index, ...]
    bounds: tuple[float, float, float, float] | None


def cut_polygons(parquet: Path, mercator: WebMercator, folder: Path, group: Index) -> CutFile:
    """Cut the polygons of a row group into blocks.

    Args:
        parquet: GeoParquet file of the polygons.
        mercator: projects them.
        folder: where the pieces are written.
        group: number of the row group, as column.

    Returns:
        The file of the pieces, whose rows are numbers of rows of ``parquet``.
    """
    with pq.ParquetFile(parquet) as file:
        first = sum(file.metadata.row_group(number).num_rows for number in range(group.col))
        geometries = shapely.from_wkb(file.read_row_group(group.col, ["geometry"])["geometry"].to_numpy())
    rows = np.arange(first, first + len(geometries))
    polygons, rows = _project_polygons(geometries, rows, mercator)
    found = list(_cut_into_blocks(polygons, rows, Blocks(mercator.zoom), mercator.world))
    path = folder / f"cut-{group.col}.parquet"
    with atomic_write(path, shared=True) as part, pq.ParquetWriter(part, _SCHEMA, compression="zstd") as writer:
        for _, pieces, numbers in found:
            writer.write_table(
                pa.Table.from_arrays(
                    [pa.array(numbers), pa.array(shapely.to_wkb(pieces), pa.binary())], schema=_SCHEMA
                ),
                row_group_size=len(numbers),
            )
    bounds = tuple(shapely.total_bounds(polygons).tolist()) if len(polygons) else None
    return CutFile(path, tuple(block for block, _, _ in found), bounds)


def read_pieces(places: Sequence[tuple[Path, int]]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Read pieces from row groups that ``cut_polygons`` wrote.

    Args:
        places: file and number of each row group.

    Returns:
        The polygons (n,), and for each the row that it is a piece of, ascending.
    """
    polygons, rows = [], []
    for path, number in places:
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(number)
        rows.append(table["row"].to_numpy())
        polygons.append(shapely.from_wkb(table["geometry"].to_numpy()))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate(polygons)[order], np.concatenate(rows)[order]


def list_places(cuts: Sequence[CutFile]) -> Mapping[Index, Sequence[tuple[Path, int]]]:
    """Return for each block the row groups with its pieces."""
    places: dict[Index, list[tuple[Path, int]]] = {}
    for cut in cuts:
        for number, block in enumerate(cut.blocks):
            places.setdefault(block, []).append((cut.path, number))
    return places


def clip_polygons(
    polygons: NDArray[np.object_], rows: NDArray[np.int64], box: tuple[float, float, float, float]
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Clip polygons to a box whose edges pass through none of their corners.

    Args:
        polygons: (n,).
        rows: (n,) what each of them belongs to.
        box: xmin, ymin, xmax, ymax.

    Returns:
        The polygons inside, of which one may have become several or none, and what each of them belongs to.
    """
    edges = shapely.bounds(polygons)
    inside = (edges[:, :2] > box[:2]).all(axis=1) & (edges[:, 2:] < box[2:]).all(axis=1)
    clipped = polygons.copy()
    clipped[~inside] = shapely.clip_by_rect(polygons[~inside], *box)
    return _take_polygons(clipped, rows)


def round_polygons(
    polygons: NDArray[np.object_], rows: NDArray[np.int64]
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Round corners to whole units; what would then cross or touch itself, as slivers along a cut may, is repaired.

    Args:
        polygons: (n,).
        rows: (n,) what each of them belongs to, ascending; those of one row share no area.

    Returns:
        Polygons, those of one row valid together, and what each of them belongs to.
    """
    if not len(rows):
        return polygons, rows
    unique, index = np.unique(rows, return_inverse=True)
    rounded = np.asarray(
        shapely.multipolygons(shapely.transform(polygons, lambda xy: np.floor(xy + 0.5)), indices=index), object
    )
    is_bad = ~shapely.is_valid(rounded)
    rounded[is_bad] = shapely.set_precision(shapely.make_valid(rounded[is_bad]), 1)
    return _take_polygons(rounded, unique)


def _take_polygons(
    geometries: NDArray[np.object_], rows: NDArray[np.int64]
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return the polygons that geometries consist of, and what each of them belongs to."""
    parts, owners = shapely.get_parts(geometries, return_index=True)
    while (shapely.get_type_id(parts) > shapely.GeometryType.MULTIPOINT).any():  # collections of several parts
        parts, inner = shapely.get_parts(parts, return_index=True)
        owners = owners[inner]
    kept = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(parts)
    return parts[kept], rows[owners[kept]]


def _project_polygons(
    geometries: NDArray[np.object_], rows: NDArray[np.int64], mercator: WebMercator
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return polygons in units with a corner at each pixel that they pass, and their rows."""
    if not len(geometries):
        return geometries, rows
    _, floats, (ring_starts, polygon_starts) = shapely.to_ragged_array(geometries)
    rings, parts = np.asarray(ring_starts, np.int64), np.asarray(polygon_starts, np.int64)
    col, row = ~mercator.grid.transform * floats.T
    corners, rings = _add_corners(np.column_stack([col, row]), rings)
    points = mercator.project(corners)
    if not np.isfinite(points).all():  # places of a map of the world that are not on Earth
        points, rings = _remove_points(points, rings)
        full = np.diff(rings) >= 4
        whole = np.array([full[a:b].all() for a, b in pairwise(parts)])
        polygons = [
            shapely.Polygon(points[rings[a] : rings[a + 1]], [points[rings[h] : rings[h + 1]] for h in range(a + 1, b)])
            for a, b in zip(parts[:-1][whole], parts[1:][whole], strict=True)
        ]
        return np.array(polygons, object), rows[whole]
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (rings, parts))), rows


def _add_corners(
    pixels: NDArray[np.float64], rings: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Add points to sides of rings that run along rows or columns, one at each corner of a pixel.

    Args:
        pixels: (n, 2) corners of pixels, as columns and rows that may be a little off.
        rings: (rings + 1,) where each ring begins.

    Returns:
        The points (m, 2), and where each ring begins.
    """
    points = np.rint(pixels).astype(np.int64)
    steps = np.diff(points, axis=0, append=points[-1:])
    steps[rings[1:] - 1] = 0
    is_straight = (steps == 0).any(axis=1)
    counts = np.where(is_straight, np.maximum(np.abs(steps).sum(axis=1), 1), 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    distance = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    passed = np.repeat(points, counts, axis=0) + distance[:, None] * np.repeat(np.sign(steps), counts, axis=0)
    return passed.astype(np.float64), starts[rings]


def _remove_points(
    points: NDArray[np.float64], rings: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Remove points that are not finite from rings, which stay closed."""
    kept, starts = [], [0]
    for first, stop in pairwise(rings):
        ring = points[first : stop - 1]
        ring = ring[np.isfinite(ring).all(axis=1)]
        kept.append(np.concatenate([ring, ring[:1]]))
        starts.append(starts[-1] + len(kept[-1]))
    return np.concatenate(kept), np.array(starts)


def _cut_into_blocks(
    polygons: NDArray[np.object_], rows: NDArray[np.int64], blocks: Blocks, world: int
) -> Iterator[tuple[Index, NDArray[np.object_], NDArray[np.int64]]]:
    """Yield each block with pieces: the block, its pieces, and the rows that they belong to.

    Blocks beyond the edge of the world are those at its other edge.
    """
    if not len(polygons):
        return
    low, high = shapely.total_bounds(polygons).reshape(2, 2)
    left, top, right, bottom = (
        int(edge) for edge in np.floor_divide([*(low - blocks.margin), *(high + blocks.margin)], blocks.units)
    )
    count = 1 << blocks.block_zoom
    extent = left, max(top, 0), right, min(bottom, count - 1)
    found: dict[Index, list[tuple[NDArray[np.object_], NDArray[np.int64]]]] = {}
    for place, pieces, numbers in _split(polygons, rows, extent, blocks):
        block = Index(place.row, place.col % count)
        shift = (place.col - block.col) * blocks.units
        if shift:
            pieces = shapely.transform(pieces, Shift(-shift, 0))
        found.setdefault(block, []).append((pieces, numbers))
    for block, parts in sorted(found.items(), key=lambda item: (item[0].row, item[0].col)):
        yield block, np.concatenate([pieces for pieces, _ in parts]), np.concatenate([numbers for _, numbers in parts])


def _split(
    polygons: NDArray[np.object_], rows: NDArray[np.int64], extent: tuple[int, int, int, int], blocks: Blocks
) -> Iterator[tuple[Index, NDArray[np.object_], NDArray[np.int64]]]:
    """Yield the pieces of each block of an extent (first column, first row, last column, last row), halving it."""
    left, top, right, bottom = extent
    more = right - left + bottom - top  # so that the edges of a smaller box pass through no corner that this one makes
    edges = np.array([left, top, right + 1, bottom + 1]) * blocks.units
    box = edges + np.array([-1, -1, 1, 1]) * (blocks.margin + more + 0.5)
    bounds = shapely.bounds(polygons)
    meets = (bounds[:, :2] < box[2:]).all(axis=1) & (bounds[:, 2:] > box[:2]).all(axis=1)
    polygons, rows = clip_polygons(polygons[meets], rows[meets], tuple(box.tolist()))
    if not len(polygons):
        return
    if left == right and top == bottom:
        yield Index(top, left), polygons, rows
    elif right - left >= bottom - top:
        middle = (left + right) // 2
        yield from _split(polygons, rows, (left, top, middle, bottom), blocks)
        yield from _split(polygons, rows, (middle + 1, top, right, bottom), blocks)
    else:
        middle = (top + bottom) // 2
        yield from _split(polygons, rows, (left, top, right, middle), blocks)
        yield from _split(polygons, rows, (left, middle + 1, right, bottom), blocks)
