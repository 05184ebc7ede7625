"""Nearest-neighbour resampling of label rasters to another grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window

MAX_PIXELS = 1024**2
"""Pixels of the target grid that are resampled at once. Up to 16 times as many source pixels are held."""
_SNAP = 1e-6
"""Pixels. A centre this close to a border between source pixels lies on it: the right or lower pixel counts."""


class RasterGrid(NamedTuple):
    """The grid of a raster; the names are those of rasterio."""

    crs: Any
    transform: Affine
    shape: tuple[int, ...]
    bounds: tuple[float, ...]

    @property
    def pixel_grid(self) -> tuple[Any, Affine, tuple[int, ...]]:
        """What is equal for two rasters with the same pixels: CRS, transform and shape."""
        return self.crs, self.transform, self.shape


PixelReader = Callable[[Any, Window], tuple[NDArray[Any], NDArray[np.bool_]]]
"""Reads a window of a grid from an open raster: values (height, width), and a mask (height, width), True = data."""


def identity_transform(dataset: Any, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a window of a raster on the raster's own grid.

    Args:
        dataset: An open rasterio dataset; its first band is read.
        window: Pixels of the dataset.

    Returns:
        Values and mask (True = data), both of shape (height, width).
    """
    place = RasterioWindow(window.col, window.row, window.width, window.height)
    return dataset.read(1, window=place), dataset.read_masks(1, window=place) != 0


def make_nearest_reader(grid: RasterGrid, crs: Any, name: str) -> PixelReader:
    """Return a function that reads windows of ``grid`` from a raster in another CRS or on other pixels.

    Every pixel centre of a window is transformed for itself, and pixels outside of the raster have no data. GDAL's
    warper is not used: it interpolates the transformation between pixels that depend on the window, rasterio 1.4 fails
    with its tolerance 0, and pixels outside of the raster would need a value that no label has.

    Args:
        grid: The target grid.
        crs: CRS of the rasters that will be read.
        name: Name of the input in error messages.

    Raises:
        InputError: PROJ cannot transform between the two CRS.
    """
    transformer = None if crs == grid.crs else make_transformer(grid.crs, crs, name)

    def read(dataset: Any, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if window.pixel_count > MAX_PIXELS:
            return _read_in_halves(dataset, window, read)
        rows, cols = np.mgrid[window.row : window.row + window.height, window.col : window.col + window.width] + 0.5
        x, y = grid.transform @ (cols, rows)
        if transformer is not None:
            x, y = transformer.transform(x, y)
        cols, rows = (np.floor(at + _SNAP) for at in ~dataset.transform @ (x, y))
        # PROJ gives infinity where it cannot transform: such pixels are not inside either.
        inside = (rows >= 0) & (rows < dataset.height) & (cols >= 0) & (cols < dataset.width)
        values, has_data = np.zeros(window.shape, dataset.dtypes[0]), np.zeros(window.shape, bool)
        if not inside.any():
            return values, has_data
        rows, cols = rows[inside].astype(int), cols[inside].astype(int)
        row, col = int(rows.min()), int(cols.min())
        part = Window(row, col, int(rows.max()) - row + 1, int(cols.max()) - col + 1)
        if part.pixel_count > 16 * MAX_PIXELS and window.pixel_count > 1:  # the raster is much finer than the grid
            return _read_in_halves(dataset, window, read)
        part_values, part_has_data = identity_transform(dataset, part)
        values[inside] = part_values[rows - row, cols - col]
        has_data[inside] = part_has_data[rows - row, cols - col]
        return values, has_data

    return read


def _read_in_halves(dataset: Any, window: Window, read: PixelReader) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read the two halves of a window, cut across its longer side, and join them."""
    row, col, height, width = window.row, window.col, window.height, window.width
    if height >= width:
        axis, half = 0, height // 2
        parts = Window(row, col, half, width), Window(row + half, col, height - half, width)
    else:
        axis, half = 1, width // 2
        parts = Window(row, col, height, half), Window(row, col + half, height, width - half)
    values, has_data = zip(*(read(dataset, part) for part in parts), strict=True)
    return np.concatenate(values, axis), np.concatenate(has_data, axis)


def make_transformer(source: Any, target: Any, name: str) -> Transformer:
    """Return a transformer of (x, y) from one CRS to another.

    Args:
        source: CRS of rasterio or pyproj.
        target: CRS of rasterio or pyproj.
        name: Name of the input in the error message.

    Raises:
        InputError: PROJ cannot transform between the two CRS.
    """
    try:
        return Transformer.from_crs(getattr(source, "wkt", source), getattr(target, "wkt", target), always_xy=True)
    except ProjError as error:
        raise InputError(
            name, got=error, expected="a CRS that can be transformed to the other's", fix="reproject the file"
        ) from error
