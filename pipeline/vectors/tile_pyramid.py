"""PMTiles of polygons: vector tiles of all zooms in one file, which web maps read in parts.

Tiles of the highest zoom have the polygons themselves, rounded to whole units. For each lower zoom the polygons are
drawn on a grid of 512² cells a tile, a cell having the polygon at its centre, and traced from it. So no zoom has gaps,
a tile's size is bounded, and what is too small to be seen is left out. A polygon keeps its attributes at all zooms.

Workers cut the polygons into blocks of tiles, write the tiles of each block, and then those of each lower zoom from the
grid of the one above. The client joins them; PMTiles asks for their order along a Hilbert curve.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import shapes

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.geometry.tiling import Index, MapChunks
from seamline.pipeline.storage.atomic import append_bytes, atomic_write
from seamline.pipeline.vectors.tile_pieces import (
    BUFFER,
    Blocks,
    CutFile,
    Shift,
    clip_polygons,
    cut_polygons,
    list_places,
    read_pieces,
    round_polygons,
)
from seamline.pipeline.vectors.vector_tile import Value, encode_tile
from seamline.pipeline.vectors.web_mercator import MAX_LATITUDE, TILE_UNITS, WebMercator

_LAYER_NAME = "polygons"
"""Name of the layer of the tiles."""
_CELLS = 512
"""Cells along each side of a tile below the highest zoom: a pixel of the screen, when a map shows it in its size."""
_CELL_UNITS = TILE_UNITS // _CELLS
_MARGIN_CELLS = BUFFER // _CELL_UNITS
_FIELDS = {"class": "Number", "name": "String", "color": "String", "pixels": "Number", "area_m2": "Number"}
"""Attributes and their types; confidence where it is known."""


@dataclass(frozen=True)
class _Tile:
    """A tile in a file.

    Attributes:
        zoom: its zoom.
        place: its row and column.
        start: its first byte.
        size: number of its bytes.
        digest: SHA-256 of them.
    """

    zoom: int
    place: Index
    start: int
    size: int
    digest: bytes


@dataclass(frozen=True)
class _TileFile:
    """Tiles, compressed, one after the other in a file."""

    path: Path
    tiles: tuple[_Tile, ...]


@dataclass(frozen=True)
class _Pyramid:
    """What workers need to make tiles.

    Attributes:
        parquet: GeoParquet file of the polygons.
        mercator: projects them.
        classes: classes of the labels.
        folder: where workers write.
    """

    parquet: Path
    mercator: WebMercator
    classes: tuple[LabelClass, ...]
    folder: Path

    @property
    def blocks(self) -> Blocks:
        return Blocks(self.mercator.zoom)

    def grid_path(self, zoom: int) -> Path:
        """Store of the numbers of polygons on the grid of a zoom, 0 for none; polygons are numbered from 1."""
        return self.folder / f"grid-{zoom}.zarr"

    def make_block(self, places: Mapping[Index, Sequence[tuple[Path, int]]], block: Index) -> _TileFile:
        """Write the tiles of a block, and its part of the grid of its zoom."""
        polygons, rows = read_pieces(places[block])
        local = shapely.transform(polygons, Shift(-block.col * self.blocks.units, -block.row * self.blocks.units))
        writer = _TileWriter(self, f"block-{block.row}-{block.col}")
        count, zoom = self.blocks.tiles, self.blocks.zoom
        bounds = shapely.bounds(local)
        for place in (Index(row, col) for row in range(count) for col in range(count)):
            corner = np.array([place.col, place.row]) * TILE_UNITS
            meets = (bounds[:, :2] < corner + TILE_UNITS).all(axis=1) & (bounds[:, 2:] > corner).all(axis=1)
            box = (*(corner - BUFFER - 0.5), *(corner + TILE_UNITS + BUFFER + 0.5))
            pieces, numbers = clip_polygons(local[meets], rows[meets], box)
            pieces, numbers = round_polygons(shapely.transform(pieces, Shift(*-corner)), numbers)
            writer.add(zoom, Index(block.row * count + place.row, block.col * count + place.col), pieces, numbers)
        drawn = self._draw_block(local, rows)
        for level in range(zoom - 1, self.blocks.block_zoom - 1, -1):
            if level < zoom - 1:
                drawn = _halve_numbers(drawn, level)
            side = count >> zoom - level
            for place in (Index(row, col) for row in range(side) for col in range(side)):
                writer.add_traced(
                    level, Index(block.row * side + place.row, block.col * side + place.col), drawn, place
                )
        inner = np.s_[_MARGIN_CELLS:-_MARGIN_CELLS]
        store = zarr.open_array(self.grid_path(self.blocks.block_zoom), mode="r+")
        store[_cells(block.row), _cells(block.col)] = drawn[inner, inner]
        return writer.close()

    def _draw_block(self, polygons: NDArray[np.object_], rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the numbers of polygons on a block's grid of the second highest zoom, with all of its margin."""
        cell = 2 * _CELL_UNITS
        margin = self.blocks.margin // cell
        side = self.blocks.units // cell + 2 * margin
        return _draw_numbers(polygons, rows + 1, -margin * cell, cell, side)

    def make_tile(self, zoom: int, place: Index) -> _TileFile:
        """Write a tile of a zoom below that of the blocks, and its part of the grid of its zoom."""
        finer = zarr.open_array(self.grid_path(zoom + 1), mode="r")
        margin = 2 * _MARGIN_CELLS
        rows = np.arange(2 * place.row * _CELLS - margin, 2 * (place.row + 1) * _CELLS + margin)
        cols = np.arange(2 * place.col * _CELLS - margin, 2 * (place.col + 1) * _CELLS + margin)
        numbers = _halve_numbers(_read_around(finer, rows, cols), zoom)
        inner = np.s_[_MARGIN_CELLS:-_MARGIN_CELLS]
        store = zarr.open_array(self.grid_path(zoom), mode="r+")
        store[_cells(place.row), _cells(place.col)] = numbers[inner, inner]
        writer = _TileWriter(self, f"tile-{zoom}-{place.row}-{place.col}")
        writer.add_traced(zoom, place, numbers, Index(0, 0))
        return writer.close()

    def read_columns(self, rows: NDArray[np.int64]) -> dict[str, Sequence[Value]]:
        """Return the attributes of rows (n,), ascending, of the table of polygons."""
        tables = []
        with pq.ParquetFile(self.parquet) as file:
            names = [name for name in file.schema_arrow.names if name not in ("bbox", "geometry")]
            counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(counts)])
            for group in np.unique(np.searchsorted(starts, rows, side="right") - 1).tolist():
                inside = rows[(rows >= starts[group]) & (rows < starts[group + 1])] - starts[group]
                tables.append(file.read_row_group(group, names).take(inside).to_pydict())
        columns = {name: list(chain.from_iterable(table[name] for table in tables)) for name in names}
        colors = {label.value: "#{:02x}{:02x}{:02x}".format(*label.color) for label in self.classes}
        return {**columns, "color": [colors[value] for value in columns["class"]]}


class _TileWriter:
    """Writes tiles to one file; nothing is left of it without ``close``."""

    def __init__(self, pyramid: _Pyramid, name: str) -> None:
        self._pyramid = pyramid
        self._path = pyramid.folder / f"{name}.tiles"
        self._tiles: list[_Tile] = []
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, zoom: int, place: Index, polygons: NDArray[np.object_], rows: NDArray[np.int64]) -> None:
        """Add a tile of polygons, in its units, and their rows."""
        if not len(rows):
            return
        unique, ids = np.unique(rows, return_inverse=True)
        order = np.argsort(ids, kind="stable")
        columns = self._pyramid.read_columns(unique)
        data = encode_tile(_LAYER_NAME, polygons[order], ids[order], unique + 1, columns, TILE_UNITS)
        if data:
            packed = gzip.compress(data, 6, mtime=0)
            self._tiles.append(_Tile(zoom, place, self._size, len(packed), hashlib.sha256(packed).digest()))
            self._parts.append(packed)
            self._size += len(packed)

    def add_traced(self, zoom: int, place: Index, numbers: NDArray[np.int32], within: Index) -> None:
        """Add a tile of what is traced from a grid with margins, in which it is the tile at ``within``."""
        size = _CELLS + 2 * _MARGIN_CELLS
        first = numbers.shape[0] % _CELLS // 2 - _MARGIN_CELLS
        top, left = first + within.row * _CELLS, first + within.col * _CELLS
        self.add(zoom, place, *_trace_numbers(numbers[top : top + size, left : left + size]))

    def close(self) -> _TileFile:
        """Write the file."""
        with atomic_write(self._path, shared=True) as part:
            part.write_bytes(b"".join(self._parts))
        return _TileFile(self._path, tuple(self._tiles))


def write_pmtiles(
    parquet: Path, grid: GeoBox, classes: Sequence[LabelClass], path: Path, folder: Path, map_chunks: MapChunks = map
) -> None:
    """Write the polygons of a GeoParquet file as PMTiles.

    Args:
        parquet: the GeoParquet file.
        grid: grid of the scene, which ``check_web_mercator`` lets pass.
        classes: classes of the labels.
        path: the new file, which appears whole or not at all.
        folder: an empty folder for unfinished work, which workers reach too.
        map_chunks: does the work on row groups, blocks and tiles.

    Raises:
        OSError: the disk is full.
    """
    pyramid = _Pyramid(parquet, WebMercator(grid), tuple(classes), folder)
    groups = [Index(0, number) for number in range(pq.read_metadata(parquet).num_row_groups)]
    cuts = list(map_chunks(partial(cut_polygons, parquet, pyramid.mercator, folder), groups))
    places = list_places(cuts)
    blocks = sorted(places, key=lambda block: (block.row, block.col))
    lowest = pyramid.blocks.block_zoom
    for zoom in range(lowest + 1):
        _create_grid(pyramid.grid_path(zoom), zoom)
    files = list(map_chunks(partial(pyramid.make_block, places), blocks))
    for zoom in range(lowest - 1, -1, -1):
        blocks = sorted({Index(block.row // 2, block.col // 2) for block in blocks}, key=lambda one: (one.row, one.col))
        files += map_chunks(partial(pyramid.make_tile, zoom), blocks)
    with atomic_write(path) as part:
        _join_tiles(files, pyramid, cuts, part)


def _draw_numbers(
    polygons: NDArray[np.object_], numbers: NDArray[np.int64], origin: float, cell: float, side: int
) -> NDArray[np.int32]:
    """Draw polygons that do not overlap on a grid.

    In a row of cells the number of a polygon begins at a side that goes one way, and ends at one that goes the other.

    Args:
        polygons: (n,).
        numbers: (n,) from 1.
        origin: x and y of the upper left corner of the grid, y to the south.
        cell: width and height of a cell.
        side: rows and columns of the grid.

    Returns:
        For each cell (side, side) the number of the polygon at its centre, 0 for none.
    """
    if not len(polygons):
        return np.zeros((side, side), np.int32)
    _, points, (rings, parts) = shapely.to_ragged_array(shapely.orient_polygons(polygons, exterior_cw=True))
    points = (points - origin) / cell - 0.5  # the centre of the first cell is 0, 0
    start, stop = points[:-1], points[1:]
    owners = np.repeat(np.repeat(numbers, np.diff(parts)), np.diff(rings))[:-1]
    signs = np.sign(stop[:, 1] - start[:, 1])
    signs[rings[1:-1] - 1] = 0  # from a ring to the next
    is_down = (signs > 0)[:, None]
    upper, lower = np.where(is_down, start, stop), np.where(is_down, stop, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, side).astype(np.int64)
    counts = np.where(signs != 0, np.clip(np.ceil(lower[:, 1]), 0, side).astype(np.int64) - first, 0)
    index = np.repeat(np.arange(len(counts)), counts)
    rows = first[index] + np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    upper, lower = upper[index], lower[index]
    x = upper[:, 0] + (rows - upper[:, 1]) * (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    cols = np.clip(np.ceil(x), 0, side).astype(np.int64)
    weights = signs[index] * owners[index]
    sums = np.bincount(rows * (side + 1) + cols, weights, side * (side + 1)).reshape(side, side + 1)
    drawn = np.cumsum(sums, axis=1)[:, :side]
    drawn[(drawn < 0) | (drawn > numbers.max())] = 0
    return drawn.astype(np.int32)


def _halve_numbers(numbers: NDArray[np.int32], zoom: int) -> NDArray[np.int32]:
    """Return every other row and column; by turns the first and the second, so that the grid does not wander."""
    return numbers[zoom % 2 :: 2, zoom % 2 :: 2]


def _trace_numbers(numbers: NDArray[np.int32]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Trace a tile's grid with its margin: return polygons in units of the tile, and their rows, which count from 0."""
    found = [(shape["coordinates"], int(number)) for shape, number in shapes(numbers, numbers > 0, connectivity=4)]
    rings = [ring for polygon, _ in found for ring in polygon]
    points = np.fromiter(chain.from_iterable(chain.from_iterable(rings)), np.float64).reshape(-1, 2)
    offsets = (
        np.cumsum([0, *(len(ring) for ring in rings)]),
        np.cumsum([0, *(len(polygon) for polygon, _ in found)]),
    )
    points = (points - _MARGIN_CELLS) * _CELL_UNITS
    rows = np.array([number for _, number in found], np.int64) - 1
    if not len(rows):
        return np.empty(0, object), rows
    return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, offsets)), rows


def _cells(tile: int) -> slice:
    return slice(tile * _CELLS, (tile + 1) * _CELLS)


def _create_grid(path: Path, zoom: int) -> None:
    """Create the grid of a zoom for the whole Earth; chunks that are not written take no space."""
    shape = (_CELLS << zoom,) * 2
    zarr.create_array(path, shape=shape, chunks=(_CELLS, _CELLS), dtype="int32", fill_value=0)


def _read_around(array: zarr.Array[Any], rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.int32]:
    """Read a window whose columns may go on beyond the antimeridian; beyond the poles is nothing."""
    size = array.shape[0]
    inside = rows[(rows >= 0) & (rows < size)]
    read = np.zeros((len(rows), len(cols)), np.int32)
    top = int(inside[0] - rows[0])
    for start in np.flatnonzero(np.diff(cols % size, prepend=-2) != 1).tolist():
        run = cols[start:] % size
        length = int(np.flatnonzero(np.diff(run, append=-2) != 1)[0]) + 1
        band = array[inside[0] : inside[-1] + 1, int(run[0]) : int(run[0]) + length]
        read[top : top + len(inside), start : start + length] = band
    return read


def _join_tiles(files: Sequence[_TileFile], pyramid: _Pyramid, cuts: Sequence[CutFile], path: Path) -> None:
    """Write header, directories and tiles; a tile that several places have is there once."""
    from pmtiles.tile import Entry, zxy_to_tileid  # an extra
    from pmtiles.writer import finalize_header

    tiles = sorted(
        (zxy_to_tileid(tile.zoom, tile.place.col, tile.place.row), file.path, tile)
        for file in files
        for tile in file.tiles
    )
    if not tiles:  # a file without a tile is none
        tiles = [(0, *_write_empty_tile(pyramid.folder))]
    written: dict[bytes, int] = {}
    entries: list[Any] = []
    size = 0
    ordered = []
    for number, source, tile in tiles:
        offset = written.setdefault(tile.digest, size)
        if entries and entries[-1].offset == offset and entries[-1].tile_id + entries[-1].run_length == number:
            entries[-1].run_length += 1
            continue
        entries.append(Entry(number, offset, tile.size, 1))
        if offset == size:
            ordered.append((source, tile))
            size += tile.size
    header = _describe_extent(pyramid, cuts)
    head = finalize_header(header, len(tiles), entries, len(written), _build_metadata(pyramid), True, size)
    with path.open("wb") as target:
        target.write(b"".join(head))
        target.flush()
        for source, tile in ordered:
            append_bytes(source, tile.start, tile.size, target)


def _write_empty_tile(folder: Path) -> tuple[Path, _Tile]:
    """Write a tile without a polygon, of zoom 0; return its file and the tile."""
    path, packed = folder / "empty.tiles", gzip.compress(b"", 6, mtime=0)
    path.write_bytes(packed)
    return path, _Tile(0, Index(0, 0), 0, len(packed), hashlib.sha256(packed).digest())


def _describe_extent(pyramid: _Pyramid, cuts: Sequence[CutFile]) -> dict[str, Any]:
    """Return the fields of the header that say what is in the tiles, and where."""
    from pmtiles.tile import Compression, TileType

    boxes = [cut.bounds for cut in cuts if cut.bounds is not None]
    header: dict[str, Any] = {"tile_compression": Compression.GZIP, "tile_type": TileType.MVT}
    if not boxes:
        return header
    low, high = np.min([box[:2] for box in boxes], axis=0), np.max([box[2:] for box in boxes], axis=0)
    (west, north), (east, south) = pyramid.mercator.to_degrees(np.array([low, high]))
    middle = (west + east) / 2
    if west < -180 or east > 180:  # across the antimeridian, which a box cannot say
        west, east = -180.0, 180.0
    south, north = max(south, -MAX_LATITUDE), min(north, MAX_LATITUDE)
    degrees = {"min_lon": west, "min_lat": south, "max_lon": east, "max_lat": north}
    degrees |= {"center_lon": (middle + 180) % 360 - 180, "center_lat": (south + north) / 2}
    header |= {f"{name}_e7": round(value * 1e7) for name, value in degrees.items()}
    return header | {"center_zoom": max(0, pyramid.blocks.block_zoom)}


def _build_metadata(pyramid: _Pyramid) -> dict[str, Any]:
    """Return the JSON metadata: the layer, its fields and the classes."""
    fields = {**_FIELDS, "confidence": "Number"}
    classes = [
        {"value": label.value, "name": label.name, "color": "#{:02x}{:02x}{:02x}".format(*label.color)}
        for label in pyramid.classes
    ]
    layer = {"id": _LAYER_NAME, "fields": fields, "minzoom": 0, "maxzoom": pyramid.mercator.zoom}
    return {"name": _LAYER_NAME, "format": "pbf", "type": "overlay", "vector_layers": [layer], "classes": classes}
