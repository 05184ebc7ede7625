"""Missing pixels that nothing declares are told, and nothing is told of water, clouds and shadow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import read_block
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, write_geotiff, write_tiled

HOLE = slice(40, 90), slice(60, 140)
SHARE = 50 * 80 / 200**2
SIX, RGB = [BandNeed(name) for name in BAND_NAMES], [BandNeed(name) for name in ("blue", "green", "red")]


def make_surface(dtype: str, low: float, high: float, size: int = 200) -> NDArray[Any]:
    """Six bands as a sensor sees them: smooth shapes with noise."""
    rng = np.random.default_rng(0)
    fields = np.stack([gaussian_filter(rng.random((size, size)), 6) for _ in range(6)])
    fields = (fields - fields.min()) / (fields.max() - fields.min()) * 0.9 + rng.random(fields.shape) * 0.1
    values = low + fields * (high - low)
    return (values if dtype.startswith("f") else np.rint(values)).astype(dtype)


def warn(path: Path, needs: list[BandNeed] = SIX, **options: Any) -> list[str]:
    scene = open_scene(path, needs, SceneOptions(**options), reflectance=False)
    return [warning for warning in scene.warnings if "pixels" in warning]


FILLS = [
    *[("int16", 150, 5000, fill) for fill in (-9999, -999, -99, -1, -10000, -32767, -28672, -32768, 32767, 10000)],
    *[("uint16", 300, 9000, fill) for fill in (65535, 65534, 20000, 255, 1, 0)],
    *[("uint8", 5, 200, fill) for fill in (255, 0)],
    *[("float32", 0.01, 0.9, fill) for fill in (-9999, -9999.9, -0.9999, -0.2, -0.47497252, 0, -1, 1e6)],
]


@pytest.mark.parametrize(("dtype", "low", "high", "fill"), FILLS)
@pytest.mark.parametrize("place", [HOLE, (slice(None), slice(20))])
def test_a_constant_area_in_all_bands_is_told_with_its_share_and_the_option(
    tmp_path: Path, dtype: str, low: float, high: float, fill: float, place: tuple[slice, slice]
) -> None:
    pixels = make_surface(dtype, low, high)
    pixels[(..., *place)] = fill
    path = write_geotiff(tmp_path / "x.tif", pixels, names=BAND_NAMES)
    (warning,) = warn(path)
    assert f"about {SHARE:.1%} of the pixels are" in warning and "in every band" in warning
    option = warning.rpartition("--nodata ")[2].split()[0]
    assert float(option) == pytest.approx(fill, rel=1e-6)
    assert not warn(path, nodata="none")
    block = read_block(open_scene(path, SIX, SceneOptions(nodata=float(option))), Window(0, 0, 200, 200))
    expected = np.ones((200, 200), bool)
    expected[place] = False
    np.testing.assert_array_equal(block.valid, expected)


@pytest.mark.parametrize(("dtype", "fill"), [("int16", -9999), ("int16", -77), ("float32", -9999), ("float32", -5)])
def test_marks_in_one_band_only_are_told(tmp_path: Path, dtype: str, fill: float) -> None:
    pixels = make_surface(dtype, 150, 5000)
    pixels[(3, *HOLE)] = fill
    (warning,) = warn(write_geotiff(tmp_path / "x.tif", pixels, names=BAND_NAMES))
    assert f"about {SHARE:.1%} of the pixels of x: nir are {fill:g}" in warning and f"--nodata {fill:g}" in warning


@pytest.mark.parametrize(("fill", "nodata"), [(-9999, -9999), (np.nan, None), (np.nan, -9999), (3.4e38, None)])
def test_pixels_that_are_missing_in_one_band_only_are_told(tmp_path: Path, fill: float, nodata: float | None) -> None:
    pixels = make_surface("float32", 0.01, 0.9)
    pixels[(3, *HOLE)] = fill
    (warning,) = warn(write_geotiff(tmp_path / "x.tif", pixels, names=BAND_NAMES, nodata=nodata))
    assert f"about {SHARE:.1%} of the pixels of x: nir are NaN or nodata, but not in every band" in warning


@pytest.mark.parametrize("fill", [-9999, np.nan])
def test_a_hole_of_a_few_per_cent_is_found_wherever_it_is(tmp_path: Path, fill: float) -> None:
    surface = make_surface("float32", 150, 5000, 1024)
    for number, (row, col) in enumerate([(150, 300), (420, 610), (700, 40)]):
        pixels = surface.copy()
        bands = slice(3, 4) if np.isnan(fill) else slice(None)
        pixels[bands, row : row + 250, col : col + 300] = fill
        (warning,) = warn(write_tiled(tmp_path / f"{number}.tif", pixels, names=BAND_NAMES))
        assert "NaN" in warning or "-9999" in warning


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_saturated_clouds_black_shadow_and_water_are_data(tmp_path: Path, dtype: str) -> None:
    largest = int(np.iinfo(dtype).max)
    bright = make_surface("float64", -0.7, 1.7)[:1].repeat(6, 0) * largest  # beyond both ends in all bands
    pixels = np.clip(np.rint(bright + np.random.default_rng(1).normal(0, largest / 200, bright.shape)), 0, largest)
    pixels[3, :60, :60] = 0  # water
    assert (pixels == largest).all(0).mean() > 0.01 < (pixels == 0).all(0).mean()
    assert not warn(write_geotiff(tmp_path / "x.tif", pixels.astype(dtype), names=BAND_NAMES))


@pytest.mark.parametrize("name", [MANAUS, "opengeos-naip/m_4709963_se_14_1_20200831.tif"])
def test_nothing_is_told_of_real_scenes(name: str) -> None:
    assert not warn(find_shared(name), RGB)


def warn_of_values(path: Path, **options: Any) -> list[str]:
    scene = open_scene(path, SIX, SceneOptions(**options))
    return [warning for warning in scene.warnings if "no reflectance has" in warning]


PLACES: dict[str, Any] = {
    "one pixel": (7, 9),
    "0.1 %": (slice(6), slice(7)),
    "scattered": (slice(3, None, 9), slice(2, None, 4)),
}
"""Where undeclared marks are. None of them is half a per cent of the scene, or fills cells."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "fill"),
    [
        *[("int16", 1e-4, 0, fill) for fill in (-9999, -10000, -32767, -5001)],
        ("int16", 2.75e-5, 0, -30000),
        ("int16", 2.75e-5, -0.2, -9999),
        *[("float32", 1, 0, fill) for fill in (-9999, -1, -0.9999, 1e6, 9999)],
    ],
)
@pytest.mark.parametrize("bands", [slice(None), slice(3, 4)])
def test_values_that_no_reflectance_has_are_told_at_any_share(
    tmp_path: Path, dtype: str, scale: float, offset: float, fill: float, place: str, bands: slice
) -> None:
    ends = [round((end - offset) / scale) if dtype == "int16" else end for end in (0.02, 0.4)]
    pixels = make_surface(dtype, *ends)
    path = write_geotiff(tmp_path / "clean.tif", pixels, names=BAND_NAMES)
    assert not warn_of_values(path, scale=scale, offset=offset)
    pixels[(bands, *PLACES[place])] = fill
    path = write_geotiff(tmp_path / "x.tif", pixels, names=BAND_NAMES)
    scene = open_scene(path, SIX, SceneOptions(scale=scale, offset=offset))
    assert len([warning for warning in scene.warnings if f"--nodata {fill:g}" in warning]) == 1
    if place != "scattered":
        (warning,) = warn_of_values(path, scale=scale, offset=offset)
        assert ("of every band" if bands == slice(None) else "of x: nir have") in warning
    assert warn_of_values(path, scale=scale, offset=offset, nodata=fill) == []
    assert warn_of_values(path, scale=scale, offset=offset, nodata="none") == []


def test_the_users_number_hides_no_other_that_no_reflectance_has(tmp_path: Path) -> None:
    pixels = make_surface("int16", 150, 5000)
    pixels[(..., *HOLE)] = -9999
    (warning,) = warn_of_values(write_geotiff(tmp_path / "x.tif", pixels, names=BAND_NAMES), nodata=0)
    assert f"about {SHARE:.1%} of the pixels of every band" in warning and "--nodata -9999" in warning


def test_bands_of_several_types_are_told_with_the_number_of_the_worst(tmp_path: Path) -> None:
    for index, name in enumerate(BAND_NAMES):
        pixels = make_surface("float32" if index else "uint8", *((0.02, 0.4) if index else (5, 100)))[:1]
        pixels[0, :3, :3] = -5000.5 if index == 4 else pixels[0, :3, :3]
        write_geotiff(tmp_path / f"{name}.tif", pixels)
    (warning,) = warn_of_values(tmp_path)
    assert "of swir16" in warning and "--nodata -5000.5 says otherwise" in warning


def test_a_name_with_braces_is_a_name(tmp_path: Path) -> None:
    pixels = make_surface("int16", 150, 5000)
    pixels[(3, *HOLE)] = -9999
    (warning,) = warn(write_geotiff(tmp_path / "{x}.tif", pixels, names=BAND_NAMES))
    assert "of {x}: nir are -9999" in warning
