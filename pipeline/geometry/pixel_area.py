"""Areas that the pixels of a grid cover on the ellipsoid, wherever the grid lies and however it is turned.

Areas vary smoothly, so they are measured on a lattice of pixels and interpolated between its nodes. They are rounded to
multiples of a power of two: sums over any pixels are exact and do not depend on their order, hence not on chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.geometry.window import Window

_FIRST_CELLS, _MAX_CELLS = 8, 512
"""Cells along each side of the lattice, at first and at most."""
_TOLERANCE = 4e-5
"""Largest relative error of interpolation between every second node; between all nodes it is a quarter."""
_PIXELS_PER_BAND = 2**18
"""Pixels whose areas are in memory at a time: eight bytes each, and as much again for intermediate results."""


class AreaArray(Protocol):
    """Areas in m² of the pixels of a window, shape (height, width), read some rows at a time; a numpy array is one."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.float64]:
        """Return the areas of some rows, shape (rows, width)."""


@dataclass(frozen=True)
class PixelAreas:
    """Areas in m² of the pixels of a window, interpolated between the nodes of a lattice.

    Attributes:
        lattice: Areas of the nodes, shape (rows, columns). The first and last nodes are the first and last pixels of
            the scene. One node along an axis means that areas do not vary along that axis.
        shape: (height, width) of the scene in pixels.
        window: The pixels whose areas this object yields.
    """

    lattice: NDArray[np.float64]
    shape: tuple[int, int]
    window: Window

    @classmethod
    def from_constant(cls, area: float, shape: tuple[int, int]) -> PixelAreas:
        """Return areas of a scene whose pixels all cover the same ``area`` in m²."""
        return cls(np.array([[area]]), shape, Window(0, 0, *shape))

    def for_window(self, window: Window) -> PixelAreas:
        """Return the areas of another window of the scene."""
        return replace(self, window=window)

    @property
    def unit(self) -> float:
        """A power of two in m² of which all areas are multiples.

        The whole scene has at most 2⁵² units, so that sums of areas are exact in float64. In a scene of 10¹⁰ pixels,
        rounding to units changes an area by less than a millionth of the largest area.
        """
        height, width = self.shape
        return float(2.0 ** (np.ceil(np.log2(self.lattice.max() * height * width)) - 52))

    def __getitem__(self, rows: slice, /) -> NDArray[np.float64]:
        window, unit = self.window, self.unit
        start, stop, _ = rows.indices(window.height)
        # The steps of the computation don't depend on the window, so a pixel has the same area in every window.
        in_rows = _interpolate_axis(self.lattice / unit, 0, self.shape[0], np.arange(start, stop) + window.row)
        areas = np.rint(_interpolate_axis(in_rows, 1, self.shape[1], np.arange(window.col, window.stop_col)))
        areas *= unit
        return np.broadcast_to(areas, (stop - start, window.width))


def _interpolate_axis(nodes: NDArray[np.float64], axis: int, length: int, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Interpolate linearly between nodes along one axis; a single node is returned as it is.

    Args:
        nodes: Values of the nodes, two axes.
        axis: Axis along which to interpolate.
        length: Pixels from the first node to the last one, both included.
        at: Pixels whose values are wanted, from 0 to ``length`` − 1.
    """
    cells = nodes.shape[axis] - 1
    if not cells:
        return nodes
    position = at * (cells / max(1, length - 1))
    before = np.clip(position.astype(np.int64), 0, cells - 1)
    share = position - before
    first = nodes.take(before, axis)
    values: NDArray[np.float64] = nodes.take(before + 1, axis)
    values -= first
    values *= share if axis else share[:, None]
    values += first
    return values


def iter_row_bands(height: int, width: int) -> Iterator[slice]:
    """Yield slices of all rows of a window, so that the areas of each slice fit in memory."""
    step = max(1, _PIXELS_PER_BAND // max(1, width))
    for row in range(0, height, step):
        yield slice(row, row + step)


def measure_pixel_areas(grid: GeoBox) -> PixelAreas | None:
    """Measure the areas of all pixels of a grid, to 10⁻⁴ of the truth where they vary smoothly.

    The lattice is refined until interpolation meets the nodes in between. Beyond the edge of a projection, pixels have
    the area of the nearest pixel within.

    Returns:
        None if the CRS of the grid gives no areas.
    """
    cells = [_FIRST_CELLS, _FIRST_CELLS]
    while True:
        row, col = (np.linspace(0, size - 1, count + 1) for size, count in zip(grid.shape, cells, strict=True))
        lattice = _measure_areas(grid, *np.meshgrid(row, col, indexing="ij"))
        known = np.isfinite(lattice) & (lattice > 0)
        if not known.any():
            return None
        if not known.all():
            lattice[~known] = lattice[known][_find_nearest(known)]
        coarse = [
            axis for axis in (0, 1) if cells[axis] < _MAX_CELLS and _interpolation_error(lattice, axis) > _TOLERANCE
        ]
        if not coarse:
            break
        for axis in coarse:
            cells[axis] *= 2
    for axis in (0, 1):  # one node along an axis on which areas don't vary
        if (np.ptp(lattice, axis) <= _TOLERANCE / 4 * lattice.min(axis)).all():
            lattice = lattice.mean(axis, keepdims=True)
    height, width = grid.shape
    return PixelAreas(lattice, (height, width), Window(0, 0, height, width))


def _find_nearest(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each node that is not known the number of the nearest that is; of several the first one."""
    nodes, unknown = (np.asarray(shapely.points(np.argwhere(mask).astype(float))) for mask in (known, ~known))
    asked, found = shapely.STRtree(nodes).query_nearest(unknown)
    nearest = np.full(len(unknown), len(nodes))
    np.minimum.at(nearest, asked, found)
    return nearest


def _interpolation_error(lattice: NDArray[np.float64], axis: int) -> float:
    """Return the largest relative distance of every second node from the middle between its neighbours."""
    nodes = np.moveaxis(lattice, axis, 0)
    middle = nodes[1::2]
    return float((np.abs(nodes[:-1:2] + nodes[2::2] - 2 * middle) / (2 * middle)).max())


def measure_pixel_area(grid: GeoBox, row: float, col: float) -> float | None:
    """Return the area of one pixel of a grid.

    Args:
        grid: The grid.
        row: Row of the pixel.
        col: Column of the pixel.

    Returns:
        Area in m²; None if it is unknown.
    """
    area = float(_measure_areas(grid, np.array([row]), np.array([col]))[0])
    return area if np.isfinite(area) else None


def _measure_areas(grid: GeoBox, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas in m² of pixels at ``row`` and ``col``, which may lie between pixels; NaN where unknown.

    A pixel is taken as the flat quadrilateral between its four corners in three-dimensional space, where poles and
    antimeridian are ordinary places. For a pixel one degree wide this is 10⁻⁵ less than the area on the ellipsoid.
    """
    if grid.crs is None or not (grid.crs.projected or grid.crs.geographic):
        return np.full(row.shape, np.nan)
    crs = grid.crs.proj
    geodetic, geod = crs.geodetic_crs, crs.get_geod()
    to_angles = Transformer.from_crs(crs, geodetic, always_xy=True)
    corners = []
    for down, right in ((0, 0), (1, 1), (0, 1), (1, 0)):
        angles = np.asarray(to_angles.transform(*grid.pix2wld(col + right, row + down)))
        lon, lat = np.where(np.isfinite(angles), angles, np.nan) * geodetic.axis_info[0].unit_conversion_factor
        normal = geod.a / np.sqrt(1 - geod.es * np.sin(lat) ** 2)
        from_axis = normal * np.cos(lat)
        z = normal * (1 - geod.es) * np.sin(lat)
        corners.append(np.stack([from_axis * np.cos(lon), from_axis * np.sin(lon), z], -1))
    diagonal, other_diagonal = corners[1] - corners[0], corners[3] - corners[2]
    return np.asarray(np.linalg.norm(np.cross(diagonal, other_diagonal), axis=-1) / 2)
