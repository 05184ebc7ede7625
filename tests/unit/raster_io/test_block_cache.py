"""What is read through the cache of a run is what rasterio reads; each block is decoded once while there is room."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io import block_cache
from seamline.pipeline.raster_io.block_cache import BlockCache
from seamline.pipeline.raster_io.gdal import OpenRaster
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.small_rasters import UTM, damage_block, make_noise, write_geotiff

HEIGHT, WIDTH = 150, 230
TILING = Tiling(HEIGHT, WIDTH, window=64, halo=8, overlap=0, chunk_tiles=1, divisor=8)
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"},
    "large tiles": {"tiled": True, "blockxsize": 128, "blockysize": 64, "compress": "zstd"},
    "strips": {"blockysize": 1, "compress": "deflate"},
    "one block": {"blockysize": HEIGHT, "compress": "deflate"},
}


def write(path: Path, layout: str, **extra: Any) -> Scene:
    write_geotiff(path, make_noise(2, HEIGHT, WIDTH, high=9), names=("b1", "b2"), **LAYOUTS[layout], **extra)
    return scene_of(path)


def scene_of(path: Path) -> Scene:
    return open_scene(path, [BandNeed("b1"), BandNeed("b2")], SceneOptions(), reflectance=False)


def make_cache(tiling: Tiling = TILING, most_bytes: int = 2**20, threads: int = 1) -> BlockCache:
    return BlockCache(*tiling.list_read_ranges(), most_bytes, threads)


def assert_same(scene: Scene, cache: BlockCache, window: Window, mode: Any = "fail") -> None:
    block, alone = read_block(scene, window, mode, cache), read_block(scene, window, mode)
    for name in ("pixels", "valid", "label_mask"):
        np.testing.assert_array_equal(getattr(block, name), getattr(alone, name))
    assert block.bad_blocks == alone.bad_blocks


@contextmanager
def count_decoded() -> Iterator[Counter[tuple[str, int, int]]]:
    """Count how often each block of each file is asked of GDAL."""
    counter: Counter[tuple[str, int, int]] = Counter()
    read = block_cache.read_pixels

    def count(file: OpenRaster, bands: list[int], window: Window) -> NDArray[Any]:
        height, width = file.block_shapes[bands[0] - 1]
        for row in range(window.row // height, -(-window.stop_row // height)):
            for col in range(window.col // width, -(-window.stop_col // width)):
                counter[file.path, row, col] += 1
        return read(file, bands, window)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_cache, "read_pixels", count)
        yield counter


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    folder = tmp_path_factory.mktemp("scenes")
    found = [
        write(folder / f"{layout} {interleave}.tif", layout, interleave=interleave)
        for layout in LAYOUTS
        for interleave in ("band", "pixel")
    ]
    found.append(write(folder / "nodata.tif", "tiles", nodata=3))
    for internal in (True, False):
        path = folder / f"mask {internal}.tif"
        write(path, "tiles")
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
            file.write_mask(make_noise(HEIGHT, WIDTH, high=4) > 1)
        found.append(scene_of(path))
    two = folder / "two grids"
    write_geotiff(two / "b1.tif", make_noise(1, HEIGHT, WIDTH), names=("b1",), **LAYOUTS["tiles"])
    coarse = UTM @ Affine.scale(2)
    write_geotiff(
        two / "b2.tif", make_noise(1, HEIGHT // 2, WIDTH // 2), names=("b2",), transform=coarse, **LAYOUTS["tiles"]
    )
    return [*found, scene_of(two)]


@given(
    number=st.integers(0, 11),
    stride=st.integers(1, 12).map(lambda count: 8 * count),
    halo=st.integers(0, 6).map(lambda count: 8 * count),
    chunk_tiles=st.integers(1, 3),
    most=st.sampled_from([0, 3_000, 20_000, 2**20]),
    threads=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chunks_in_any_order_by_any_threads_are_what_is_read_alone(
    scenes: list[Scene], number: int, stride: int, halo: int, chunk_tiles: int, most: int, threads: int, order: Any
) -> None:
    assert len(scenes) == 12
    scene = scenes[number]
    tiling = Tiling(*scene.grid.shape, stride + 2 * halo, halo, 0, chunk_tiles, 8)
    chunks = list(tiling.chunks())
    order.shuffle(chunks)
    cache = make_cache(tiling, most, threads)

    def check(chunk: Index) -> None:
        assert_same(scene, cache, tiling.read_window_of(chunk))
        assert 0 <= cache.size <= most

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(check, chunks))
    if most == 2**20:
        assert cache.size == 0  # as each was read by all that need it


def test_windows_are_what_rasterio_reads(scenes: list[Scene]) -> None:
    for scene in scenes[:8]:
        cache = make_cache()
        with rasterio.open(scene.bands[0].path) as file:
            for chunk in TILING.chunks():
                window = TILING.read_window_of(chunk)
                inside = window.intersection(TILING.scene_window)
                expected = file.read(window=RasterioWindow(inside.col, inside.row, inside.width, inside.height))
                pixels = read_block(scene, window, "fail", cache).pixels
                np.testing.assert_array_equal(pixels[:, *inside.relative_to(window).to_slices()], expected)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("number", range(12))
def test_each_block_is_decoded_once(scenes: list[Scene], number: int, threads: int) -> None:
    scene, cache = scenes[number], make_cache(threads=threads)
    with count_decoded() as decoded, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda chunk: read_block(scene, TILING.read_window_of(chunk), "fail", cache), TILING.chunks()))
    assert set(decoded.values()) == {1}
    assert {path for path, _, _ in decoded} == {band.path for band in scene.bands}


def test_without_room_for_a_row_of_windows_some_blocks_are_still_found(tmp_path: Path) -> None:
    """Strips are as wide as the scene, so that each window of a row needs what the one before it needed."""
    scene = write(tmp_path / "x.tif", "strips", interleave="pixel")
    windows = [TILING.read_window_of(Index(1, col)) for col in range(TILING.chunk_grid.col)]
    strips = 16 * 2 * 2 * WIDTH  # bytes of those that are kept as one; a window touches five such
    decoded_rows = []
    for most in (4 * strips, 5 * strips):
        cache = make_cache(most_bytes=most)
        with count_decoded() as decoded:
            for window in windows:
                read_block(scene, window, "fail", cache)
                assert cache.size <= most
        decoded_rows.append(sum(decoded.values()))
    assert decoded_rows == [80 + 16 * (len(windows) - 1), 80]


def test_two_threads_that_need_a_block_wait_for_one_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, cache = write(tmp_path / "x.tif", "one block", interleave="pixel"), make_cache()
    read, begun, go_on, calls = block_cache.read_pixels, threading.Event(), threading.Event(), []

    def read_slowly(*arguments: Any) -> Any:
        calls.append(arguments)
        begun.set()
        assert go_on.wait(30)
        return read(*arguments)

    monkeypatch.setattr(block_cache, "read_pixels", read_slowly)
    windows = [TILING.read_window_of(Index(0, col)) for col in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read_block, scene, windows[0], "fail", cache)
        assert begun.wait(30)
        second = pool.submit(read_block, scene, windows[1], "fail", cache)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        go_on.set()
        np.testing.assert_array_equal(second.result(30).pixels, read_block(scene, windows[1]).pixels)
        first.result(30)
    assert len(calls) == 1


def test_who_waits_for_a_block_that_cannot_be_read_reads_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own error names what it needs, and an outage may be over."""
    scene, cache = write(tmp_path / "x.tif", "one block", interleave="pixel"), make_cache()
    read, begun, go_on, calls = block_cache.read_pixels, threading.Event(), threading.Event(), []

    def fail_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            begun.set()
            assert go_on.wait(30)
            raise rasterio.errors.RasterioIOError("an outage")
        return read(*arguments)

    monkeypatch.setattr(block_cache, "read_pixels", fail_once)
    windows = [TILING.read_window_of(Index(0, col)) for col in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read_block, scene, windows[0], "fail", cache)
        assert begun.wait(30)
        second = pool.submit(read_block, scene, windows[1], "fail", cache)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        go_on.set()
        for window, block in zip(windows, (first.result(30), second.result(30)), strict=True):
            np.testing.assert_array_equal(block.pixels, read_block(scene, window).pixels)
    assert len(calls) == 2 and cache.size == 0


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_unreadable_blocks_are_those_that_are_read_alone(tmp_path: Path, interleave: str) -> None:
    path = tmp_path / "x.tif"
    write(path, "tiles", interleave=interleave)
    damage_block(path, 2 if interleave == "band" else 1, row=3, col=2)
    scene, cache = scene_of(path), make_cache()
    for chunk in TILING.chunks():
        assert_same(scene, cache, TILING.read_window_of(chunk), "nodata")
    bad = Window(48, 64, 16, 32)
    for chunk in TILING.chunks():
        window = TILING.read_window_of(chunk)
        if window.intersection(bad).pixel_count:
            with pytest.raises(BadBlockError, match="block row 3, column 2"):
                read_block(scene, window, "fail", cache)
        else:
            assert_same(scene, cache, window)


def test_blocks_of_a_file_that_was_replaced_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    scene, cache = write(path, "tiles"), make_cache()
    first, second = (TILING.read_window_of(Index(0, col)) for col in (0, 1))
    read_block(scene, first, "fail", cache)
    assert cache.size
    write_geotiff(path, make_noise(2, HEIGHT, WIDTH, seed=1), names=("b1", "b2"), **LAYOUTS["tiles"])
    again = scene_of(path)
    assert_same(again, cache, second)
    with pytest.raises(BadBlockError, match="was changed or replaced"):
        read_block(scene, second, "fail", cache)


def test_a_block_that_was_read_while_its_file_was_rewritten_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tif"
    scene, cache = write(path, "tiles"), make_cache()
    content, read = path.read_bytes(), block_cache.read_pixels

    def rewrite_meanwhile(*arguments: Any) -> Any:
        pixels = read(*arguments)
        path.write_bytes(content + b"more")
        return pixels

    monkeypatch.setattr(block_cache, "read_pixels", rewrite_meanwhile)
    with pytest.raises(BadBlockError, match="was changed or replaced"):
        read_block(scene, TILING.read_window_of(Index(0, 0)), "fail", cache)
    assert cache.size == 0


def test_the_threads_of_gdal_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, read = [], block_cache.read_pixels

    def note_threads(*arguments: Any) -> Any:
        seen.append(rasterio.env.getenv().get("GDAL_NUM_THREADS"))
        return read(*arguments)

    monkeypatch.setattr(block_cache, "read_pixels", note_threads)
    scene = write(tmp_path / "x.tif", "tiles")
    read_block(scene, TILING.read_window_of(Index(0, 0)), "fail", make_cache(threads=3))
    assert set(seen) == {"3"}
