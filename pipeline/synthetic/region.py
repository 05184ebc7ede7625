"""A simulated region that is larger than a scene, and scenes of it: several dates, two UTM zones, one ground.

The ground is that of ``landscape`` on the pixels of one grid, the region's. A scene takes from it what lies at the
centre of each of its pixels, so that scenes of both zones show the same rivers and fields. Each scene has clouds, haze,
light and noise of its own: where scenes are laid beside each other, their borders can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.synthetic.landscape import render_surface
from seamline.pipeline.synthetic.noise import Field, hash_keys, uniform
from seamline.pipeline.synthetic.simulate import (
    SimulatedBlock,
    Sky,
    find_shadow_shift,
    observe_surface,
    render_tiles,
    widen,
)

_CRS = "EPSG:32632"
_ZONES = (_CRS, "EPSG:32633")
"""Zones of the western and the eastern scenes."""
_BORDER = 723_780.0, 5_320_660.0
"""A place on the border of both zones, 12° E, in metres of the first."""
_PIXEL = 10.0
_OVERLAP = 0.25
"""Share of a scene that its neighbour shows, too."""
_DATES = (
    "2024-05-14T10:20:00Z",
    "2024-06-21T10:20:00Z",
    "2024-07-06T10:20:00Z",
    "2024-08-12T10:20:00Z",
    "2024-09-03T10:20:00Z",
    "2024-10-08T10:20:00Z",
)
_SKY = 300
"""Key of the random numbers of a scene's sky, other than those of landscape, clouds and harsh ground."""


@dataclass(frozen=True)
class Region:
    """A region on the border of UTM zones 32 and 33, seen in two columns of overlapping scenes at each date.

    Raises ``InputError`` for values of which no region can be made.

    Attributes:
        scene_size: Rows and columns of each scene.
        rows: Scenes from north to south, at each date and in each zone.
        dates: Number of dates, 1 to 6.
        seed: Seed of all random numbers.
    """

    scene_size: int = 1024
    rows: int = 2
    dates: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (64 <= self.scene_size <= 10_000, "size of scenes", self.scene_size, "64 to 10000 pixels"),
            (1 <= self.rows <= 100, "number of rows", self.rows, "1 to 100"),
            (1 <= self.dates <= len(_DATES), "number of dates", self.dates, f"1 to {len(_DATES)}"),
            (0 <= self.seed < 2**62, "seed", self.seed, "a whole number from 0 to 2⁶² − 1"),
        )
        for is_valid, what, got, expected in checks:
            if not is_valid:
                raise InputError(f"no region of this {what}", got=got, expected=expected, fix=f"give another {what}")

    @property
    def scenes(self) -> tuple[RegionScene, ...]:
        """All scenes: date by date, from north to south, the western before the eastern."""
        return tuple(
            RegionScene(self, date, row, zone)
            for date in range(self.dates)
            for row in range(self.rows)
            for zone in (0, 1)
        )

    @cached_property
    def grid(self) -> GeoBox:
        """Grid of the region: whole multiples of 10 m in EPSG:32632, around all scenes."""
        boxes = [scene.grid.extent.to_crs(_CRS, resolution=50 * _PIXEL).boundingbox for scene in self.scenes]
        left, top = min(box.left for box in boxes) // _PIXEL, -(-max(box.top for box in boxes) // _PIXEL)
        right, bottom = -(-max(box.right for box in boxes) // _PIXEL), min(box.bottom for box in boxes) // _PIXEL
        affine = Affine(_PIXEL, 0, left * _PIXEL, 0, -_PIXEL, top * _PIXEL)
        return GeoBox((int(top - bottom), int(right - left)), affine, _CRS)

    def render_truth(self, grid: GeoBox) -> NDArray[np.uint8]:
        """Return the labels of the ground without clouds on any grid, shape (height, width): 0 land, 1 water."""
        labels = np.empty(grid.shape, np.uint8)
        whole = Window(0, 0, grid.height, grid.width)
        for row in range(0, grid.height, 256):
            for col in range(0, grid.width, 256):
                part = Window(row, col, 256, 256).intersection(whole)
                labels[part.to_slices()] = self.sample_ground(_crop_grid(grid, part))[1] > 0.5
        return labels

    def sample_ground(self, grid: GeoBox) -> tuple[Field, Field]:
        """Return the ground at the centres of a grid's pixels, bilinear between the pixels of the region.

        Args:
            grid: A grid of some hundred pixels on a side; all of the ground in between is rendered at once.

        Returns:
            Reflectance, shape (6, height, width), and the share of water, shape (height, width).
        """
        rows, cols = _locate_pixels(grid)
        top, left = (np.floor(place).astype(np.intp) for place in (rows, cols))
        # Two more pixels on every side, since those at the edge of a window have no gradient.
        area = Window(int(top.min()) - 2, int(left.min()) - 2, int(np.ptp(top)) + 6, int(np.ptp(left)) + 6)
        bands, water = render_surface(area, self.seed)
        down, right = (rows % 1).astype(np.float32), (cols % 1).astype(np.float32)
        one = np.float32(1)
        top -= area.row
        left -= area.col

        def interpolate(field: Field) -> Field:
            upper = field[top, left] * (one - right) + field[top, left + 1] * right
            lower = field[top + 1, left] * (one - right) + field[top + 1, left + 1] * right
            between: Field = upper * (one - down) + lower * down
            return between

        return np.stack([interpolate(band) for band in bands]), interpolate(water)


@dataclass(frozen=True)
class RegionScene:
    """One scene of a region, which can be rendered window by window.

    Attributes:
        region: The region.
        date: Which date, from 0.
        row: Which row from the north, from 0.
        zone: 0 for the west in EPSG:32632, 1 for the east in EPSG:32633.
    """

    region: Region
    date: int
    row: int
    zone: int

    @property
    def id(self) -> str:
        """Name of the scene: day, zone and row, such as ``20240514-32633-0``."""
        return f"{self.acquired[:10].replace('-', '')}-{_ZONES[self.zone][5:]}-{self.row}"

    @property
    def acquired(self) -> str:
        """When the scene was taken, ISO 8601."""
        return _DATES[self.date]

    @property
    def seed(self) -> int:
        """Seed of clouds, haze, light and noise: another one for each scene."""
        return int(self._random_bits[0] >> np.uint64(2))

    @property
    def _random_bits(self) -> NDArray[np.uint64]:
        return hash_keys(self.region.seed, _SKY, self.date, self.row, np.array([self.zone]))

    @cached_property
    def grid(self) -> GeoBox:
        """Grid of the scene; the orbits of two dates lie some pixels apart, and no two scenes share their pixels."""
        size, step = self.region.scene_size, self.region.scene_size * (1 - _OVERLAP) * _PIXEL
        drift = (0.06 * self.date - 0.06) * size * _PIXEL
        x = _BORDER[0] + (self.zone - 0.5) * step - size * _PIXEL / 2 + drift
        y = _BORDER[1] - (self.row - (self.region.rows - 1) / 2) * step + size * _PIXEL / 2 + drift / 2
        if self.zone:
            # The middle of the scene lies where it would lie in the first zone.
            half = size * _PIXEL / 2
            x, y = Transformer.from_crs(_CRS, _ZONES[1], always_xy=True).transform(x + half, y - half)
            x, y = x - half, y + half
        x, y = round(x) + 3 * self.date + self.row, round(y) + 2 * self.zone
        return GeoBox((size, size), Affine(_PIXEL, 0, x, 0, -_PIXEL, y), _ZONES[self.zone])

    @property
    def sky(self) -> Sky:
        """The sky above the scene: half to double the usual haze, and up to an eighth brighter or darker."""
        haze, light = (float(uniform(self._random_bits, lane)[0]) for lane in (2, 3))
        return Sky(self.seed, find_shadow_shift(_PIXEL), haze=0.5 + 1.5 * haze, gain=0.875 + 0.25 * light)

    def render_block(self, window: Window) -> SimulatedBlock:
        """Render a window of the scene.

        Returns:
            Digital numbers (6, height, width) and truth labels (height, width), as of a ``Simulation``.
        """

        def render_tile(tile: Window) -> SimulatedBlock:
            ground = self.region.sample_ground(_crop_grid(self.grid, widen(tile)))
            return observe_surface(*ground, tile, self.sky)

        return render_tiles(window, (self.grid.height, self.grid.width), render_tile)


def _crop_grid(grid: GeoBox, window: Window) -> GeoBox:
    """Return the grid of a window, which may overhang."""
    return GeoBox(window.shape, grid.affine @ Affine.translation(window.col, window.row), grid.crs)


def _locate_pixels(grid: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows and columns of a grid's pixel centres on the pixels of the ground, each of shape (height, width)."""
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    x, y = grid.affine @ (cols, rows)
    if str(grid.crs) != _CRS:
        x, y = Transformer.from_crs(str(grid.crs), _CRS, always_xy=True).transform(x, y)
    # Rounded to 2⁻¹⁰ pixel: where pixels of a grid lie on those of the ground, nothing is interpolated.
    rows, cols = (np.round(metres / _PIXEL * 1024) / 1024 - 0.5 for metres in (_BORDER[1] - y, x - _BORDER[0]))
    return rows, cols
