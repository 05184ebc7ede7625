"""Simulated six-band satellite scenes of any size with their truth: for demonstration, training and benchmarks.

Simulated are the ground (see ``landscape``); low clouds of one height with the shadows that the sun casts, thin high
clouds and haze; the blur of the optics, which mixes neighbours at borders; the noise of the sensor; and the slanted
edges of the swath, outside of which there is no data. Every pixel depends only on the seed and its position (the swath
also on the size of the scene), so that any part of a scene can be rendered on its own.

There is no radiative transfer, no season, no view angle, no snow and no real geography, and the truth is better known
than by any analyst. Accuracies on simulated scenes show that a program works. They do not show how well a model does on
the Earth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.synthetic.landscape import SUN_ELEVATION, TOWARDS_SUN, render_surface
from seamline.pipeline.synthetic.noise import Field, Lattice, fractal_noise, noise, noise_at, smoothstep

VERSION = 1
"""Version of the simulation: another version renders other pixels from the same seed."""
BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
SCALE = 0.0001
"""Reflectance = digital number × SCALE. The digital number 0 is nodata."""
ACQUISITION_TIME = "2024-06-21T10:20:00Z"
CLASSES = (
    LabelClass(0, "land", (205, 190, 145), "dry ground in clear air"),
    LabelClass(1, "water", (40, 105, 190), "more than half of the pixel is water"),
    LabelClass(2, "cloud", (250, 250, 250), "clouds, thin ones too, hide more than 16 % of the ground"),
    LabelClass(3, "cloud shadow", (70, 60, 95), "a cloud takes more than 30 % of the sunlight; no cloud above"),
)

_LAND, _WATER, _CLOUD, _SHADOW = (label.value for label in CLASSES)
_HIDDEN_SHARE, _DIMMED_SHARE = 0.16, 0.30
_CLOUD_HEIGHT = 1000.0  # metres above ground

# By band: reflectance of thick clouds, of magnitudes as in Irish (2000, doi:10.1117/12.410358); share of the light that
# ground in full shadow still gets from the sky; reflectance that thin haze adds.
_BRIGHT = np.array([0.70, 0.69, 0.70, 0.72, 0.58, 0.44], dtype=np.float32)
_SKYLIGHT = np.array([0.46, 0.38, 0.31, 0.24, 0.17, 0.13], dtype=np.float32)
_HAZE = np.array([0.020, 0.013, 0.008, 0.004, 0.001, 0.000], dtype=np.float32)

# The scene is rendered in tiles of this size from its origin. So a pixel is always computed with the same neighbours,
# which decide how its floating-point numbers are rounded.
_TILE_SIZE = 256
# Keys of independent random fields, other than those of the landscape.
_COVER, _HEAP, _VEIL, _AIR = range(100, 104)


SimulatedBlock = tuple[NDArray[np.uint16], NDArray[np.uint8]]
"""Digital numbers (6, height, width) and truth labels (height, width)."""


@dataclass(frozen=True)
class Simulation:
    """A simulated scene in UTM zone 32N (EPSG:32632). Rivers, fields and clouds have a fixed size in pixels.

    Raises ``InputError`` for values of which no scene can be made.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        seed: Seed of all random numbers.
        pixel_size: Edge of a pixel in metres.
        harsh: Whether the land has lava, burn scars and districts of bright roofs.
    """

    height: int
    width: int
    seed: int = 0
    pixel_size: float = 10.0
    harsh: bool = False

    def __post_init__(self) -> None:
        is_size_valid = min(self.height, self.width) >= 1 and max(self.height, self.width) < 2**31
        size = f"{self.height}×{self.width}"
        checks = (
            (is_size_valid, "size", size, "at least 1×1 pixels, at most 2³¹ − 1 on a side"),
            (0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2⁶³ − 1"),
            (0 < self.pixel_size < np.inf, "pixel size", self.pixel_size, "metres, more than 0"),
        )
        for is_valid, what, got, expected in checks:
            if not is_valid:
                raise InputError(f"no scene of this {what}", got=got, expected=expected, fix=f"give another {what}")

    @property
    def grid(self) -> GeoBox:
        """Grid of the scene, north up. Scenes of all sizes share their upper left corner."""
        affine = Affine(self.pixel_size, 0, 300_000, 0, -self.pixel_size, 5_500_000)
        return GeoBox((self.height, self.width), affine, "EPSG:32632")

    @property
    def shadow_shift(self) -> tuple[int, int]:
        """(rows, columns) from a low cloud to its shadow."""
        return find_shadow_shift(self.pixel_size)

    @property
    def acquired(self) -> str:
        """When the scene was taken, ISO 8601."""
        return ACQUISITION_TIME

    def render_block(self, window: Window) -> SimulatedBlock:
        """Render a window of the scene.

        The bands are those of ``BANDS``, the labels those of ``CLASSES``. Cloud takes precedence over shadow, shadow
        over water and land. Outside of the swath and of the scene, the digital numbers are 0 and the labels 255.

        Returns:
            Digital numbers (6, height, width) and truth labels (height, width).
        """
        sky = Sky(self.seed, self.shadow_shift)

        def render_tile(tile: Window) -> SimulatedBlock:
            return observe_surface(*render_surface(widen(tile), self.seed, harsh=self.harsh), tile, sky)

        return render_tiles(window, (self.height, self.width), render_tile)


def find_shadow_shift(pixel_size: float) -> tuple[int, int]:
    """Return (rows, columns) from a low cloud to its shadow, for pixels of so many metres."""
    length = _CLOUD_HEIGHT / tan(radians(SUN_ELEVATION)) / pixel_size
    return round(-TOWARDS_SUN[0] * length), round(-TOWARDS_SUN[1] * length)


@dataclass(frozen=True)
class Sky:
    """What lies between the ground and the sensor.

    Attributes:
        seed: Seed of clouds, haze and the noise of the sensor.
        shadow_shift: (rows, columns) from a low cloud to its shadow.
        haze: Amount of haze; 1 is usual.
        gain: What all reflectances are multiplied with: how bright the day was.
    """

    seed: int
    shadow_shift: tuple[int, int]
    haze: float = 1.0
    gain: float = 1.0


def render_tiles(
    window: Window, shape: tuple[int, int], render_tile: Callable[[Window], SimulatedBlock]
) -> SimulatedBlock:
    """Render a window of a scene from tiles that lie at fixed places, inside of the swath.

    Args:
        window: The window, which may overhang the scene.
        shape: (height, width) of the scene.
        render_tile: Renders one tile of the scene.

    Returns:
        Digital numbers (6, height, width) and truth labels (height, width); 0 and 255 outside of the swath.
    """
    bands = np.zeros((len(BANDS), *window.shape), dtype=np.uint16)
    truth = np.full(window.shape, NODATA, dtype=np.uint8)
    inside = _swath_mask(window, *shape)
    for row in range(window.row // _TILE_SIZE * _TILE_SIZE, window.stop_row, _TILE_SIZE):
        for col in range(window.col // _TILE_SIZE * _TILE_SIZE, window.stop_col, _TILE_SIZE):
            tile = Window(row, col, _TILE_SIZE, _TILE_SIZE)
            part = tile.intersection(window)
            in_window, in_tile = part.relative_to(window).to_slices(), part.relative_to(tile).to_slices()
            if inside[in_window].any():
                numbers, labels = render_tile(tile)
                bands[:, *in_window] = numbers[:, *in_tile] * inside[in_window]
                truth[in_window] = np.where(inside[in_window], labels[in_tile], NODATA)
    return bands, truth


def _swath_mask(window: Window, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels between the two edges of a swath that leans like those of descending orbits."""
    rows = np.arange(window.row, window.stop_row)[:, None]
    cols = np.arange(window.col, window.stop_col)
    lean = min(0.14, 0.25 * width / height)
    left = lean * (0.55 * height - rows)
    right = width + lean * (0.45 * height - rows)
    inside: NDArray[np.bool_] = (cols >= np.maximum(left, 0)) & (cols < np.minimum(right, width))
    return inside & (rows >= 0) & (rows < height)


def widen(tile: Window) -> Window:
    """Return a tile with two more pixels on every side: one for the gradients, one for the blur."""
    return Window(tile.row - 2, tile.col - 2, tile.height + 4, tile.width + 4)


def observe_surface(bands: Field, water: Field, tile: Window, sky: Sky) -> SimulatedBlock:
    """Return what a sensor sees of the ground through the sky.

    Args:
        bands: Reflectance of the sunlit ground (6, height, width) of the widened tile; overwritten.
        water: Share of water in each pixel of the widened tile, shape (height, width).
        tile: The tile of the scene.
        sky: The sky above the scene.

    Returns:
        Digital numbers (6, height, width) and truth labels (height, width) of the tile.
    """
    wide, (down, right) = widen(tile), sky.shadow_shift
    thickness = _cloud_thickness(wide, sky.seed)
    cloud = _cloud_opacity(thickness)
    dimmed = _cloud_opacity(_cloud_thickness(wide.shift(-down, -right), sky.seed))
    veil, air = _make_high_air(wide, sky.seed)
    clear = (1 - cloud) * (1 - veil)
    # The light that the clouds reflect, which is added to what they let through.
    white = veil * (1 - cloud) * np.float32(0.75) + cloud * _cloud_brightness(thickness)
    grain = _sensor_noise(sky.seed, tile)
    numbers = np.empty((len(BANDS), *tile.shape), dtype=np.uint16)
    for i, band in enumerate(bands):
        band *= 1 - dimmed * (1 - _SKYLIGHT[i])
        band += np.float32(sky.haze) * _HAZE[i] * air
        band *= clear
        band += white * _BRIGHT[i]
        band *= np.float32(sky.gain)
        numbers[i] = _digitize(_blur(band[1:-1, 1:-1]), grain[i])
    inner = np.s_[2:-2, 2:-2]
    labels = np.where(water[inner] > 0.5, np.uint8(_WATER), np.uint8(_LAND))
    labels[dimmed[inner] > _DIMMED_SHARE] = _SHADOW
    labels[1 - clear[inner] > _HIDDEN_SHARE] = _CLOUD
    return numbers, labels


def _cloud_thickness(area: Window, seed: int) -> Field:
    """Return the thickness of the low clouds, 0 and up, shape (height, width)."""
    coarse = Lattice(area, 8)
    # The lattice of the large shapes is rotated, so that clouds don't stand in rows and columns.
    row, col = _rotate(coarse, 0.6)
    cover = 0.5 * noise_at(row, col, 620, seed, _COVER) + 0.35 * noise_at(row, col, 290, seed, _COVER, 1)
    cover += 0.75 * noise_at(row, col, 100, seed, _COVER, 2)
    heaps = np.float32(0.62) * fractal_noise(Lattice(area), 52, 5, seed, _HEAP, gain=0.6)
    thickness: Field = heaps + coarse.upsample(cover) - np.float32(1.28)
    return thickness.clip(min=np.float32(0))


def _cloud_opacity(thickness: Field) -> Field:
    """Return the share of the light that clouds of a thickness hold back."""
    through: Field = np.exp(thickness * (np.float32(-2) - 9 * thickness))
    return 1 - through


def _cloud_brightness(thickness: Field) -> Field:
    """Return the brightness of clouds: bright where they are thick, and on the side towards the sun."""
    down, right = np.gradient(thickness)
    towards_sun = down * np.float32(TOWARDS_SUN[0]) + right * np.float32(TOWARDS_SUN[1])
    light: Field = np.float32(0.74) + np.float32(0.25) * thickness - towards_sun
    np.clip(light, np.float32(0.5), np.float32(1.3), out=light)
    return light


def _make_high_air(area: Window, seed: int) -> tuple[Field, Field]:
    """Return the opacity of high thin clouds, drawn out by the wind, and the amount of haze; both (height, width)."""
    coarse = Lattice(area, 8)
    row, col = _rotate(coarse, 0.35)
    drawn = col / 4
    wisps = 0.7 * noise_at(row, drawn, 70, seed, _VEIL, 1) + 0.4 * noise_at(row, drawn, 31, seed, _VEIL, 2)
    veil = smoothstep(0.8, 3.3, noise_at(row, col, 800, seed, _VEIL) + wisps) * np.float32(0.5)
    return coarse.upsample(veil), coarse.upsample(1 + np.float32(0.35) * noise(coarse, 700, seed, _AIR))


def _rotate(lattice: Lattice, angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of a lattice, rotated by an angle in radians."""
    rows, cols = lattice.rows[:, None], lattice.cols
    return rows * cos(angle) - cols * sin(angle), rows * sin(angle) + cols * cos(angle)


def _blur(band: Field) -> Field:
    """Apply the 3 × 3 blur of the optics to one band; the result lacks the outermost pixel on every side."""
    side, middle = np.float32(0.16), np.float32(0.68)
    rows: Field = band[1:-1] * middle + (band[:-2] + band[2:]) * side
    return rows[:, 1:-1] * middle + (rows[:, :-2] + rows[:, 2:]) * side


def _sensor_noise(seed: int, tile: Window) -> Field:
    """Return the noise of the sensor (6, height, width), triangular between −1 and 1, from random bits of the tile."""
    # numpy guarantees the raw bits of a counter-based generator across versions, but not its normal deviates.
    key = np.array([seed, (tile.row << 32) + (tile.col & 0xFFFFFFFF)], dtype=np.int64).view(np.uint64)
    bits = np.random.Philox(key=key).random_raw(len(BANDS) * tile.pixel_count // 2)
    first, second = bits.view(np.uint16).reshape(2, len(BANDS), *tile.shape)
    grain: Field = first.astype(np.float32)
    grain += second
    grain *= np.float32(2**-16)
    return grain - np.float32(1)


def _digitize(band: Field, grain: Field) -> NDArray[np.uint16]:
    """Return digital numbers of reflectances with the noise of the sensor, part of which grows with the signal."""
    band += grain * (np.float32(0.0015) + np.float32(0.012) * band)
    numbers: Field = np.rint(band * np.float32(1 / SCALE))
    np.clip(numbers, np.float32(1), np.float32(65535), out=numbers)
    return numbers.astype(np.uint16)
