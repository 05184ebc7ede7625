"""What files say of their bands beside names: wavelengths, coordinates, sources of VRTs; and what is no band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
from rasterio.vrt import WarpedVRT

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.sensors import (
    find_other_sensor,
    find_wavelength,
    names_satellite,
    parse_band_number,
    parse_wavelength,
    recognize_sensors,
)
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.small_rasters import BAND_NAMES, UTM, make_noise, write_geotiff
from tests.support.stac_items import write_source_item
from tests.support.virtual_rasters import EDGE, make_source, make_vrt

SIX = [BandNeed(name) for name in BAND_NAMES]
NUMBERS = make_noise(6, EDGE, EDGE, low=500, high=4000)
WAVELENGTHS = (0.49, 0.56, 0.665, 0.842, 1.61, 2.19)
SENTINEL_2 = ("B02", "B03", "B04", "B08", "B11", "B12")
RED_FIRST = (2, 1, 0, 3, 4, 5)
"""Which of the six bands comes first, second, …"""
EXPECTED = [3, 2, 1, 4, 5, 6]
"""The place in a file of blue, green, red, …, if red comes first."""


def opened(source: object, needs: Sequence[BandNeed] = SIX, **options: Any) -> Scene:
    return open_scene(str(source), needs, SceneOptions(**{"scale": 1e-4, "offset": 0.0, **options}))


def indexes(scene: Scene) -> list[int]:
    return [band.index for band in scene.bands]


def reordered(values: Sequence[Any]) -> list[Any]:
    return [values[position] for position in RED_FIRST]


# --- wavelengths -----------------------------------------------------------------------------------------


def write_tagged(path: Path, tags: Sequence[dict[str, str]], domain: str | None, **profile: Any) -> Path:
    write_geotiff(path, NUMBERS[list(RED_FIRST)][: len(tags)], **profile)
    with rasterio.open(path, "r+") as file:
        for index, own in enumerate(tags, start=1):
            file.update_tags(index, ns=domain, **own)
    return path


@pytest.mark.parametrize(
    ("domain", "describe"),
    [
        ("IMAGERY", lambda um: {"CENTRAL_WAVELENGTH_UM": str(um)}),
        (None, lambda um: {"wavelength": str(um), "wavelength_units": "Micrometers"}),
        (None, lambda um: {"wavelength": str(um * 1000), "wavelength_units": "Nanometers"}),
        (None, lambda um: {"WAVELENGTH": f"{um * 1000:.0f}", "WAVELENGTH_UNIT": "nm"}),
        (None, lambda um: {"wavelength": f"{um * 1000:.0f}"}),
    ],
)
def test_wavelengths_in_tags_tell_the_bands(
    tmp_path: Path, domain: str | None, describe: Callable[[float], dict[str, str]]
) -> None:
    path = write_tagged(tmp_path / "x.tif", [describe(um) for um in reordered(WAVELENGTHS)], domain)
    scene = opened(path)
    assert indexes(scene) == EXPECTED
    assert any("by their wavelengths: blue 0.49 µm, green" in warning for warning in scene.warnings)
    named = opened(path, [BandNeed("a", 0.66), BandNeed("b", 0.5), BandNeed("c", 0.85)])
    assert indexes(named) == [1, 3, 4]


@pytest.mark.parametrize(("factor", "unit"), [(1000, "Nanometers"), (1, "Micrometers")])
def test_wavelengths_of_an_envi_header_tell_the_bands(tmp_path: Path, factor: float, unit: str) -> None:
    plain = write_geotiff(tmp_path / "plain.tif", NUMBERS[list(RED_FIRST)])
    rasterio.shutil.copy(plain, tmp_path / "x.dat", driver="ENVI")
    header = tmp_path / "x.hdr"
    lines = [line for line in header.read_text().splitlines() if not line.startswith(("band names", "Band "))]
    listed = ", ".join(str(um * factor) for um in reordered(WAVELENGTHS))
    header.write_text("\n".join([*lines, f"wavelength units = {unit}", f"wavelength = {{{listed}}}"]))
    assert indexes(opened(tmp_path / "x.dat")) == EXPECTED


def test_wavelengths_in_descriptions_tell_the_bands(tmp_path: Path) -> None:
    names = tuple(f"Band {i} ({um * 1000:.1f} Nanometers)" for i, um in enumerate(reordered(WAVELENGTHS), start=1))
    assert indexes(opened(write_geotiff(tmp_path / "x.tif", NUMBERS, names=names))) == EXPECTED


def test_wavelengths_that_fit_no_band_leave_the_order_open(tmp_path: Path) -> None:
    tags = [{"CENTRAL_WAVELENGTH_UM": str(um)} for um in (0.49, 0.56, 0.665, 0.705, 0.74, 0.783)]
    path = write_tagged(tmp_path / "x.tif", tags, "IMAGERY")
    with pytest.raises(InputError, match=r"do not match the model.*--bands"):
        opened(path)
    assert indexes(opened(path, bands=tuple("123456"))) == [1, 2, 3, 4, 5, 6]


def test_names_and_numbers_that_contradict_wavelengths_are_refused(tmp_path: Path) -> None:
    tags = [{"CENTRAL_WAVELENGTH_UM": str(um)} for um in reordered(WAVELENGTHS)]
    for name, names in (("x", BAND_NAMES), ("S2A_stack", SENTINEL_2)):
        path = write_tagged(tmp_path / f"{name}.tif", tags, "IMAGERY", names=names)
        with pytest.raises(InputError, match=r"contradict their wavelengths: got .* for blue, at 0.665 µm.*--bands"):
            opened(path)
        assert indexes(opened(path, bands=tuple("321456"))) == EXPECTED


def test_colours_of_a_picture_are_what_is_shown_and_not_what_was_measured(tmp_path: Path) -> None:
    tags = [{"CENTRAL_WAVELENGTH_UM": str(um)} for um in (0.842, 0.665, 0.56)]
    false_colour = write_tagged(tmp_path / "x.tif", tags, "IMAGERY", photometric="RGB")
    with pytest.raises(InputError, match="--bands"):
        opened(false_colour, SIX[:3])
    assert indexes(opened(false_colour, SIX[1:4])) == [3, 2, 1]


@pytest.mark.parametrize(
    ("value", "unit", "um"),
    [
        ("665", "", 0.665),
        ("0.665", "", 0.665),
        (665, "nm", 0.665),
        ("10.9", "um", 10.9),
        ("665", "Index", None),
        ("15000", "Wavenumber", None),
        ("665", "Unknown", 0.665),
        ("-1", "", None),
        ("nan", "", None),
        (None, "", None),
        ("x", "nm", None),
    ],
)
def test_wavelengths_have_units(value: object, unit: str, um: float | None) -> None:
    assert parse_wavelength(value, unit) == (None if um is None else pytest.approx(um))


def test_wavelengths_stand_in_texts() -> None:
    assert find_wavelength("B4, central wavelength 665 nm") == pytest.approx(0.665)
    assert find_wavelength("0.49 µm") == pytest.approx(0.49)
    assert find_wavelength("FWHM 15 nm") is None and find_wavelength("B4") is None


# --- coordinates of arrays -------------------------------------------------------------------------------


def write_cube(
    path: Path, dimension: str, coordinate: Sequence[Any] | None, *, beside: str | None = None, **attributes: str
) -> Path:
    """A NetCDF file or a Zarr folder with one variable, whose bands begin with red; and names of them ``beside``."""
    x, y = UTM.c + 30 * (np.arange(EDGE) + 0.5), UTM.f - 30 * (np.arange(EDGE) + 0.5)
    axes = {name: {"standard_name": f"projection_{name}_coordinate", "units": "m"} for name in "xy"}
    pixels = NUMBERS[list(RED_FIRST)].astype("int16")
    own = {} if coordinate is None else {dimension: (dimension, list(coordinate), attributes)}
    dataset = xr.Dataset(
        {"refl": ((dimension, "y", "x"), pixels, {"grid_mapping": "spatial_ref", "scale_factor": 1e-4})},
        coords={"x": ("x", x, axes["x"]), "y": ("y", y, axes["y"]), **own},
    )
    dataset["spatial_ref"] = xr.DataArray(0, attrs=pyproj.CRS.from_epsg(32620).to_cf())
    if beside is not None:
        dataset = dataset.assign_coords({beside: (dimension, reordered(WAVELENGTHS))})
    if path.suffix == ".nc":
        dataset.to_netcdf(path)
    else:
        dataset.to_zarr(path, zarr_format=2, consolidated=False)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize(
    ("dimension", "coordinate", "attributes"),
    [
        ("band", reordered([2, 3, 4, 8, 11, 12]), {}),
        ("band", [float(number) for number in reordered([2, 3, 4, 8, 11, 12])], {}),
        ("wavelength", reordered([490.0, 560, 665, 842, 1610, 2190]), {}),
        ("band", reordered([490, 560, 665, 842, 1610, 2190]), {"units": "nm"}),
        ("wavelength", reordered(WAVELENGTHS), {"units": "um"}),
    ],
)
def test_coordinates_tell_the_bands(
    tmp_path: Path, suffix: str, dimension: str, coordinate: Sequence[Any], attributes: dict[str, str]
) -> None:
    cube = write_cube(tmp_path / f"x{suffix}", dimension, coordinate, **attributes)
    scene = opened(cube)
    assert indexes(scene) == EXPECTED
    np.testing.assert_array_equal(read_block(scene, Window(0, 0, EDGE, EDGE)).pixels, NUMBERS)


def test_texts_as_coordinates_tell_the_bands_of_a_zarr_array(tmp_path: Path) -> None:
    assert indexes(opened(write_cube(tmp_path / "x.zarr", "band", reordered(BAND_NAMES)))) == EXPECTED


@pytest.mark.parametrize("address", ["{}", "NETCDF:{}:refl"])
def test_texts_as_coordinates_of_netcdf_leave_the_order_open_and_are_no_bands(tmp_path: Path, address: str) -> None:
    path = address.format(write_cube(tmp_path / "x.nc", "band", reordered(BAND_NAMES)))
    with pytest.raises(InputError, match=r"do not match the model: got refl: band\[1\], .*--bands \(numbers"):
        opened(path)
    assert indexes(opened(path, bands=tuple("321456"))) == EXPECTED


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize(
    ("dimension", "coordinate"),
    [("time", None), ("time", range(1, 7)), ("depth", range(6)), ("time", range(0, 60, 10))],
)
def test_days_and_depths_are_no_bands(
    tmp_path: Path, suffix: str, dimension: str, coordinate: Sequence[int] | None
) -> None:
    cube = write_cube(tmp_path / f"x{suffix}", dimension, coordinate)
    with pytest.raises(InputError, match=rf"do not match the model: got .*{dimension}\[.*--bands"):
        opened(cube)
    assert indexes(opened(cube, bands=tuple("321456"))) == EXPECTED


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("coordinate", [range(1, 7), range(6)])
def test_coordinates_that_only_count_say_nothing(tmp_path: Path, suffix: str, coordinate: Sequence[int]) -> None:
    scene = opened(write_cube(tmp_path / f"x{suffix}", "band", coordinate))
    assert indexes(scene) == [1, 2, 3, 4, 5, 6]
    assert any("taken in the order blue, green" in warning for warning in scene.warnings)


@pytest.mark.parametrize("beside", ["wavelength", "band_name"])
@pytest.mark.parametrize(("suffix", "coordinate"), [(".nc", range(1, 7)), (".zarr", range(1, 7)), (".zarr", None)])
def test_coordinates_that_gdal_does_not_tell_leave_the_order_open(
    tmp_path: Path, suffix: str, coordinate: Sequence[int] | None, beside: str
) -> None:
    cube = write_cube(tmp_path / f"x{suffix}", "band", coordinate, beside=beside)
    with pytest.raises(InputError, match=r"do not match the model: got .*band\[1\].*--bands"):
        opened(cube)
    assert indexes(opened(cube, bands=tuple("321456"))) == EXPECTED


def test_coordinates_that_gdal_takes_for_those_of_the_dimension_tell_the_bands(tmp_path: Path) -> None:
    assert indexes(opened(write_cube(tmp_path / "x.nc", "band", None, beside="wavelength"))) == EXPECTED


# --- sources of VRTs -------------------------------------------------------------------------------------


def write_separate(folder: Path, files: Sequence[str], *, name: str = "stack", index: int = 1) -> Path:
    """A VRT such as ``gdalbuildvrt -separate`` writes, of single-band files that are written beside it."""
    bands = []
    for position, file in enumerate(files, start=1):
        if not (folder / file).exists():
            write_geotiff(folder / file, make_noise(1, EDGE, EDGE, low=500, high=4000))
        bands.append(f'<VRTRasterBand dataType="UInt16" band="{position}">{make_source(file, index)}</VRTRasterBand>')
    path = folder / f"{name}.vrt"
    path.write_text(make_vrt(bands))
    return path


@pytest.mark.parametrize(
    ("pattern", "bands"),
    [("{}.tif", BAND_NAMES), ("{}.tif", SENTINEL_2), ("T33TWN_20210408T095549_{}_10m.tif", SENTINEL_2)],
)
def test_the_files_of_a_vrt_name_its_bands(tmp_path: Path, pattern: str, bands: Sequence[str]) -> None:
    inner = write_separate(tmp_path, [pattern.format(band) for band in reordered(bands)])
    assert indexes(opened(inner)) == EXPECTED
    outer = tmp_path / "outer.vrt"
    rows = [make_source("stack.vrt", index) for index in reordered(range(1, 7))]
    outer.write_text(
        make_vrt(
            [f'<VRTRasterBand dataType="UInt16" band="{i}">{row}</VRTRasterBand>' for i, row in enumerate(rows, 1)]
        )
    )
    assert indexes(opened(outer)) == [1, 2, 3, 4, 5, 6]


def test_the_source_of_a_warped_vrt_names_its_bands(tmp_path: Path) -> None:
    stack = write_separate(tmp_path, [f"{band}.tif" for band in reordered(SENTINEL_2)])
    with rasterio.open(stack) as file, WarpedVRT(file, crs="EPSG:32620") as warped:
        rasterio.shutil.copy(warped, tmp_path / "warped.vrt", driver="VRT")
    text = (tmp_path / "warped.vrt").read_text()
    assert "GDALWarpOptions" in text and "Description" not in text
    assert indexes(opened(tmp_path / "warped.vrt")) == EXPECTED


def test_descriptions_and_wavelengths_of_the_files_of_a_vrt_count(tmp_path: Path) -> None:
    tags = [{"CENTRAL_WAVELENGTH_UM": str(um)} for um in WAVELENGTHS]
    write_tagged(tmp_path / "tagged.tif", tags, "IMAGERY")
    write_geotiff(tmp_path / "named.tif", NUMBERS, names=BAND_NAMES)
    for file in ("tagged.tif", "named.tif"):
        rows = [make_source(file, position + 1) for position in RED_FIRST]
        path = tmp_path / "stack.vrt"
        path.write_text(
            make_vrt(
                [f'<VRTRasterBand dataType="UInt16" band="{i}">{r}</VRTRasterBand>' for i, r in enumerate(rows, 1)]
            )
        )
        assert indexes(opened(path)) == EXPECTED


def test_files_of_a_vrt_whose_names_say_nothing_leave_the_order_open(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"do not match the model: got stack: a, stack: b, .*--bands"):
        opened(write_separate(tmp_path, [f"{name}.tif" for name in "abcdef"]))


def test_the_files_of_a_vrt_tell_the_product(tmp_path: Path) -> None:
    day = [f"T33TWN_20240408T095549_{band}_10m.tif" for band in SENTINEL_2]
    assert {band.offset for band in opened(write_separate(tmp_path, day), scale=None, offset=None).bands} == {-0.1}
    safe = "S2B_MSIL2A_20210408T095549_N0500_R122_T33TWN_20230408T121212.SAFE"
    product = [f"{safe}/GRANULE/L/IMG_DATA/{band}.tif" for band in SENTINEL_2]
    assert {band.offset for band in opened(write_separate(tmp_path, product), scale=None, offset=None).bands} == {-0.1}
    days = [f"T33TWN_20{21 + number % 2}0408T095549_{band}_10m.tif" for number, band in enumerate(SENTINEL_2)]
    with pytest.raises(InputError, match="--offset"):  # with and without the offset of 2022
        opened(write_separate(tmp_path, days, name="days"), scale=None, offset=None)


# --- pictures beside bands -------------------------------------------------------------------------------


def write_item(folder: Path, picture: dict[str, Any], bands: Sequence[str] = BAND_NAMES, **fields: Any) -> Path:
    write_geotiff(folder / "picture.tif", make_noise(3, EDGE, EDGE, high=255, dtype="uint8"))
    for name, numbers in zip(BAND_NAMES, NUMBERS, strict=True):
        write_geotiff(folder / f"{name}.tif", numbers[None])
    kind = {"type": "image/tiff; application=geotiff", "roles": ["data"]}
    colours = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    key = picture.pop("key")
    assets = {key: {**kind, "href": "./picture.tif", "gsd": 10, "eo:bands": colours, **picture}}
    for name in bands:
        assets[name] = {**kind, "href": f"./{name}.tif", "eo:bands": [{"common_name": name}], **fields}
    return write_source_item(folder, assets)


@pytest.mark.parametrize("key", ["visual", "TCI", "true-color", "rendered_preview", "rgb"])
def test_a_picture_in_an_item_is_no_band(tmp_path: Path, key: str) -> None:
    for needs in (SIX, SIX[:3]):
        scene = opened(write_item(tmp_path, {"key": key}), needs)
        assert [Path(band.path).stem for band in scene.bands] == [need.name for need in needs]
    eight = {"raster:bands": [{"data_type": "uint8"}] * 3}
    rest = write_item(tmp_path, {"key": "x", **eight}, BAND_NAMES[3:], **{"raster:bands": [{"data_type": "uint16"}]})
    for path in (rest, write_item(tmp_path, {"key": "visual"}, BAND_NAMES[3:])):
        with pytest.raises(InputError, match=r"do not match the model: got .*red.*--bands"):
            opened(path)
    assert indexes(opened(write_item(tmp_path, {"key": key}, ()), SIX[:3])) == [3, 2, 1]  # there is nothing else


def test_a_picture_in_a_folder_is_no_band(tmp_path: Path) -> None:
    for name, numbers in zip(SENTINEL_2, NUMBERS, strict=True):
        write_geotiff(tmp_path / f"T33TWN_20210408T095549_{name}.tif", numbers[None])
    picture = make_noise(3, EDGE, EDGE, high=255, dtype="uint8")
    write_geotiff(tmp_path / "T33TWN_20210408T095549_X.tif", picture, names=("red", "green", "blue"))
    scene = opened(tmp_path, SIX[:3])
    assert [Path(band.path).stem[-3:] for band in scene.bands] == ["B02", "B03", "B04"]


# --- numbers of sensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("product", "numbers"),
    [
        ("LISS3_R2F12DEC2018", "2345"),
        ("CBERS_4A_WPM_20210408", "02 03 04"),
        ("AST_L1T_00304082021", "2 3 4"),
        ("MOD09GA.A2021098", "2 3 4 8 11 12"),
        ("GF1_WFV1_E15.0", "2 3 4"),
    ],
)
def test_numbers_of_other_sensors_are_refused(tmp_path: Path, product: str, numbers: str) -> None:
    listed = numbers.split() if " " in numbers else list(numbers)
    for number in listed:
        write_geotiff(tmp_path / product / f"BAND{number}.tif", make_noise(1, EDGE, EDGE))
    with pytest.raises(InputError, match=r"a meaning that is not known: got .*--bands"):
        opened(tmp_path / product, SIX[:3])
    scene = opened(tmp_path / product, SIX[:3], bands=tuple(f"BAND{number}" for number in listed[:3]))
    assert [Path(band.path).stem for band in scene.bands] == [f"BAND{number}" for number in listed[:3]]


def test_a_nameless_stack_of_another_sensor_is_not_taken_in_order(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"do not match the model.*--bands"):
        opened(write_geotiff(tmp_path / "MOD09A1.A2021097.tif", NUMBERS))


def test_numbers_without_a_sensor_are_an_assumption(tmp_path: Path) -> None:
    for number in (2, 3, 4, 5):
        write_geotiff(tmp_path / "scene" / f"BAND{number}.tif", make_noise(1, EDGE, EDGE))
    scene = opened(tmp_path / "scene", SIX[:3])
    assert any(
        "taken for those of Sentinel-2 or Landsat 8/9; --bands says otherwise" in warning for warning in scene.warnings
    )


@pytest.mark.parametrize(
    ("numbers", "needs", "warned"),
    [
        ("02 03 04", SIX[:3], False),
        ("02 03 04 08 11 12", SIX, False),
        ("02 03 04 05 06 07", SIX[:3], False),  # the same in Landsat 8
        ("02 03 04 05 06 07", SIX, True),  # Landsat 8 alone has these six
        ("2 3 4", SIX[:3], True),
    ],
)
def test_numbers_as_sentinel_2_has_them_are_no_assumption(
    tmp_path: Path, numbers: str, needs: Sequence[BandNeed], warned: bool
) -> None:
    for number in numbers.split():
        write_geotiff(tmp_path / "scene" / f"B{number}.tif", make_noise(1, EDGE, EDGE))
    warnings = opened(tmp_path / "scene", needs).warnings
    assert any("names no sensor" in warning for warning in warnings) is warned


def test_numbers_with_two_meanings_stay_refused_whatever_way_they_are_written(tmp_path: Path) -> None:
    for number in ("01", "02", "03", "04", "05", "07"):  # Landsat 5: blue is B01
        write_geotiff(tmp_path / "scene" / f"B{number}.tif", make_noise(1, EDGE, EDGE))
    with pytest.raises(InputError, match=r"more than one meaning.*--bands"):
        opened(tmp_path / "scene", SIX[:3])


def test_names_of_sensors_are_words() -> None:
    for text in ("Amazonia1_WFI", "cbers4-mux", "AWiFS", "SPOT5_HRG", "S3A_OL_1_EFR", "ZY3"):
        assert find_other_sensor(text) and not recognize_sensors(text), text
    for text in ("Lancaster", "Spotsylvania", "disaster_2021", "prismatic", "S2A_MSIL2A", "LC08_L2SP", "gf", "x"):
        assert find_other_sensor(text) is None, text


def test_all_that_names_a_satellite_is_in_one_list() -> None:
    for text in ("skysat_1", "IMG_PHR1A_MS", "GE01_2023", "QB02_x", "PNEO3_x", "EMIT_L2A_RFL", "PRS_L2D_STD"):
        assert find_other_sensor(text) and names_satellite(text), text
    for text in (
        "AWIFS_1",
        "EO1_HYPERION",
        "VIIRS_x",
        "AVHRR_x",
        "20230408_LEVEL2_SEN2A_BOA",
        "S1A_IW",
        "landsat_mosaic",
    ):
        assert names_satellite(text), text
    for text in ("field_20230408", "remittance", "emitter", "level2_x", "geology01"):
        assert not names_satellite(text), text


def test_temperatures_and_masks_are_no_bands_of_a_sensor(tmp_path: Path) -> None:
    for text in ("ST_B6", "ST_B10", "LE07_X_ST_B6", "QA_B2", "MSK_CLASSI_B00", "MSK_DETFOO_B02", "B04_QA", "B8A_mask"):
        assert parse_band_number(text) is None, text
    for text in ("B04_mask_2", "B04-cloud20", "B04_clouds_20m", "T33TWN_B04_quality"):
        assert parse_band_number(text) is None, text
    for text, number in (("SR_B4", "4"), ("T33TWN_B8A", "8A"), ("Band 7", "7"), ("EAST_B04", "4"), ("B04_10m", "4")):
        assert parse_band_number(text) == number, text
    for text, number in (("B02_cloud_free", "2"), ("B04_mask_applied", "4"), ("B8A_QA_checked", "8A")):
        assert parse_band_number(text) == number, text
    reflectances = [f"SR_B{number}" for number in (1, 2, 3, 4, 5, 7)]
    for extra, expected in ((["ST_B6", "QA_PIXEL"], [1, 2, 3, 4, 5, 6]), (["QA_PIXEL", "ST_B6"], [1, 2, 3, 4, 5, 6])):
        names = (*reflectances, *extra)
        path = write_geotiff(tmp_path / "ee.tif", make_noise(len(names), EDGE, EDGE), names=names)
        assert indexes(opened(path)) == expected and indexes(opened(path, SIX[:3])) == [1, 2, 3]
    names = (*(f"SR_B{number}" for number in (2, 3, 4, 5, 7)), "ST_B10")
    path = write_geotiff(tmp_path / "lc.tif", make_noise(6, EDGE, EDGE), names=names)
    assert indexes(opened(path, SIX[:3])) == [1, 2, 3]
    with pytest.raises(InputError, match="--bands"):
        opened(path, [*SIX[:3], BandNeed("lwir11")])
