"""Where on Earth the pixels of a grid are, and what of the Earth an area of a grid covers.

Projections of the whole world have an edge. PROJ gives some points past it a place on the other side of the world, and
others none; neither is on Earth. Maps on a cylinder have no edge in the east and west: they go on around the Earth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.geometry.grid import find_period

Outline = shapely.Polygon | shapely.MultiPolygon
"""One or more polygons, in pixels (column, row) of a grid or in degrees (longitude, latitude)."""

_METRES_AROUND_EARTH = 4e7
_ROUND_TRIP = 1e-4
"""How exactly a place and its longitude and latitude must agree, in circumferences of the Earth: 4 km."""
_MOST_CELLS, _FINEST = 300_000, 16
"""Cells that are looked at, and the most along the edge of a cell of one degree."""


@dataclass(frozen=True)
class EarthGrid:
    """A grid with a CRS, whose pixels have places on Earth.

    Attributes:
        grid: The grid.
        transformer: From its CRS to longitude and latitude (WGS 84).
        circumference: Of the Earth, in units of the CRS.
        period: How far east the same meridian follows in a map on a cylinder, in units of the CRS; 0 in other maps.
    """

    grid: GeoBox
    transformer: Transformer
    circumference: float
    period: float

    @classmethod
    def from_grid(cls, grid: GeoBox) -> EarthGrid:
        """Return a grid, which has a CRS, with what must be known of the projection."""
        crs = grid.crs.proj
        transformer = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
        unit = next((axis.unit_conversion_factor for axis in crs.axis_info), 1) or 1
        around = 2 * np.pi if crs.is_geographic else _METRES_AROUND_EARTH
        return cls(grid, transformer, around / unit, find_period(grid.crs))

    def locate(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return longitude and latitude (n, 2) of points (n, 2) in pixels (column, row); not finite past the Earth."""
        x, y = self.grid.pix2wld(*pixels.T)
        degrees = np.column_stack(self.transformer.transform(x, y))
        again_x, again_y = self.transformer.transform(degrees[:, 0], degrees[:, 1], direction="INVERSE")
        with np.errstate(invalid="ignore"):
            off = np.hypot(self._remove_turns(again_x - x), again_y - y)
        degrees[off > _ROUND_TRIP * self.circumference] = np.inf
        beyond = np.isfinite(degrees[:, 0]) & (np.abs(degrees[:, 0]) > 180)  # on grids from 0° to 360°
        degrees[beyond, 0] = (degrees[beyond, 0] + 180) % 360 - 180
        return degrees

    def covers(self, area: Outline, degrees: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return for points (n, 2) in longitude and latitude whether they lie in an area, which is in pixels."""
        x, y = self.transformer.transform(degrees[:, 0], degrees[:, 1], direction="INVERSE")
        again = np.column_stack(self.transformer.transform(x, y))
        with np.errstate(invalid="ignore"):
            off = again - degrees
            off[:, 0] = (off[:, 0] - 360 * np.round(off[:, 0] / 360)) * np.cos(np.radians(degrees[:, 1]))
            is_placed = np.hypot(*off.T) <= _ROUND_TRIP * 360
        covered = np.zeros(len(degrees), bool)
        turns = np.arange(-2, 3) if self.period else (0,)
        for turn in turns:
            col, row = self.grid.wld2pix(x[is_placed] + turn * self.period, y[is_placed])
            covered[is_placed] |= shapely.contains_xy(area, col, row)
        return covered

    def _remove_turns(self, east: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.period:
            return east
        turns: NDArray[np.float64] = np.round(east / self.period) * self.period
        return east - turns


def outline_cells(area: Outline, points: NDArray[np.float64], earth: EarthGrid) -> shapely.Geometry:
    """Return an outline of an area made of cells in longitude and latitude, which reaches up to two cells beyond it.

    Cells of a degree are divided as far as there is time for; those in which a point of the area lies belong to it, and
    so do their neighbours.

    Args:
        area: In pixels (column, row).
        points: (n, 2) in pixels, points of the area on Earth; they tell of parts that are smaller than a cell.
        earth: Where pixels are.
    """
    degrees = earth.locate(points)
    coarse = _grow(_find_cells(area, degrees, earth, np.ones((180, 360), bool)))
    parts = int(np.clip((_MOST_CELLS / coarse.sum()) ** 0.5, 1, _FINEST))
    wanted = coarse.repeat(parts, axis=0).repeat(parts, axis=1)
    cells = _grow(_find_cells(area, degrees, earth, wanted))
    edge = 1 / parts
    found = rasterio.features.shapes(
        cells.astype(np.uint8), mask=cells, transform=Affine(edge, 0, -180, 0, -edge, 90), connectivity=4
    )
    merged = shapely.union_all([shapely.geometry.shape(shape) for shape, _ in found])
    return shapely.simplify(merged, edge * 0.75)  # takes the steps away


def _find_cells(
    area: Outline, degrees: NDArray[np.float64], earth: EarthGrid, wanted: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which of the wanted cells (row, column), from north and west, have their middle or a point in an area."""
    edge = 180 / len(wanted)
    row, col = np.nonzero(wanted)
    cells = np.zeros_like(wanted)
    cells[row, col] = earth.covers(area, np.column_stack([-180 + (col + 0.5) * edge, 90 - (row + 0.5) * edge]))
    row, col = ((90 - degrees[:, 1]) // edge).astype(int), ((degrees[:, 0] + 180) // edge).astype(int)
    cells[row.clip(0, len(cells) - 1), col % cells.shape[1]] = True
    return cells


def _grow(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return cells (row, column) and the eight around each, also across the antimeridian."""
    wide = cells | np.roll(cells, 1, axis=1) | np.roll(cells, -1, axis=1)
    high = wide.copy()
    high[1:] |= wide[:-1]
    high[:-1] |= wide[1:]
    return high
