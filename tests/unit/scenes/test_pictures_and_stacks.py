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
    ("dtype", "opaque", "count", "colours"),
    [
        ("uint16", 65535, 4, (*RGB, ColorInterp.undefined)),
        ("uint16", 255, 4, (*RGB, ColorInterp.undefined)),
        ("float32", 1, 4, (*RGB, ColorInterp.undefined)),
        ("uint8", 255, 5, (*RGB, ColorInterp.undefined, ColorInterp.undefined)),
        ("uint8", 255, 4, (ColorInterp.gray, *[ColorInterp.undefined] * 3)),
    ],
)
def test_a_last_band_of_clear_and_opaque_pixels_is_an_alpha_band_in_all_types(
    tmp_path: Path, dtype: str, opaque: int, count: int, colours: tuple[ColorInterp, ...]
) -> None:
    pixels = make_noise(count, 20, 30, high=255, dtype=dtype)
    pixels[-1], pixels[-1, :5] = opaque, 0
    path = write(tmp_path / "ortho.tif", pixels, colours)
    valid = read_block(opened(path, THREE, scale=1 / 255), WHOLE).valid
    assert not valid[:5].any() and valid[5:].all()
    if count == 4:
        with pytest.raises(InputError, match=r"do not match the model.*--bands"):
            opened(path, FOUR, scale=1 / 255)
    user = opened(path, [*THREE, BandNeed("x")], bands=("3", "2", "1", str(count)), scale=1 / 255)
    block = read_block(user, WHOLE)
    assert block.valid.all() and set(np.unique(block.pixels[3])) == {0, opaque}


@pytest.mark.parametrize("constant", [0, 1600])
def test_a_fourth_band_of_one_number_is_no_alpha_band(tmp_path: Path, constant: int) -> None:
    pixels = make_noise(4, 20, 30)
    pixels[3] = constant
    scene = opened(write(tmp_path / "x.tif", pixels, (*RGB, ColorInterp.undefined)), FOUR, scale=1e-4)
    assert indexes(scene) == [3, 2, 1, 4] and read_block(scene, WHOLE).valid.all()


def test_a_band_that_is_named_is_no_alpha_band_whatever_its_tag(tmp_path: Path) -> None:
    pixels = make_noise(6, 20, 30)
    pixels[3], pixels[3, :5] = 65535, 0
    colours = (*RGB[::-1], ColorInterp.alpha, ColorInterp.undefined, ColorInterp.undefined)
    scene = opened(write(tmp_path / "x.tif", pixels, colours, names=BAND_NAMES), SIX, scale=1 / 65535)
    assert indexes(scene) == [1, 2, 3, 4, 5, 6] and read_block(scene, WHOLE).valid.all()


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


COUNTED = [*("B{}", "b{}", "B{:02}", "Band {}: x", "Band {} (Gray)", "Band {} (443 nm)", "band_{:02}", "Band {}")]


@pytest.mark.parametrize("product", ["stack", "S2A_MSIL1C_20220301T101010"])
@pytest.mark.parametrize("last", [(), ("mask",), ("SWIR2",)])
@pytest.mark.parametrize("pattern", COUNTED)
@pytest.mark.parametrize("first", [0, 1])
def test_positions_are_no_numbers_of_sentinel_2(
    tmp_path: Path, product: str, last: tuple[str, ...], pattern: str, first: int
) -> None:
    count = 12 if last == ("SWIR2",) else 13
    names = (*(pattern.format(number) for number in range(first, first + count)), *last)
    path = write(tmp_path / f"{product}.tif", make_noise(len(names), 20, 30), names=names)
    for needs in (SIX, THREE):
        with pytest.raises(InputError, match=r"do not match the model: got .*--bands"):
            opened(path, needs)
    assert indexes(opened(path, THREE, bands=("2", "3", "4"), scale=1e-4)) == [2, 3, 4]


@pytest.mark.parametrize("numbers", [range(1, 14), range(13), range(1, 13), range(1, 12)])
def test_files_that_are_counted_are_no_bands_of_a_sensor(tmp_path: Path, numbers: range) -> None:
    for number in numbers:
        write_geotiff(tmp_path / "split" / f"stack_Band_{number}.tif", make_noise(1, 20, 30))
    with pytest.raises(InputError, match="--bands"):
        opened(tmp_path / "split", SIX)


def test_colours_decide_or_leave_the_order_open(tmp_path: Path) -> None:
    pixels, rest = make_noise(6, 20, 30), [ColorInterp.undefined] * 3
    with pytest.raises(InputError, match=r"do not match the model: got .*red, .*--bands"):
        opened(write(tmp_path / "x.tif", pixels, (*RGB, *rest)), SIX)
    scene = opened(write(tmp_path / "y.tif", pixels, (*RGB[::-1], *rest)), SIX, scale=1e-4)
    assert indexes(scene) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("product", "numbers", "names", "expected"),
    [
        ("LM05_L1TP_193028_19870611", "1234", "green red", "12"),
        ("LM02_L1TP_206028_19780611", "4567", "green red", "45"),
        ("LM51930281987162KIS00", "1234", "green red", "12"),
        ("LT05_L1TP_193028_19870611", "1234567", "green red nir", "234"),
        ("LT51930281987162KIS00", "1234567", "green red nir", "234"),
        ("LC81930282014162LGN00", "1234567", "green red nir", "345"),
        ("LM05_L1TP_193028_19870611", "1234", "blue green red nir", None),
        ("LM02_L1TP_206028_19780611", "4567", "blue green red", None),
        ("LM05_L1TP_193028_19870611", "1234", "green red nir", None),
    ],
)
def test_scanners_of_old_landsats_have_numbers_of_their_own(
    tmp_path: Path, product: str, numbers: str, names: str, expected: str | None
) -> None:
    for number in numbers:
        write_geotiff(tmp_path / product / f"{product}_B{number}.TIF", make_noise(1, 20, 30))
    needs = [BandNeed(name) for name in names.split()]
    if expected is None:
        with pytest.raises(InputError, match=r"do not match the model.*--bands"):
            opened(tmp_path / product, needs, scale=1e-4)
    else:
        scene = opened(tmp_path / product, needs, scale=1e-4)
        assert "".join(Path(band.path).stem[-1] for band in scene.bands) == expected


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
