"""Cloud-Optimised GeoTIFFs, written from an array of a Zarr store and its overviews."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from seamline.pipeline.common.band_statistics import BandStatistics, count_numbers, describe_histogram
from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.tiling import Index, MapChunks
from seamline.pipeline.products import tiff
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.layers import Layer, RasterContent
from seamline.pipeline.products.overviews import list_levels
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, open_store_raster
from seamline.pipeline.storage.atomic import append_bytes, atomic_write

_BLOCK = 512
"""Edge of a TIFF block in pixels."""
_AREA_PIXELS = 2**24
"""Values that a worker compresses at a time, if that is at least one block."""
_LARGEST_AREA = 4096
"""Edge in pixels of the largest area that a worker compresses at a time."""


def describe_labels(classes: Sequence[LabelClass]) -> RasterContent:
    """Return the content of a COG of labels: a colour table, and a tag ``CLASS_<value>`` with each class's name."""
    colors = {label.value: (*label.color, 255) for label in classes} | {NODATA: (0, 0, 0, 0)}
    tags = {f"CLASS_{label.value}": label.name for label in classes}
    return RasterContent(LABELS_ARRAY, (LABELS_ARRAY,), colors, tags=tags)


def describe_layer(layer: Layer, classes: Sequence[LabelClass]) -> RasterContent:
    """Return the content of a COG of a layer: one band, or one for each class."""
    bands = tuple(label.name for label in classes) if layer.per_class else (layer.name,)
    tags = {"TITLE": layer.title}
    return RasterContent(layer.name, bands, None, layer.scale, layer.unit, layer.dtype, tags)


def write_cog(
    store: Path,
    grid: GeoBox,
    content: RasterContent,
    path: Path,
    scratch: Path,
    tags: Mapping[str, str],
    map_areas: MapChunks = map,
) -> None:
    """Write an array of a Zarr store and its overviews to a COG, which appears whole or not at all.

    Args:
        store: the Zarr store, with its overviews.
        grid: grid of the store.
        content: which array, and what its bands mean.
        path: the COG; it is replaced if it exists.
        scratch: folder for temporary files on the same disk, which workers reach too; it is created if it is missing.
        tags: metadata that the file gets in addition to those of ``content``.
        map_areas: does the work on areas, which have a row and a column as chunks have.

    Raises:
        ValueError: the array does not have the shape of the grid.
        OSError: the disk is full.
    """
    compress_cog(store, grid, content, scratch, tags, map_areas).join(path)


def compress_cog(
    store: Path,
    grid: GeoBox,
    content: RasterContent,
    scratch: Path,
    tags: Mapping[str, str],
    map_areas: MapChunks = map,
    kept: KeptResult | None = None,
) -> CompressedCog:
    """Compress all blocks of a COG.

    A COG can be written neither in order nor by several processes. So the blocks of each area are compressed into files
    of their own, which lie in ``scratch`` until they are joined behind a header without another look at the pixels. The
    bytes of the COG do not depend on the size of the areas, nor on who compressed them.

    Args:
        store: the Zarr store, with its overviews.
        grid: grid of the store.
        content: which array, and what its bands mean.
        scratch: folder for the blocks, on the disk of the COG; workers reach it, too.
        tags: metadata that the file gets in addition to those of ``content``.
        map_areas: does the work on areas, which have a row and a column as chunks have.
        kept: an older result on the grid, from whose COG of the array unchanged blocks are taken.
    """
    levels = list_levels(store) if grid.shape[1] > 1 else [store]  # readers refuse overviews of no smaller width
    shapes = tuple(open_store_raster(level, content.array).shape[-2:] for level in levels)
    if shapes[0] != tuple(grid.shape):
        raise ValueError(f"an array of shape {shapes[0]} is not on a grid of shape {tuple(grid.shape)}")
    scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        folder = tempfile.TemporaryDirectory(prefix="cog-", dir=scratch, ignore_cleanup_errors=True)
        is_same_edge = kept is not None and kept.edge == _BLOCK
        scratch = Path(files.enter_context(folder))
        areas = _Areas(tuple(levels), shapes, content, scratch, kept if is_same_edge else None)
        sizes, histograms = _join_areas(areas, map_areas(partial(_compress_area, areas), areas.places))
        fields = _encode_fields(grid, content, {**content.tags, **tags}, histograms)
        header = tiff.encode_header(
            [tiff.resize_fields(fields, *level) for level in enumerate(shapes)], [blocks.ravel() for blocks in sizes]
        )
        return CompressedCog(header, areas, tuple(sizes), files.pop_all())


def read_statistics(path: Path) -> list[BandStatistics | None]:
    """Return the statistics of each band of a COG, as the file has them; None of a band without valid values."""
    with rasterio.open(path) as file:
        return [BandStatistics.from_tags(file.tags(band)) for band in file.indexes]


@dataclass(frozen=True)
class _Areas:
    """An array of a Zarr store with its overviews, cut into squares of whole TIFF blocks.

    The square in row and column (r, c) of the n-th overview is the work of the area (2ⁿ·r, 2ⁿ·c). So there is one area
    for each square of the full resolution, and all of them can be worked on at once.

    Attributes:
        levels: the groups that hold the array, full resolution first.
        shapes: (height, width) of the array in each.
        content: which array, and what its bands mean.
        folder: where the compressed blocks of each square get a file.
        kept: an older result, from whose COG unchanged blocks are taken.
    """

    levels: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    content: RasterContent
    folder: Path
    kept: KeptResult | None = None

    @property
    def edge(self) -> int:
        """Edge of a square in pixels: a power of two of blocks."""
        edge = _LARGEST_AREA
        while edge > _BLOCK and edge**2 * len(self.content.bands) > _AREA_PIXELS:
            edge //= 2
        return edge

    @property
    def places(self) -> list[Index]:
        """All areas, row by row."""
        return self.squares_of(0)

    def squares_of(self, level: int) -> list[Index]:
        """Return all squares of a level, row by row."""
        rows, cols = (range(math.ceil(size / self.edge)) for size in self.shapes[level])
        return [Index(row, col) for row, col in product(rows, cols)]

    def work_of(self, place: Index) -> Iterator[tuple[int, Index]]:
        """Yield the squares that are the work of an area, each with its level."""
        for level in range(len(self.levels)):
            step = 2**level
            if place.row % step == place.col % step == 0:
                square = Index(place.row // step, place.col // step)
                if square.row * self.edge < self.shapes[level][0] and square.col * self.edge < self.shapes[level][1]:
                    yield level, square

    def read(self, level: int, square: Index) -> NDArray[Any]:
        """Return the values (bands, height, width) of a square, filled up to whole blocks with nodata."""
        array = open_store_raster(self.levels[level], self.content.array)
        spans = tuple(slice(start * self.edge, (start + 1) * self.edge) for start in square)
        values = np.asarray(array[(..., *spans)])
        padding = [(0, 0), *((0, -size % _BLOCK) for size in values.shape[-2:])]
        return np.pad(values.reshape(-1, *values.shape[-2:]), padding, constant_values=self.content.nodata)

    def read_kept_blocks(self, level: int, square: Index) -> list[bytes | None]:
        """Return the blocks of a square that the older COG has, row by row; None for those that are to be made."""
        spans = (
            range(start * self.edge // _BLOCK, math.ceil(min(size, (start + 1) * self.edge) / _BLOCK))
            for start, size in zip(square, self.shapes[level], strict=True)
        )
        places = [Index(row, col) for row, col in product(*spans)]
        if self.kept is None:
            return [None] * len(places)
        return self.kept.read_blocks(f"{self.content.array}.tif", level, places)

    def find_blocks(self, square: Index) -> tuple[slice, slice]:
        """Return rows and columns of the blocks of a square; those of the last square may reach beyond the level."""
        count = self.edge // _BLOCK
        return slice(square.row * count, (square.row + 1) * count), slice(square.col * count, (square.col + 1) * count)

    def get_file(self, level: int, square: Index) -> Path:
        """Return the file of the blocks of a square."""
        return self.folder / f"{level}-{square.row}-{square.col}"


@dataclass(frozen=True)
class CompressedCog:
    """A COG whose blocks are compressed and lie in many files.

    Attributes:
        header: what comes before the blocks.
        areas: the areas, which have the files.
        sizes: bytes of the blocks (rows, columns) of each level.
        files: removes the files when it is closed.
    """

    header: bytes
    areas: _Areas
    sizes: tuple[NDArray[np.int64], ...]
    files: ExitStack

    def join(self, path: Path) -> None:
        """Write the COG, which appears whole or not at all and replaces a file at ``path``. The blocks are gone then.

        Raises:
            OSError: the disk is full.
        """
        with self.files, atomic_write(path) as part, part.open("wb") as file:
            file.write(self.header)
            file.flush()  # since the kernel appends the blocks
            for level in reversed(range(len(self.sizes))):
                _append_blocks(self.areas, level, self.sizes[level], file)


@dataclass(frozen=True)
class _CompressedArea:
    """What is known of an area whose blocks are compressed.

    Attributes:
        sizes: bytes of the blocks (rows, columns) of each square that was the work of the area, as they are read.
        histograms: how often each value occurs in each band of the full resolution, (bands, ``nodata`` + 1).
    """

    sizes: tuple[NDArray[np.int64], ...]
    histograms: NDArray[np.int64]


def _compress_area(areas: _Areas, place: Index) -> _CompressedArea:
    """Compress what is the work of an area to files, from which ``write_cog`` takes it."""
    all_sizes, histograms = [], np.zeros((len(areas.content.bands), areas.content.nodata + 1), np.int64)
    for level, square in areas.work_of(place):
        blocks, values = areas.read_kept_blocks(level, square), None
        if level == 0 or None in blocks:
            values = areas.read(level, square)
        if level == 0 and values is not None:
            height, width = (size - start * areas.edge for size, start in zip(areas.shapes[0], square, strict=True))
            histograms[:] = [count_numbers(band[:height, :width]) for band in values]
        whole = [block for block in blocks if block is not None]
        if values is not None and len(whole) < len(blocks):
            whole = _compress_missing(areas.content, values, blocks)
        with atomic_write(areas.get_file(level, square), shared=True) as part, part.open("wb") as file:
            file.writelines(map(tiff.frame_block, whole))
        columns = math.ceil(min(areas.edge, areas.shapes[level][1] - square.col * areas.edge) / _BLOCK)
        all_sizes.append(np.array([len(block) for block in whole], np.int64).reshape(-1, columns))
    return _CompressedArea(tuple(all_sizes), histograms)


def _compress_missing(content: RasterContent, values: NDArray[Any], blocks: Sequence[bytes | None]) -> list[bytes]:
    """Return the blocks of values (bands, height, width), row by row; those that are known are not compressed."""
    if not any(blocks):
        return _compress_blocks(content, values)
    columns = values.shape[2] // _BLOCK
    found = []
    for number, block in enumerate(blocks):
        row, col = (_BLOCK * at for at in divmod(number, columns))
        own = values[:, row : row + _BLOCK, col : col + _BLOCK]
        found += [block] if block is not None else _compress_blocks(content, own)
    return found


def _compress_blocks(content: RasterContent, values: NDArray[Any]) -> list[bytes]:
    """Return the compressed blocks of values (bands, height, width), row by row, as GDAL writes them to a GeoTIFF."""
    with MemoryFile() as memory:
        # With any place rasterio does not warn. To ignore its warning would change the filters of other threads, too.
        with memory.open(**_choose_encoding(content, *values.shape[1:]), transform=Affine.scale(2)) as file:
            file.write(values)
        return tiff.read_blocks(memory.read())


def _choose_encoding(content: RasterContent, height: int, width: int) -> dict[str, Any]:
    """Return the arguments by which rasterio creates a GeoTIFF whose blocks and fields are those of the COG."""
    return {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": len(content.bands),
        "dtype": content.dtype,
        "nodata": content.nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        # Every reader knows LZW. It is fast, and it compresses the long runs of labels well.
        "compress": "lzw",
        "predictor": 2 if content.colors is None else 1,
        "interleave": "pixel",
        "photometric": "minisblack" if content.colors is None else "palette",
        "bigtiff": "no",
        "endianness": "little",
    }


def _encode_fields(
    grid: GeoBox, content: RasterContent, tags: Mapping[str, str], histograms: NDArray[np.int64]
) -> dict[int, tiff.TiffField]:
    """Return the TIFF fields of the full resolution, as GDAL writes them to a GeoTIFF of one empty block.

    Args:
        grid: grid of the raster.
        content: what its bands mean.
        tags: metadata of the file.
        histograms: how often each value occurs in each band, (bands, ``nodata`` + 1).
    """
    georeference = {"crs": None if grid.crs is None else grid.crs.to_wkt(), "transform": grid.transform}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # such scenes are valid input
        with memory.open(**_choose_encoding(content, _BLOCK, _BLOCK), **georeference, sparse_ok=True) as file:
            if content.colors is not None:
                file.write_colormap(1, content.colors)
            else:
                # Without an interpretation of its own a file of four classes would be red, green, blue and alpha.
                file.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(content.bands) - 1)]
            file.scales = (content.scale,) * len(content.bands)
            if content.unit != "1":
                file.units = (content.unit,) * len(content.bands)
            file.update_tags(**tags, AREA_OR_POINT="Area")
            for number, (name, histogram) in enumerate(zip(content.bands, histograms, strict=True), 1):
                file.set_band_description(number, name)
                # Without statistics in the file GIS tools write a side-car with them beside it.
                file.update_tags(number, **describe_histogram(histogram.tolist(), content.nodata))
        return tiff.read_directory(memory.read())


def _join_areas(
    areas: _Areas, compressed: Iterable[_CompressedArea]
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return the bytes of the blocks (rows, columns) of each level, and the histograms of the bands.

    Args:
        areas: the areas.
        compressed: what is known of each of them, in their order.
    """
    sizes = [np.zeros([math.ceil(size / _BLOCK) for size in shape], np.int64) for shape in areas.shapes]
    histograms = np.zeros((len(areas.content.bands), areas.content.nodata + 1), np.int64)
    for place, area in zip(areas.places, compressed, strict=True):
        histograms += area.histograms
        for (level, square), blocks in zip(areas.work_of(place), area.sizes, strict=True):
            sizes[level][areas.find_blocks(square)] = blocks
    return sizes, histograms


def _append_blocks(areas: _Areas, level: int, sizes: NDArray[np.int64], target: BinaryIO) -> None:
    """Append the blocks of a level to a file, row by row, from the files of its squares.

    Args:
        areas: the areas, which are compressed.
        level: the level.
        sizes: bytes of its blocks (rows, columns).
        target: the file.

    Raises:
        OSError: a file is shorter than it was, or the disk is full.
    """
    done = dict.fromkeys(areas.squares_of(level), 0)
    for row, in_row in enumerate(tiff.compute_framed_sizes(sizes)):
        for square in (square for square in done if square.row == row * _BLOCK // areas.edge):
            _, columns = areas.find_blocks(square)
            size = int(in_row[columns].sum())
            append_bytes(areas.get_file(level, square), done[square], size, target)
            done[square] += size
