"""The plane of web maps: places of a scene in Web Mercator, in the units of vector tiles.

One unit is a 4096th of a tile of the highest zoom that the polygons of a scene get. x grows to the east, y to the
south. At a scene that lies across the antimeridian x goes on beyond the edge of the world, so that the polygons stay in
one piece until they are cut into tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.errors import InputError

TILE_UNITS = 4096
"""Units along the edge of a tile of the highest zoom."""
MAX_LATITUDE = 85.051128779806604
"""Degrees to which Web Mercator reaches."""
_LEAST_UNITS_PER_PIXEL = 4
"""The highest zoom is the first at which a pixel has so many units, so that rounding moves a corner by an eighth."""
_ZOOMS = (2, 22)
"""The highest zoom lies between these; from 2 on blocks of 4² tiles are tiles themselves."""
_LATTICE = 5
"""Places along each axis of a scene at which the size of a pixel is measured."""
_SEAM = 180 - 1e-6
"""Degrees from the middle of a scene from which on the side of a place is that of its CRS."""


@dataclass(frozen=True)
class WebMercator:
    """Projects pixels of a scene.

    Attributes:
        grid: grid of the scene, which has a CRS.
    """

    grid: GeoBox

    @cached_property
    def zoom(self) -> int:
        """The highest zoom."""
        height, width = self.grid.shape
        rows, cols = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, n, _LATTICE) for n in (height, width))))
        corners = [self._to_world(np.column_stack([cols + dx, rows + dy])) for dx, dy in ((0, 0), (1, 0), (0, 1))]
        (ax, ay), (bx, by) = ((corner - corners[0]).T for corner in corners[1:])
        sizes = np.sqrt(np.abs(ax * by - ay * bx))
        is_shown = np.all([(corner[:, 1] > 0) & (corner[:, 1] < 1) for corner in corners], axis=0)
        sizes = sizes[is_shown & np.isfinite(sizes) & (sizes > 0)]
        if not len(sizes):
            return _ZOOMS[0]
        least, most = _ZOOMS
        return min(most, max(least, math.ceil(math.log2(_LEAST_UNITS_PER_PIXEL / TILE_UNITS / sizes.min()))))

    @property
    def world(self) -> int:
        """Units of the whole Earth along each axis."""
        return TILE_UNITS << self.zoom

    def project(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project places to whole units.

        Args:
            pixels: (n, 2), column and row in the scene.

        Returns:
            (n, 2), x and y, whole numbers; not finite for places that are not on Earth.
        """
        return np.floor(self._to_world(pixels) * self.world + 0.5)

    def to_degrees(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return longitude and latitude (n, 2) of x and y (n, 2); the longitude may lie beyond ±180."""
        x, y = units.T / self.world
        return np.column_stack([x * 360 - 180, np.degrees(np.arctan(np.sinh((0.5 - y) * 2 * math.pi)))])

    @cached_property
    def _degrees(self) -> pyproj.Transformer:
        return pyproj.Transformer.from_crs(self.grid.crs.proj, "EPSG:4326", always_xy=True)

    @cached_property
    def _middle(self) -> tuple[float, float]:
        """The x of the middle of the scene in its CRS, and its longitude."""
        height, width = self.grid.shape
        x, y = self.grid.transform * (width / 2, height / 2)
        longitude = self._degrees.transform(x, y)[0]
        return x, longitude if math.isfinite(longitude) else 0.0

    def _to_world(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return x and y (n, 2) of pixels (n, 2), as shares of the Earth's width."""
        a, b, c, d, e, f, *_ = self.grid.transform
        col, row = pixels.T
        x, y = a * col + b * row + c, d * col + e * row + f
        longitude, latitude = (np.asarray(axis, np.float64) for axis in self._degrees.transform(x, y))
        with np.errstate(invalid="ignore"):
            longitude = self._continue_longitude(longitude, x)
            bounded = np.radians(np.clip(latitude, -89.9, 89.9))
            return np.column_stack([longitude / 360 + 0.5, 0.5 - np.arcsinh(np.tan(bounded)) / (2 * math.pi)])

    def _continue_longitude(self, longitude: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return longitudes without a jump at the antimeridian."""
        if self.grid.crs.geographic:  # the coordinates of the scene have no jump
            return longitude + 360 * np.round((x - longitude) / 360)
        middle_x, middle = self._middle
        east = (longitude - middle + 180) % 360 - 180
        return middle + np.where(np.abs(east) > _SEAM, np.copysign(180, x - middle_x), east)


def check_web_mercator(grid: GeoBox) -> None:
    """Check that a scene can be drawn in Web Mercator.

    Args:
        grid: grid of the scene.

    Raises:
        InputError: it has no CRS, no pixel of it lies within ±85.05° of latitude, or a pole lies inside of it.
    """
    if grid.crs is None or not (grid.crs.projected or grid.crs.geographic):
        raise _refuse("a scene without a CRS" if grid.crs is None else "a scene in a CRS that is not of the Earth")
    mercator = WebMercator(grid)
    height, width = grid.shape
    outline = np.array([(u * width, v * height) for u in np.linspace(0, 1, 33) for v in np.linspace(0, 1, 33)])
    _, y = mercator._to_world(outline).T
    y = y[np.isfinite(y)]
    if not len(y) or y.min() >= 1 or y.max() <= 0:
        raise _refuse("a scene that lies nearer to a pole")
    if not grid.crs.geographic and any(_has_pole(grid, latitude) for latitude in (-90.0, 90.0)):
        raise _refuse("a scene that has a pole inside of it")


def _refuse(got: str) -> InputError:
    kinds = "a scene with a CRS, between 85.05° south and 85.05° north in part, and without a pole"
    return InputError("--polygon-formats pmtiles", got=got, expected=kinds, fix="take fgb, gpkg or parquet")


def _has_pole(grid: GeoBox, latitude: float) -> bool:
    """Return whether a pole is one place of the grid, and not an edge of its map as in cylindrical projections."""
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", grid.crs.proj, always_xy=True)
    x, y = (np.array(axis, np.float64) for axis in to_grid.transform([0.0, 90.0, 180.0, -90.0], [latitude] * 4))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return False
    inverse: Any = ~grid.transform
    col, row = inverse * (x, y)
    height, width = grid.shape
    is_one = np.ptp(col) < 1 and np.ptp(row) < 1
    return bool(is_one and 0 <= col[0] <= width and 0 <= row[0] <= height)
