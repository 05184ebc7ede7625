"""Any window of a scene is a piece of the mirrored whole, with its nodata and its digest."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT
from scipy.ndimage import map_coordinates

from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io import gdal as rasters
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Band, Scene, read_block
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, UTM, damage_block, make_noise, write_geotiff, write_tiled

SIX = tuple(BandNeed(name) for name in BAND_NAMES)


def scene_of(source: Any, count: int, **options: Any) -> Scene:
    needs = [BandNeed(f"b{number}") for number in range(1, count + 1)]
    return open_scene(source, needs, SceneOptions(**options), reflectance=False)


def whole(scene: Scene) -> Window:
    return Window(0, 0, *scene.grid.shape)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """b1 with 10 m pixels; b2 with 20 m and nodata, b3 with 60 m: both in tiles, all over the same ground."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, size, seed, extra in [("b1", 10, 1, {}), ("b2", 20, 2, {"nodata": 0}), ("b3", 60, 3, {})]:
        pixels = make_noise(1, 1260 // size * 3, 1260 // size * 5, seed=seed)
        pixels[:, 20:30, 40:60] = 0
        grid = Affine(size, 0, 500_000, 0, -size, 6_000_000)
        tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
        write_geotiff(folder / f"{name}.tif", pixels, transform=grid, names=(name,), **tiles, **extra)
    return folder


@pytest.fixture(scope="session")
def oracles(tmp_path_factory: pytest.TempPathFactory, mixed: Path) -> list[tuple[Scene, Any, Any]]:
    """Scenes with all their pixels and what is valid, as rasterio says."""
    folder = tmp_path_factory.mktemp("plain")
    found = []
    for height, width in [(37, 23), (1, 1), (1, 9), (2, 3)]:
        pixels = make_noise(2, height, width, high=4, low=0)
        path = write_geotiff(folder / f"{height}x{width}.tif", pixels, names=("b1", "b2"), nodata=0)
        with rasterio.open(path) as file:
            found.append((scene_of(path, 2), file.read(), file.dataset_mask() > 0))
    scene = scene_of(mixed, 3)
    block = read_block(scene, whole(scene))
    found.append((scene, block.pixels, block.valid))
    return found


def _bilinear(folder: Path) -> NDArray[Any]:
    """All bands of a folder on the grid of b1, in one piece, as scipy interpolates."""
    bands = []
    for name, factor in [("b1", 1), ("b2", 2), ("b3", 6)]:
        with rasterio.open(folder / f"{name}.tif") as file:
            pixels, mask = file.read(1), file.read_masks(1) > 0
        places = np.mgrid[0:378, 0:630] / factor + 0.5 / factor - 0.5
        values, weights = (
            map_coordinates(np.float64(of), places, order=1, mode="nearest") for of in (pixels * mask, mask)
        )
        there = mask.repeat(factor, 0).repeat(factor, 1)
        bands.append(np.divide(values, weights, out=np.zeros_like(values), where=there))
    return np.stack(bands)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_is_a_piece_of_the_mirrored_scene(oracles: list[Any], data: st.DataObject) -> None:
    scene, pixels, valid = data.draw(st.sampled_from(oracles))
    height, width = scene.grid.shape
    row, col = (data.draw(st.integers(-40, size + 40)) for size in (height, width))
    window = Window(row, col, data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90)))
    block = read_block(scene, window)
    pad = 140
    inside = window.shift(pad, pad).to_slices()
    np.testing.assert_array_equal(block.pixels, np.pad(pixels, ((0, 0), (pad, pad), (pad, pad)), "reflect")[:, *inside])
    np.testing.assert_array_equal(block.valid, np.pad(valid, pad, "reflect")[inside])


def test_coarse_bands_are_interpolated(mixed: Path) -> None:
    """As scipy and, but for rounding and the last digit, GDAL do."""
    scene = scene_of(mixed, 3)
    block = read_block(scene, whole(scene))
    assert [band.nodata for band in scene.bands] == [None, 0, None]
    assert block.valid.all() and (block.pixels[1] == 0).any()
    assert abs(block.pixels - _bilinear(mixed)).max() <= 0.5 + 1e-9
    with rasterio.open(mixed / "b1.tif") as fine:
        onto = {"transform": fine.transform, "height": fine.height, "width": fine.width}
    for name, pixels in zip(("b2", "b3"), block.pixels[1:], strict=True):
        with (
            rasterio.open(mixed / f"{name}.tif") as file,
            WarpedVRT(file, **onto, resampling=Resampling.bilinear) as view,
        ):
            assert abs(view.read(1).astype(int) - pixels).max() <= 1


def test_a_plane_stays_a_plane(tmp_path: Path) -> None:
    rows, cols = np.mgrid[0:40, 0:60]
    coarse = 1000 + 20.0 * rows + 7.0 * cols
    write_geotiff(tmp_path / "b2.tif", coarse[None].astype("float32"), names=("b2",))
    write_geotiff(
        tmp_path / "b1.tif",
        np.ones((1, 120, 180), "uint8"),
        names=("b1",),
        transform=UTM @ Affine.scale(1 / 3),
    )
    scene = scene_of(tmp_path, 2)
    rows, cols = np.mgrid[0:120, 0:180]
    expected = 1000 + 20 * ((rows + 0.5) / 3 - 0.5) + 7 * ((cols + 0.5) / 3 - 0.5)
    assert scene.dtype == "float32"
    np.testing.assert_allclose(read_block(scene, whole(scene)).pixels[1, 2:-2, 2:-2], expected[2:-2, 2:-2], rtol=1e-6)


def test_a_real_scene_reads_as_rasterio_reads_it() -> None:
    path = find_shared(MANAUS)
    scene = open_scene(path, SIX, SceneOptions())
    block = read_block(scene, Window(100, 200, 300, 400))
    with rasterio.open(path) as file:
        window = rasterio.windows.Window(200, 100, 400, 300)
        np.testing.assert_array_equal(block.pixels, file.read(window=window))
        np.testing.assert_array_equal(block.valid, file.dataset_mask(window=window) > 0)


def _alpha(path: Path, pixels: NDArray[Any]) -> Path:
    alpha = np.where(pixels[:1] % 3 == 0, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    write_geotiff(path, np.concatenate([pixels, pixels[:1], alpha]), names=("b1", "b2", "other"))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*[ColorInterp.undefined] * 3, ColorInterp.alpha]
    return path


def _internal(path: Path, pixels: NDArray[Any], nodata: float | None = None) -> Path:
    write_geotiff(path, pixels, names=("b1", "b2"), nodata=nodata)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(pixels[0] % 3 != 0)
    return path


MASKED = {
    "nothing": lambda path, pixels: write_geotiff(path, pixels, names=("b1", "b2")),
    "nodata": lambda path, pixels: write_geotiff(path, pixels, names=("b1", "b2"), nodata=3),
    "NaN": lambda path, pixels: write_geotiff(
        path, np.where(pixels == 3, np.nan, pixels).astype("f4"), names=("b1", "b2"), nodata=np.nan
    ),
    "alpha": _alpha,
    "internal mask": _internal,
    "internal mask beside nodata": lambda path, pixels: _internal(path, pixels, nodata=4),
}


@pytest.mark.parametrize("kind", MASKED)
def test_valid_is_what_gdal_says(tmp_path: Path, kind: str) -> None:
    path = MASKED[kind](tmp_path / "x.tif", make_noise(2, 31, 33, low=1, high=6))
    scene = scene_of(path, 2)
    with rasterio.open(path) as file:
        expected = file.dataset_mask() > 0
    np.testing.assert_array_equal(read_block(scene, whole(scene)).valid, expected)
    assert expected.all() == (kind == "nothing")
    assert [band.index for band in scene.bands] == [1, 2]


def test_nan_and_infinity_are_no_data_of_their_band(tmp_path: Path) -> None:
    pixels = np.ones((2, 3, 4), dtype="float32")
    pixels[:, 0, 0], pixels[0, 1, 1], pixels[:, 2, 2] = np.nan, np.nan, (np.inf, -np.inf)
    scene = scene_of(write_geotiff(tmp_path / "x.tif", pixels, names=("b1", "b2")), 2)
    assert np.argwhere(~read_block(scene, whole(scene)).valid).tolist() == [[0, 0], [2, 2]]


@pytest.mark.parametrize("declared", [None, -3.40282e38, 0.5])
@pytest.mark.parametrize("mark", [np.finfo("float32").min, 3.4e38, 1e20, -1e20, 9.96921e36, np.inf, np.nan])
def test_marks_of_missing_pixels_are_no_numbers_of_any_band(
    tmp_path: Path, mark: float, declared: float | None
) -> None:
    pixels = np.ones((2, 3, 4), dtype="float32")
    pixels[1, 0, 0], pixels[:, 2, 2] = mark, mark
    scene = scene_of(write_geotiff(tmp_path / "x.tif", pixels, names=("b1", "b2"), nodata=declared), 2)
    block = read_block(scene, whole(scene))
    assert np.argwhere(~block.valid).tolist() == [[2, 2]]
    assert np.argwhere(np.isnan(block.pixels)).tolist() == [[0, 2, 2], [1, 0, 0], [1, 2, 2]]
    assert set(block.pixels[np.isfinite(block.pixels)]) == {1}


@pytest.mark.parametrize("nodata, invalid", [(7, 12), ("none", 0)])
def test_the_user_has_the_last_word_on_nodata(tmp_path: Path, nodata: Any, invalid: int) -> None:
    pixels = np.ones((1, 5, 6), dtype="uint8")
    pixels[0, :2] = 7
    scene = scene_of(write_geotiff(tmp_path / "x.tif", pixels, names=("b1",), nodata=1), 1, nodata=nodata)
    assert (~read_block(scene, whole(scene)).valid).sum() == invalid


@pytest.mark.parametrize("mask", ["alpha", "internal mask", "nothing"])
def test_where_a_coarse_file_has_no_data_another_may(tmp_path: Path, mask: str) -> None:
    MASKED[mask](tmp_path / "coarse.tif", np.repeat([[[3] * 5 + [4] * 5]], 2, 0).repeat(10, 1).astype("uint8"))
    fine = UTM @ Affine.translation(-0.4, 0) @ Affine.scale(1 / 5)  # 2 pixels beyond the coarse file's edge
    write_geotiff(tmp_path / "fine.tif", np.ones((1, 50, 50), "uint8"), names=("b3",), transform=fine)
    scene = scene_of(tmp_path, 3)
    assert read_block(scene, whole(scene)).valid.all()
    coarse = replace(scene, bands=scene.bands[:2])
    block = read_block(coarse, whole(coarse))
    edge = 0 if mask == "nothing" else 27
    assert block.valid[25].tolist() == [False] * edge + [True] * (50 - edge)
    assert set(np.unique(block.pixels[:, block.valid])) == ({3, 4} if mask == "nothing" else {4})


@pytest.mark.parametrize("grid", [UTM, UTM @ Affine.rotation(30), Affine(3e-4, 0, -60, 0, -1e-4, -3)])
def test_the_aoi_holds_the_pixels_whose_centres_it_holds(tmp_path: Path, grid: Affine) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(1, 60, 80), names=("b1",), transform=grid)
    ring = [grid @ corner for corner in [(7.3, 3.1), (70.2, 11.7), (60.9, 55.3), (21.4, 40.2), (7.3, 3.1)]]
    scene = replace(scene_of(path, 1), aoi=f"POLYGON (({', '.join(f'{x!r} {y!r}' for x, y in ring)}))")
    expected = geometry_mask([{"type": "Polygon", "coordinates": [ring]}], (60, 80), grid, invert=True)
    block = read_block(scene, whole(scene))
    np.testing.assert_array_equal(block.label_mask, expected)
    assert block.valid.all()
    np.testing.assert_array_equal(block.pixels, read_block(replace(scene, aoi=None), whole(scene)).pixels)
    for window in [Window(0, 0, 9, 9), Window(20, 30, 8, 8), Window(5, 3, 31, 40)]:
        np.testing.assert_array_equal(read_block(scene, window).label_mask, expected[window.to_slices()])


def test_an_unreadable_block_is_named_or_left_out(tmp_path: Path) -> None:
    pixels = make_noise(2, 200, 150)
    path = write_tiled(tmp_path / "x.tif", pixels, names=("b1", "b2"), interleave="band")
    damage_block(path, 2, row=1, col=2)
    scene = scene_of(path, 2)
    expected = r"x\.tif: band 2, block row 1, column 2 \(pixel rows 64 to 127, columns 128 to 149\) cannot"
    with pytest.raises(BadBlockError, match=expected + " be read: .*Decode"):
        read_block(scene, whole(scene))

    block = read_block(scene, Window(-10, 0, 210, 150), "nodata")
    lost = np.zeros((200, 150), dtype=bool)
    lost[64:128, 128:] = True
    np.testing.assert_array_equal(block.valid[10:], ~lost)
    np.testing.assert_array_equal(block.pixels[:, 10:][:, ~lost], pixels[:, ~lost])
    np.testing.assert_array_equal(block.pixels[0, 10:], pixels[0])
    [bad] = block.bad_blocks
    assert (bad.path, bad.index, bad.window) == (str(path), 2, Window(64, 128, 64, 22))
    assert not read_block(scene, Window(0, 0, 64, 150)).bad_blocks
    with rasterio.open(path) as other:  # rasterio would raise GDAL's last error again, here
        assert not read_block(scene, bad.window, "nodata").valid.any()
        assert other.colorinterp


@pytest.mark.parametrize("extra", [{}, {"nodata": 5}])
def test_an_unreadable_block_of_a_coarse_band_takes_its_surroundings(tmp_path: Path, extra: Any) -> None:
    path = write_tiled(tmp_path / "coarse.tif", make_noise(1, 130, 150), names=("b1",), **extra)
    fine = UTM @ Affine.scale(1 / 3)
    write_geotiff(tmp_path / "fine.tif", make_noise(1, 390, 450), names=("b2",), transform=fine)
    scene = scene_of(tmp_path, 2)
    before = read_block(scene, whole(scene))
    damage_block(path, 1, row=1, col=1)
    scene = scene_of(tmp_path, 2)
    with pytest.raises(BadBlockError, match=r"coarse\.tif: band 1, block row 1, column 1"):
        read_block(scene, whole(scene))
    after = read_block(scene, whole(scene), "nodata")
    rows, cols = np.nonzero(~after.valid)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (64 * 3 - 1, 128 * 3, 64 * 3 - 1, 128 * 3)
    np.testing.assert_array_equal(after.pixels[:, after.valid], before.pixels[:, after.valid])
    assert [bad.window for bad in after.bad_blocks] == [Window(64, 64, 64, 64)]


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(1, 5, 5), names=("b1",))
    scene = scene_of(path, 1)
    path.unlink()
    with pytest.raises(BadBlockError, match=r"x\.tif can no longer be opened"):
        read_block(scene, whole(scene))


def test_threads_read_the_same(oracles: list[Any]) -> None:
    scene, pixels, _ = oracles[-1]
    windows = [Window(row, col, 64, 64) for row in range(0, 320, 64) for col in range(0, 512, 64)]
    with ThreadPoolExecutor(8) as pool:
        for window, block in zip(windows, pool.map(lambda window: read_block(scene, window), windows), strict=True):
            np.testing.assert_array_equal(block.pixels, pixels[:, *window.to_slices()])


def test_open_files_are_few_and_never_stale(tmp_path: Path) -> None:
    paths = [write_geotiff(tmp_path / f"{n}.tif", make_noise(1, 4, 4, seed=n), names=("b1",)) for n in range(30)]
    scenes = [scene_of(path, 1) for path in paths]
    for n, scene in enumerate(scenes):
        np.testing.assert_array_equal(read_block(scene, whole(scene)).pixels, make_noise(1, 4, 4, seed=n))
    assert len(rasters._handles.rasters) <= 16
    write_geotiff(paths[-1], make_noise(1, 4, 4, seed=99), names=("b1",))
    again = scene_of(paths[-1], 1)
    np.testing.assert_array_equal(read_block(again, whole(again)).pixels, make_noise(1, 4, 4, seed=99))


def test_the_digest_follows_content_and_meaning_and_nothing_else(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(1, 50, 50), names=("b1",))
    scene = scene_of(path, 1)
    digest = scene.compute_digest()
    shutil.copy(path, tmp_path / "y.tif")
    (tmp_path / "x.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert (
        scene_of(tmp_path / "y.tif", 1).compute_digest() == digest == pickle.loads(pickle.dumps(scene)).compute_digest()
    )
    assert replace(scene, id="other", warnings=("some",), source="elsewhere").compute_digest() == digest
    band = scene.bands[0]
    changes: list[Any] = [{"aoi": "POLYGON ((0 0, 1 0, 1 1, 0 0))"}, {"dtype": "float32"}]
    changes += [{"bands": (replace(band, **c),)} for c in ({"scale": 2.0}, {"nodata": 0.0}, {"name": "red"})]
    digests = [replace(scene, **change).compute_digest() for change in changes]
    write_geotiff(path, make_noise(1, 50, 50, seed=1), names=("b1",))
    assert len({digest, scene.compute_digest(), *digests}) == len(digests) + 2


def test_the_digest_sees_the_sources_of_a_vrt(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "x.tif", make_noise(1, 20, 20), names=("b1",))
    with rasterio.open(path) as file, WarpedVRT(file) as view:
        rasterio.shutil.copy(view, tmp_path / "x.vrt", driver="VRT")
    scene = scene_of(tmp_path / "x.vrt", 1, bands=("1",))
    before = scene.compute_digest()
    write_geotiff(path, make_noise(1, 20, 20, seed=1), names=("b1",))
    assert scene_of(tmp_path / "x.vrt", 1, bands=("1",)).compute_digest() != before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": "../x"}, "not safe"),
        ({"bands": ()}, "no bands"),
    ],
)
def test_an_impossible_scene_is_not_born(oracles: list[Any], change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(oracles[0][0], **change)
    with pytest.raises(ValueError, match="scale"):
        Band("x", "x.tif", 1, 0.0, 0.0, None)
    with pytest.raises(ValueError, match="count from 1"):
        Band("x", "x.tif", 0, 1.0, 0.0, None)
