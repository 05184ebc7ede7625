"""Reading windows of one raster file on the scene's grid, also where blocks of the file are unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import (OpenRaster, describe_change, describe_error, gdal_environment, is_remote, open_cached_raster, read_mask, read_pixels)
from seamline.pipeline.geometry.grid import (is_same_grid)


@dataclass(frozen=True)
class BadBlock:
    """A block of a file that cannot be read: ``window`` in the file's own pixels, ``index`` 1-based."""

    path: str
    index: int
    window: Window
    reason: str

    def __str__(self) -> str:
        rows, cols = (
            f"{self.window.row} to {self.window.stop_row - 1}",
            f"{self.window.col} to {self.window.stop_col - 1}",
        )
        return f"{self.path}: band {self.index}, rows {rows}, columns {cols}: {self.reason}"


@dataclass(frozen=True)
class FileWindow:
    """What one file holds for a window.

    ``pixels`` (bands, height, width) in the file's dtype; ``has_data`` of the same shape, True where a band
    has data; ``lost`` (height, width), True where an unreadable block takes part; ``bad`` those blocks.
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
) -> FileWindow:
    """Read bands of one file for a window that lies within the scene's ``grid``, in one request to GDAL.

    A file on another grid of the same CRS is interpolated bilinearly; every pixel is the same whatever the
    window. A band has data where its value is not ``nodata`` (with None: where the file's alpha band or mask,
    if any, says so), nor NaN, nor infinite. Raises ``BadBlockError`` for a block that cannot be read; with
    ``keep_going`` only for remote files, where an outage would pass for missing data; it says so, too, of an object
    that is no longer of this ``version``.
    """
    try:
        with gdal_environment(path, version):
            return _read_on_grid(path, indexes, nodata, grid, window, keep_going, version)
    except BadBlockError as error:
        if (what := describe_change(path, version)) is None:
            raise
        raise BadBlockError(what) from error


def _read_on_grid(
    path: str,
    indexes: Sequence[int],
    nodata: float | None,
    grid: GeoBox,
    window: Window,
    keep_going: bool,
    version: str | None,
) -> FileWindow:
    try:
        file = open_cached_raster(path, version)
    except RasterioIOError as error:
        raise BadBlockError(f"{path} can no longer be opened: {describe_error(error)}") from error
    go_on = keep_going and not is_remote(path)
    if is_same_grid(file.grid, grid):
        return _read_own_pixels(file, list(indexes), nodata, window, go_on)
    rows, cols = _locate_window(file.grid, grid, window)
    own = Window(
        int(rows.low[0]),
        int(cols.low[0]),
        int(rows.high[-1] - rows.low[0]) + 1,
        int(cols.high[-1] - cols.low[0]) + 1,
    )
    return _interpolate(_read_own_pixels(file, list(indexes), nodata, own, go_on), nodata, rows, cols)


def _read_own_pixels(
    file: OpenRaster, indexes: list[int], nodata: float | None, window: Window, keep_going: bool
) -> FileWindow:
    """Read a window of the file's own pixels."""
    alpha = file.alpha if nodata is None else None
    bands = indexes if alpha is None else [*indexes, alpha]
    lost = np.zeros(window.shape, dtype=bool)
    bad: tuple[BadBlock, ...] = ()
    try:
        pixels = read_pixels(file, bands, window)
    except RasterioIOError:
        # Read again block by block: which are bad, and is any (the network may have recovered)?
        pixels, lost, bad = _read_block_by_block(file, bands, window, keep_going)
    values = pixels[: len(indexes)]
    has_data = np.ones(values.shape, dtype=bool)
    if nodata is not None:
        has_data = values != values.dtype.type(nodata)  # NaN differs from all, but is not finite
    elif alpha is not None:
        has_data &= pixels[-1] > 0
    elif file.masked:
        try:
            has_data &= read_mask(file, window) > 0
        except RasterioIOError as error:
            raise BadBlockError(f"{file.path}: the mask at {window} cannot be read: {describe_error(error)}") from error
    if np.issubdtype(values.dtype, np.floating):
        has_data &= np.isfinite(values)
    return FileWindow(values, has_data, lost, bad)


def _read_block_by_block(
    file: OpenRaster, bands: list[int], window: Window, keep_going: bool
) -> tuple[NDArray[Any], NDArray[np.bool_], tuple[BadBlock, ...]]:
    """Read block by block: the pixels, which are lost (and 0), the bad blocks."""
    pixels = np.zeros((len(bands), *window.shape), np.result_type(*(file.dtypes[i - 1] for i in bands)))
    lost = np.zeros(window.shape, dtype=bool)
    bad: list[BadBlock] = []
    for position, index in enumerate(bands):
        for (row, col), block in _blocks(window, *file.block_shapes[index - 1]):
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
                lost[inside] = True
                bad.append(BadBlock(file.path, index, whole, describe_error(error)))
    return pixels, lost, tuple(bad)


def _blocks(window: Window, height: int, width: int) -> Iterator[tuple[tuple[int, int], Window]]:
    """(Row, column) and pixels of the blocks of height × width that a window touches."""
    for row in range(window.row // height, -(-window.stop_row // height)):
        for col in range(window.col // width, -(-window.stop_col // width)):
            yield (row, col), Window(row * height, col * width, height, width)


@dataclass(frozen=True)
class _AxisPositions:
    """The two pixels of a file around each pixel of one axis, and how near it is to the second (0 to 1)."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float64]

    @property
    def nearest(self) -> NDArray[np.intp]:
        """The pixel that holds the centre, counted from the first that is read."""
        at: NDArray[np.intp] = np.where(self.weight < 0.5, self.low, self.high) - self.low[0]
        return at

    @staticmethod
    def from_scene_pixels(start: int, stop: int, step: float, origin: float, size: int) -> _AxisPositions:
        """For the pixels [start, stop) of the scene: pixel p's centre lies at origin + step · (p + ½)."""
        # Counted from the file's first pixel, not the window's: so are equal pixels equal in every window.
        place = np.clip(origin + step * (np.arange(start, stop) + 0.5) - 0.5, 0, size - 1)
        low = np.floor(place).astype(np.intp)
        return _AxisPositions(low, np.minimum(low + 1, size - 1), place - low)

    def interpolate(self, values: NDArray[Any], axis: int) -> NDArray[np.float64]:
        """Linear interpolation of what was read from ``low[0]`` on."""
        shape = [1] * values.ndim
        shape[axis] = -1
        near = self.weight.reshape(shape)
        first, second = (values.take(at - self.low[0], axis=axis) for at in (self.low, self.high))
        blended: NDArray[np.float64] = first * (1 - near) + second * near
        return blended


def _locate_window(own: GeoBox, grid: GeoBox, window: Window) -> tuple[_AxisPositions, _AxisPositions]:
    """Rows and columns of a window of ``grid`` in a file, whose edges a scene wants to be the same."""
    to_own = ~own.transform @ grid.transform
    height, width = own.shape
    rows = _AxisPositions.from_scene_pixels(window.row, window.stop_row, to_own.e, to_own.f, height)
    return rows, _AxisPositions.from_scene_pixels(window.col, window.stop_col, to_own.a, to_own.c, width)


def _interpolate(part: FileWindow, nodata: float | None, rows: _AxisPositions, cols: _AxisPositions) -> FileWindow:
    """Bilinear interpolation among the pixels that have data, where the pixel of the same place has any.

    As GDAL's WarpedVRT does it, but that rounds differently in different windows, and labels would follow.
    """

    def bilinear(values: NDArray[Any]) -> NDArray[np.float64]:
        return cols.interpolate(rows.interpolate(values, axis=values.ndim - 2), axis=values.ndim - 1)

    dtype = part.pixels.dtype
    whole = np.issubdtype(dtype, np.integer)
    has_data = part.has_data[:, rows.nearest[:, None], cols.nearest]
    if part.has_data.all():
        values = bilinear(part.pixels)
    else:
        weights = bilinear(part.has_data)
        missing = nodata if nodata is not None else 0 if whole else np.nan
        values = np.full(weights.shape, missing, dtype=float)
        np.divide(bilinear(np.where(part.has_data, part.pixels, 0)), weights, out=values, where=has_data)
    values = np.floor(values + 0.5) if whole else values
    lost = bilinear(part.unreadable) > 0 if part.bad_blocks else np.zeros(values.shape[1:], dtype=bool)
    return FileWindow(values.astype(dtype), has_data, lost, part.bad_blocks)
