"""A raster's pixels on another grid, by nearest neighbour: what labels must be warped by."""

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
"""Pixels of the grid that are warped at once; of the other raster, 16 times as many are held."""
SNAP = 1e-6
"""Pixels: a centre this close to the border between two pixels lies on it, and in the right or lower of them."""


class RasterGrid(NamedTuple):
    """What of a raster says where it lies; the names are rasterio's."""

    crs: Any
    transform: Affine
    shape: tuple[int, ...]
    bounds: tuple[float, ...]

    @property
    def pixel_grid(self) -> tuple[Any, Affine, tuple[int, ...]]:
        """What two rasters on the same pixels have in common."""
        return self.crs, self.transform, self.shape


PixelReader = Callable[[Any, Window], tuple[NDArray[Any], NDArray[np.bool_]]]
"""What an open raster has in a window of a grid: values (height, width), and which of them are data."""


def identity_transform(dataset: Any, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The pixels of a raster on its own grid."""
    place = RasterioWindow(window.col, window.row, window.width, window.height)
    return dataset.read(1, window=place), dataset.read_masks(1, window=place) != 0


def make_nearest_reader(place: RasterGrid, crs: Any, name: str) -> PixelReader:
    """Nearest neighbours, on the grid of ``place``, of a raster in ``crs``.

    Not GDAL's warper: it interpolates the transformation between pixels that depend on the window, rasterio 1.4 fails
    at tolerance 0, and what lies outside of the raster needs a value that no label has. Here each centre of a pixel is
    transformed for itself, and where it lies beside the raster there are no data.
    """
    to = None if crs == place.crs else make_transformer(place.crs, crs, name)

    def read(dataset: Any, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if window.pixel_count > MAX_PIXELS:
            return _read_in_halves(dataset, window, read)
        rows, cols = np.mgrid[window.row : window.row + window.height, window.col : window.col + window.width] + 0.5
        x, y = place.transform @ (cols, rows)
        if to is not None:
            x, y = to.transform(x, y)
        cols, rows = (np.floor(at + SNAP) for at in ~dataset.transform @ (x, y))
        inside = (rows >= 0) & (rows < dataset.height) & (cols >= 0) & (cols < dataset.width)  # infinite ones are not
        values, known = np.zeros(window.shape, dataset.dtypes[0]), np.zeros(window.shape, bool)
        if not inside.any():
            return values, known
        rows, cols = rows[inside].astype(int), cols[inside].astype(int)
        row, col = int(rows.min()), int(cols.min())
        part = Window(row, col, int(rows.max()) - row + 1, int(cols.max()) - col + 1)
        if part.pixel_count > 16 * MAX_PIXELS and window.pixel_count > 1:  # labels much finer than the grid
            return _read_in_halves(dataset, window, read)
        there, data = identity_transform(dataset, part)
        values[inside], known[inside] = there[rows - row, cols - col], data[rows - row, cols - col]
        return values, known

    return read


def _read_in_halves(dataset: Any, window: Window, read: PixelReader) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    (row, col), (height, width) = (window.row, window.col), window.shape
    if tall := height >= width:
        parts = Window(row, col, height // 2, width), Window(row + height // 2, col, height - height // 2, width)
    else:
        parts = Window(row, col, height, width // 2), Window(row, col + width // 2, height, width - width // 2)
    values, known = zip(*(read(dataset, part) for part in parts), strict=True)
    return np.concatenate(values, 1 - tall), np.concatenate(known, 1 - tall)


def make_transformer(source: Any, target: Any, name: str) -> Transformer:
    """From one CRS to another, x before y. Raises ``InputError``, which says ``name``, where PROJ knows no way."""
    try:
        return Transformer.from_crs(getattr(source, "wkt", source), getattr(target, "wkt", target), always_xy=True)
    except ProjError as error:
        raise InputError(
            name, got=error, expected="a CRS that can be transformed to the other's", fix="reproject the file"
        ) from error
