"""What each pixel of a grid covers of the ellipsoid, wherever the grid lies and however it is turned.

Areas vary smoothly, so they are measured on a lattice of pixels and interpolated between them. They are rounded to
multiples of a power of two: sums over any pixels are exact, whatever their order, and so do not depend on chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.ndimage import distance_transform_edt

from seamline.pipeline.geometry.window import Window

_FIRST_CELLS, _MAX_CELLS = 8, 512
"""Along each side of the lattice, to begin with and at most."""
_TOLERANCE = 4e-5
"""Relative: how far interpolation between every second node may miss the one in between; with all, it is a quarter."""
_PIXELS_PER_BAND = 2**18
"""Whose areas are in memory at a time: of eight bytes a pixel, and as much again on the way."""


class AreaArray(Protocol):
    """Areas (height, width) of the pixels of a window, of which some rows are taken at a time; an array is one."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.float64]:
        """Of these rows: (rows, width)."""


@dataclass(frozen=True)
class PixelAreas:
    """Areas in m² of the pixels of ``window``, interpolated between the nodes of a ``lattice`` (rows, columns).

    The first and last nodes are the first and last pixels of a scene of the size ``shape``; where areas are the same
    in all rows or columns, one node stands for them.
    """

    lattice: NDArray[np.float64]
    shape: tuple[int, int]
    window: Window

    @classmethod
    def from_constant(cls, area: float, shape: tuple[int, int]) -> PixelAreas:
        """Every pixel of the scene covers as much."""
        return cls(np.array([[area]]), shape, Window(0, 0, *shape))

    def for_window(self, window: Window) -> PixelAreas:
        """Those of another window of the scene."""
        return replace(self, window=window)

    @property
    def unit(self) -> float:
        """All areas are multiples of it, the smallest power of two of which 2^53 are more than the whole scene.

        So of a scene of 10^10 pixels an area changes by less than a millionth of the largest.
        """
        height, width = self.shape
        return float(2.0 ** (np.ceil(np.log2(self.lattice.max() * height * width)) - 52))

    def __getitem__(self, rows: slice, /) -> NDArray[np.float64]:
        window, unit = self.window, self.unit
        start, stop, _ = rows.indices(window.height)
        # Each value comes of the same steps wherever the window lies.
        some = _interpolate_axis(self.lattice / unit, 0, self.shape[0], np.arange(start, stop) + window.row)
        areas = np.rint(_interpolate_axis(some, 1, self.shape[1], np.arange(window.col, window.stop_col)))
        areas *= unit
        return np.broadcast_to(areas, (stop - start, window.width))


def _interpolate_axis(nodes: NDArray[np.float64], axis: int, length: int, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values ``at`` some of the ``length`` pixels along an axis, linear between nodes; a single node as it is."""
    cells = nodes.shape[axis] - 1
    if not cells:
        return nodes
    place = at * (cells / max(1, length - 1))
    before = np.clip(place.astype(np.int64), 0, cells - 1)
    share = place - before
    first = nodes.take(before, axis)
    found: NDArray[np.float64] = nodes.take(before + 1, axis)
    found -= first
    found *= share if axis else share[:, None]
    found += first
    return found


def iter_row_bands(height: int, width: int) -> Iterator[slice]:
    """All rows of a window, as many at a time as areas may be in memory together."""
    step = max(1, _PIXELS_PER_BAND // max(1, width))
    for row in range(0, height, step):
        yield slice(row, row + step)


def measure_pixel_areas(grid: GeoBox) -> PixelAreas | None:
    """Of all pixels of ``grid``, to 10^-4 of the truth where they vary smoothly; None if the CRS does not say.

    The lattice is made finer until interpolation hits the nodes in between. Beyond the edge of a projection the area
    is that of the nearest pixel before it.
    """
    cells = [_FIRST_CELLS, _FIRST_CELLS]
    while True:
        row, col = (np.linspace(0, size - 1, count + 1) for size, count in zip(grid.shape, cells, strict=True))
        lattice = _measure_areas(grid, *np.meshgrid(row, col, indexing="ij"))
        known = np.isfinite(lattice) & (lattice > 0)
        if not known.any():
            return None
        nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
        lattice = lattice[tuple(nearest)]
        bent = [
            axis for axis in (0, 1) if cells[axis] < _MAX_CELLS and _interpolation_error(lattice, axis) > _TOLERANCE
        ]
        if not bent:
            break
        for axis in bent:
            cells[axis] *= 2
    for axis in (0, 1):
        if (np.ptp(lattice, axis) <= _TOLERANCE / 4 * lattice.min(axis)).all():
            lattice = lattice.mean(axis, keepdims=True)
    height, width = grid.shape
    return PixelAreas(lattice, (height, width), Window(0, 0, height, width))


def _interpolation_error(lattice: NDArray[np.float64], axis: int) -> float:
    """How far every second node lies from the middle between its neighbours, relative."""
    nodes = np.moveaxis(lattice, axis, 0)
    middle = nodes[1::2]
    return float((np.abs(nodes[:-1:2] + nodes[2::2] - 2 * middle) / (2 * middle)).max())


def measure_pixel_area(grid: GeoBox, row: float, col: float) -> float | None:
    """The area in m² of the pixel at ``row`` and ``col``; None if unknown."""
    area = float(_measure_areas(grid, np.array([row]), np.array([col]))[0])
    return area if np.isfinite(area) else None


def _measure_areas(grid: GeoBox, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
    """The areas of pixels, which may lie between others; NaN where unknown.

    A pixel is the flat quadrilateral between its corners in space, which knows neither poles nor antimeridian. Of one
    that is a degree wide that is 10^-5 less than on the ellipsoid.
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
        flat = normal * np.cos(lat)
        corners.append(np.stack([flat * np.cos(lon), flat * np.sin(lon), normal * (1 - geod.es) * np.sin(lat)], -1))
    one, other = corners[1] - corners[0], corners[3] - corners[2]
    return np.asarray(np.linalg.norm(np.cross(one, other), axis=-1) / 2)
