"""Evidence of scale and offset that is incomplete, or lies in other places than the product's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.scene import Scene
from tests.support.reflectances import (
    DESERT,
    SAFE,
    SURFACE,
    calibration,
    opened,
    to_numbers,
    write_bands,
    write_item,
    write_stack,
)

STATED = {"scale_factor": "0.0001", "add_offset": "-0.1"}
OF_EACH_BAND = {f"{band}#{name}": text for band in ("red", "green", "blue") for name, text in STATED.items()}


def told(scene: Scene) -> list[str]:
    """What a scene warns of its numbers, not of its bands."""
    return [text for text in scene.warnings if "names no sensor" not in text]


def test_a_scale_without_an_offset_leaves_that_of_sentinel_2_open(tmp_path: Path) -> None:
    """By tags, the catalogue or the user; an offset of 0 is what programs write that know of none."""
    later, dark = to_numbers(SURFACE, 1e-4, -0.1), to_numbers(SURFACE, 1e-4)

    def write_sources(folder: Path, numbers: NDArray[Any]) -> list[Path]:
        folder.mkdir()
        stated = {"raster:scale": 1e-4, "raster:offset": 0}
        return [
            write_bands(folder / "S2B_33TWN_20240408_1_L2A", "B0{}.tif", numbers, 1e-4),
            write_stack(folder / "stack.tif", numbers, 1e-4, ("B04", "B03", "B02")),
            write_item(folder / "item", numbers, stated, platform="sentinel-2b"),
            write_item(folder / "other", numbers, {"raster:scale": 1e-4}, collection="sentinel-2-l2a"),
            write_item(folder / "msi", numbers, {"raster:scale": 1e-4}, instruments=["msi"]),
            write_item(folder / "mission", numbers, {"raster:scale": 1e-4}, mission="Sentinel-2"),
            write_item(folder / "field", numbers, {"raster:scale": 1e-4}, **{"s2:mgrs_tile": "33TWN"}),
        ]

    for source in write_sources(tmp_path / "later", later):
        with pytest.raises(InputError, match=r"got number / 10000 by the (tags|cat).* -0\.1 by .*give --offset 0 or"):
            opened(source)
        scene = opened(source, offset=-0.1)
        assert calibration(scene) == (1e-4, -0.1) and not told(scene)
        assert calibration(opened(source, offset=0.0)) == (1e-4, 0)
    for source in write_sources(tmp_path / "dark", dark):
        scene = opened(source)
        assert calibration(scene) == (1e-4, 0) and not told(scene)
    bright = write_bands(tmp_path / "S2B_33TWN_20240408_2_L2A", "B0{}.tif", later)
    with pytest.raises(InputError, match=r"got number / 10000 by --scale and .*--offset 0 or --offset -0\.1"):
        opened(bright, scale=1e-4)
    assert calibration(opened(bright, scale=1e-4, offset=-0.1)) == (1e-4, -0.1)


def test_floats_of_sentinel_2_whose_offset_may_still_be_in_them_are_refused(tmp_path: Path) -> None:
    names = ("B4", "B3", "B2")
    for name, bands in (("S2B_33TWN_20240408_0_L2A", names), ("stack", ("B04", "B03", "B02"))):
        path = write_stack(tmp_path / "later" / f"{name}.tif", (SURFACE + 0.1).astype("float32"), 1, bands)
        with pytest.raises(InputError, match=r"number × 1 by the type of the file and number × 1 -0\.1 by"):
            opened(path)
        assert calibration(opened(path, offset=-0.1)) == (1, -0.1)
        dark = write_stack(tmp_path / "dark" / f"{name}.tif", SURFACE.astype("float32"), 1, bands)
        assert calibration(opened(dark)) == (1, 0) and not told(opened(dark))


def test_numbers_that_bands_of_many_sensors_have_do_not_question_a_scale(tmp_path: Path) -> None:
    """Top-of-atmosphere reflectance of Landsat has no dark pixels in the visible bands."""
    names = ("B4", "B3", "B2")
    floats = write_stack(tmp_path / "toa.tif", DESERT.astype("float32"), 1, names)
    tagged = write_stack(tmp_path / "tagged.tif", to_numbers(DESERT, 1e-4), 1e-4, names)
    assert calibration(opened(floats)) == (1, 0) and calibration(opened(tagged)) == (1e-4, 0)


@pytest.mark.parametrize(
    "name",
    [
        "COPERNICUS_S2_SR_HARMONIZED_20230408T095549_20230408T100215_T33TWN",
        "sentinel-2-l2a-harmonised_T33TWN",
        "Sentinel-2_mosaic_2023_Q2_33TWN_0_0",
        "SENTINEL2A_20230408-100031-462_L2A_T33TWN_C_V3-1",
    ],
)
def test_products_without_the_offset_need_no_dark_pixels(tmp_path: Path, name: str) -> None:
    for scale, dtype in ((1.0, "uint16"), (1e-4, "uint16"), (1.0, "float32")):
        numbers = DESERT.astype(dtype) if dtype == "float32" else to_numbers(DESERT, 1e-4)
        path = write_stack(tmp_path / f"{scale}-{dtype}" / f"{name}.tif", numbers, scale, ("B4", "B3", "B2"))
        assert calibration(opened(path)) == (1 if dtype == "float32" else 1e-4, 0)


def test_the_scale_of_landsat_without_its_offset_is_refused(tmp_path: Path) -> None:
    numbers = to_numbers(SURFACE, 2.75e-5, -0.2)
    for name in ("LC08_190029_20210508.tif", "export.tif"):
        path = write_stack(tmp_path / name, numbers, 2.75e-5)
        with pytest.raises(InputError, match=r"by the tags of the file and .* -0\.2 by Landsat.*give --offset 0 or"):
            opened(path)
        assert calibration(opened(path, offset=-0.2)) == (2.75e-5, -0.2)
    other = write_stack(tmp_path / "other.tif", to_numbers(SURFACE, 2.75e-5), 2.75e-5)
    assert calibration(opened(other)) == (2.75e-5, 0)


def test_tags_of_the_file_tell_the_product(tmp_path: Path) -> None:
    uri = {"PRODUCT_URI": SAFE.format("0509") + ".SAFE"}
    cases: list[tuple[dict[str, str], tuple[float, float]]] = [
        (uri, (1e-4, -0.1)),
        ({"PRODUCT_URI": SAFE.format("0301") + ".SAFE"}, (1e-4, 0)),
        ({"PROCESSING_BASELINE": "05.09"}, (1e-4, -0.1)),
        ({"DATATAKE_1_ID": "GS2B_20230408T095549_031789_N05.09"}, (1e-4, -0.1)),
        ({"BOA_ADD_OFFSET": "-1000"}, (1e-4, -0.1)),
        ({"PROCESSING_BASELINE": "02.14", "DATATAKE_1_SPACECRAFT_NAME": "Sentinel-2B"}, (1e-4, 0)),
        ({**uri, "PROCESSING_BASELINE": "05.09", "HLS_PROCESSING_TIME": "2023-04-09T00:00:00Z"}, (1e-4, 0)),
    ]
    for position, (tags, expected) in enumerate(cases):
        for names in (("red", "green", "blue"), ("B4", "B3", "B2")):
            path = write_stack(tmp_path / f"{position}.tif", to_numbers(DESERT, *expected), 1, names)
            with rasterio.open(path, "r+") as file:
                file.update_tags(**tags)
            assert calibration(opened(path)) == expected
    differing = write_stack(tmp_path / f"{SAFE.format('0301')}.tif", to_numbers(DESERT, 1e-4))
    with rasterio.open(differing, "r+") as file:
        file.update_tags(**uri)
    with pytest.raises(InputError, match="whose names, tags and catalogue differ in it"):
        opened(differing)


@pytest.mark.parametrize(
    ("own", "common"),
    [
        (STATED, {}),
        ({}, STATED),
        ({}, {"SCALE_FACTOR": "1e-4", "ADD_OFFSET": "-1e-1"}),
        ({}, {"rho#scale_factor": "0.0001", "rho#add_offset": "-0.1"}),
        ({}, OF_EACH_BAND | {"x#scale_factor": "7"}),
        ({"NETCDF_VARNAME": "rho"}, {"rho#scale_factor": "0.0001", "rho#add_offset": "-0.1", "x#scale_factor": "7"}),
    ],
)
def test_scales_in_tags_as_of_netcdf_are_those_of_the_file(
    tmp_path: Path, own: dict[str, str], common: dict[str, str]
) -> None:
    path = write_stack(tmp_path / "x.tif", to_numbers(SURFACE, 1e-4, -0.1))
    half = write_stack(tmp_path / "half.tif", to_numbers(SURFACE, 1e-4, -0.1), 1e-4)
    floats = write_stack(tmp_path / "floats.tif", SURFACE.astype("float32"))
    picture = write_stack(tmp_path / "picture.tif", np.rint(SURFACE * 255).astype("uint8"))
    for source in (path, half, floats, picture):
        with rasterio.open(source, "r+") as file:
            file.update_tags(**common)
            for band in file.indexes:
                file.update_tags(band, **own)
    for source in (path, half):
        scene = opened(source)
        assert calibration(scene) == (1e-4, -0.1) and scene.radiometry.endswith("the tags of the file")
    assert calibration(opened(floats)) == (1, 0)  # left over from the numbers that were integers
    assert "number / 255 by assumption" in opened(picture).radiometry


def test_headers_of_envi_have_a_divisor(tmp_path: Path) -> None:
    profile = {"driver": "ENVI", "width": 20, "height": 20, "count": 3, "dtype": "uint16", "crs": "EPSG:32620"}
    transform = rasterio.transform.from_origin(500_000, 6_000_000, 30, 30)
    with rasterio.open(tmp_path / "x.dat", "w", **profile, transform=transform) as file:
        file.write(np.stack([np.rint(SURFACE * 1000).astype("uint16")] * 3))
        file.descriptions = ("red", "green", "blue")
    with (tmp_path / "x.hdr").open("a") as header:
        header.write("reflectance scale factor = 1000\n")
    assert calibration(opened(tmp_path / "x.dat")) == (1e-3, 0)


def test_properties_of_an_item_hold_for_assets_that_say_nothing_else(tmp_path: Path) -> None:
    numbers = to_numbers(SURFACE, 1e-4, -0.1)
    common = {"raster:scale": 1e-4, "raster:offset": -0.1, "nodata": 7}
    path = write_item(tmp_path / "common", numbers, {}, **common)
    scene = opened(path)
    assert calibration(scene) == (1e-4, -0.1) and scene.bands[0].nodata == 7
    path.write_text(path.read_text().replace('"eo:common_name"', '"x"'))  # the item describes no band
    scene = opened(path)
    assert calibration(scene) == (1e-4, -0.1) and scene.bands[0].nodata == 7
    own = {"raster:scale": 2e-4, "raster:offset": None}
    assert calibration(opened(write_item(tmp_path / "own", numbers, own, **common))) == (2e-4, -0.1)
    bands = {"raster:bands": [{"scale": 2e-4, "offset": -0.2}]}
    assert calibration(opened(write_item(tmp_path / "bands", numbers, bands, **common))) == (2e-4, -0.2)


def test_warnings_call_nothing_assumed_that_the_user_gave(tmp_path: Path) -> None:
    numbers = to_numbers(SURFACE, 1e-4, -0.1)
    applied = {"earthsearch:boa_offset_applied": True}
    item = write_item(tmp_path / "item", numbers, {"raster:scale": 1e-4, "raster:offset": -0.1}, **applied)
    assert not opened(item, offset=-0.1).warnings
    product = write_bands(tmp_path / "S2B_33TWN_20240408_0_L2A", "B0{}.tif", numbers)
    for source in (product, write_stack(tmp_path / "x.tif", numbers)):
        scene = opened(source, offset=-0.1)
        assert calibration(scene) == (1e-4, -0.1) and scene.radiometry.endswith(" and --offset")
        (warning,) = scene.warnings
        assert re.search(r"no scale: (that of .*, )?number / 10000,? is assumed; --scale .*otherwise", warning)
        assert not opened(source, scale=1e-4, offset=-0.1).warnings


def test_an_offset_of_the_user_does_not_settle_scales_that_differ(tmp_path: Path) -> None:
    path = write_bands(tmp_path, SAFE.format("0509") + "_B0{}.tif", to_numbers(SURFACE, 2e-4), 2e-4)
    with pytest.raises(InputError, match=r"number × 0\.0002 by the tags .* number / 10000 by Sentinel-2"):
        opened(path, offset=0.0)
    assert calibration(opened(path, scale=2e-4, offset=0.0)) == (2e-4, 0)
