"""Masks and alpha bands hold beside numbers of missing pixels, whoever gives these; what they leave is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio._env import del_gdal_config
from rasterio.enums import ColorInterp

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Block, Scene, read_block
from tests.support.small_rasters import make_noise, write_geotiff

NAMES = ("red", "green", "blue")
NEEDS = [BandNeed(name) for name in NAMES]
SIZE = 120
MASKED, HOLE = (slice(10, 50), slice(20, 90)), (slice(70, 100), slice(30, 60))
SHARE_LEFT = 30 * 30 / (SIZE**2 - 40 * 70)
"""Of the hole, of the pixels that the mask leaves."""


def make_valid(*holes: tuple[slice, slice]) -> NDArray[np.bool_]:
    valid = np.ones((SIZE, SIZE), bool)
    for hole in holes:
        valid[hole] = False
    return valid


def make_pixels(dtype: str = "uint16", fill: float | None = None) -> NDArray[Any]:
    """Three bands of noise; the number ``fill`` is in the hole, and nowhere else."""
    pixels = make_noise(3, SIZE, SIZE, low=300, high=3000, dtype=dtype)
    if fill is not None:
        pixels[(..., *HOLE)] = fill
    return pixels


def _write_mask(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], *, internal: bool, **profile: Any) -> Path:
    write_geotiff(path, pixels, names=NAMES[: len(pixels)], **profile)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    return path


def write_internal(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], **profile: Any) -> Path:
    return _write_mask(path, pixels, valid, internal=True, **profile)


def write_beside(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], **profile: Any) -> Path:
    return _write_mask(path, pixels, valid, internal=False, **profile)


def write_named_alpha(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], **profile: Any) -> Path:
    alpha = np.where(valid, 255, 0).astype(pixels.dtype)[None]
    names = (*NAMES[: len(pixels)], *["other"] * 2, "Alpha")
    return write_geotiff(path, np.concatenate([pixels, pixels[:1], pixels[:1], alpha]), names=names, **profile)


def write_tagged_alpha(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], **profile: Any) -> Path:
    write_named_alpha(path, pixels, valid, **profile)
    with rasterio.open(path, "r+") as file:
        file.set_band_description(file.count, "")
        file.colorinterp = [*[ColorInterp.undefined] * (file.count - 1), ColorInterp.alpha]
    return path


def write_band_masks(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], **profile: Any) -> Path:
    """A VRT whose bands have masks of their own."""
    inner = write_internal(path.with_name(f"{path.stem}_inner.tiff"), pixels, valid, **profile)
    with rasterio.open(inner) as file:
        crs, numbers = file.crs.to_string(), ", ".join(map(str, file.transform.to_gdal()))
    kind = {"uint16": "UInt16", "int16": "Int16", "float32": "Float32"}[str(pixels.dtype)]

    def name_source(band: str) -> str:
        return f"<SimpleSource><SourceFilename>{inner}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"

    mask = f'<MaskBand><VRTRasterBand dataType="Byte">{name_source("mask,1")}</VRTRasterBand></MaskBand>'
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{index}"><Description>{name}</Description>'
        f"{name_source(str(index))}{mask}</VRTRasterBand>"
        for index, name in enumerate(NAMES[: len(pixels)], start=1)
    )
    vrt = path.with_suffix(".vrt")
    vrt.write_text(
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><SRS>{crs}</SRS><GeoTransform>{numbers}</GeoTransform>'
        f"{bands}</VRTDataset>"
    )
    return vrt


Writer = Callable[..., Path]
WRITERS = [write_internal, write_beside, write_named_alpha, write_tagged_alpha, write_band_masks]


def opened(source: Path, assumed: float | None = None, **options: Any) -> Scene:
    return open_scene(source, NEEDS, SceneOptions(**options), assumed_nodata=assumed, reflectance=False)


def read(scene: Scene) -> Block:
    return read_block(scene, Window(0, 0, SIZE, SIZE))


def told_of(scene: Scene) -> list[str]:
    return [warning for warning in scene.warnings if " of the pixels" in warning]


def write_item(folder: Path, paths: list[Path], **fields: Any) -> Path:
    """An item of one-band files, in the order of the names, that describes them all alike."""
    item = pystac.Item("item", None, None, datetime(2020, 1, 1, tzinfo=UTC), {})
    for name, path in zip(NAMES, paths, strict=True):
        extra = {"bands": [{"eo:common_name": name, **fields}]}
        item.add_asset(name, pystac.Asset(str(path), media_type="image/tiff", extra_fields=extra))
    item.save_object(dest_href=str(folder / "item.json"), include_self_link=False)
    return folder / "item.json"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("dtype", "number"), [("uint16", 0), ("uint16", 65535), ("int16", -9999), ("float32", -1)])
def test_a_mask_and_the_users_number_hold_together(tmp_path: Path, write: Writer, dtype: str, number: float) -> None:
    path = write(tmp_path / "x.tif", make_pixels(dtype, number), make_valid(MASKED))
    block = read(opened(path, nodata=number))
    np.testing.assert_array_equal(block.valid, make_valid(MASKED, HOLE))
    missing = np.isnan(block.pixels) if dtype == "float32" else block.pixels == number
    np.testing.assert_array_equal(missing, np.broadcast_to(~block.valid, missing.shape))  # none reaches the network
    np.testing.assert_array_equal(read(opened(path, nodata="none")).valid, make_valid(MASKED))
    np.testing.assert_array_equal(read(opened(path, nodata=7)).valid, make_valid(MASKED))


@pytest.mark.parametrize("write", [write_internal, write_beside, write_named_alpha, write_tagged_alpha])
def test_a_mask_and_the_number_of_a_catalogue_hold_together(tmp_path: Path, write: Writer) -> None:
    pixels = make_pixels(fill=7)
    paths = [
        write(tmp_path / f"{name}.tif", band[None], make_valid(MASKED))
        for name, band in zip(NAMES, pixels, strict=True)
    ]
    scene = opened(write_item(tmp_path, paths, nodata=7))
    np.testing.assert_array_equal(read(scene).valid, make_valid(MASKED, HOLE))
    assert any("the catalogue says nodata 7 and the file has a mask" in warning for warning in scene.warnings)


@pytest.mark.parametrize("write", [write_named_alpha, write_tagged_alpha])
def test_an_alpha_band_holds_beside_the_number_of_its_file(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "x.tif", make_pixels(fill=7), make_valid(MASKED), nodata=7)
    np.testing.assert_array_equal(read(opened(path)).valid, make_valid(MASKED, HOLE))


def test_an_alpha_band_and_a_mask_hold_together(tmp_path: Path) -> None:
    write_named_alpha(tmp_path / "x.tif", make_pixels(), make_valid(MASKED))
    with rasterio.open(tmp_path / "x.tif", "r+") as file:
        file.write_mask(make_valid(HOLE))
    np.testing.assert_array_equal(read(opened(tmp_path / "x.tif")).valid, make_valid(MASKED, HOLE))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("masked", [(), (MASKED,)])
@pytest.mark.parametrize(("dtype", "fill"), [("int16", -9999), ("uint16", 0), ("uint16", 65535), ("float32", -77.5)])
def test_numbers_that_a_mask_leaves_are_told(
    tmp_path: Path, write: Writer, masked: tuple[Any, ...], dtype: str, fill: float
) -> None:
    path = write(tmp_path / "x.tif", make_pixels(dtype, fill), make_valid(*masked))
    (warning,) = told_of(opened(path))
    share = SHARE_LEFT if masked else 30 * 30 / SIZE**2
    assert f"about {share:.1%} of the pixels" in warning and f"--nodata {fill:g} says otherwise" in warning
    assert not told_of(opened(write(tmp_path / "y.tif", make_pixels(dtype, fill), make_valid(HOLE))))
    np.testing.assert_array_equal(read(opened(path, nodata=fill)).valid, make_valid(*masked, HOLE))


def test_a_number_of_few_pixels_is_told_where_a_mask_leaves_few(tmp_path: Path) -> None:
    pixels, valid = make_pixels(), np.zeros((SIZE, SIZE), bool)
    valid[-20:], pixels[:, -6:, -10:] = True, 65535
    (warning,) = told_of(opened(write_internal(tmp_path / "x.tif", pixels, valid)))
    assert f"about {60 / (20 * SIZE):.1%} of the pixels with data are 65535 in every band" in warning


def test_a_number_that_the_file_names_beside_a_full_mask_is_told(tmp_path: Path) -> None:
    path = write_internal(tmp_path / "x.tif", make_pixels(fill=0), make_valid(), nodata=0)
    (warning,) = told_of(opened(path))
    assert "are 0 in every band, and the mask leaves them" in warning and "--nodata 0" in warning


def test_a_full_mask_of_one_file_hides_no_number_of_all(tmp_path: Path) -> None:
    for number, (name, band) in enumerate(zip(NAMES, make_pixels("int16", -9999), strict=True)):
        if number:
            write_geotiff(tmp_path / f"{name}.tif", band[None])
        else:
            write_internal(tmp_path / f"{name}.tif", band[None], make_valid())
    (warning,) = told_of(opened(tmp_path))
    assert "are -9999 in every band" in warning


@pytest.mark.parametrize("write", [write_internal, write_beside, write_named_alpha])
def test_a_mask_of_one_band_only_is_told(tmp_path: Path, write: Writer) -> None:
    for name, band in zip(NAMES, make_pixels(), strict=True):
        if name == "red":
            write(tmp_path / f"{name}.tif", band[None], make_valid(MASKED))
        else:
            write_geotiff(tmp_path / f"{name}.tif", band[None])
    (warning,) = told_of(opened(tmp_path))
    assert f"about {40 * 70 / SIZE**2:.1%} of the pixels of red" in warning and "not in every band" in warning


@pytest.fixture
def set_gdal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Sets options of GDAL in the environment. rasterio keeps them when it leaves its own, also without the former."""
    names: list[str] = []

    def set_option(name: str, value: str) -> None:
        names.append(name)
        monkeypatch.setenv(name, value)

    yield set_option
    for name in names:
        monkeypatch.delenv(name)
        del_gdal_config(name)


@pytest.mark.parametrize("write", [write_internal, write_beside])
def test_the_environment_hides_no_mask(tmp_path: Path, set_gdal: Callable[[str, str], None], write: Writer) -> None:
    path = write(tmp_path / "x.tif", make_pixels(), make_valid(MASKED))
    set_gdal("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    np.testing.assert_array_equal(read(opened(path)).valid, make_valid(MASKED))


@pytest.mark.parametrize("variable", ["GDAL_PAM_ENABLED=NO", "GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR"])
def test_the_environment_hides_no_metadata(tmp_path: Path, set_gdal: Callable[[str, str], None], variable: str) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_pixels(fill=7), names=NAMES)
    (tmp_path / "x.tif.aux.xml").write_text(
        "<PAMDataset>"
        + "".join(f'<PAMRasterBand band="{index}"><NoDataValue>7</NoDataValue></PAMRasterBand>' for index in (1, 2, 3))
        + "</PAMDataset>"
    )
    name, _, value = variable.partition("=")
    set_gdal(name, value)
    np.testing.assert_array_equal(read(opened(path)).valid, make_valid(HOLE))


@pytest.mark.parametrize("stated", [-9999, "nan", "inf", "-inf", 0.5, 70_000])
def test_a_number_of_the_catalogue_that_no_pixel_can_have_is_left_out(tmp_path: Path, stated: Any) -> None:
    paths = [
        write_geotiff(tmp_path / f"{name}.tif", band[None])
        for name, band in zip(NAMES, make_pixels(fill=0), strict=True)
    ]
    item = write_item(tmp_path, paths, nodata=stated)
    scene = opened(item)
    assert {band.nodata for band in scene.bands} == {None} and read(scene).valid.all()
    assert [w for w in scene.warnings if f"nodata {float(stated):g}, which no pixel of uint16 can be" in w]
    assert any("are 0 in every band" in warning for warning in told_of(scene))
    np.testing.assert_array_equal(read(opened(item, assumed=0)).valid, make_valid(HOLE))


def test_a_number_that_the_model_assumes_and_no_pixel_can_have_is_left_out(tmp_path: Path) -> None:
    scene = opened(write_geotiff(tmp_path / "x.tif", make_pixels(), names=NAMES), assumed=-9999)
    assert read(scene).valid.all() and "the model assumes nodata -9999, which no pixel" in scene.warnings[0]


def test_the_users_number_that_replaces_another_one_is_told(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_pixels(fill=7), names=NAMES, nodata=0)
    assert any("the file says nodata 0: --nodata 7 replaces it" in w for w in opened(path, nodata=7).warnings)
    assert not opened(path, nodata=0).warnings
