"""Opening scenes: which bands, what their numbers mean, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pystac
import pytest
import rasterio
import shapely
import shapely.geometry
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.warp import transform
from shapely import from_wkt

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.aoi import read_aoi
from seamline.pipeline.scenes.band_matching import BandCandidate, BandNeed, match_bands
from seamline.pipeline.scenes.open_scene import SceneOptions, make_scene_id, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, UTM, make_noise, write_geotiff

SIX = tuple(map(BandNeed, BAND_NAMES))
RGB = SIX[2::-1]
RGB_NAMES = tuple(need.name for need in RGB)


def opened(source: Any, needs: Sequence[BandNeed] = RGB, assumed_nodata: float | None = None, **options: Any) -> Scene:
    return open_scene(source, needs, SceneOptions(**options), assumed_nodata=assumed_nodata)


def chosen(scene: Scene) -> list[str]:
    return [f"{Path(band.path).name}:{band.index}" for band in scene.bands]


# --- real scenes -----------------------------------------------------------------------------------------


def test_a_landsat_scene_says_everything_itself() -> None:
    scene = opened(find_shared(MANAUS), SIX, assumed_nodata=0)
    assert [(band.name, band.index) for band in scene.bands] == list(zip(BAND_NAMES, range(1, 7), strict=True))
    assert {(band.scale, band.offset, band.nodata) for band in scene.bands} == {(2.75e-5, -0.2, 0)}
    assert (scene.grid.crs.epsg, tuple(scene.grid.shape), scene.dtype) == (32620, (468, 851), "uint16")
    assert scene.id == Path(MANAUS).stem and scene.warnings == ()


@pytest.mark.parametrize(
    "folder, files", [("aquileia-s2", "02 03 04 08 11 12"), ("madagascar-l8-2020", "02 03 04 05 06 07")]
)
def test_band_files_are_told_apart_by_sensor(folder: str, files: str) -> None:
    scene = opened(find_shared(folder), SIX, assumed_nodata=0)
    assert chosen(scene) == [f"B{number}.tiff:1" for number in files.split()]
    assert scene.id == folder and {band.scale for band in scene.bands} == {1 / 65535}
    assert any("/ 65535 is assumed" in warning for warning in scene.warnings)
    assert any("taken for those of Landsat 8/9" in w for w in scene.warnings) == (folder[0] == "m")
    block = read_block(scene, Window(0, 0, *scene.grid.shape))
    np.testing.assert_array_equal(block.valid, (block.pixels != 0).any(axis=0))
    assert not block.valid.all()


def test_a_height_above_the_ellipsoid_is_no_part_of_the_grid(tmp_path: Path) -> None:
    """GeoTIFF cannot hold a projected CRS with one; labels have none."""
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 8, 8), crs="EPSG:32633+4979", names=("red", "green", "blue"))
    scene = opened(path)
    assert scene.grid.crs.epsg == 32633 and len(scene.grid.crs.proj.axis_info) == 2
    heights = write_geotiff(
        tmp_path / "y.tif", make_noise(3, 8, 8), crs="EPSG:32633+5773", names=("red", "green", "blue")
    )
    assert opened(heights).grid.crs.proj.is_compound  # which GeoTIFF holds


def test_files_that_say_nothing_are_called_as_they_are_named(tmp_path: Path) -> None:
    for name in BAND_NAMES:
        size = 20 if name.startswith("swir") else 40
        grid = Affine(1200 / size, 0, 500_000, 0, -1200 / size, 6_000_000)
        write_geotiff(tmp_path / "scene" / f"{name}.tif", np.full((1, size, size), 1000, np.uint16), transform=grid)
    scene = opened(tmp_path / "scene", SIX, assumed_nodata=0)
    assert chosen(scene) == [f"{name}.tif:1" for name in BAND_NAMES]
    assert tuple(scene.grid.shape) == (40, 40)


def test_a_file_that_names_nothing_is_taken_by_position() -> None:
    scene = opened(find_shared("stars/L7_ETMs.tif"), SIX)
    assert [band.index for band in scene.bands] == [1, 2, 3, 4, 5, 6]
    assert {(band.scale, band.nodata) for band in scene.bands} == {(1 / 255, None)}
    assert any("in the order blue, green, red, nir, swir16, swir22" in warning for warning in scene.warnings)


# --- which bands -----------------------------------------------------------------------------------------


def _files(*stems: str) -> list[BandCandidate]:
    return [BandCandidate(f"/x/{stem}.tif", 1, (), stem, is_only_band=True, is_described=False) for stem in stems]


def _described(*labels: str) -> list[BandCandidate]:
    return [BandCandidate("/x.tif", n, (label,), "x", False, True) for n, label in enumerate(labels, 1)]


def _numbers(prefix: str, *numbers: str) -> list[BandCandidate]:
    return _files(*(prefix + number for number in numbers))


LANDSAT7 = ("1", "2", "3", "4", "5", "6_VCID_1", "7")
SENTINEL2 = ("01", "02", "03", "04", "05", "06", "07", "08", "8A", "09", "11", "12")


@pytest.mark.parametrize(
    "candidates, expected",
    [
        (
            _described("SWIR22", "Blue", "GREEN", "red", "nir08", "swir1", "qa"),
            "Blue GREEN red nir08 swir1 SWIR22",
        ),
        (_described("B", "G", "R", "N", "swir1", "swir2"), "B G R N swir1 swir2"),
        (_described("B2", "B3", "B4", "B8", "B8A", "B11", "B12"), "B2 B3 B4 B8 B11 B12"),
        (_numbers("B", *SENTINEL2), "B02 B03 B04 B08 B11 B12"),
        (_numbers("T32TQM_20220301T101010_B", "02", "03", "04", "8A", "11", "12"), "02 03 04 8A 11 12"),
        (_numbers("LC08_L2SP_1_02_T1_SR_B", "1", "2", "3", "4", "5", "6", "7"), "2 3 4 5 6 7"),
        (_numbers("LE07_L1TP_1_B", *LANDSAT7), "1 2 3 4 5 7"),
    ],
)
def test_names_of_bands(candidates: list[BandCandidate], expected: str) -> None:
    found, warnings = match_bands(SIX, candidates, (), "scene")
    got = [(c.labels or (c.stem,))[0] for c in found]
    assert all(name.endswith(end) for name, end in zip(got, expected.split(), strict=True)), got
    assert not warnings


def test_band_numbers_without_a_sensor() -> None:
    """One meaning is enough, be it of several tables, but it is an assumption."""
    found, warnings = match_bands(RGB, _numbers("B", "2", "3", "4"), (), "scene")
    assert [c.stem for c in found] == ["B4", "B3", "B2"]
    assert "those of Sentinel-2 or Landsat 8/9; --bands says otherwise" in warnings[0]
    found, warnings = match_bands(RGB, _numbers("B", "02", "03", "04"), (), "scene")  # as Sentinel-2 has them
    assert [c.stem for c in found] == ["B04", "B03", "B02"] and not warnings
    found, warnings = match_bands(SIX, _described("qa", *(f"B{n}" for n in range(2, 8))), (), "scene")
    assert [c.index for c in found] == [2, 3, 4, 5, 6, 7] and "taken for those of Landsat 8/9" in warnings[0]


@pytest.mark.parametrize(
    "candidates, requested, message",
    [
        (_numbers("B", "1", "2", "3", "4", "5", "6", "7"), (), "more than one meaning: got 1, 2, .*--bands"),
        (
            _described("red", "green"),
            (),
            "do not match the model: got x: red, x: green, expected red, green, blue",
        ),
        (_files("a", "b", "c"), (), "do not match the model: got a: band 1"),
        (_described("red", "green", "blue", "Red"), (), "more than one band is 'red'"),
        (_described("a", "b"), ("1", "2"), r"got 2 bands \(1, 2\), expected 3 \(red, green, blue\)"),
        (_described("a", "b", "c"), ("a", "b", "d"), "no band 'd': got x: a, x: b, x: c"),
        (_described("a", "b", "c"), ("1", "2", "4"), "no band '4'"),
    ],
)
def test_bands_that_cannot_be_told(candidates: list[BandCandidate], requested: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_bands(RGB, candidates, requested, "scene")


@given(st.permutations(range(1, 8)))
def test_the_users_bands_are_the_bands(order: list[int]) -> None:
    candidates = _described(*(f"band {n}" for n in range(1, 8)))
    for requested in ([str(n) for n in order[:3]], [f"BAND {n}" for n in order[:3]]):
        found, _ = match_bands(RGB, candidates, requested, "scene")
        assert [c.index for c in found] == order[:3]


def test_a_band_that_is_given_twice_is_warned_of(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 20, 30), nodata=0)
    needs = [BandNeed(name, None) for name in ("red", "green", "nir")]
    warnings = open_scene(path, needs, SceneOptions(bands=("1", "2", "1"), scale=1e-4)).warnings
    assert f"--bands gives band 1 of {path} for red, nir" in warnings
    assert not any("--bands gives" in text for text in open_scene(path, needs, SceneOptions(("3", "2", "1"))).warnings)


def test_of_equal_bands_the_nearest_and_finest_is_taken(tmp_path: Path) -> None:
    edges = [
        BandCandidate(f"/{n}.tif", 1, ("rededge",), n, True, True, pixel_size=size, wavelength=wavelength)
        for n, wavelength, size in [("B05", 0.705, 20), ("B06", 0.74, 20), ("B06_60m", 0.74, 60)]
    ]
    assert match_bands([BandNeed("rededge", 0.74)], edges, (), "s")[0][0].stem == "B06"
    assert match_bands([BandNeed("edge", None, ("RedEdge",))], edges[1:], (), "s")[0][0].stem == "B06"
    for size, folder in [(10, "R10m"), (20, "R20m")]:
        at = tmp_path / "S2A_MSIL2A_20220301T1_N0400_R1_T32TQM_1.SAFE/GRANULE/L2A/IMG_DATA" / folder
        for number in ("02", "03", "04"):
            grid = Affine(size, 0, 0, 0, -size, 0)
            write_geotiff(
                at / f"T32TQM_20220301T1_B{number}_{size}m.tif",
                make_noise(1, 200 // size, 200 // size),
                transform=grid,
            )
            (at / f"T32TQM_20220301T1_B{number}_{size}m.tif").rename(at / f"T32TQM_B{number}_{size}m.jp2")
        write_geotiff(at / "TCI.tif", make_noise(3, 200 // size, 200 // size, high=9, dtype="u1"), photometric="RGB")
        (at / "TCI.tif").rename(at / "T32TQM_TCI.jp2")
    scene = opened(next(tmp_path.iterdir()))
    assert chosen(scene) == [f"T32TQM_B{number}_10m.jp2:1" for number in ("04", "03", "02")]
    assert {(band.scale, band.offset) for band in scene.bands} == {(1e-4, -0.1)}


def test_folders_and_archives_are_one_scene(tmp_path: Path) -> None:
    name = "LC09_L2SP_231062_20230723_20230802_02_T1"
    paths = [
        write_geotiff(tmp_path / name / f"{name}_SR_B{n}.TIF", make_noise(1, 9, 9, seed=n, low=8000)) for n in (2, 3, 4)
    ]
    scene = opened(tmp_path / name)
    assert scene.id == name and scene.source == str(tmp_path / name)
    assert scene.datetime == datetime(2023, 7, 23, tzinfo=UTC)  # by the name, since the files do not say it
    (tmp_path / name / f"{name}_MTL.txt").write_text('    SCENE_CENTER_TIME = "14:12:31.2799050Z"\n')
    assert opened(tmp_path / name).datetime == datetime(2023, 7, 23, 14, 12, 31, tzinfo=UTC)
    assert {(band.scale, band.offset) for band in scene.bands} == {(2.75e-5, -0.2)}
    with zipfile.ZipFile(tmp_path / "scene 1.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"inner/{path.name}")
    zipped = opened(tmp_path / "scene 1.zip")
    assert zipped.id == make_scene_id("scene 1")
    window = Window(0, 0, 9, 9)
    np.testing.assert_array_equal(read_block(zipped, window).pixels, read_block(scene, window).pixels)
    assert zipped.compute_digest() != opened(tmp_path / "scene 1.zip", [*RGB[1:], RGB[0]]).compute_digest()


# --- STAC ------------------------------------------------------------------------------------------------


def _band(name: str, version: str) -> dict[str, Any]:
    if version == "1.1.0":
        return {"bands": [{"eo:common_name": name, "raster:scale": 1e-4, "raster:offset": -0.01, "nodata": 7}]}
    numbers = {"scale": 1e-4, "offset": -0.01, "nodata": 7}
    return {"eo:bands": [{"name": f"B-{name}", "common_name": name}], "raster:bands": [numbers]}


def _item(folder: Path, version: str, **properties: Any) -> Path:
    for n in range(3):
        write_geotiff(folder / "files" / f"{n}.tif", make_noise(1, 8, 9, seed=n))
    write_geotiff(folder / "files" / "visual.tif", make_noise(3, 8, 9), photometric="RGB")
    assets = {
        name: {"href": f"./files/{n}.tif", "type": "image/tiff; application=geotiff", **_band(name, version)}
        for n, name in enumerate(("red", "green", "blue"))
    }
    colours = [_band(name, version) for name in ("red", "green", "blue")]
    visual = {key: [band[key][0] for band in colours] for key in colours[0]}
    assets["visual"] = {"href": "files/visual.tif", "type": "image/tiff", **visual}
    assets["metadata"] = {"href": "files/x.xml", "type": "application/xml"}
    item = {
        "type": "Feature",
        "stac_version": version,
        "stac_extensions": [],
        "id": "S2A: 1/2",
        "geometry": None,
        "properties": {"datetime": "2023-07-23T14:00:00Z", **properties},
        "links": [],
        "assets": assets,
    }
    path = folder / "item.json"
    path.write_text(json.dumps(item))
    return path


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_stac_items_name_bands_scales_and_nodata(tmp_path: Path, version: str) -> None:
    path = _item(tmp_path, version)
    assert pystac.Item.from_file(path).assets.keys() > {"red"}
    scene = opened(path)
    assert chosen(scene) == ["0.tif:1", "1.tif:1", "2.tif:1"]
    assert {(band.scale, band.offset, band.nodata) for band in scene.bands} == {(1e-4, -0.01, 7)}
    assert (scene.id, scene.datetime) == ("S2A-1-2-9eed8062", datetime(2023, 7, 23, 14, tzinfo=UTC))
    assert chosen(opened(path, bands=("blue", "red", "green"))) == ["2.tif:1", "0.tif:1", "1.tif:1"]
    assert {band.scale for band in opened(path, scale=3).bands} == {3}
    np.testing.assert_array_equal(read_block(scene, Window(0, 0, 8, 9)).pixels[1], make_noise(1, 8, 9, seed=1)[0])


@pytest.mark.parametrize(
    ("declared", "expected"), [({}, 7), ({"nodata": 7}, 7), ({"nodata": 9}, 9), ({"nodata": 0}, 0)]
)
def test_what_the_file_says_of_nodata_goes_before_the_item(
    tmp_path: Path, declared: dict[str, Any], expected: int
) -> None:
    path = _item(tmp_path, "1.0.0")
    for n in range(3):
        write_geotiff(tmp_path / "files" / f"{n}.tif", make_noise(1, 8, 9, seed=n), **declared)
    scene = opened(path)
    assert {band.nodata for band in scene.bands} == {expected}
    assert any("the file is followed" in warning for warning in scene.warnings) == (expected != 7)
    assert {band.nodata for band in opened(path, nodata=5).bands} == {5}


def test_a_mask_of_the_file_holds_beside_the_nodata_of_the_item(tmp_path: Path) -> None:
    path = _item(tmp_path, "1.0.0")
    mask = np.full((8, 9), 255, np.uint8)
    mask[:3] = 0
    for n in range(3):
        with rasterio.open(tmp_path / "files" / f"{n}.tif", "r+") as file:
            file.write_mask(mask)
    scene = opened(path)
    assert {band.nodata for band in scene.bands} == {7} and any("a mask" in warning for warning in scene.warnings)
    np.testing.assert_array_equal(read_block(scene, Window(0, 0, 8, 9)).valid, mask > 0)


@pytest.mark.parametrize(("number", "bad"), [("scale", 0), ("scale", "NaN"), ("offset", "Infinity")])
@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_items_whose_numbers_give_no_values_are_refused(tmp_path: Path, version: str, number: str, bad: Any) -> None:
    path = _item(tmp_path, version)
    item = json.loads(path.read_text())
    band = item["assets"]["green"]["bands" if version == "1.1.0" else "raster:bands"][0]
    band[f"raster:{number}" if version == "1.1.0" else number] = bad
    path.write_text(json.dumps(item))
    with pytest.raises(InputError, match=rf"1\.tif, band green: got {number} .*, expected .*--scale and --offset"):
        opened(path)
    assert {band.scale for band in opened(path, scale=3, offset=0).bands} == {3}


def test_an_offset_that_is_applied_already_is_not_applied_again(tmp_path: Path) -> None:
    scene = opened(_item(tmp_path, "1.0.0", **{"earthsearch:boa_offset_applied": True}))
    assert {(band.scale, band.offset) for band in scene.bands} == {(1e-4, 0)}
    assert "already applied" in scene.warnings[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"type": "FeatureCollection", "features": []}', '{"id": 3}'])
def test_what_is_no_item_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "item.json").write_text(content)
    with pytest.raises(InputError, match=r"cannot read .*item\.json.*expected a STAC item"):
        opened(tmp_path / "item.json")


# --- what the numbers mean -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, high, expected, warns",
    [
        ("uint16", 15_000, 1 / 10_000, True),
        ("int16", 15_000, 1 / 10_000, True),
        ("uint16", 60_000, 1 / 65_535, True),
        ("uint8", 255, 1 / 255, True),
        ("float32", 2, 1, False),
    ],
)
def test_scales_that_no_one_states(tmp_path: Path, dtype: str, high: int, expected: float, warns: bool) -> None:
    pixels = make_noise(3, 64, 64, low=0, high=high, dtype=dtype)
    pixels[:, :20] = np.iinfo(dtype).max if dtype == "uint16" else 0
    names = ("red", "green", "blue")
    path = write_geotiff(tmp_path / "x.tif", pixels, names=names, nodata=float(pixels[0, 0, 0]))
    scene = opened(path)
    assert {(band.scale, band.offset) for band in scene.bands} == {(expected, 0)}
    assert [("reflectance = number" in w and "--scale" in w) for w in scene.warnings] == [True] * warns
    plain = open_scene(path, RGB, SceneOptions(), reflectance=False)
    assert {(band.scale, band.offset) for band in plain.bands} == {(1, 0)} and not plain.warnings
    given = opened(path, scale=0.25, offset=2).bands
    assert {(band.scale, band.offset) for band in given} == {(0.25, 2)}


def test_nodata_that_no_one_states_is_assumed_with_a_warning(tmp_path: Path) -> None:
    pixels = np.ones((3, 4, 5), dtype="float32")
    pixels[:, 0, 0], pixels[0, 1, 1] = 0, 0
    path = write_geotiff(tmp_path / "x.tif", pixels, names=("red", "green", "blue"))
    scene = opened(path, assumed_nodata=0)
    assert np.argwhere(~read_block(scene, Window(0, 0, 4, 5)).valid).tolist() == [[0, 0]]
    assert "pixels that are 0 in all of them" in scene.warnings[0]
    for taken, told in ((opened(path), True), (opened(path, assumed_nodata=0, nodata="none"), False)):
        assert any("5.0% of the pixels are 0 in every band" in warning for warning in taken.warnings) == told
        assert read_block(taken, Window(0, 0, 4, 5)).valid.all()
    assert opened(path, nodata=0.1).bands[0].nodata == float(np.float32(0.1))


@pytest.mark.parametrize(
    "tags, expected",
    [
        ({"TIFFTAG_DATETIME": "2020:01:02 03:04:05"}, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ({"datetime": "2020-01-02T03:04:05+02:00"}, datetime(2020, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ({"ACQUISITIONDATETIME": "2020-01-02 03:04:05"}, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ({"TIFFTAG_DATETIME": "last week"}, None),
        ({"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None),
        ({"datetime": "0001-01-01T00:00:00+05:00"}, None),  # before the first year in UTC
        ({"datetime": "9999-12-31T23:59:59-05:00"}, None),
    ],
)
def test_dates_of_files(tmp_path: Path, tags: dict[str, str], expected: datetime | None) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 4, 4))
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    assert opened(path).datetime == expected


def test_the_date_of_the_product_goes_before_that_of_the_file(tmp_path: Path) -> None:
    """Programs that convert a file write there when they did so."""
    path = write_geotiff(
        tmp_path / "S2B_MSIL2A_20190617T101041_N0207_R022_T32TQM_20190618T001655.tif", make_noise(3, 4, 4)
    )
    for tags, expected in (
        ({"TIFFTAG_DATETIME": "2024:11:02 12:00:00"}, datetime(2019, 6, 17, 10, 10, 41, tzinfo=UTC)),
        ({"ACQUISITIONDATETIME": "2019-06-17 10:10:40"}, datetime(2019, 6, 17, 10, 10, 40, tzinfo=UTC)),
    ):
        with rasterio.open(path, "r+") as file:
            file.update_tags(**tags)
        assert opened(path, bands=("1", "2", "3")).datetime == expected


def test_an_item_of_the_last_year_has_no_date(tmp_path: Path) -> None:
    assert opened(_item(tmp_path, "1.0.0", datetime="9999-12-31T23:59:59-05:00")).datetime is None


def test_names_that_lose_something_keep_apart() -> None:
    names = [
        "東京",
        "大阪",
        "Zürich",
        "Zörich",
        *"🛰🌍→☃-_.",
        "###",
        "---",
        "",
        "a b",
        "a☃b",
        "a  b",
        "_a",
        "a/b",
        "a:b",
        "x" * 300,
    ]
    names += ["scene", "Zurich", "a-b", "a", "S2A_MSIL2A.SAFE", "x.y_z-1"]
    ids = [make_scene_id(name) for name in names]
    assert len({scene.casefold() for scene in ids}) == len(names) and ids[-6:] == names[-6:]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", scene) for scene in ids)
    assert make_scene_id(unicodedata.normalize("NFD", "Zürich")) == ids[2]  # as macOS writes it


# --- what is refused -------------------------------------------------------------------------------------


def _text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _short(path: Path) -> Path:
    return _text(path, write_geotiff(path, make_noise(3, 64, 64)).read_bytes()[:100])


def _with_points(path: Path) -> Path:
    write_geotiff(path, make_noise(3, 8, 8), crs=None, transform=Affine.identity())
    with rasterio.open(path, "r+") as file:
        corners = [(0, 0), (0, 8), (8, 0), (8, 8)]
        points = [GroundControlPoint(row, col, col * 2, row * 3) for row, col in corners]
        file.gcps = points, CRS.from_epsg(32620)
    return path


def _pair(folder: Path, **second: Any) -> Path:
    write_geotiff(folder / "pair/B02.tif", make_noise(2, 9, 9), names=("red", "green"))
    write_geotiff(folder / "pair/B03.tif", make_noise(1, 9, 9), names=("blue",), **second)
    return folder / "pair"


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda d: d / "no.tif", r"no such file: got .*no\.tif, .*check the path"),
    "empty": (lambda d: _text(d / "x.tif", b""), r"cannot open .*x\.tif: got "),
    "no raster": (lambda d: _text(d / "x.tif", b"hello"), r"cannot open .*x\.tif: got .*not recognized"),
    "cut header": (lambda d: _short(d / "x.tif"), r"cannot open .*x\.tif: got .*TIFF"),
    "empty folder": (lambda d: d, "no rasters in"),
    "bad archive": (lambda d: _text(d / "x.zip", b"PK"), r"cannot open .*x\.zip"),
    "a rotated pole": (
        lambda d: write_geotiff(
            d / "x.tif",
            make_noise(3, 8, 8),
            transform=Affine(0.01, 0, -5, 0, -0.01, 5),
            crs="+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +to_meter=0.0174532925199433",
        ),
        "a CRS that a GeoTIFF cannot hold",
    ),
    "no CRS": (lambda d: write_geotiff(d / "x.tif", make_noise(3, 8, 8), crs=None), "no georeference: got no CRS"),
    "no place": (
        lambda d: write_geotiff(d / "x.tif", make_noise(3, 8, 8), transform=Affine.identity()),
        "no georeference: got no transform",
    ),
    "GCPs": (lambda d: _with_points(d / "x.tif"), "ground control points, .*`gdalwarp` first"),
    "complex": (lambda d: write_geotiff(d / "x.tif", make_noise(3, 8, 8).astype("c8")), "no model takes .*complex64"),
    "64 bits": (lambda d: write_geotiff(d / "x.tif", make_noise(3, 8, 8).astype("i8")), "no model takes .*int64"),
    "CRS": (lambda d: _pair(d, crs="EPSG:32621"), r"B0\d\.tif differ in CRS: got EPSG:3262\d and EPSG"),
    "ground": (
        lambda d: _pair(d, transform=UTM @ Affine.translation(1, 0)),
        "cover different ground: got edges 1 pixels apart",
    ),
    "size": (lambda d: _pair(d, transform=UTM @ Affine.scale(3)), "cover different ground"),
    "rotation": (lambda d: _pair(d, transform=UTM @ Affine.rotation(10)), "cover different ground"),
    "shear": (lambda d: _pair(d, transform=UTM @ Affine.shear(10)), "cover different ground"),
    "few bands": (
        lambda d: write_geotiff(d / "x.tif", make_noise(2, 8, 8)),
        "got x: band 1, x: band 2, expected red, green",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as error:
        opened(make(tmp_path))
    assert "\n" not in str(error.value) and re.search(r": got .*, expected .*; .", str(error.value))


@pytest.mark.parametrize("inner", ["a/b.tif", "b.tif"])
@pytest.mark.parametrize("shape", [(3, 9, 9), (3, 8, 7), (4, 9, 9)])
def test_a_folder_of_scenes_says_what_to_type(tmp_path: Path, inner: str, shape: tuple[int, int, int]) -> None:
    """What is told is expanded as a shell does, and names each scene once."""
    folder = tmp_path / "my scenes"
    names = RGB_NAMES if shape[0] == 3 else ()
    write_geotiff(folder / "a/1.tif", make_noise(3, 9, 9), names=RGB_NAMES)
    write_geotiff(folder / inner, make_noise(*shape), names=names)
    if inner == "b.tif":
        (folder / "a/1.tif").replace(folder / "a.tif")
    with pytest.raises(InputError) as error:
        opened(folder if inner == "b.tif" else folder / "a", **({} if names else {"bands": ("1", "2", "3")}))
    (typed,) = re.findall(r"seamline segment (.*?\*\S*)(?:;|$)", str(error.value))
    home, pattern = shlex.split(typed)[0].rsplit("/", 1)
    assert sorted(Path(home).glob(pattern)) == sorted(Path(home).glob("*.tif"))
    if inner == "a/b.tif":
        with pytest.raises(InputError, match=r"rasters in folders of it, such as a, .*: seamline segment '.*'/\*/$"):
            opened(folder)


def test_a_folder_of_bands_that_lacks_one_is_no_folder_of_scenes(tmp_path: Path) -> None:
    for name in ("red", "green"):
        write_geotiff(tmp_path / f"{name}.tif", make_noise(1, 9, 9), names=(name,))
    with pytest.raises(InputError, match="do not match the model") as error:
        opened(tmp_path)
    assert "seamline segment" not in str(error.value)


@pytest.mark.parametrize(
    "dtype, nodata",
    [("uint16", -1), ("uint16", 70_000), ("uint8", 0.5), ("int16", float("nan")), ("float32", 1e300)],
)
def test_nodata_that_no_pixel_can_have(tmp_path: Path, dtype: str, nodata: float) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 8, 8, high=9, dtype=dtype))
    with pytest.raises(InputError, match=rf"no pixel can be the nodata value: got .* for {dtype}"):
        opened(path, nodata=nodata)


@pytest.mark.parametrize("column", ["5, 0, 0", "5, nan, 0", "inf, 30, 0", "5, 1e308, 0", "5, 1e-320, 0"])
def test_a_transform_that_places_no_pixels(tmp_path: Path, column: str) -> None:
    bands = "".join(f'<VRTRasterBand dataType="Byte" band="{n}"/>' for n in (1, 2, 3))
    head = f'<VRTDataset rasterXSize="2" rasterYSize="2"><SRS>EPSG:32620</SRS><GeoTransform>{column}, 5, 0, -30'
    (tmp_path / "x.vrt").write_text(f"{head}</GeoTransform>{bands}</VRTDataset>")
    with pytest.raises(InputError, match=r"x\.vrt has a transform that places no pixels: got .*gdal_edit\.py -a_ullr"):
        opened(tmp_path / "x.vrt")


@pytest.mark.parametrize(
    ("crs", "transform", "said"),
    [
        ("EPSG:4326", Affine(1, 0, 0, 0, -1, 120), r"reaches beyond a pole: got latitudes from 112 to 120, .*-a_ullr"),
        ("EPSG:4326", Affine(1, 0, 0, 0, 1, -95), r"reaches beyond a pole: got latitudes from -95 to -87"),
        ("EPSG:4901", Affine(1, 0, 0, 0, -1, 107), r"reaches beyond a pole"),
        ("EPSG:4978", UTM, r"has a CRS that is no map: got WGS 84.*expected a projected or geographic CRS; .*-a_srs"),
    ],
)
def test_coordinates_that_are_no_place_on_a_map(tmp_path: Path, crs: str, transform: Affine, said: str) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 8, 8), crs=crs, transform=transform, names=RGB_NAMES)
    with pytest.raises(InputError, match=rf"x\.tif {said}"):
        opened(path)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(45, 0, -22.5, 0, -180 / 7, 90 + 90 / 7)),  # centres on the poles
        ("EPSG:4901", Affine(1, 0, 0, 0, -1, 99)),  # grads, of which there are 100 to a pole
        ("EPSG:4326", Affine(1, 0, 355, 0, -1, 90)),
    ],
)
def test_a_grid_may_reach_to_the_poles(tmp_path: Path, crs: str, transform: Affine) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 8, 8), crs=crs, transform=transform, names=RGB_NAMES)
    assert opened(path).grid.transform == transform


@pytest.mark.parametrize(
    ("scale", "offset", "got"), [(0, 1, "scale 0"), (float("nan"), 0, "scale nan"), (2, float("-inf"), "offset -inf")]
)
def test_files_whose_numbers_give_no_values_are_refused(tmp_path: Path, scale: float, offset: float, got: str) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 8, 8), names=("red", "green", "blue"))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1, 1, scale), (0, 0, offset)
    with pytest.raises(InputError, match=rf"x\.tif, band blue: got {got}, expected"):
        opened(path)
    assert {(band.scale, band.offset) for band in opened(path, scale=3, offset=0).bands} == {(3, 0)}


def test_a_wavelength_that_is_no_number_is_none(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 8, 8), names=("red", "green", "blue"))
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="red")
    assert chosen(opened(path)) == ["x.tif:1", "x.tif:2", "x.tif:3"]


@pytest.mark.parametrize("options", [{"scale": 0}, {"scale": float("nan")}, {"offset": float("inf")}])
def test_numbers_that_give_no_values(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="gives no values"):
        SceneOptions(**options)  # type: ignore[arg-type]


# --- the area of interest --------------------------------------------------------------------------------

GRID = GeoBox((100, 100), UTM, "EPSG:32620")


def _degrees(*corners: tuple[float, float]) -> list[list[float]]:
    to_degrees = transform("EPSG:32620", "EPSG:4326", *zip(*corners, strict=True))
    return [list(pair) for pair in zip(*to_degrees, strict=True)]


SQUARE = [(500_300, 5_998_000), (501_200, 5_998_000), (501_200, 5_999_000), (500_300, 5_999_000)]
RING = {"type": "Polygon", "coordinates": [_degrees(*SQUARE, SQUARE[0])]}
FEATURE = {"type": "Feature", "properties": {}, "geometry": RING}
WITH_HEIGHTS = {"type": "Polygon", "coordinates": [[[*corner, 500.0] for corner in RING["coordinates"][0]]]}
IN_METRES = {
    "type": "MultiPolygon",
    "coordinates": [[[*SQUARE, SQUARE[0]]]],
    "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32620"}},
}
WORLD = {"type": "Polygon", "coordinates": [[[-179, -80], [179, -80], [179, 80], [-179, 80], [-179, -80]]]}
COLLECTION = {"type": "FeatureCollection", "features": [FEATURE, {"type": "Feature", "geometry": None}]}


@pytest.mark.parametrize("document", [RING, WITH_HEIGHTS, FEATURE, COLLECTION, IN_METRES, WORLD])
def test_areas_come_into_the_crs_of_the_scene(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "aoi.json"
    path.write_text(json.dumps(document), encoding="utf-8-sig")
    area = from_wkt(read_aoi(path, GRID))
    if document is WORLD:
        assert area.contains(GRID.extent.geom)
    else:
        assert area.bounds == pytest.approx((500_300, 5_998_000, 501_200, 5_999_000), abs=0.2)


def test_long_edges_follow_the_parallel(tmp_path: Path) -> None:
    """Over 3 degrees at 60° north a straight line is 1.1 km from the parallel."""
    grid = GeoBox.from_bbox((-64.5, 59, -61.5, 61), "EPSG:4326", resolution=0.1).to_crs("EPSG:32620")
    ring = [[-64.5, 59.5], [-61.5, 59.5], [-61.5, 60.5], [-64.5, 60.5], [-64.5, 59.5]]
    (tmp_path / "aoi.json").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    area = from_wkt(read_aoi(tmp_path / "aoi.json", grid))
    longitudes = np.linspace(-64.4, -61.6, 57)
    x, y = transform("EPSG:4326", "EPSG:32620", longitudes, [59.5] * 57)
    assert max(area.boundary.distance(from_wkt(f"POINT ({a} {b})")) for a, b in zip(x, y, strict=True)) < 1


HALVES = shapely.MultiPolygon([shapely.box(179.5, -1, 180, 1), shapely.box(-180, -1, -179.5, 1)])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4258", "EPSG:32660"])
@pytest.mark.parametrize("west", [179, -181])
@pytest.mark.parametrize("area", [HALVES, shapely.box(179.5, -1, 180.5, 1), shapely.box(-180.5, -1, -179.5, 1)])
def test_areas_across_the_antimeridian(tmp_path: Path, crs: str, west: int, area: shapely.Geometry) -> None:
    """However they and the scene count longitudes, the same pixels are meant."""
    grid = GeoBox.from_bbox((west, -2, west + 2, 2), "EPSG:4326", resolution=0.1)
    found = [west + 0.5, -1, west + 1.5, 1]
    if crs == "EPSG:4258":
        grid = GeoBox(grid.shape, grid.affine, crs)
    elif crs != "EPSG:4326":
        grid = GeoBox.from_bbox((700_000, -200_000, 950_000, 200_000), crs, resolution=10_000)
        x, y = transform("EPSG:4326", crs, [179.5, 180.5, 180.5], [0, 0, 1])
        found = [x[0], -y[2], x[1], y[2]]
    (tmp_path / "aoi.json").write_text(shapely.to_geojson(area))
    read = from_wkt(read_aoi(tmp_path / "aoi.json", grid))
    assert read.geom_type == "Polygon"
    assert read.bounds == pytest.approx(found, abs=1e-9 if crs != "EPSG:32660" else 60)


def test_heights_of_positions_mean_nothing(tmp_path: Path) -> None:
    grid = GeoBox.from_bbox((0, 0, 4, 4), "EPSG:4326", resolution=0.1)
    ring = [[1, 1], [3, 1], [3, 3], [1, 1]]
    plain = {"type": "Polygon", "coordinates": [ring]}
    for rests in ([[]] * 4, [[5.0]] * 4, [[5.0, 7.0]] * 4, [[], [5.0], [5.0, 7.0], []]):
        placed = [position + rest for position, rest in zip(ring, rests, strict=True)]
        for document in (
            {"type": "Polygon", "coordinates": [placed]},
            {"type": "MultiPolygon", "coordinates": [[placed]]},
            {"type": "GeometryCollection", "geometries": [plain, {"type": "Polygon", "coordinates": [placed]}]},
        ):
            (tmp_path / "aoi.json").write_text(json.dumps(document))
            assert from_wkt(read_aoi(tmp_path / "aoi.json", grid)).area == pytest.approx(2)


def test_a_kind_of_polygon_that_is_not_read_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """GML with heights, whose layer is of no single kind."""
    place = 'srsName="urn:ogc:def:crs:EPSG::32620"'
    polygon = (
        f'<gml:Polygon {place} gml:id="p"><gml:exterior><gml:LinearRing><gml:posList srsDimension="3">'
        "0 0 5 9 0 5 9 9 5 0 0 5</gml:posList></gml:LinearRing></gml:exterior></gml:Polygon>"
    )
    point = f'<gml:Point {place} gml:id="q"><gml:pos srsDimension="3">0 0 5</gml:pos></gml:Point>'
    members = "".join(
        f'<f:featureMember><f:a gml:id="a{number}"><f:g>{shape}</f:g></f:a></f:featureMember>'
        for number, shape in enumerate((polygon, point))
    )
    (tmp_path / "aoi.gml").write_text(
        '<f:FeatureCollection xmlns:f="http://ogr.maptools.org/" xmlns:gml="http://www.opengis.net/gml/3.2">'
        f"{members}</f:FeatureCollection>"
    )
    with pytest.raises(InputError, match=r"not supported.*ogr2ogr -dim XY"):
        read_aoi(tmp_path / "aoi.gml", GRID)


@pytest.mark.parametrize(("encoding", "fix"), [("ascii", "PYTHONUTF8=1"), ("utf-8", "rename it")])
def test_a_name_that_is_no_text_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, fix: str
) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    for read in (opened, lambda path: read_aoi(Path(path), GRID)):
        with pytest.raises(InputError, match=f"name cannot be read.*{fix}"):
            read(str(tmp_path / "s\udcfc.tif"))


def test_an_area_in_metres_across_the_antimeridian(tmp_path: Path) -> None:
    x, y = transform("EPSG:4326", "EPSG:32660", [179.5, 180.5], [-1, 1])
    crs = {"type": "name", "properties": {"name": "EPSG:32660"}}
    (tmp_path / "aoi.json").write_text(
        json.dumps({**shapely.geometry.mapping(shapely.box(x[0], y[0], x[1], y[1])), "crs": crs})
    )
    for west in (179, -181):
        grid = GeoBox.from_bbox((west, -2, west + 2, 2), "EPSG:4326", resolution=0.1)
        area = from_wkt(read_aoi(tmp_path / "aoi.json", grid))
        assert area.bounds == pytest.approx((west + 0.5, -1, west + 1.5, 1), abs=0.01)


@pytest.mark.parametrize("name", ["aoi.gpkg", "aoi.shp", "aoi.kml", "aoi.geojsonl", "aoi.fgb", "layers.gpkg"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32620", "EPSG:3857"])
def test_an_area_may_lie_in_any_vector_file(tmp_path: Path, name: str, crs: str) -> None:
    if name in ("aoi.kml", "aoi.geojsonl"):
        crs = "EPSG:4326"  # which these formats are always in
    halves = [shapely.box(*bounds) for bounds in split_bounds(GRID)]
    in_crs = [Geometry(half, GRID.crs).to_crs(crs, 100).geom for half in halves]
    wkb = shapely.to_wkb(np.array([shapely.force_3d(part, 7.0) for part in in_crs]), output_dimension=3)
    options = {"field_data": [], "fields": [], "geometry_type": "Polygon Z", "crs": crs}
    if name == "layers.gpkg":
        for number in range(2):
            path = tmp_path / name
            pyogrio.raw.write(path, wkb[number : number + 1], layer=f"part {number}", append=number > 0, **options)
    else:
        driver = {"aoi.kml": "KML", "aoi.geojsonl": "GeoJSONSeq"}.get(name)
        pyogrio.raw.write(tmp_path / name, wkb, **options, **({"driver": driver} if driver else {}))
    area = from_wkt(read_aoi(tmp_path / name, GRID))
    expected = shapely.union_all(halves)
    assert not area.has_z
    assert shapely.symmetric_difference(area, expected).area < 1e-3 * expected.area


def _write_as(kind: str, folder: Path) -> Path:
    """Write the middle of the grid, in degrees or metres."""
    box = shapely.union_all([shapely.box(*bounds) for bounds in split_bounds(GRID)])
    degrees = Geometry(box, GRID.crs).to_crs("EPSG:4326", 100).geom
    feature = json.dumps(
        {"type": "Feature", "properties": {"name": "Größe"}, "geometry": degrees.__geo_interface__}, ensure_ascii=False
    )
    ring = [list(point) for point in degrees.exterior.coords]
    if kind == "layers.gpkg":
        options = {"field_data": [], "fields": []}
        points, boxes = (shapely.to_wkb(np.array([part])) for part in (shapely.Point(5, 5), box))
        pyogrio.raw.write(folder / kind, points, layer="a", geometry_type="Point", crs="EPSG:4326", **options)
        pyogrio.raw.write(
            folder / kind, boxes, layer="b", append=True, geometry_type="Polygon", crs=str(GRID.crs), **options
        )
    elif kind.endswith(".parquet"):
        crs = {"usual.parquet": {}, "own.parquet": {"crs": json.loads(GRID.crs.proj.to_json())}}[kind]
        geo = {
            "version": "1.1.0",
            "primary_column": "g",
            "columns": {"g": {"encoding": "WKB", "geometry_types": [], **crs}},
        }
        table = pa.table({"g": [shapely.to_wkb(box if crs else degrees), None]})
        pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), folder / kind)
    elif kind == "archive":
        with zipfile.ZipFile(folder / "x.zip", "w") as archive:
            archive.writestr("inner/aoi.geojson", feature)
        return Path(f"/vsizip/{folder}/x.zip/inner/aoi.geojson")
    else:
        esri = {"rings": [[list(point) for point in reversed(box.exterior.coords)]]}
        texts = {
            "lines.geojson": f"{feature}\n\n{feature}\n".encode(),
            "sequence.json": f"\x1e{feature}\n\x1e{feature}\n".encode(),
            "utf16.geojson": feature.encode("utf-16"),
            "utf16le.json": feature.encode("utf-16-le"),
            "bom.json": feature.encode("utf-8-sig"),
            "topology.json": json.dumps(
                {"type": "Topology", "objects": {"a": {"type": "Polygon", "arcs": [[0]]}}, "arcs": [ring]}
            ).encode(),
            "esri.json": json.dumps(
                {
                    "geometryType": "esriGeometryPolygon",
                    "spatialReference": {"wkid": GRID.crs.epsg},
                    "fields": [],
                    "features": [{"attributes": {}, "geometry": esri}],
                }
            ).encode(),
        }
        (folder / kind).write_bytes(texts[kind])
    return folder / kind


@pytest.mark.parametrize(
    "kind",
    [
        *("layers.gpkg", "usual.parquet", "own.parquet", "archive", "lines.geojson", "sequence.json", "utf16.geojson"),
        *("utf16le.json", "bom.json", "topology.json", "esri.json"),
    ],
)
def test_an_area_is_read_as_programs_write_it(tmp_path: Path, kind: str) -> None:
    area = from_wkt(read_aoi(_write_as(kind, tmp_path), GRID))
    expected = shapely.union_all([shapely.box(*bounds) for bounds in split_bounds(GRID)])
    assert shapely.symmetric_difference(area, expected).area < 1e-3 * expected.area


def split_bounds(grid: GeoBox) -> list[tuple[float, float, float, float]]:
    """Bounds of the left and the right half of the middle of a grid."""
    left, bottom, right, top = grid.extent.boundingbox.bbox
    width, height, middle = right - left, top - bottom, (left + right) / 2
    rows = bottom + height / 4, top - height / 4
    return [(left + width / 4, rows[0], middle, rows[1]), (middle, rows[0], right - width / 4, rows[1])]


def test_an_area_without_a_crs_or_of_several_is_refused(tmp_path: Path) -> None:
    wkb, options = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)])), {"field_data": [], "fields": []}
    for number, crs in enumerate(("EPSG:4326", "EPSG:3857")):
        pyogrio.raw.write(
            tmp_path / "x.gpkg", wkb, layer=str(number), append=number > 0, geometry_type="Polygon", crs=crs, **options
        )
    pyogrio.raw.write(tmp_path / "x.shp", wkb, geometry_type="Polygon", crs="EPSG:4326", **options)
    (tmp_path / "x.prj").unlink()
    (tmp_path / "x.kml").write_text("no KML")
    for name, said in (
        ("x.gpkg", "2 CRS.*ogr2ogr"),
        ("x.shp", "0 CRS.*ogr2ogr -a_srs"),
        ("x.kml", "no vector file"),
        ("y.kml", "No such file"),
    ):
        with pytest.raises(InputError, match=f"no area for this scene: .*{said}.*--aoi"):
            read_aoi(tmp_path / name, GRID)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "no GeoJSON"),
        ('{"type": "Feature", "geometry": ' * 3000 + "null" + "}" * 3000, "no GeoJSON"),
        ("[]", "no GeoJSON"),
        ('{"type": "Polygon"}', "no GeoJSON"),
        ('{"type": "Point", "coordinates": [0, 0]}', "no polygon with an area"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon with an area"),
        (json.dumps({**RING, "crs": {"properties": {"name": "EPSG:1"}}}), "no GeoJSON"),
        (
            '{"type": "Polygon", "coordinates": [[[5, 5], [6, 5], [6, 6], [5, 5]]]}',
            "expected an overlap with",
        ),
        ('{"type": "Polygon", "coordinates": [[[54, -9], [54, 99], [60, 99], [54, -9]]]}', "longitude first"),
        (None, "No such file"),
    ],
)
def test_what_is_no_area_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "aoi.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"no area for this scene: .*{message}.*--aoi"):
        read_aoi(path, GRID)


def test_a_scene_with_an_area(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(3, 100, 100))
    (tmp_path / "aoi.json").write_text(json.dumps(IN_METRES))
    block = read_block(opened(path, aoi=tmp_path / "aoi.json"), Window(0, 0, 100, 100))
    assert block.valid.all()
    expected = np.zeros((100, 100), dtype=bool)
    expected[33:67, 10:40] = True  # centres 5 999 000 − 15 … 5 998 000 + 15 and 500 300 + 15 … 501 200 − 15
    np.testing.assert_array_equal(block.label_mask, expected)


def test_local_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_geotiff(tmp_path / "a b.tif", make_noise(3, 8, 8))
    monkeypatch.chdir(tmp_path)
    assert {band.path for band in opened("a b.tif").bands} == {str(path)}
    for address in (f"file://{tmp_path}/a%20b.tif", f"file:{tmp_path}/a%20b.tif", f"FILE://{tmp_path}/a%20b.tif"):
        assert opened(address).id == make_scene_id("a b")
    shutil.move(path, tmp_path / "c.tif")
    with pytest.raises(InputError, match="no such file"):
        opened("a b.tif")
