"""Simulated six-band satellite scenes of any size with their truth: for demonstration, training, benchmarks.

What is simulated, and how: the ground of :mod:`.landscape`; low clouds of one height above it with
the shadows that the sun casts, thin high clouds and haze; the optics' blur, which mixes neighbours at
borders; the sensor's noise; and the slanted edges of the swath, outside of which there is no data. Every
pixel depends on the seed and its position alone (the swath also on the scene's size), so any part of a scene
can be made by itself.

What it is not good for: there is no radiative transfer, no season, no view angle, no snow, no real
geography, and the truth is better known than by any analyst. Accuracies on it show that a program works.
They do not show how well a model does on the Earth.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import cos, radians, sin, tan
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterWindow

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import check_blocks_written, clear_gdal_error, describe_error
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.synthetic.landscape import SUN_ELEVATION, TOWARDS_SUN, render_surface
from seamline.pipeline.synthetic.noise import Field, Lattice, fractal_noise, noise, noise_at, smoothstep

VERSION = 1
"""Of the simulation: another version makes other pixels from the same seed."""
BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
SCALE = 0.0001
"""Reflectance = digital number × SCALE; the digital number 0 is nodata."""
BYTES_PER_PIXEL = 7.5
"""Of both files together, measured."""
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

# What thick clouds send back, at magnitudes as in Irish (2000, doi:10.1117/12.410358); the share of its
# light that ground in full shadow still gets from the sky; what thin haze adds.
_BRIGHT = np.array([0.70, 0.69, 0.70, 0.72, 0.58, 0.44], dtype=np.float32)
_SKYLIGHT = np.array([0.46, 0.38, 0.31, 0.24, 0.17, 0.13], dtype=np.float32)
_HAZE = np.array([0.020, 0.013, 0.008, 0.004, 0.001, 0.000], dtype=np.float32)

# The scene is made in tiles of this size from its origin, so that a pixel is always made in the same company.
_TILE_SIZE = 256
_BLOCK_SIZE = 512
_COVER, _HEAP, _VEIL, _AIR = range(100, 104)


SimulatedBlock = tuple[NDArray[np.uint16], NDArray[np.uint8]]
"""Digital numbers (6, height, width) and truth labels (height, width)."""


@dataclass(frozen=True)
class Simulation:
    """A simulated scene of ``height`` × ``width`` pixels of ``pixel_size`` metres, in UTM 32N (EPSG:32632).

    The size of rivers, fields and clouds is fixed in pixels. :class:`InputError` where no scene can be made.
    """

    height: int
    width: int
    seed: int = 0
    pixel_size: float = 10.0

    def __post_init__(self) -> None:
        checks = (
            (
                min(self.height, self.width) >= 1 and max(self.height, self.width) < 2**31,
                "size",
                f"{self.height}×{self.width}",
                "at least 1×1 pixels, at most 2³¹ − 1 on a side",
            ),
            (0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2⁶³ − 1"),
            (0 < self.pixel_size < np.inf, "pixel size", self.pixel_size, "metres, more than 0"),
        )
        for good, what, got, expected in checks:
            if not good:
                raise InputError(f"no scene of this {what}", got=got, expected=expected, fix=f"give another {what}")

    @property
    def grid(self) -> GeoBox:
        """The scene's grid, north up; scenes of all sizes share their upper left corner."""
        affine = Affine(self.pixel_size, 0, 300_000, 0, -self.pixel_size, 5_500_000)
        return GeoBox((self.height, self.width), affine, "EPSG:32632")

    @property
    def shadow_shift(self) -> tuple[int, int]:
        """(rows, columns) from a low cloud to its shadow."""
        length = _CLOUD_HEIGHT / tan(radians(SUN_ELEVATION)) / self.pixel_size
        return round(-TOWARDS_SUN[0] * length), round(-TOWARDS_SUN[1] * length)

    def render_block(self, window: Window) -> SimulatedBlock:
        """Digital numbers (6, height, width) and truth labels (height, width) of a window.

        The bands are BANDS, the labels those of CLASSES; cloud wins over shadow, shadow over water and land.
        Outside the swath, and outside the scene, the digital numbers are 0 and the labels 255.
        """
        bands = np.zeros((len(BANDS), *window.shape), dtype=np.uint16)
        truth = np.full(window.shape, NODATA, dtype=np.uint8)
        inside = self._swath_mask(window)
        for row in range(window.row // _TILE_SIZE * _TILE_SIZE, window.stop_row, _TILE_SIZE):
            for col in range(window.col // _TILE_SIZE * _TILE_SIZE, window.stop_col, _TILE_SIZE):
                tile = Window(row, col, _TILE_SIZE, _TILE_SIZE)
                part = tile.intersection(window)
                here, there = part.relative_to(window).to_slices(), part.relative_to(tile).to_slices()
                if inside[here].any():
                    numbers, labels = self._render_tile(tile)
                    bands[:, *here] = numbers[:, *there] * inside[here]
                    truth[here] = np.where(inside[here], labels[there], NODATA)
        return bands, truth

    def _swath_mask(self, window: Window) -> NDArray[np.bool_]:
        """The pixels between the two edges of a swath that leans as descending orbits do."""
        rows = np.arange(window.row, window.stop_row)[:, None]
        cols = np.arange(window.col, window.stop_col)
        lean = min(0.14, 0.25 * self.width / self.height)
        left = lean * (0.55 * self.height - rows)
        right = self.width + lean * (0.45 * self.height - rows)
        inside: NDArray[np.bool_] = (cols >= np.maximum(left, 0)) & (cols < np.minimum(right, self.width))
        return inside & (rows >= 0) & (rows < self.height)

    def _render_tile(self, tile: Window) -> SimulatedBlock:
        # Gradients need one more pixel on every side, the blur another.
        wide = Window(tile.row - 2, tile.col - 2, tile.height + 4, tile.width + 4)
        down, right = self.shadow_shift
        bands, water = render_surface(wide, self.seed)
        thickness = _cloud_thickness(wide, self.seed)
        cloud = _cloud_opacity(thickness)
        dimmed = _cloud_opacity(_cloud_thickness(wide.shift(-down, -right), self.seed))
        veil, air = _make_high_air(wide, self.seed)
        clear = (1 - cloud) * (1 - veil)
        # The light that clouds send up, above what they let through.
        white = veil * (1 - cloud) * np.float32(0.75) + cloud * _cloud_brightness(thickness)
        grain = _sensor_noise(self.seed, tile)
        numbers = np.empty((len(BANDS), *tile.shape), dtype=np.uint16)
        for i, band in enumerate(bands):
            band *= 1 - dimmed * (1 - _SKYLIGHT[i])
            band += _HAZE[i] * air
            band *= clear
            band += white * _BRIGHT[i]
            numbers[i] = _digitize(_blur(band[1:-1, 1:-1]), grain[i])
        inner = np.s_[2:-2, 2:-2]
        labels = np.where(water[inner] > 0.5, np.uint8(_WATER), np.uint8(_LAND))
        labels[dimmed[inner] > _DIMMED_SHARE] = _SHADOW
        labels[1 - clear[inner] > _HIDDEN_SHARE] = _CLOUD
        return numbers, labels


def _cloud_thickness(area: Window, seed: int) -> Field:
    """Thickness of the low clouds, 0 and up, (height, width)."""
    coarse = Lattice(area, 8)
    # Large shapes on a lattice that is turned, lest clouds stand in rows and columns.
    row, col = _rotate(coarse, 0.6)
    cover = 0.5 * noise_at(row, col, 620, seed, _COVER) + 0.35 * noise_at(row, col, 290, seed, _COVER, 1)
    cover += 0.75 * noise_at(row, col, 100, seed, _COVER, 2)
    heaps = np.float32(0.62) * fractal_noise(Lattice(area), 52, 5, seed, _HEAP, gain=0.6)
    thickness: Field = heaps + coarse.upsample(cover) - np.float32(1.28)
    return thickness.clip(min=np.float32(0))


def _cloud_opacity(thickness: Field) -> Field:
    """The share of the light that clouds of a thickness keep back."""
    through: Field = np.exp(thickness * (np.float32(-2) - 9 * thickness))
    return 1 - through


def _cloud_brightness(thickness: Field) -> Field:
    """Clouds are bright where they are thick, and on the side towards the sun."""
    down, right = np.gradient(thickness)
    away = down * np.float32(TOWARDS_SUN[0]) + right * np.float32(TOWARDS_SUN[1])
    light: Field = np.float32(0.74) + np.float32(0.25) * thickness - away
    np.clip(light, np.float32(0.5), np.float32(1.3), out=light)
    return light


def _make_high_air(area: Window, seed: int) -> tuple[Field, Field]:
    """Opacity of high thin clouds, drawn out by the wind, and the amount of haze; (height, width)."""
    coarse = Lattice(area, 8)
    row, col = _rotate(coarse, 0.35)
    drawn = col / 4
    wisps = 0.7 * noise_at(row, drawn, 70, seed, _VEIL, 1) + 0.4 * noise_at(row, drawn, 31, seed, _VEIL, 2)
    veil = smoothstep(0.8, 3.3, noise_at(row, col, 800, seed, _VEIL) + wisps) * np.float32(0.5)
    return coarse.upsample(veil), coarse.upsample(1 + np.float32(0.35) * noise(coarse, 700, seed, _AIR))


def _rotate(lattice: Lattice, angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, cols = lattice.rows[:, None], lattice.cols
    return rows * cos(angle) - cols * sin(angle), rows * sin(angle) + cols * cos(angle)


def _blur(band: Field) -> Field:
    """The optics' 3 × 3 blur of one band; the result lacks the outermost pixel on every side."""
    side, middle = np.float32(0.16), np.float32(0.68)
    rows: Field = band[1:-1] * middle + (band[:-2] + band[2:]) * side
    return rows[:, 1:-1] * middle + (rows[:, :-2] + rows[:, 2:]) * side


def _sensor_noise(seed: int, tile: Window) -> Field:
    """Noise of the sensor (6, height, width), triangular between −1 and 1, from random bits of the tile."""
    # Raw bits of a counter-based generator never change between versions of numpy; its normal deviates may.
    key = np.array([seed, (tile.row << 32) + (tile.col & 0xFFFFFFFF)], dtype=np.int64).view(np.uint64)
    bits = np.random.Philox(key=key).random_raw(len(BANDS) * tile.pixel_count // 2)
    first, second = bits.view(np.uint16).reshape(2, len(BANDS), *tile.shape)
    grain: Field = first.astype(np.float32)
    grain += second
    grain *= np.float32(2**-16)
    return grain - np.float32(1)


def _digitize(band: Field, grain: Field) -> NDArray[np.uint16]:
    """Digital numbers of reflectances with the sensor's noise, part of which grows with the signal."""
    band += grain * (np.float32(0.0015) + np.float32(0.012) * band)
    numbers: Field = np.rint(band * np.float32(1 / SCALE))
    np.clip(numbers, np.float32(1), np.float32(65535), out=numbers)
    return numbers.astype(np.uint16)


def write_simulation(simulation: Simulation, path: Path, progress: Callable[[float], None] | None = None) -> Path:
    """Write the scene to ``path`` and the truth beside it as ``<stem>_truth.tif``; returns the truth's path.

    Both are tiled GeoTIFFs that appear under their names when they are complete. ``progress`` is called with
    the share done, 0 to 1, after each block. Memory does not depend on the scene's size, nor do the files on
    the number of cores. Raises ``InputError`` where they cannot be written.
    """
    try:
        return _write_files(simulation, path, progress)
    except OSError as error:
        clear_gdal_error()
        raise InputError(
            f"--out {path}",
            got=f"{error.strerror} ({error.filename})" if error.filename else error.strerror or describe_error(error),
            expected="a file that can be written, and room for it",
            fix="choose another place, or free some space",
        ) from error


def _write_files(simulation: Simulation, path: Path, progress: Callable[[float], None] | None) -> Path:
    for target in (path, truth_path := path.parent / f"{path.stem}_truth.tif"):
        if target.is_dir():
            raise InputError("--out", got=f"{target}, a folder", expected="the name of a file", fix="name the GeoTIFF")
    total = simulation.height * simulation.width
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < total * BYTES_PER_PIXEL:
        raise InputError(
            f"disk of --out {path}",
            got=f"{free / 2**20:.1f} MiB free",
            expected=f"{total * BYTES_PER_PIXEL / 2**20:.1f} MiB for a scene of {simulation.height}×{simulation.width}",
            fix="free some space or choose another disk",
        )
    # Renamed in reverse order: no scene appears without its truth.
    with atomic_write(path) as part, atomic_write(truth_path) as truth_part:
        with (
            _create_raster(part, simulation, count=len(BANDS), dtype="uint16", nodata=0) as scene,
            _create_raster(truth_part, simulation, count=1, dtype="uint8", nodata=NODATA) as truth,
        ):
            scene.descriptions = BANDS
            # So that viewers show true colours unasked.
            scene.colorinterp = [ColorInterp[name] for name in BANDS[:3]] + [ColorInterp.undefined] * 3
            scene.scales, scene.offsets = [SCALE] * len(BANDS), [0.0] * len(BANDS)
            truth.set_band_description(1, ", ".join(f"{label.value} {label.name}" for label in CLASSES))
            truth.write_colormap(1, {label.value: (*label.color, 255) for label in CLASSES} | {NODATA: (0, 0, 0, 0)})
            done = 0
            for window, (numbers, labels) in _render_blocks(simulation):
                place = RasterWindow(window.col, window.row, window.width, window.height)
                scene.write(numbers, window=place)
                truth.write(labels, 1, window=place)
                done += window.pixel_count
                if progress is not None:
                    progress(done / total)
        check_blocks_written(part)
        check_blocks_written(truth_part)
    return truth_path


def _create_raster(
    path: Path, simulation: Simulation, *, count: int, dtype: str, nodata: int
) -> rasterio.io.DatasetWriter:
    grid = simulation.grid
    raster = rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=simulation.height,
        width=simulation.width,
        count=count,
        dtype=dtype,
        nodata=nodata,
        crs=str(grid.crs),
        transform=grid.affine,
        tiled=True,
        blockxsize=_BLOCK_SIZE,
        blockysize=_BLOCK_SIZE,
        interleave="pixel",
        compress="ZSTD",
        zstd_level=1,
        predictor=2,
        bigtiff="IF_SAFER",  # and no num_threads: GDAL's threads say nothing of what they could not write
    )
    raster.update_tags(
        SIMULATED="YES",
        SIMULATION_SEED=simulation.seed,
        SIMULATION_VERSION=VERSION,
        ACQUISITION_DATETIME=ACQUISITION_TIME,
        TIFFTAG_DATETIME=ACQUISITION_TIME[:19].replace("-", ":").replace("T", " "),
        TIFFTAG_IMAGEDESCRIPTION="Simulated satellite scene; not an observation of the Earth",
    )
    return raster


def _render_blocks(simulation: Simulation) -> Iterator[tuple[Window, SimulatedBlock]]:
    """All blocks in the file's order; threads make a few ahead (numpy lets go of the interpreter's lock)."""
    whole = Window(0, 0, simulation.height, simulation.width)
    windows = (
        Window(row, col, _BLOCK_SIZE, _BLOCK_SIZE).intersection(whole)
        for row in range(0, simulation.height, _BLOCK_SIZE)
        for col in range(0, simulation.width, _BLOCK_SIZE)
    )
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Window, Future[SimulatedBlock]]] = deque()
        while True:
            for window in islice(windows, 2 * workers - len(ahead)):
                ahead.append((window, pool.submit(simulation.render_block, window)))
            if not ahead:
                return
            window, block = ahead.popleft()
            yield window, block.result()
