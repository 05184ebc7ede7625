"""What the numbers of a scene mean: every kind of evidence, and what happens where it contradicts itself."""

from __future__ import annotations

import json
import math
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes import products
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.storage.confinement import Confinement, confine
from tests.support.reflectances import (
    DESERT,
    RGB,
    SAFE,
    SURFACE,
    calibration,
    opened,
    to_numbers,
    write_bands,
    write_item,
    write_stack,
)
from tests.support.small_rasters import write_geotiff

LANDSAT = "LC08_{}_190029_20210508_20210518_02_T1"
METADATA = """
GROUP = LANDSAT_METADATA_FILE
GROUP = IMAGE_ATTRIBUTES
  SUN_ELEVATION = 30.0
END_GROUP = IMAGE_ATTRIBUTES
  REFLECTANCE_MULT_BAND_2 = 2.0000E-05
  REFLECTANCE_MULT_BAND_3 = 2.0000E-05
  REFLECTANCE_MULT_BAND_4 = 3.0000E-05
  REFLECTANCE_ADD_BAND_2 = -0.100000
  REFLECTANCE_ADD_BAND_3 = -0.100000
  REFLECTANCE_ADD_BAND_4 = -0.100000
END_GROUP = LANDSAT_METADATA_FILE
END
"""


@pytest.mark.parametrize(
    ("names", "scale", "offset", "origin"),
    [
        (SAFE.format("0509") + "_B0{}.tif", 1e-4, -0.1, "baseline 05.09"),
        (SAFE.format("0400") + "_B0{}.tif", 1e-4, -0.1, "baseline 04.00"),
        (SAFE.format("0301") + "_B0{}.tif", 1e-4, 0.0, "baseline 03.01"),
        ("T33TWN_20230408T095549_B0{}_10m.tif", 1e-4, -0.1, "since 25 January 2022"),
        ("t33twn_20230408t095549_b0{}_10m.tif", 1e-4, -0.1, "since 25 January 2022"),
        ("S2B_MSIL2A_20230408T095549_R122_T33TWN_20230409T030000_B0{}.tif", 1e-4, -0.1, "since 25 January 2022"),
        (SAFE.format("9999") + "_B0{}.tif", 1e-4, -0.1, "since 25 January 2022"),
        ("COPERNICUS_S2_SR_HARMONIZED_20230408T095549_20230408T100215_T33TWN_B{}.tif", 1e-4, 0.0, "harmonized"),
        (LANDSAT.format("L2SP") + "_SR_B{}.TIF", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        ("SR_B{}.tif", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        ("sr_b{}.tif", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        ("SR_B{}_median.tif", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        ("LC08_L2SP_190029_20210508_02_T1_B{}.tif", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        ("landsat8_c2_l2_B{}.tif", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        ("LANDSAT_LC08_C02_T1_L2_LC08_190029_20210508_B{}.tif", 2.75e-5, -0.2, "Landsat Collection 2 level 2"),
        (LANDSAT.format("L1TP").replace("_02_", "_01_") + "_sr_band{}.tif", 1e-4, 0.0, "Landsat Collection 1"),
        ("HLS.S30.T33TWN.2022168T095549.v2.0.B0{}.tif", 1e-4, 0.0, "HLS"),
        ("HLS.L30.T33TWN.2022168T095549.v2.0.B0{}.tif", 1e-4, 0.0, "HLS"),
    ],
)
def test_products_whose_files_state_nothing(
    tmp_path: Path, names: str, scale: float, offset: float, origin: str
) -> None:
    for values in (SURFACE, DESERT):
        scene = opened(write_bands(tmp_path / "scene", names, to_numbers(values, scale, offset)))
        assert calibration(scene) == (scale, offset)
        assert origin in scene.radiometry and any("--scale" in warning for warning in scene.warnings)


def test_a_stack_of_a_product_is_known_by_its_name_or_its_bands(tmp_path: Path) -> None:
    numbers = to_numbers(SURFACE, 2.75e-5, -0.2)
    named = write_stack(tmp_path / f"{LANDSAT.format('L2SP')}_stack.tif", numbers)
    described = write_stack(tmp_path / "export.tif", numbers, names=("SR_B4", "SR_B3", "SR_B2"))
    assert calibration(opened(named)) == calibration(opened(described)) == (2.75e-5, -0.2)


def test_sentinel_2_of_an_unknown_baseline_is_told_by_its_dark_pixels_or_refused(tmp_path: Path) -> None:
    names = "T33TWN_20190408T095549_B0{}_10m.tif"
    assert calibration(opened(write_bands(tmp_path / "dark", names, to_numbers(SURFACE, 1e-4)))) == (1e-4, 0)
    for place, numbers in (("desert", to_numbers(DESERT, 1e-4)), ("later", to_numbers(SURFACE, 1e-4, -0.1))):
        folder = write_bands(tmp_path / place, names, numbers)
        with pytest.raises(InputError, match=r"what the numbers .* mean.*unknown processing baseline.*--offset"):
            opened(folder)
        assert calibration(opened(folder, offset=-0.1)) == (1e-4, -0.1)


@pytest.mark.parametrize(
    "names",
    [
        "B0{}.tif",
        "B{}.tif",
        "20230408T095549_20230408T100215_T33TWN_B{}.tif",
        "RT_T33TWN_A0311_20230408T095549_B0{}.tif",
        "S2A_33TWN_20230408_0_L2A_B0{}.tif",
        "T33TWN_20180408T095549_B0{}.tif",
        "S2A_MSIL2A_20180408T095031_N9999_R079_T33TWN_20230409T120000_B0{}.tif",
    ],
)
def test_names_of_sentinel_2_that_leave_the_offset_open(tmp_path: Path, names: str) -> None:
    assert calibration(opened(write_bands(tmp_path / "dark", names, to_numbers(SURFACE, 1e-4)))) == (1e-4, 0)
    folder = write_bands(tmp_path / "later", names, to_numbers(SURFACE, 1e-4, -0.1))
    with pytest.raises(InputError, match=r"got number / 10000 by .* -0\.1 by .*give --offset 0 or --offset -0\.1"):
        opened(folder)
    assert calibration(opened(folder, offset=-0.1)) == (1e-4, -0.1)


def test_the_metadata_file_of_sentinel_2_tells_the_baseline_whatever_the_folder_is_called(tmp_path: Path) -> None:
    """A product of 2018 that was processed again."""
    names = "GRANULE/L2A_T33TWN/IMG_DATA/T33TWN_20180408T095549_B0{}_10m.jp2"
    product = write_bands(tmp_path, names, to_numbers(DESERT, 1e-4, -0.1))
    with pytest.raises(InputError, match="unknown processing baseline"):
        opened(product)
    for baseline, offset in (("05.00", -0.1), ("02.14", 0)):
        metadata = f"<x><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></x>"
        (product / "MTD_MSIL2A.xml").write_text(metadata)
        assert calibration(opened(product)) == (1e-4, offset)


def test_what_items_say_of_the_sensor_tells_its_bands_too(tmp_path: Path) -> None:
    path = write_item(tmp_path, to_numbers(SURFACE, 1e-4), {}, platform="landsat-8")
    text = path.read_text().replace('"eo:common_name"', '"x"').replace('"assets": {"red"', '"assets": {"B4"')
    path.write_text(text.replace('"green": {', '"B3": {').replace('"blue": {', '"B2": {'))
    scene = opened(path)
    assert [Path(band.path).name for band in scene.bands] == ["0.tif", "1.tif", "2.tif"]
    text = path.read_text().replace("landsat-8", "landsat-5")
    path.write_text(text.replace('"B2"', '"B1"').replace('"B3"', '"B2"').replace('"B4"', '"B3"'))
    assert [Path(band.path).name for band in opened(path).bands] == ["0.tif", "1.tif", "2.tif"]


@pytest.mark.parametrize(
    "name", ["20230408_095549_3B_AnalyticMS", "20230408_095549_3B_AnalyticMS_8b_clip", "1_ssc4_u0001_analytic"]
)
def test_radiances_of_planet_are_no_reflectances(tmp_path: Path, name: str) -> None:
    numbers = to_numbers(SURFACE, 1e-4)
    with pytest.raises(InputError, match=r"got radiances of Planet.*expected reflectances, as in files with _SR"):
        opened(write_stack(tmp_path / f"{name}.tif", numbers))
    assert calibration(opened(tmp_path / f"{name}.tif", scale=2e-5)) == (2e-5, 0)
    reflectance = write_stack(tmp_path / f"{name.replace('MS', 'MS_SR')}_SR.tif", numbers)
    assert calibration(opened(reflectance)) == (1e-4, 0)


def test_integers_without_dark_numbers_are_not_assumed_to_be_reflectances(tmp_path: Path) -> None:
    """Landsat level 2 under another name; with clouds its numbers exceed 20000."""
    numbers = to_numbers(SURFACE, 2.75e-5, -0.2)
    clouds = numbers.copy()
    clouds[:2] = 40_000
    edges = numbers.copy()
    edges[0, :15] = 12
    for name, pixels in (("clear", numbers), ("clouds", clouds), ("edges", edges)):
        path = write_stack(tmp_path / f"{name}.tif", pixels)
        with pytest.raises(InputError, match=r"hardly a number below 5000 .*--offset -0\.2 for Landsat"):
            opened(path)
        assert calibration(opened(path, scale=2.75e-5, offset=-0.2)) == (2.75e-5, -0.2)
    snow = write_stack(tmp_path / "snow.tif", to_numbers(SURFACE / 4 + 0.8, 1e-4))
    assert calibration(opened(snow, scale=1e-4)) == (1e-4, 0)


@pytest.mark.parametrize("names", ["B{}.tif", "LC08_190029_20210508_B{}.tif"])
def test_numbered_bands_without_dark_numbers_may_be_of_any_level_of_landsat(tmp_path: Path, names: str) -> None:
    for scale, offset in ((2.75e-5, -0.2), (3e-5, -0.15)):
        with pytest.raises(InputError, match=r"hardly a number below 5000"):
            opened(write_bands(tmp_path / str(scale), names, to_numbers(SURFACE, scale, offset)))


def test_a_stack_of_landsat_whose_level_is_not_named_is_level_2_by_its_numbers(tmp_path: Path) -> None:
    name = "LC08_190029_20210508.tif"
    level_2 = opened(write_stack(tmp_path / name, to_numbers(SURFACE, 2.75e-5, -0.2)))
    assert calibration(level_2) == (2.75e-5, -0.2) and "those of level 2" in level_2.radiometry
    converted = opened(write_stack(tmp_path / "converted" / name, to_numbers(SURFACE, 1e-4)))
    assert calibration(converted) == (1e-4, 0)
    with pytest.raises(InputError, match=r"hardly a number below 5000"):
        opened(write_stack(tmp_path / "level-1" / name, to_numbers(SURFACE, 3e-5, -0.15)))


def test_integers_of_each_size_have_their_own_usual_scale(tmp_path: Path) -> None:
    for name, numbers in (("red", SURFACE * 1e4), ("green", SURFACE * 1e4), ("blue", SURFACE * 255)):
        dtype = "uint8" if name == "blue" else "uint16"
        write_geotiff(tmp_path / f"{name}.tif", np.rint(numbers).astype(dtype)[None])
    assert [round(1 / band.scale) for band in opened(tmp_path).bands] == [10000, 10000, 255]


def test_a_scale_that_is_stated_of_one_band_only_is_refused(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "x.tif", to_numbers(SURFACE, 1e-4, -0.1))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 1, 1), (-0.1, 0, 0)
    with pytest.raises(InputError, match=r"different meanings: got .* -0\.1 by the tags .*/ 10000 by assumption"):
        opened(path)
    assert calibration(opened(path, offset=-0.1)) == (1e-4, -0.1)


@pytest.mark.parametrize(
    ("name", "offset", "dtype", "options"),
    [
        (SAFE.format("0509"), -0.1, "float32", {}),
        (LANDSAT.format("L2SP"), -0.2, "float32", {}),
        (SAFE.format("0509"), -0.1, "float32", {"scale": 1e-4}),
        (SAFE.format("0509"), -0.1, "uint16", {"scale": 1e-4}),
    ],
)
def test_an_offset_that_is_known_but_not_in_the_values_is_asked_for(
    tmp_path: Path, name: str, offset: float, dtype: str, options: dict[str, float]
) -> None:
    factor = options.get("scale", 1.0)
    path = write_stack(tmp_path / f"{name}.tif", ((SURFACE - offset) / factor).astype(dtype))
    with pytest.raises(InputError, match=rf"got number .* {offset:g} by .*give --offset 0 or --offset {offset:g}"):
        opened(path, **options)
    assert calibration(opened(path, offset=offset, **options)) == (factor, offset)
    assert calibration(opened(path, offset=0.0, **options)) == (factor, 0)
    added = write_stack(tmp_path / "added" / f"{name}.tif", (SURFACE / factor).astype(dtype))
    assert calibration(opened(added, **options)) == (factor, 0)


def test_level_1_takes_its_factors_and_the_sun(tmp_path: Path) -> None:
    """Landsat 8 Data Users Handbook, section 5.2: (factor × number + summand) / sin(elevation of the sun)."""
    product = LANDSAT.format("L1TP")
    sun = math.sin(math.radians(30))
    folder = write_bands(tmp_path / product, f"{product}_B{{}}.TIF", to_numbers(SURFACE * sun, 2e-5, -0.1))
    with pytest.raises(InputError, match=rf"Landsat level 1: got no {product}_MTL.txt beside it.*--scale and --offset"):
        opened(folder)
    assert calibration(opened(folder, scale=1e-4)) == (1e-4, 0)
    (folder / f"{product}_MTL.txt").write_text(METADATA)
    assert [(band.scale, band.offset) for band in opened(folder).bands] == [
        pytest.approx((scale / sun, -0.1 / sun)) for scale in (3e-5, 2e-5, 2e-5)
    ]
    assert "_MTL.txt" in opened(folder).radiometry
    (folder / f"{product}_MTL.txt").write_text(METADATA.replace("30.0", "-3"))
    with pytest.raises(InputError, match="SUN_ELEVATION: got -3"):
        opened(folder)


METADATA_FILES = {
    "_MTL.txt": METADATA,
    "_mtl.txt": METADATA,
    "_MTL.json": json.dumps({"L": dict(re.findall(r"(\w+) = (\S+)", METADATA))}, indent=1),
    "_MTL.xml": re.sub(r"(\w+) = (\S+)", r"<\1>\2</\1>", METADATA),
}


@pytest.mark.parametrize("suffix", METADATA_FILES)
@pytest.mark.parametrize("product", [LANDSAT.format("L1TP"), "LC81900292021128LGN00"])
def test_metadata_of_level_1_is_found_in_all_its_forms(tmp_path: Path, product: str, suffix: str) -> None:
    sun = math.sin(math.radians(30))
    bands = write_bands(tmp_path / product, f"{product}_B{{}}.TIF", to_numbers(SURFACE * sun, 2e-5, -0.1))
    stack = write_stack(bands / "stack" / f"{product}_stack.tif", to_numbers(SURFACE * sun, 2e-5, -0.1))
    for folder in (bands, bands / "stack"):
        (folder / f"{product}{suffix}").write_text(METADATA_FILES[suffix])
    with tarfile.open(tmp_path / "x.tar", "w") as tar, zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in (path for path in bands.iterdir() if path.is_file()):
            tar.add(path, path.name)
            archive.write(path, f"{product}/{path.name}")
    archives = [tmp_path / "x.tar", tmp_path / "x.zip"] if suffix.endswith(".txt") else []
    for source in (bands, stack, *archives):
        scales = [band.scale for band in opened(source).bands]
        assert scales == [pytest.approx(scale / sun) for scale in (3e-5, 2e-5, 2e-5)]


def test_metadata_of_level_1_is_found_on_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = {"https://x.org/a/P_MTL.json": {"L": {"G": {"SUN_ELEVATION": "30.0"}, "H": {"MULT": 2e-5}}}}

    def read_document(href: str) -> Any:
        if href not in documents:
            raise InputError("no such document", got=href, expected="one", fix="look")
        return documents[href]

    monkeypatch.setattr(products, "read_document", read_document)
    name, values = products.read_landsat_metadata("https://x.org/a/P_B2.TIF?signature=a/b", "P")
    assert name == "P_MTL.json" and (values["SUN_ELEVATION"], float(values["MULT"])) == ("30.0", 2e-5)
    assert not products.read_landsat_metadata("s3://bucket/P_B2.TIF", "P")[1]


@pytest.mark.parametrize("suffix", ["_MTL.txt", "_MTL.json", "_MTL.xml", "_B4.TIF.aux.xml", "_B4.TIF.ovr", "_B4.tfw"])
def test_metadata_that_is_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    product = LANDSAT.format("L1TP")
    write_bands(tmp_path, f"{product}_B{{}}.TIF", to_numbers(SURFACE, 2e-5, -0.1))
    os.mkfifo(tmp_path / f"{product}{suffix}")
    with pytest.raises(InputError, match=rf"{suffix}: got a pipe, socket or device"):
        opened(tmp_path)


def test_metadata_outside_of_a_confinement_are_not_read(tmp_path: Path) -> None:
    product, inside = LANDSAT.format("L1TP"), tmp_path / "inbox"
    write_bands(inside, f"{product}_B{{}}.TIF", to_numbers(SURFACE, 2e-5, -0.1))
    (tmp_path / "secret.txt").write_text(METADATA)
    (inside / f"{product}_MTL.txt").symlink_to(tmp_path / "secret.txt")
    with confine(Confinement((str(inside),))), pytest.raises(InputError, match="lies outside of the folders"):
        opened(inside)


def test_level_1_of_eight_bits_takes_its_factors_too(tmp_path: Path) -> None:
    product = "LT05_L1TP_190029_19870508_20210518_02_T1"
    for number in (3, 2, 1):
        write_geotiff(tmp_path / f"{product}_B{number}.TIF", np.rint(SURFACE / 4e-3).astype("uint8")[None])
    metadata = METADATA.replace("BAND_4", "BAND_1").replace("E-05", "E-03").replace("-0.1", "0.0")
    (tmp_path / f"{product}_MTL.txt").write_text(metadata)
    assert [band.scale for band in opened(tmp_path).bands] == [pytest.approx(x) for x in (4e-3, 4e-3, 6e-3)]


@pytest.mark.parametrize(
    ("band", "properties", "expected"),
    [
        ({"raster:scale": 1e-4, "raster:offset": -0.1}, {}, (1e-4, -0.1)),
        ({"raster:scale": 1, "raster:offset": 0}, {"s2:processing_baseline": "05.09"}, (1e-4, -0.1)),
        ({}, {"s2:processing_baseline": "05.09"}, (1e-4, -0.1)),
        ({}, {"s2:processing_baseline": "02.14"}, (1e-4, 0)),
        ({}, {"s2:processing_baseline": "N0509"}, (1e-4, -0.1)),
        ({}, {"s2:processing_baseline": "0509"}, (1e-4, -0.1)),
        ({}, {"s2:processing_baseline": 5.09}, (1e-4, -0.1)),
        ({}, {"s2:processing_baseline": "0301"}, (1e-4, 0)),
        ({}, {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": "false"}, (1e-4, -0.1)),
        ({}, {"s2:product_uri": SAFE.format("0509") + ".SAFE", "s2:processing_baseline": None}, (1e-4, -0.1)),
        ({}, {"title": SAFE.format("0509")}, (1e-4, -0.1)),
        ({}, {"constellation": "Sentinel-2", "processing:version": "05.11"}, (1e-4, -0.1)),
        ({}, {"platform": "sentinel-2b", "processing:version": "05.11"}, (1e-4, -0.1)),
        ({}, {"platform": "sentinel-2b"}, (1e-4, 0)),
        ({}, {"collection": "sentinel-2-l2a"}, (1e-4, 0)),
        ({}, {"collection": "landsat-c2-l2"}, (2.75e-5, -0.2)),
        ({}, {"platform": "landsat-8"}, (2.75e-5, -0.2)),
        ({}, {"id": "LC08_L2SP_190029_20210508_02_T1"}, (2.75e-5, -0.2)),
        ({}, {"landsat:correction": "L2SP", "landsat:collection_number": "02"}, (2.75e-5, -0.2)),
        ({"raster:scale": 1e-4, "raster:offset": -0.1}, {"earthsearch:boa_offset_applied": True}, (1e-4, 0)),
        ({}, {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, (1e-4, 0)),
    ],
)
def test_items_tell_by_assets_and_properties(
    tmp_path: Path, band: dict[str, Any], properties: dict[str, Any], expected: tuple[float, float]
) -> None:
    scene = opened(write_item(tmp_path, to_numbers(SURFACE, *expected), band, **properties))
    assert calibration(scene) == expected


@pytest.mark.parametrize(
    "properties",
    [
        {"platform": "sentinel-2b"},
        {"collection": "sentinel-2-l2a"},
        {"title": SAFE.format("0509"), "s2:processing_baseline": "02.14"},
    ],
)
def test_items_that_leave_the_offset_open_are_refused(tmp_path: Path, properties: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"got number / 10000 by Sentinel-2 .* and number × 0\.0001 -0\.1 by"):
        opened(write_item(tmp_path, to_numbers(SURFACE, 1e-4, -0.1), {}, **properties))


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bands of .*item\.json: got True, which is no number"):
        opened(write_item(tmp_path, to_numbers(SURFACE, 1e-4), {"raster:scale": True}))


def test_an_offset_that_is_said_to_be_applied_but_is_not_is_refused(tmp_path: Path) -> None:
    path = write_item(tmp_path, to_numbers(SURFACE, 1e-4, -0.1), {}, **{"earthsearch:boa_offset_applied": True})
    with pytest.raises(InputError, match=r"Sentinel-2 is applied: got no pixel below 1000.*--offset -0\.1"):
        opened(path)
    assert calibration(opened(path, offset=-0.1)) == (1e-4, -0.1)


def test_what_file_and_product_say_has_to_agree(tmp_path: Path) -> None:
    """Somebody took the offset away and states the scale alone, or forgot the offset."""
    names = SAFE.format("0509") + "_B0{}.tif"
    harmonized = write_bands(tmp_path / "harmonized", names, to_numbers(SURFACE, 1e-4), 1e-4)
    scene = opened(harmonized)
    assert calibration(scene) == (1e-4, 0) and any("no surface has" in warning for warning in scene.warnings)
    forgotten = write_bands(tmp_path / "forgotten", names, to_numbers(SURFACE, 1e-4, -0.1), 1e-4)
    with pytest.raises(InputError, match=r"got number / 10000 by the tags of the file and number × 0\.0001 -0\.1 by"):
        opened(forgotten)
    assert calibration(opened(forgotten, offset=-0.1)) == (1e-4, -0.1)
    other = write_bands(tmp_path / "other", names, to_numbers(SURFACE, 2e-4), 2e-4)
    with pytest.raises(InputError, match=r"got number × 0\.0002 by the tags of the file and"):
        opened(other)


@pytest.mark.parametrize(
    ("values", "dtype", "got"),
    [
        (SURFACE * 10_000, "float32", "a median of 2100"),
        (SURFACE * 10_000, "float64", "a median of 2100"),
        (SURFACE / 1_000, "float32", "next to nothing above 0.001"),
        (SURFACE - 0.3, "float32", "below -0.05"),
        (SURFACE * 10, "uint16", "next to nothing above 0.001"),
    ],
)
def test_values_that_no_reflectance_has_are_refused(tmp_path: Path, values: NDArray[Any], dtype: str, got: str) -> None:
    path = write_stack(tmp_path / "x.tif", values.astype(dtype))
    with pytest.raises(InputError, match=rf"cannot be reflectances: got .*({got}).*--scale and --offset"):
        opened(path)
    plain = open_scene(path, RGB, SceneOptions(), reflectance=False)  # a model of digital numbers takes them
    assert calibration(plain) == (1, 0)


def test_a_band_of_nothing_but_zeros_is_refused_unless_they_are_missing(tmp_path: Path) -> None:
    """As GDAL makes of a VRT whose pixel function it does not have."""
    path = write_stack(tmp_path / "x.tif", np.zeros((20, 20), "uint16"), 1e-4)
    with pytest.raises(InputError, match=r"next to nothing above 0\.001"):
        opened(path)
    assert opened(path, nodata=0).bands[0].nodata == 0


VRT = """<VRTDataset rasterXSize="20" rasterYSize="20"><SRS>EPSG:32620</SRS>
<GeoTransform>500000, 30, 0, 6000000, 0, -30</GeoTransform>{}</VRTDataset>"""
PYTHON_BAND = """<VRTRasterBand dataType="UInt16" band="{0}" subClass="VRTDerivedRasterBand">
<Description>{1}</Description><PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f</PixelFunctionType>
<PixelFunctionCode>def f(*args): pass</PixelFunctionCode>
<SimpleSource><SourceFilename relativeToVRT="1">s.tif</SourceFilename></SimpleSource></VRTRasterBand>"""
OWN_BAND = """<VRTRasterBand dataType="UInt16" band="{0}"><Description>{1}</Description>
<SimpleSource><SourceFilename relativeToVRT="1">{2}</SourceFilename></SimpleSource></VRTRasterBand>"""


@pytest.mark.parametrize(
    ("band", "source", "said"),
    [
        (PYTHON_BAND, "", "band 1 cannot be read: got Python code needs to be executed"),
        (OWN_BAND, "x.vrt", "source of itself|cannot be read"),
        (OWN_BAND, "gone.tif", "names a source that cannot be read: got .*gone.tif"),
    ],
)
def test_a_vrt_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path, band: str, source: str, said: str) -> None:
    write_stack(tmp_path / "s.tif", to_numbers(SURFACE, 1e-4))
    bands = "".join(band.format(number, name, source) for number, name in enumerate(("red", "green", "blue"), 1))
    (tmp_path / "x.vrt").write_text(VRT.format(bands))
    with pytest.raises(InputError, match=said):
        opened(tmp_path / "x.vrt")


def test_fill_and_missing_pixels_do_not_count(tmp_path: Path) -> None:
    numbers = to_numbers(SURFACE, 1e-4).astype("int16")
    numbers[:15] = -9999
    scene = opened(write_stack(tmp_path / "x.tif", numbers, 1e-4, nodata=-9999))
    assert not scene.warnings
    undeclared = opened(write_stack(tmp_path / "y.tif", numbers, 1e-4))
    (warning,) = undeclared.warnings
    assert warning.startswith("about 75.0% of the pixels are -9999 in every band") and "--nodata -9999" in warning
