"""Grids, which are odc-geo's ``GeoBox``: a CRS, an affine transform and (height, width). Comparing and linking them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import CRSError as ProjCRSError
from pyproj.exceptions import ProjError

from seamline.pipeline.common.errors import InputError

_TOLERANCE = 0.01
"""Pixels by which the corners of equal grids may differ."""
_METRES_AROUND_EARTH = 4e7
_ROUND_TRIP = 1e-4
"""How far from where it started a place may come back from another CRS, in circumferences of the Earth: 4 km."""


def measure_corner_offset(grid: GeoBox, other: GeoBox) -> float:
    """Return how far the corners of two grids of one CRS lie apart at most, in pixels of ``other``."""
    to_other = ~other.transform @ grid.transform
    offset = 0.0
    for x, y in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        col, row = to_other @ (x * grid.width, y * grid.height)
        offset = max(offset, abs(col - x * other.width), abs(row - y * other.height))
    return offset


def is_same_grid(grid: GeoBox, other: GeoBox) -> bool:
    """Return whether each pixel (row, column) is the same place in both grids; the CRS are not compared."""
    return bool(grid.shape == other.shape) and measure_corner_offset(grid, other) < _TOLERANCE


@dataclass(frozen=True)
class CrsLink:
    """The way of places from one CRS to another; threads may share it.

    Attributes:
        transformer: From the first CRS to the second one, x before y; None if both are the same.
        source_period: How far east the first CRS shows the same meridian again; 0 if it does not.
        target_period: The same of the second CRS.
        tolerance: How far from where it started a place may come back, in units of the first CRS.
        is_source_geographic: Whether the first CRS is in longitude and latitude.
        unit: Radians or metres of a unit of the first CRS.
    """

    transformer: Transformer | None
    source_period: float
    target_period: float
    tolerance: float
    is_source_geographic: bool
    unit: float

    def transform(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return where places of the first CRS are in the second one; not finite where they are nowhere.

        PROJ gives some points past the edge of a projection a place on the other side of the world. Such a point does
        not come back to where it started, and is nowhere.

        Args:
            x: East of the places in the first CRS, any shape.
            y: North of the places, the same shape.

        Returns:
            x and y in the second CRS. The result for a place does not depend on the other places.
        """
        if self.transformer is None:
            return x, y
        there_x, there_y = self.transformer.transform(x, y)
        back_x, back_y = self.transformer.transform(there_x, there_y, direction="INVERSE")
        with np.errstate(invalid="ignore"):
            east = unwrap(back_x - x, 0, self.source_period)
            if self.is_source_geographic:
                east = east * np.cos(y * self.unit)
            lost = ~(np.hypot(east, back_y - y) <= self.tolerance)
        return np.where(lost, np.inf, there_x), np.where(lost, np.inf, there_y)


@lru_cache(maxsize=256)
def _link(source: str, target: str) -> CrsLink:
    first, second = CRS(source), CRS(target)
    unit = _measure_unit(first)
    around = 2 * math.pi if first.geographic else _METRES_AROUND_EARTH
    try:
        same = source == target or first == second
        transformer = None if same else Transformer.from_crs(first.proj, second.proj, always_xy=True)
        periods = find_period(first), find_period(second)
    except ProjError as error:
        raise InputError(
            f"CRS {source} and {target}",
            got=error,
            expected="two CRS that PROJ can transform to each other",
            fix="choose another CRS of the map",
        ) from error
    return CrsLink(transformer, *periods, _ROUND_TRIP * around / unit, first.geographic, unit)


def link_crs(source: CRS, target: CRS) -> CrsLink:
    """Return the way of places from one CRS to another; made once for each pair.

    Raises:
        InputError: PROJ cannot transform between the two CRS.
    """
    return _link(str(source), str(target))


def unwrap(x: NDArray[np.float64], middle: NDArray[np.float64] | float, period: float) -> NDArray[np.float64]:
    """Return ``x`` moved by whole turns around the Earth to within half a turn of ``middle``.

    Args:
        x: East of places; what is not finite stays so.
        middle: East of the place that they are moved to.
        period: Length of a turn; 0 if the CRS does not go around the Earth.
    """
    if not period:
        return x
    with np.errstate(invalid="ignore"):
        turned: NDArray[np.float64] = x - period * np.round((x - middle) / period)
    return turned


def find_period(crs: CRS) -> float:
    """Return how far east a CRS shows the same meridian again, in its units; 0 if it does not.

    Longitudes go around the Earth, and so do maps on a cylinder, on which a meridian is a line due north.
    """
    if crs.geographic:
        return float(f"{2 * math.pi / _measure_unit(crs):.12g}")
    if not crs.projected or crs.proj.geodetic_crs is None:
        return 0.0
    geodetic = crs.proj.geodetic_crs
    degree = math.radians(1) / geodetic.axis_info[0].unit_conversion_factor
    lon, transformer = np.arange(-175.0, 180, 10) * degree, Transformer.from_crs(geodetic, crs.proj, always_xy=True)
    x = np.stack([transformer.transform(lon, np.full_like(lon, lat * degree))[0] for lat in (0, 30, 60)])
    if not np.isfinite(x).all():
        return 0.0
    period = 36 * float(np.median(np.diff(x[0])))
    return abs(period) if np.ptp(x, axis=0).max() < 1e-4 * abs(period) else 0.0


def _measure_unit(crs: CRS) -> float:
    return next((axis.unit_conversion_factor for axis in crs.proj.axis_info), 1.0) or 1.0


def check_crs(crs: CRS | str | None, *, of_scene: bool = False) -> CRS:
    """Return a CRS that a map or a scene of a map can have.

    Args:
        crs: CRS of the map, or its name.
        of_scene: Whether it is that of a scene instead, for the message.

    Raises:
        InputError: there is none, PROJ does not know it, or it is no map in two dimensions.
    """
    what, fix = "CRS of the map", "give a code such as EPSG:32633"
    if of_scene:
        what, fix = "CRS of a scene", "leave the scene out, or segment it with a CRS"
    if crs is None:
        raise InputError(what, got="none", expected="a projected or geographic CRS", fix=fix)
    try:
        known = CRS(crs)
    except (CRSError, ProjCRSError) as error:
        raise InputError(what, got=error, expected="a CRS that PROJ knows", fix=fix) from error
    if not (known.projected or known.geographic) or len(known.proj.axis_info) != 2:
        raise InputError(what, got=known.proj.name, expected="a projected or geographic CRS in two dimensions", fix=fix)
    return known


@dataclass(frozen=True)
class SceneLocator:
    """Where places of a map are in a scene.

    Attributes:
        resolution: Edge of a pixel of the map in units of its CRS.
        link: From the CRS of the map to that of the scene.
        scene: Grid of the scene.
    """

    resolution: float
    link: CrsLink
    scene: GeoBox

    @classmethod
    def of(cls, crs: CRS, resolution: float, scene: GeoBox) -> SceneLocator:
        """Return where places of a map are in a scene.

        Args:
            crs: CRS of the map.
            resolution: Edge of a pixel of the map in units of its CRS.
            scene: Grid of the scene.

        Raises:
            InputError: the grid of the scene has no CRS that the map's can be transformed to.
        """
        return cls(resolution, link_crs(crs, check_crs(scene.crs, of_scene=True)), scene)

    def project(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return (x, y) in the CRS of the scene of places in pixels of the map's lattice; not finite if nowhere."""
        return self.link.transform(col * self.resolution, -row * self.resolution)

    def to_pixels(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (row, column), stacked, in pixels of the scene of places in its CRS."""
        a, b, c, d, e, f = self.scene.transform[:6]
        scale = a * e - b * d
        east, north = x - c, y - f
        with np.errstate(invalid="ignore"):
            if not b and not d:  # the result of a multiplication by 0 would be NaN where the other one is infinite
                return np.stack([north / e, east / a])
            return np.stack([(a * north - d * east) / scale, (e * east - b * north) / scale])

    def locate(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where places of the map are in the scene, on the turn around the Earth next to the scene's middle.

        Args:
            row: Rows in the lattice of the map; pixel 0 has its centre at 0.5.
            col: Columns, the same shape.

        Returns:
            Rows and columns, (2, …), in pixels of the scene; not finite where a place is nowhere.
        """
        x, y = self.project(row, col)
        middle, _ = self.scene.transform @ (self.scene.width / 2, self.scene.height / 2)
        return self.to_pixels(unwrap(x, middle, self.link.target_period), y)

    def list_turns(self) -> list[NDArray[np.float64]]:
        """Return by how many pixels of the scene (row, column), (2, 1), turns around the Earth move a place."""
        x, y = self.scene.transform[2], self.scene.transform[5]
        turns = np.arange(-3, 4) * self.link.target_period if self.link.target_period else np.zeros(1)
        return [self.to_pixels(x + turn, np.asarray(y))[:, None] for turn in turns]
