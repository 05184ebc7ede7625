"""Files that do not name their bands: pictures, aerial images, stacks; and what counts as their alpha band."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SIX = [BandNeed(name) for name in BAND_NAMES]
FOUR, THREE = SIX[:4], SIX[:3]  # blue, green, red, near infrared
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
WHOLE = Window(0, 0, 20, 30)


def write(path: Path, pixels: NDArray[Any], colours: tuple[ColorInterp, ...] = (), names: tuple[str, ...] = ()) -> Path:
    write_geotiff(path, pixels, names=names, photometric="RGB" if colours[:3] == RGB else "MINISBLACK", alpha="NO")
    if colours:
        with rasterio.open(path, "r+") as file:
            file.colorinterp = colours
    return path


def opened(path: Path, needs: list[BandNeed], **options: Any) -> Scene:
    return open_scene(path, needs, SceneOptions(**options))


def indexes(scene: Scene) -> list[int]:
    return [band.index for band in scene.bands]


@pytest.mark.parametrize("fourth", [ColorInterp.undefined, ColorInterp.alpha, ColorInterp.gray])
def test_the_fourth_band_of_an_aerial_image_is_near_infrared_whatever_its_tag(
    tmp_path: Path, fourth: ColorInterp
) -> None:
    pixels = make_noise(4, 20, 30, high=255, dtype="uint8")
    pixels[3, :5] = 0  # water, which is black in the near infrared
    scene = opened(write(tmp_path / "m_3411.tif", pixels, (*RGB, fourth)), FOUR)
    assert indexes(scene) == [3, 2, 1, 4]
    block = read_block(scene, WHOLE)
    assert block.valid.all()
    np.testing.assert_array_equal(block.pixels, pixels[[2, 1, 0, 3]])


@pytest.mark.parametrize("fourth", [ColorInterp.undefined, ColorInterp.alpha])
def test_a_fourth_band_of_two_numbers_is_an_alpha_band_whatever_its_tag(tmp_path: Path, fourth: ColorInterp) -> None:
    pixels = make_noise(4, 20, 30, high=255, dtype="uint8")
    pixels[3], pixels[3, :5] = 255, 0
    path = write(tmp_path / "ortho.tif", pixels, (*RGB, fourth))
    scene = opened(path, THREE)
    assert indexes(scene) == [3, 2, 1]
    valid = read_block(scene, WHOLE).valid
    assert not valid[:5].any() and valid[5:].all()
    with pytest.raises(InputError, match=r"do not match the model.*--bands"):
        opened(path, FOUR)


@pytest.mark.parametrize(
    ("count", "dtype", "needs", "expected"),
    [
        (3, "uint8", THREE, [3, 2, 1]),
        (3, "uint16", THREE, [3, 2, 1]),
        (4, "uint8", FOUR, [3, 2, 1, 4]),
        (6, "uint16", SIX, [1, 2, 3, 4, 5, 6]),
        (3, "uint16", [BandNeed("near"), BandNeed("far"), BandNeed("sum")], [1, 2, 3]),
    ],
)
def test_files_that_say_nothing_are_taken_in_the_only_order_there_is(
    tmp_path: Path, count: int, dtype: str, needs: list[BandNeed], expected: list[int]
) -> None:
    path = write(tmp_path / "x.tif", make_noise(count, 20, 30, high=255 if dtype == "uint8" else 9000, dtype=dtype))
    assert indexes(opened(path, needs)) == expected


@pytest.mark.parametrize(
    ("name", "count", "names", "needs"),
    [
        ("x", 4, (), FOUR),  # red first or blue first
        ("x", 6, (), [SIX[3], *SIX[:3], *SIX[4:]]),
        ("x", 11, (), SIX),
        ("S2A_MSIL2A_stack", 6, (), SIX),
        ("x", 13, tuple(f"Band {number}" for number in range(1, 14)), SIX),
        ("S2A_L1C_stack", 13, tuple(f"Band {number}" for number in range(1, 14)), SIX),
        ("x", 11, tuple(f"Layer_{number}" for number in range(1, 12)), SIX),
    ],
)
def test_what_stays_open_is_refused_and_settled_by_positions(
    tmp_path: Path, name: str, count: int, names: tuple[str, ...], needs: list[BandNeed]
) -> None:
    path = write(tmp_path / f"{name}.tif", make_noise(count, 20, 30), names=names)
    with pytest.raises(InputError, match=r"do not match the model: got .*--bands"):
        opened(path, needs)
    positions = [str(number) for number in range(1, len(needs) + 1)]
    assert indexes(opened(path, needs, bands=tuple(positions), scale=1e-4)) == list(range(1, len(needs) + 1))


def test_numbers_that_are_not_positions_are_those_of_a_sensor(tmp_path: Path) -> None:
    names = tuple(f"Band {number}" for number in range(2, 8))
    assert indexes(opened(write(tmp_path / "LC08.tif", make_noise(6, 20, 30), names=names), SIX)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("product", "numbers", "expected"),
    [
        ("HLS.L30.T33TWN.2022168T095549.v2.0", "01 02 03 04 05 06 07 09 10 11", "02 03 04 05 06 07"),
        ("HLS.S30.T33TWN.2022168T095549.v2.0", "01 02 03 04 05 06 07 08 8A 09 10 11 12", "02 03 04 8A 11 12"),
    ],
)
def test_harmonized_products_have_the_numbers_of_their_sensor(
    tmp_path: Path, product: str, numbers: str, expected: str
) -> None:
    for number in numbers.split():
        write_geotiff(tmp_path / product / f"{product}.B{number}.tif", make_noise(1, 20, 30))
    scene = opened(tmp_path / product, SIX)
    assert [Path(band.path).stem.rpartition(".B")[2] for band in scene.bands] == expected.split()


def test_the_user_names_bands_as_the_sensor_does(tmp_path: Path) -> None:
    names = tuple(f"SR_B{number}" for number in range(1, 8))
    stack = write(tmp_path / "export.tif", make_noise(7, 20, 30), names=names)
    for requested in (("SR_B4", "sr_b3", "B2"), ("4", "3", "2"), ("b4", "B03", "SR_B2")):
        assert indexes(opened(stack, THREE, bands=requested, scale=1e-4)) == [4, 3, 2]
    assert indexes(opened(stack, SIX, scale=1e-4)) == [2, 3, 4, 5, 6, 7]  # an SR_B6 has Landsat 8/9 alone
