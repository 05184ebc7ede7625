"""What cannot be read is never taken for pixels: GDAL gives zeros for it, most of the time without an error."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import BadBlockError, InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.content import _sample_pixels, list_source_files
from seamline.pipeline.raster_io.gdal import close_cached_rasters, gdal_environment, open_cached_raster, read_pixels
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.small_rasters import UTM, damage_block, make_noise, write_geotiff, write_tiled
from tests.support.virtual_rasters import EDGE, make_band, make_mask, make_source, make_vrt
from tests.unit.scenes.test_missing_codec import UNKNOWN, change_compression

NAMES = ("red", "green", "blue")
NEEDS = tuple(map(BandNeed, NAMES))
WHOLE = Window(0, 0, EDGE, EDGE)
PIXELS = make_noise(3, EDGE, EDGE, low=500, high=5000)


def opened(source: Any, **options: Any) -> Scene:
    return open_scene(source, NEEDS, SceneOptions(**options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, pixels in zip(NAMES, PIXELS, strict=True):
        write_geotiff(tmp_path / f"{name}.tif", pixels[None])
    return tmp_path


def write_codec(path: Path) -> None:
    write_geotiff(path, PIXELS[:1], compress="deflate")
    change_compression(path, UNKNOWN)


def write_hollow_vrt(path: Path) -> None:
    path.write_text(make_vrt([make_band(1, "blue", make_source("gone.tif"))]))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n"),
    "page": lambda path: path.write_text("<html>404 Not Found</html>"),
    "codec": write_codec,
    "VRT named .tif": write_hollow_vrt,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["scene.vrt", "scene.tif", "scene.vrt.bak", "text"])
def test_a_source_that_cannot_be_read_is_named_at_the_start(folder: Path, name: str, damage: str) -> None:
    text = make_vrt([make_band(i, band, make_source(folder / f"{band}.tif")) for i, band in enumerate(NAMES, 1)])
    source = text if name == "text" else folder / name
    if name != "text":
        (folder / name).write_text(text)
    np.testing.assert_array_equal(read_block(opened(source), WHOLE).pixels, PIXELS)
    DAMAGES[damage](folder / "blue.tif")
    said = "gone.tif" if damage == "VRT named .tif" else "blue.tif"
    with pytest.raises(InputError, match=rf"names a source that cannot be read: got \S*{said}"):
        opened(source)


PYTHON = """<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>
<PixelFunctionCode>def f(inputs, out, *_, **__):
  out[:] = inputs[0]</PixelFunctionCode>"""
SUM = "<PixelFunctionType>sum</PixelFunctionType>"


@pytest.mark.parametrize("function", [SUM, PYTHON])
@pytest.mark.parametrize("position", [1, 3])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_band_that_gdal_cannot_compute_is_refused(
    folder: Path, function: str, position: int, is_nested: bool
) -> None:
    """GDAL sums two bands or more, and fails for one without a message."""
    bands = [
        make_band(
            i, band, (function if i == position else "") + make_source(f"{band}.tif"), kind="Derived" * (i == position)
        )
        for i, band in enumerate(NAMES, 1)
    ]
    path = folder / "scene.vrt"
    path.write_text(make_vrt(bands))
    if is_nested:
        path = folder / "outer.vrt"
        path.write_text(make_vrt([make_band(i, band, make_source("scene.vrt", i)) for i, band in enumerate(NAMES, 1)]))
    with pytest.raises(InputError, match=rf"{path.name}: band {position} cannot be read"):
        opened(path)


def test_a_band_that_gdal_computes_is_read(folder: Path) -> None:
    two = SUM + make_source("blue.tif") + make_source("red.tif")
    bands = [make_band(i, band, make_source(f"{band}.tif")) for i, band in enumerate(NAMES[:2], 1)]
    (folder / "scene.vrt").write_text(make_vrt([*bands, make_band(3, "blue", two, kind="Derived")]))
    pixels = read_block(opened(folder / "scene.vrt"), WHOLE).pixels
    np.testing.assert_array_equal(pixels, [*PIXELS[:2], PIXELS[2] + PIXELS[0]])


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("others", [0, 1])
def test_a_source_that_failed_once_fails_again(folder: Path, others: int, is_nested: bool) -> None:
    """As on a worker that does not have it, whatever else it has open."""
    bands = [make_band(i, band, make_source(f"{band}.tif")) for i, band in enumerate(NAMES, 1)]
    path = folder / "scene.vrt"
    path.write_text(make_vrt(bands))
    if is_nested:
        path = folder / "outer.vrt"
        path.write_text(make_vrt([make_band(i, band, make_source("scene.vrt", i)) for i, band in enumerate(NAMES, 1)]))
    (folder / "other.vrt").write_text(make_vrt(bands))
    with ExitStack() as opened_beside, gdal_environment(str(path)):
        for _ in range(others):
            opened_beside.enter_context(rasterio.open(folder / "other.vrt")).read(1)
        (folder / "green.tif").unlink()
        for indexes in ([1, 2, 3], [2], [1, 2, 3], [2], [2, 3]):
            for name in (path, folder / "other.vrt"):
                with pytest.raises(RasterioIOError):
                    read_pixels(open_cached_raster(str(name)), indexes, WHOLE)
        file = open_cached_raster(str(path))
        np.testing.assert_array_equal(read_pixels(file, [1, 3], WHOLE), PIXELS[[0, 2]])
        with pytest.raises(RasterioIOError):
            _sample_pixels(str(path), 2)


def test_a_mask_that_failed_once_fails_again(folder: Path) -> None:
    write_geotiff(folder / "mask.tif", np.full((1, EDGE, EDGE), 255, np.uint8))
    bands = [make_band(i, band, make_source(f"{band}.tif")) for i, band in enumerate(NAMES, 1)]
    path = folder / "scene.vrt"
    path.write_text(make_vrt([*bands, make_mask("mask.tif")]))
    scene = opened(path)
    unstamped = replace(scene, bands=tuple(replace(band, stamps=()) for band in scene.bands))
    (folder / "mask.tif").unlink()
    with rasterio.open(path):
        for _ in range(3):
            close_cached_rasters()
            with pytest.raises(BadBlockError, match="the mask at"):
                read_block(unstamped, WHOLE)


def test_a_damaged_block_of_a_source_is_left_out_alone(tmp_path: Path) -> None:
    pixels = make_noise(3, 256, 256, low=500, high=5000)
    for name, own in zip(NAMES, pixels, strict=True):
        write_tiled(tmp_path / f"{name}.tif", own[None])
    damage_block(tmp_path / "green.tif", 1, 1, 0)
    bands = [make_band(i, band, make_source(f"{band}.tif")) for i, band in enumerate(NAMES, 1)]
    (tmp_path / "scene.vrt").write_text(make_vrt(bands, 256))
    scene = opened(tmp_path / "scene.vrt")
    with pytest.raises(BadBlockError, match=r"scene\.vrt: band 2"):
        read_block(scene, Window(0, 0, 256, 256))
    for _ in range(2):
        block = read_block(scene, Window(0, 0, 256, 256), "nodata")
        assert block.bad_blocks and not block.valid[64:128, :64].any() and block.valid[128:].all()
        np.testing.assert_array_equal(block.pixels[:, block.valid], pixels[:, block.valid])


def test_bands_of_different_types_are_read_as_they_are(folder: Path) -> None:
    values = (PIXELS[1] / 7).astype(np.float32)
    write_geotiff(folder / "green.tif", values[None])
    types = ("UInt16", "Float32", "UInt16")
    bands = [make_band(i, band, make_source(f"{band}.tif"), types[i - 1]) for i, band in enumerate(NAMES, 1)]
    (folder / "scene.vrt").write_text(make_vrt(bands))
    scene = opened(folder / "scene.vrt")
    assert scene.dtype == "float32"
    np.testing.assert_array_equal(read_block(scene, WHOLE).pixels, [PIXELS[0], values, PIXELS[2]])


@pytest.mark.parametrize("kind", ["missing", "half"])
def test_a_mask_that_cannot_be_read_is_refused_at_the_start(folder: Path, kind: str) -> None:
    bands = [make_band(i, band, make_source(f"{band}.tif")) for i, band in enumerate(NAMES, 1)]
    path = folder / "scene.vrt"
    if kind == "missing":
        path.write_text(make_vrt([*bands, make_mask("mask.tif")]))
    else:
        path = write_geotiff(folder / "scene.tif", PIXELS, names=NAMES)
        half = np.full((1, EDGE // 2, EDGE // 2), 255, np.uint8)
        with rasterio.open(write_geotiff(folder / "scene.tif.msk", half), "r+") as file:
            file.update_tags(INTERNAL_MASK_FLAGS_1=2, INTERNAL_MASK_FLAGS_2=2, INTERNAL_MASK_FLAGS_3=2)
    with pytest.raises(InputError, match=r"the mask of \S*scene\.(vrt|tif) cannot be read"):
        opened(path)


def test_the_files_of_a_mask_belong_to_the_scene(folder: Path) -> None:
    mask = np.full((1, EDGE, EDGE), 255, np.uint8)
    mask[:, :, EDGE // 2 :] = 0
    write_geotiff(folder / "mask.tif", mask)
    bands = [make_band(i, band, make_source(f"{band}.tif")) for i, band in enumerate(NAMES, 1)]
    (folder / "scene.vrt").write_text(make_vrt([*bands, make_mask("mask.tif")]))
    scene = opened(folder / "scene.vrt")
    np.testing.assert_array_equal(read_block(scene, WHOLE).valid, mask[0] > 0)
    assert folder / "mask.tif" in scene.list_local_files()


def write_raw(path: Path, driver: str, pixels: NDArray[Any]) -> Path:
    profile = {"count": len(pixels), "height": EDGE, "width": EDGE, "dtype": pixels.dtype, "crs": "EPSG:32620"}
    with rasterio.open(path, "w", driver=driver, transform=UTM, **profile) as file:
        file.write(pixels)
    return path


@pytest.mark.parametrize(
    ("driver", "name", "numbers"),
    [
        ("ENVI", "scene.img", "scene.img"),
        ("ENVI", "scene.dat", "scene.dat"),
        ("EHdr", "scene.bil", "scene.bil"),
        ("PAux", "scene.raw", "scene.raw"),
        ("RRASTER", "scene.grd", "scene.gri"),
        ("ERS", "scene.ers", "scene"),
        ("PNM", "scene.ppm", "scene.ppm"),
        ("PDS4", "scene.xml", "scene.img"),
    ],
)
@pytest.mark.parametrize("missing", [100, 2 * EDGE * EDGE])
def test_plain_numbers_that_are_cut_off_are_refused(
    tmp_path: Path, driver: str, name: str, numbers: str, missing: int
) -> None:
    path = write_raw(tmp_path / name, driver, PIXELS)
    assert str(tmp_path / numbers) in list_source_files(str(path))
    content = (tmp_path / numbers).read_bytes()
    (tmp_path / numbers).write_bytes(content[: len(content) - max(0, len(content) - PIXELS.nbytes - 60) - missing])
    with pytest.raises(InputError, match=rf"{name} is cut off: got .* bytes in {numbers}, expected at least 2,400"):
        list_source_files(str(path))
    if driver == "ENVI":
        with pytest.raises(InputError, match=f"{name} is cut off"):
            opened(path, bands=("1", "2", "3"), scale=1e-4)


@pytest.mark.parametrize("driver", ["PNG", "WEBP", "JP2OpenJPEG"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path, driver: str, count: int) -> None:
    if driver == "WEBP" and count == 1:
        pytest.skip("WebP has colours")
    pixels = make_noise(count, 256, 256, high=255, dtype="uint8")
    source = write_geotiff(tmp_path / "source.tif", pixels)
    path = tmp_path / "scene.picture"
    rasterio.shutil.copy(source, path, driver=driver)
    needs = NEEDS[:count]
    options = SceneOptions(bands=("1", "2", "3")[:count], scale=1 / 255)
    assert read_block(open_scene(path, needs, options), Window(0, 0, 256, 256)).valid.all()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match=r"scene\.picture"):
        open_scene(path, needs, options)


def test_a_photo_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    source = write_geotiff(tmp_path / "source.tif", make_noise(3, 256, 256, high=255, dtype="uint8"))
    path = tmp_path / "scene.jpg"
    rasterio.shutil.copy(source, path, driver="JPEG")
    whole = read_block(opened(path), Window(0, 0, 256, 256)).pixels
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    scene = opened(path)
    for _ in range(2):
        with pytest.raises(BadBlockError, match=r"scene\.jpg: band 1, block row"):
            read_block(scene, Window(0, 0, 256, 256))
        block = read_block(scene, Window(0, 0, 256, 256), "nodata")
        assert 0.3 < block.valid.mean() < 0.7
        np.testing.assert_array_equal(block.pixels[:, block.valid], whole[:, block.valid])


def test_packed_numbers_are_as_short_as_they_are(tmp_path: Path) -> None:
    flat = np.full((3, EDGE, EDGE), 1000, np.uint16)
    path = write_geotiff(tmp_path / "scene.tif", flat, names=NAMES, compress="deflate")
    assert list_source_files(str(path)) == [str(path)]
    path = write_raw(tmp_path / "scene.img", "ENVI", flat)
    path.write_bytes(gzip.compress(path.read_bytes()))
    header = tmp_path / "scene.hdr"
    header.write_text(header.read_text() + "file compression = 1\n")
    scene = opened(path, bands=("1", "2", "3"), scale=1e-4)
    np.testing.assert_array_equal(read_block(scene, WHOLE).pixels, flat)


@pytest.mark.parametrize("missing", [0, 1, EDGE * EDGE * 4])
def test_the_file_of_a_raw_band_holds_what_is_read_of_it(tmp_path: Path, missing: int) -> None:
    content = PIXELS.tobytes()
    (tmp_path / "numbers.bin").write_bytes(content[: len(content) - missing])
    size = EDGE * EDGE * 2
    bands = [
        make_band(
            i,
            band,
            f'<SourceFilename relativeToVRT="1">numbers.bin</SourceFilename><ImageOffset>{(i - 1) * size}</ImageOffset>'
            f"<PixelOffset>2</PixelOffset><LineOffset>{2 * EDGE}</LineOffset><ByteOrder>LSB</ByteOrder>",
            kind="Raw",
        )
        for i, band in enumerate(NAMES, 1)
    ]
    (tmp_path / "scene.vrt").write_text(make_vrt(bands))
    if missing:
        with pytest.raises(InputError, match=r"cut off: got [\d,]+ bytes in \S*numbers\.bin, expected at least 2,400"):
            opened(tmp_path / "scene.vrt")
    else:
        np.testing.assert_array_equal(read_block(opened(tmp_path / "scene.vrt"), WHOLE).pixels, PIXELS)
