"""The simulated ground: sea, lakes, rivers, fields, woods and towns as reflectance in six bands.

The spectra are rounded, typical values in the bands of Landsat's OLI and Sentinel-2's MSI. Soils, plants, asphalt and
roofs follow the USGS Spectral Library Version 7 (Kokaly et al. 2017, doi:10.3133/ds1035), sand and building materials
the ECOSTRESS library (Meerdink et al. 2019, doi:10.1016/j.rse.2019.05.015), clear and turbid water Pahlevan et al.
(2017, doi:10.1016/j.rse.2017.08.033).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.synthetic.harsh_ground import lay_harsh_ground
from seamline.pipeline.synthetic.noise import (
    Bits,
    Field,
    Integers,
    Lattice,
    fractal_noise,
    hash_keys,
    noise,
    smoothstep,
    steepness,
    uniform,
)
from seamline.pipeline.synthetic.voronoi import VoronoiCells, distance_bounds, scatter_sites, voronoi_cells

_SUN_AZIMUTH = 152.0  # degrees clockwise from north: mid-morning on the northern hemisphere
SUN_ELEVATION = 48.0  # degrees
TOWARDS_SUN = (-cos(radians(_SUN_AZIMUTH)), sin(radians(_SUN_AZIMUTH)))
"""Unit vector (rows, columns) on the ground."""

# Reflectance in blue, green, red, nir, swir16, swir22. The crops come first, from green to bare.
_GROUND = {
    "maize": (0.034, 0.066, 0.044, 0.400, 0.190, 0.085),
    "lush crop": (0.030, 0.070, 0.036, 0.480, 0.200, 0.090),
    "meadow": (0.040, 0.080, 0.058, 0.360, 0.225, 0.115),
    "rapeseed": (0.050, 0.130, 0.105, 0.460, 0.210, 0.105),
    "young crop": (0.055, 0.085, 0.085, 0.300, 0.240, 0.150),
    "dry grass": (0.060, 0.095, 0.105, 0.270, 0.290, 0.190),
    "ripe cereal": (0.065, 0.105, 0.130, 0.320, 0.300, 0.190),
    "dark soil": (0.058, 0.080, 0.105, 0.160, 0.230, 0.200),
    "stubble": (0.080, 0.120, 0.160, 0.265, 0.345, 0.255),
    "red soil": (0.055, 0.082, 0.135, 0.210, 0.300, 0.260),
    "bright soil": (0.090, 0.130, 0.178, 0.255, 0.350, 0.300),
    "clearing": (0.048, 0.072, 0.080, 0.210, 0.230, 0.150),
    "deciduous": (0.024, 0.052, 0.029, 0.370, 0.165, 0.072),
    "conifer": (0.020, 0.036, 0.023, 0.240, 0.105, 0.045),
    "asphalt": (0.085, 0.095, 0.102, 0.130, 0.140, 0.125),
    "concrete": (0.130, 0.150, 0.165, 0.205, 0.220, 0.200),
    "tiled roof": (0.078, 0.100, 0.145, 0.220, 0.245, 0.215),
    "bright roof": (0.330, 0.350, 0.360, 0.380, 0.350, 0.300),
    "garden": (0.042, 0.070, 0.055, 0.290, 0.185, 0.100),
    "sand": (0.150, 0.205, 0.255, 0.320, 0.390, 0.345),
}
GroundKinds = NDArray[np.uint8]
"""Indices into GROUND, shape (height, width)."""
_KIND = {name: np.uint8(index) for index, name in enumerate(_GROUND)}
_CROPS = 11
_SPECTRA = np.array(list(_GROUND.values()), dtype=np.float32).T.copy()

# Reflectance of deep and clear water; what suspended sediment adds; what a shallow sandy bottom adds.
_DEEP = np.array([0.042, 0.030, 0.016, 0.008, 0.004, 0.003], dtype=np.float32)
_SEDIMENT = np.array([0.040, 0.085, 0.115, 0.060, 0.010, 0.005], dtype=np.float32)
_BOTTOM = np.array([0.035, 0.060, 0.035, 0.010, 0.002, 0.001], dtype=np.float32)

_FAR = np.float32(40)  # pixels; distances to the shore are clipped here


class _Key(IntEnum):
    """Keys of independent random fields."""

    SEA = auto()
    LAKE = auto()
    LAKELAND = auto()
    WANDER = auto()
    BEND = auto()
    RIVER = auto()
    STREAM = auto()
    SILT = auto()
    WAVE = auto()
    DISTRICT = auto()
    WARP_ROW = auto()
    WARP_COL = auto()
    REGION = auto()
    SOIL = auto()
    RELIEF = auto()
    WOOD = auto()
    STAND = auto()
    CROWN = auto()
    TOWN = auto()
    SUBURB = auto()
    BEACH = auto()


@dataclass(frozen=True)
class Water:
    """Where water is and what it carries; all fields have the shape (height, width).

    Attributes:
        shore: Pixels, approximately, to the shore; negative on water, clipped to ±40.
        silt: Suspended sediment, 0 to 1.
        bottom: How much of a sandy bottom shines through, 0 to 1.
        sandy: Width of the beach on the shore in pixels.
    """

    shore: Field
    silt: Field
    bottom: Field
    sandy: Field

    @property
    def cover(self) -> Field:
        """The share of each pixel that is water."""
        cover: Field = np.clip(np.float32(0.5) - self.shore, np.float32(0), np.float32(1))
        return cover


def render_surface(area: Window, seed: int, *, harsh: bool = False) -> tuple[Field, Field]:
    """Return the sunlit ground of a window.

    Args:
        area: The window.
        seed: Seed of the scene.
        harsh: Lay lava, burn scars and districts of bright roofs over the land.

    Returns:
        Reflectance, shape (6, height, width), and the share of water in each pixel, shape (height, width).
    """
    water = _make_water(area, seed)
    cover = water.cover
    bands = _make_land(area, seed, water)
    if harsh:
        lay_harsh_ground(bands, area, seed)
    if cover.any():
        waves = 1 + np.float32(0.04) * fractal_noise(Lattice(area), 12, 3, seed, _Key.WAVE, gain=0.8)
        for band, deep, sediment, bottom in zip(bands, _DEEP, _SEDIMENT, _BOTTOM, strict=True):
            band += ((deep + sediment * water.silt + bottom * water.bottom) * waves - band) * cover
    return bands, cover


def _make_water(area: Window, seed: int) -> Water:
    pixels, coarse = Lattice(area), Lattice(area, 8)
    bank, width, load = _make_rivers(area, seed)
    depth = fractal_noise(pixels, 1100, 9, seed, _Key.SEA, gain=0.45) + np.float32(1.05)
    lakeland = coarse.upsample(noise(coarse, 600, seed, _Key.LAKELAND))
    pool = fractal_noise(pixels, 130, 6, seed, _Key.LAKE, gain=0.42) + np.float32(1.68) - np.float32(0.5) * lakeland
    coast = np.clip(depth / np.maximum(steepness(depth), np.float32(0.002)), -_FAR, _FAR)
    lake = np.clip(pool / np.maximum(steepness(pool), np.float32(0.01)), -_FAR, _FAR)
    still = np.minimum(coast, lake)
    flowing = bank < still
    # A river's water mixes with that of the lake or sea that it enters.
    mixing = np.clip(np.float32(0.5) + (still - bank) * np.float32(0.05), np.float32(0), np.float32(1))
    silt = np.float32(0.06) + (load - np.float32(0.06)) * mixing + coarse.upsample(_make_silt(coarse, seed))
    shelf = np.exp(np.where(coast < lake, depth * 9, lake * np.float32(0.3) - np.float32(0.7)))
    bottom = shelf + (np.float32(0.1) - shelf) * mixing
    beach = np.where(coast < lake, np.float32(3), np.float32(1.5))
    bar = np.clip((width - 12) * np.float32(0.2), np.float32(0), np.float32(4))
    sandy = np.where(flowing, bar, beach) * coarse.upsample(noise(coarse, 48, seed, _Key.BEACH))
    shore = np.minimum(still, np.clip(bank, -_FAR, _FAR))
    return Water(shore, np.clip(silt, 0, 1), bottom, sandy)


def _make_silt(coarse: Lattice, seed: int) -> Field:
    """Return how the sediment in the water varies: some waters are turbid, most are clear, all are streaky."""
    turbid = np.maximum(noise(coarse, 260, seed, _Key.SILT), np.float32(-0.6)) * np.float32(0.1)
    return turbid + np.float32(0.03) * fractal_noise(coarse, 70, 2, seed, _Key.SILT, 1)


def _make_rivers(area: Window, seed: int) -> tuple[Field, Field, Field]:
    """Return pixels to the bank of the nearest river or stream (negative inside), its width and the silt it carries.

    Rivers are contours of a plane that is bent by noise: they meander, never end, and leave oxbows behind. Streams are
    contours of another such plane; each rises between two rivers and joins one of them.
    """
    coarse = Lattice(area, 4)
    y, x = coarse.rows[:, None].astype(np.float64), coarse.cols
    bends = 36 * noise(coarse, 78, seed, _Key.BEND) + 8 * noise(coarse, 34, seed, _Key.BEND, 1)
    wander = 330 * noise(coarse, 1500, seed, _Key.WANDER) + 190 * noise(coarse, 430, seed, _Key.WANDER, 1)
    river, to_river, place = _nearest_contour(coarse, (0.95 * y - 0.31 * x + wander + bends) / 1100)
    wander = 110 * noise(coarse, 300, seed, _Key.WANDER, 2)
    stream, to_stream, _ = _nearest_contour(coarse, (0.31 * y + 0.95 * x + wander + bends) / 540)

    key = hash_keys(seed, _Key.RIVER, river)
    swell = coarse.upsample(noise(coarse, 170, seed, _Key.RIVER, 1))
    width = np.maximum((7 + 46 * uniform(key) ** 2) * (1 + np.float32(0.17) * swell), np.float32(4))
    part = place - np.floor(place)
    key_between = hash_keys(seed, _Key.STREAM, np.floor(place).astype(np.int64), stream)
    part = np.where(uniform(key_between) < 0.5, part, 1 - part)
    source = np.float32(0.4) + np.float32(0.55) * uniform(key_between, 1)
    grown = np.sqrt(np.clip((source - part) / source, np.float32(0), np.float32(1)))
    stream_width = (np.float32(2) + 6 * uniform(key_between, 2)) * grown
    to_stream = np.where(part < source, to_stream - stream_width * np.float32(0.5), _FAR)
    bank = np.minimum(to_river - width * np.float32(0.5), to_stream)
    silt = np.float32(0.3) + np.float32(0.6) * uniform(key, 1)
    return bank, np.where(bank < to_stream, width, stream_width), silt


def _nearest_contour(coarse: Lattice, values: NDArray[np.float64]) -> tuple[Integers, Field, Field]:
    """Find the nearest half-integer contour of smooth values for each pixel.

    Returns:
        Number of the contour, pixels to it, and the interpolated values, each of shape (height, width).
    """
    # Values are taken relative to a whole number nearby, so that float32 resolves them however large the scene is.
    base = np.floor(values[0, 0])
    lifted = coarse.upsample((values - base).astype(np.float32))
    number = np.floor(lifted)
    distance = np.abs(lifted - number - np.float32(0.5)) / np.maximum(steepness(lifted), np.float32(2e-4))
    return number.astype(np.int64) + int(base), distance, lifted + np.float32(base - 0.5)


def _make_land(area: Window, seed: int, water: Water) -> Field:
    """Return the reflectance of dry land, shape (6, height, width)."""
    pixels, coarse = Lattice(area), Lattice(area, 8)
    warp = [10 * coarse.upsample(noise(coarse, 60, seed, key)) for key in (_Key.WARP_ROW, _Key.WARP_COL)]
    rows = pixels.rows.astype(np.float32)[:, None] + warp[0]
    cols = pixels.cols.astype(np.float32) + warp[1]
    district = voronoi_cells(rows, cols, 330, seed, _Key.DISTRICT)
    parcel, edge, furrow = _make_parcels(district)
    region = coarse.upsample(noise(coarse, 900, seed, _Key.REGION))
    bareness = np.clip(uniform(parcel) * np.float32(0.999) + np.float32(0.12) * region, 0, np.float32(0.999))
    kind = (bareness * _CROPS).astype(np.uint8)
    tone = np.float32(0.22) * (uniform(parcel, 1) - np.float32(0.5))
    tone += furrow * (np.float32(0.05) * (uniform(parcel, 2) > 0.5))
    tone += np.float32(0.06) * fractal_noise(pixels, 20, 4, seed, _Key.SOIL, gain=0.75)
    kind[edge < 0.8] = _KIND["garden"]

    relief = fractal_noise(pixels, 480, 8, seed, _Key.RELIEF, gain=0.52)
    _grow_woods(pixels, seed, parcel, relief, water.shore, kind, tone)
    road = uniform(district.key[district.index] ^ district.key[district.second]) < 0.7
    kind[(district.border < 0.8) & road] = _KIND["concrete"]
    _build_towns(pixels, seed, rows, cols, kind, tone)
    kind[water.shore < water.sandy] = _KIND["sand"]
    down, right = np.gradient(relief)
    facing = -down * np.float32(TOWARDS_SUN[0]) - right * np.float32(TOWARDS_SUN[1])
    tone += np.clip(facing * 8, np.float32(-0.3), np.float32(0.3)) * smoothstep(0, 1.5, relief)
    tone += 1
    return np.stack([spectrum.take(kind) * tone for spectrum in _SPECTRA])


def _grow_woods(
    at: Lattice, seed: int, parcel: Bits, relief: Field, shore: Field, kind: GroundKinds, tone: Field
) -> None:
    """Lay woods over ``kind`` and ``tone``, in place: on hills and along water, with stands and clearings."""
    # With a share of each parcel, woods follow the bounds of fields.
    favour = np.float32(0.5) * (relief + uniform(parcel, 3) - np.float32(0.5))
    wood = fractal_noise(at, 200, 7, seed, _Key.WOOD) + favour
    along_water = np.float32(1.2) - np.abs(shore - 7) * np.float32(0.16)
    forest = np.maximum(wood, along_water + np.float32(0.35) * noise(at, 26, seed, _Key.WOOD, 1)) > 0.8
    coarse = Lattice(at.area, 8)
    stand = coarse.upsample(noise(coarse, 40, seed, _Key.STAND)) + np.float32(0.8) * relief
    trees = np.where(stand > 0.4, _KIND["conifer"], _KIND["deciduous"])
    trees[(uniform(parcel, 2) < 0.04) & (stand > 0)] = _KIND["clearing"]
    crown = np.float32(0.10) * fractal_noise(at, 6.4, 3, seed, _Key.CROWN, gain=1.1) + np.float32(0.06) * stand
    np.copyto(kind, trees, where=forest)
    np.copyto(tone, crown, where=forest)


def _make_parcels(district: VoronoiCells) -> tuple[Bits, Field, Field]:
    """Divide districts into fields, which lie in strips like bricks along the direction of the district.

    Returns:
        Random bits of each pixel's field, pixels to the edge of the field, and its furrows.
    """
    angle = uniform(district.key, 2) * np.float32(np.pi)
    cosine, sine = np.cos(angle)[district.index], np.sin(angle)[district.index]
    along = district.right * cosine + district.down * sine
    across = district.down * cosine - district.right * sine
    depth = (26 + 34 * uniform(district.key, 3))[district.index]
    key = district.key[district.index]
    strip, to_strip = _divide_axis(across / depth, key)
    key = hash_keys(key, strip)
    length = 38 + 60 * uniform(key)
    brick, to_brick = _divide_axis(along / length, key)
    key = hash_keys(key, brick)
    ploughed = np.where(uniform(key, 3) < 0.5, along, across)
    furrow = np.sin(ploughed * (np.float32(2 * np.pi) / (3 + 4 * uniform(key, 2))))
    return key, np.minimum(to_strip * depth, to_brick * length), furrow


def _divide_axis(position: Field, key: Bits) -> tuple[Integers, Field]:
    """Cut an axis into pieces of 0.4 to 1.6 by random bits; return the number of the piece and the way to a cut."""
    number = np.floor(position)
    whole = number.astype(np.int64)
    beyond = position - number - (np.float32(0.2) + np.float32(0.6) * uniform(hash_keys(key, whole)))
    return whole - (beyond < 0), np.abs(beyond)


def _build_towns(at: Lattice, seed: int, rows: Field, cols: Field, kind: GroundKinds, tone: Field) -> None:
    """Lay towns over ``kind`` and ``tone``, in place: blocks of houses and gardens between streets."""
    ragged = np.float32(0.35) * noise(at, 30, seed, _Key.SUBURB)
    town, down, right, density = _find_nearest_town(rows, cols, seed, 1 + float(ragged.max()))
    density += ragged
    settled: NDArray[np.bool_] = density > 0
    if not settled.any():
        return
    box = np.s_[_row_extent(settled), _row_extent(settled.T)]
    town, down, right, density = town[box], down[box], right[box], density[box]
    angle = uniform(town, 3) * np.float32(np.pi / 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    along, across = right * cosine + down * sine, down * cosine - right * sine
    row, to_street = _divide_axis(across / 9, town)
    col, to_lane = _divide_axis(along / 13, hash_keys(town, row))
    block = hash_keys(town, row, col)
    lot = (np.floor(axis * np.float32(1 / 2.3)).astype(np.int64) for axis in (along, across))
    house, use = uniform(hash_keys(block, *lot)), uniform(block, 1)
    roof = np.full(house.shape, _KIND["concrete"])
    for where, name in (
        (house < 0.40, "tiled roof"),
        (house > 0.64, "garden"),
        ((house < 0.06) | (use < 0.05), "bright roof"),
        (use > 0.90, "meadow"),
        (np.minimum(to_street * 9, to_lane * 13) < 0.7, "asphalt"),
    ):
        np.copyto(roof, _KIND[name], where=where)
    # Blocks are built up more densely towards the middle of the town.
    built = uniform(block) < density * np.float32(2.2)
    np.copyto(kind[box], roof, where=built)
    np.copyto(tone[box], np.float32(0.4) * (uniform(block, 2) + house - 1), where=built)


def _row_extent(mask: NDArray[np.bool_]) -> slice:
    """Return the rows from the first to the last that holds a True."""
    rows = np.flatnonzero(mask.any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _find_nearest_town(rows: Field, cols: Field, seed: int, reach: float) -> tuple[Bits, Field, Field, Field]:
    """Return each pixel's town: random bits, pixels below and right of its middle, density (1 there, 0 at its rim)."""
    key, site_rows, site_cols = scatter_sites(rows, cols, 640, seed, _Key.TOWN)
    size = 30 + 110 * uniform(key, 2) ** 2
    density = np.full(rows.shape, -np.inf, dtype=np.float32)
    index = np.zeros(rows.shape, dtype=np.int32)
    least, _ = distance_bounds(rows, cols, site_rows, site_cols)
    for site in np.flatnonzero(least < size * reach).astype(np.int32):
        down, right = rows - site_rows[site], cols - site_cols[site]
        share = 1 - np.sqrt(down * down + right * right) * (1 / size[site])
        index = np.where(share > density, site, index)
        density = np.maximum(density, share)
    return key[index], rows - site_rows[index], cols - site_cols[index], density
