"""Reading windows of one raster file on the grid of a scene, even where blocks of the file are unreadable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.geometry.grid import is_same_grid
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.block_cache import BlockCache
from seamline.pipeline.raster_io.content import describe_change
from seamline.pipeline.raster_io.file_stamp import FileStamp, describe_changed_file
from seamline.pipeline.raster_io.gdal import (
    OpenRaster,
    describe_error,
    gdal_environment,
    is_remote,
    open_cached_raster,
    read_masks,
    read_pixels,
)
from seamline.pipeline.raster_io.nodata import has_number

_ReadPixels = Callable[[OpenRaster, list[int], Window], NDArray[Any]]


@dataclass(frozen=True)
class BadBlock:
    """A block of a file that cannot be read.

    Attributes:
        path: The file.
        index: The band, counted from 1.
        window: The block in pixels of the file.
        reason: What GDAL says.
    """

    path: str
    index: int
    window: Window
    reason: str

    def __str__(self) -> str:
        rows = f"{self.window.row} to {self.window.stop_row - 1}"
        cols = f"{self.window.col} to {self.window.stop_col - 1}"
        return f"{self.path}: band {self.index}, rows {rows}, columns {cols}: {self.reason}"


@dataclass(frozen=True)
class FileWindow:
    """What one file holds for a window of (height, width) pixels.

    Attributes:
        pixels: Pixels in the type of the file, shape (bands, height, width). Floats without data are NaN.
        has_data: True where a band has data, shape (bands, height, width).
        unreadable: True where an unreadable block contributes to the pixel, shape (height, width).
        bad_blocks: The unreadable blocks.
    """

    pixels: NDArray[Any]
    has_data: NDArray[np.bool_]
    unreadable: NDArray[np.bool_]
    bad_blocks: tuple[BadBlock, ...]


def read_file_window(
    path: str,
    indexes: Sequence[int],
    nodata: float | None,
    grid: GeoBox,
    window: Window,
    *,
    keep_going: bool,
    version: str | None = None,
    stamps: Sequence[FileStamp] = (),
    cache: BlockCache | None = None,
    out: NDArray[Any] | None = None,
) -> FileWindow:
    """Read bands of one file for a window of a scene.

    A file on another grid of the same CRS is interpolated bilinearly. Every pixel has the same value whatever the
    window. A band has data where its value is a number that was measured and not ``nodata``, and neither the alpha
    band nor the mask of the file, if there are any, takes it away.

    Args:
        path: The file.
        indexes: Bands to read, counted from 1.
        nodata: Value of pixels without data; None if there is none.
        grid: Grid of the scene.
        window: Pixels within the grid of the scene.
        keep_going: Whether unreadable blocks of local files are reported in the result. Those of remote files always
            raise: an outage of the network must not pass for missing data.
        version: ETag that the object at ``path`` must have.
        stamps: What the local files at ``path`` must be before and after they are read.
        cache: Decoded blocks of the windows of a run; None for a window that is read alone.
        out: May take the pixels, where that saves a copy; shape (bands, height, width).

    Returns:
        Pixels and masks of the bands in the order of ``indexes``, (bands, height, width).

    Raises:
        BadBlockError: A block cannot be read, or the file or object is another one by now.
    """
    _check_stamps(stamps)
    try:
        with gdal_environment(path, version, None if cache is None else cache.decoding_threads):
            part = _read_on_grid(path, indexes, nodata, grid, window, keep_going, version, stamps, cache, out)
        _check_stamps(stamps)
        return part
    except BadBlockError as error:
        if cache is not None:
            cache.forget(path)
        _check_stamps(stamps)
        change = describe_change(path, version)
        if change is None:
            raise
        raise BadBlockError(change) from error


def _check_stamps(stamps: Sequence[FileStamp]) -> None:
    if change := describe_changed_file(stamps):
        raise BadBlockError(change)


def _read_on_grid(
    path: str,
    indexes: Sequence[int],
    nodata: float | None,
    grid: GeoBox,
    window: Window,
    keep_going: bool,
    version: str | None,
    stamps: Sequence[FileStamp],
    cache: BlockCache | None,
    out: NDArray[Any] | None,
) -> FileWindow:
    try:
        file = open_cached_raster(path, version, stamps)
    except RasterioIOError as error:
        raise BadBlockError(f"{path} can no longer be opened: {describe_error(error)}") from error
    keep_going = keep_going and not is_remote(path)
    if is_same_grid(file.grid, grid):
        through = None if cache is None else partial(cache.read, rows=cache.rows, cols=cache.cols, out=out)
        return read_own_pixels(file, list(indexes), nodata, window, keep_going=keep_going, read=through)
    rows, cols = _locate_window(file.grid, grid, window)
    own = Window(
        int(rows.low[0]),
        int(cols.low[0]),
        int(rows.high[-1] - rows.low[0]) + 1,
        int(cols.high[-1] - cols.low[0]) + 1,
    )
    through = None if cache is None else _read_through(cache, file.grid, grid)
    part = read_own_pixels(file, list(indexes), nodata, own, keep_going=keep_going, read=through)
    return _interpolate(part, nodata, rows, cols)


def _read_through(cache: BlockCache, own: GeoBox, grid: GeoBox) -> partial[NDArray[Any]]:
    """Return what reads a file with the grid ``own`` through the cache of windows of ``grid``."""
    rows, cols = _locate_window(own, grid, Window(0, 0, *grid.shape))
    return partial(cache.read, rows=rows.locate_ranges(cache.rows), cols=cols.locate_ranges(cache.cols))


def read_own_pixels(
    file: OpenRaster,
    indexes: list[int],
    nodata: float | None,
    window: Window,
    *,
    keep_going: bool,
    read: _ReadPixels | None = None,
) -> FileWindow:
    """Read bands of a file for a window on its own grid. Call this inside ``gdal_environment``.

    Args:
        file: The open raster.
        indexes: Bands to read, counted from 1.
        nodata: Value of pixels without data; None if there is none.
        window: Pixels within the file.
        keep_going: Whether unreadable blocks are reported in the result.
        read: Reads the pixels; None for ``read_pixels``.

    Returns:
        Pixels and masks of the bands in the order of ``indexes``, (bands, height, width). Integers that only a mask
        takes away are ``nodata``, if there is one.

    Raises:
        BadBlockError: A block cannot be read.
    """
    alpha = None if file.alpha in indexes else file.alpha  # who reads an alpha band as a band takes it for none
    bands = indexes if alpha is None else [*indexes, alpha]
    unreadable = np.zeros(window.shape, dtype=bool)
    bad: tuple[BadBlock, ...] = ()
    try:
        pixels = (read or read_pixels)(file, bands, window)
    except RasterioIOError:
        # Find the bad blocks; there may be none any more if the network has recovered.
        pixels, unreadable, bad = _read_block_by_block(file, bands, window, keep_going)
    values = pixels if alpha is None else pixels[:-1]
    has_data = has_number(values, nodata)
    if alpha is not None:
        has_data &= pixels[-1] > 0
    if file.masked:
        try:
            has_data &= read_masks(file, indexes, window) > 0
        except RasterioIOError as error:
            raise BadBlockError(f"{file.path}: the mask at {window} cannot be read: {describe_error(error)}") from error
    if np.issubdtype(values.dtype, np.floating):
        values[~has_data] = np.nan  # no mark passes for a number where other bands have data
    elif nodata is not None and (alpha is not None or file.masked):
        values[~has_data] = nodata
    return FileWindow(values, has_data, unreadable, bad)


def _read_block_by_block(
    file: OpenRaster, bands: list[int], window: Window, keep_going: bool
) -> tuple[NDArray[Any], NDArray[np.bool_], tuple[BadBlock, ...]]:
    """Read a window block by block.

    Returns:
        Pixels (0 where unreadable), mask of unreadable pixels (height, width), unreadable blocks.
    """
    pixels = np.zeros((len(bands), *window.shape), np.result_type(*(file.dtypes[i - 1] for i in bands)))
    unreadable = np.zeros(window.shape, dtype=bool)
    bad: list[BadBlock] = []
    for position, index in enumerate(bands):
        for (row, col), block in _iter_blocks(window, *file.block_shapes[index - 1]):
            part = block.intersection(window)
            inside = part.relative_to(window).to_slices()
            try:
                pixels[position][inside] = read_pixels(file, [index], part)[0]
            except RasterioIOError as error:
                whole = block.intersection(Window(0, 0, *file.grid.shape))
                if not keep_going:
                    raise BadBlockError(
                        f"{file.path}: band {index}, block row {row}, column {col} (pixel rows {whole.row} to"
                        f" {whole.stop_row - 1}, columns {whole.col} to {whole.stop_col - 1}) cannot be read:"
                        f" {describe_error(error)}"
                    ) from error
                unreadable[inside] = True
                bad.append(BadBlock(file.path, index, whole, describe_error(error)))
    return pixels, unreadable, tuple(bad)


def _iter_blocks(window: Window, height: int, width: int) -> Iterator[tuple[tuple[int, int], Window]]:
    """Yield (row, column) and pixels of the blocks of height × width that a window touches."""
    for row in range(window.row // height, -(-window.stop_row // height)):
        for col in range(window.col // width, -(-window.stop_col // width)):
            yield (row, col), Window(row * height, col * width, height, width)


@dataclass(frozen=True)
class _AxisPositions:
    """The two pixels of a file around the centre of each scene pixel along one axis.

    Attributes:
        low: The pixel at or before the centre.
        high: The pixel after the centre.
        weight: Weight of ``high``, 0 to 1.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float64]

    @property
    def nearest(self) -> NDArray[np.intp]:
        """The pixels of the file that hold the centres, counted from the first pixel that is read."""
        at: NDArray[np.intp] = np.where(self.weight < 0.5, self.low, self.high) - self.low[0]
        return at

    def locate_ranges(self, ranges: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the pixels [start, stop) of the file that ranges of scene pixels are interpolated from, shape (n, 2).

        Args:
            ranges: Scene pixels [start, stop) of an axis that was located from pixel 0 on, shape (n, 2).
        """
        return np.stack([self.low[ranges[:, 0]], self.high[ranges[:, 1] - 1] + 1], axis=1)

    @staticmethod
    def from_scene_pixels(start: int, stop: int, step: float, origin: float, size: int) -> _AxisPositions:
        """Locate the pixels [start, stop) of a scene in a file of ``size`` pixels.

        The centre of scene pixel p lies at ``origin`` + ``step`` · (p + ½) in the file.
        """
        # Counted from the first pixel of the file, not of the window, so that a pixel is equal in every window.
        position = np.clip(origin + step * (np.arange(start, stop) + 0.5) - 0.5, 0, size - 1)
        low = np.floor(position).astype(np.intp)
        return _AxisPositions(low, np.minimum(low + 1, size - 1), position - low)

    def interpolate(self, values: NDArray[Any], axis: int) -> NDArray[np.float64]:
        """Interpolate linearly along an axis of ``values``, which were read from pixel ``low[0]`` on."""
        shape = [1] * values.ndim
        shape[axis] = -1
        weight = self.weight.reshape(shape)
        first, second = (values.take(at - self.low[0], axis=axis) for at in (self.low, self.high))
        blended: NDArray[np.float64] = first * (1 - weight) + second * weight
        return blended


def _locate_window(own: GeoBox, grid: GeoBox, window: Window) -> tuple[_AxisPositions, _AxisPositions]:
    """Return where the rows and columns of a window of ``grid`` lie in a file with the grid ``own``."""
    to_own = ~own.transform @ grid.transform
    height, width = own.shape
    rows = _AxisPositions.from_scene_pixels(window.row, window.stop_row, to_own.e, to_own.f, height)
    return rows, _AxisPositions.from_scene_pixels(window.col, window.stop_col, to_own.a, to_own.c, width)


def _interpolate(part: FileWindow, nodata: float | None, rows: _AxisPositions, cols: _AxisPositions) -> FileWindow:
    """Interpolate bilinearly among the pixels that have data, where the nearest pixel has data.

    GDAL's WarpedVRT follows the same rule, but rounds differently in different windows, so that labels would depend on
    the tiling.
    """

    def bilinear(values: NDArray[Any]) -> NDArray[np.float64]:
        return cols.interpolate(rows.interpolate(values, axis=values.ndim - 2), axis=values.ndim - 1)

    dtype = part.pixels.dtype
    is_integer = np.issubdtype(dtype, np.integer)
    has_data = part.has_data[:, rows.nearest[:, None], cols.nearest]
    if part.has_data.all():
        values = bilinear(part.pixels)
    else:
        weights = bilinear(part.has_data)
        missing = np.nan if not is_integer else 0 if nodata is None else nodata
        values = np.full(weights.shape, missing, dtype=float)
        np.divide(bilinear(np.where(part.has_data, part.pixels, 0)), weights, out=values, where=has_data)
    values = np.floor(values + 0.5) if is_integer else values
    unreadable = bilinear(part.unreadable) > 0 if part.bad_blocks else np.zeros(values.shape[1:], dtype=bool)
    return FileWindow(values.astype(dtype), has_data, unreadable, part.bad_blocks)
