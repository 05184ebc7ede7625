"""What the reading of a run's chunks decodes and takes, beside decoding each block of the files once.

    python benchmarks/reading.py --size 4096 --window 1280 --halo 96 --work build/reading

prints for each kind of file the CPU seconds of rasterio that reads each block once, and for each way of reading the
chunks the blocks that are decoded per block of the files, and CPU seconds per second of rasterio. ``--source`` takes a
folder or a file of yours with the six bands of the embedded model.
"""

from __future__ import annotations

import argparse
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.execution.chunk_queue import ChunkQueue
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io import block_cache, window_reader
from seamline.pipeline.raster_io.block_cache import BlockCache
from seamline.pipeline.raster_io.gdal import OpenRaster
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block

BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "swir16": "B11", "swir22": "B12"}
TILES = {"tiled": True, "blockxsize": 512, "blockysize": 512}
KINDS: dict[str, dict[str, Any]] = {
    "GeoTIFF, ZSTD, tiles of 512": {"compress": "zstd", "interleave": "pixel", **TILES},
    "GeoTIFF, DEFLATE, tiles of 512, bands apart": {"compress": "deflate", "interleave": "band", **TILES},
    "GeoTIFF, DEFLATE, strips of 1 row": {"compress": "deflate", "interleave": "pixel", "blockysize": 1},
    "JPEG 2000, 10 and 20 m, tiles of 1024": {},
}


def make_pixels(size: int) -> NDArray[np.uint16]:
    """Return a smooth field with noise, (bands, size, size), which compresses about as images do."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:size, :size] / 300
    field = 2000 + 900 * np.sin(row) * np.cos(col)
    bands = [field + 100 * band + rng.normal(0, 40, field.shape) for band in range(len(BANDS))]
    return np.stack(bands).astype(np.uint16)


def write(kind: str, pixels: NDArray[np.uint16], folder: Path) -> Path:
    """Write the pixels as files of a kind, unless they are there."""
    height, width = pixels.shape[1:]
    path = folder / f"{height} {kind}{'' if 'JPEG' in kind else '.tif'}"
    grid = {"dtype": "uint16", "crs": "EPSG:32632", "transform": Affine(10, 0, 300_000, 0, -10, 5_500_000)}
    if path.exists():
        return path
    if "JPEG" not in kind:
        shape = {"count": len(pixels), "height": height, "width": width}
        with rasterio.open(path, "w", driver="GTiff", **grid, **shape, **KINDS[kind]) as file:
            file.write(pixels)
            file.descriptions = tuple(BANDS)
        return path
    path.mkdir(parents=True)
    lossless = {"QUALITY": 100, "REVERSIBLE": True, "BLOCKXSIZE": 1024, "BLOCKYSIZE": 1024}
    for number, (band, values) in enumerate(zip(BANDS.values(), pixels, strict=True)):
        step = 1 if number < 4 else 2
        grid["transform"] = Affine(10 * step, 0, 300_000, 0, -10 * step, 5_500_000)
        shape = {"count": 1, "height": height // step, "width": width // step}
        with rasterio.open(path / f"{band}.jp2", "w", driver="JP2OpenJPEG", **grid, **shape, **lossless) as file:
            file.write(values[::step, ::step], 1)
    return path


def measure_cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process, of all its threads, for some work."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def decode_once(scene: Scene) -> None:
    """Read each block of the files once, with rasterio alone; rows of blocks where these are strips."""
    with rasterio.Env(GDAL_CACHEMAX=64 * 2**20, GDAL_NUM_THREADS=1):
        for path in dict.fromkeys(band.path for band in scene.bands):
            with rasterio.open(path) as file:
                height, width = file.block_shapes[0]
                height = max(height, 16)
                for row in range(0, file.height, height):
                    for col in range(0, file.width, width):
                        file.read(window=RasterioWindow(col, row, width, height).intersection(_whole(file)))


def _whole(file: Any) -> RasterioWindow:
    return RasterioWindow(0, 0, file.width, file.height)


def read_chunks(scene: Scene, tiling: Tiling, chunks: Sequence[Index], cache: BlockCache | None, threads: int) -> float:
    """Read the chunks as a run does; return the blocks that were asked of GDAL per block of the files."""
    asked, lock, blocks, read = [0], threading.Lock(), {}, window_reader.read_pixels

    def count(file: OpenRaster, bands: list[int], window: Window) -> NDArray[Any]:
        (height, width), size = file.block_shapes[bands[0] - 1], file.grid.shape
        down = -(-window.stop_row // height) - window.row // height
        with lock:
            asked[0] += down * (-(-window.stop_col // width) - window.col // width)
            blocks[file.path] = -(-size[0] // height) * -(-size[1] // width)
        return read(file, bands, window)

    window_reader.read_pixels = block_cache.read_pixels = count
    try:
        windows = [tiling.read_window_of(chunk) for chunk in chunks]
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda window: read_block(scene, window, "fail", cache).bad_blocks, windows):
                pass
    finally:
        window_reader.read_pixels = block_cache.read_pixels = read
    return asked[0] / sum(blocks.values())


def describe(scene: Scene, tiling: Tiling, most_bytes: int) -> list[str]:
    """Return for each way of reading the blocks that are decoded per block, and CPU seconds per second of rasterio."""
    queue = ChunkQueue(tiling, [], [])
    chunks = list(iter(queue.take_next_to_infer, None))
    cells = [f"{(bare := measure_cpu(lambda: decode_once(scene))):.1f}"]
    for cached, threads, processes in ((False, 1, 1), (True, 1, 1), (True, 2, 1), (True, 1, 2)):
        ratios: list[float] = []

        def read_all(cached: bool = cached, threads: int = threads, processes: int = processes) -> None:
            for first in range(processes):  # as if each of them took every n-th chunk
                cache = BlockCache(*tiling.list_read_ranges(), most_bytes if cached else 0)
                ratios.append(read_chunks(scene, tiling, chunks[first::processes], cache, threads))  # noqa: B023

        seconds = measure_cpu(read_all)
        cells.append(f"{sum(ratios):.2f}, {seconds / bare:.1f}")
    return cells


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--window", type=int, default=1280)
    parser.add_argument("--halo", type=int, default=96)
    parser.add_argument("--cache", type=int, default=384, help="MiB")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/reading"))
    arguments = parser.parse_args()
    sources = {str(arguments.source): arguments.source}
    if arguments.source is None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        pixels = make_pixels(arguments.size)
        sources = {kind: write(kind, pixels, arguments.work) for kind in KINDS}
    print("| | bare, s | no cache | one thread | two threads | two processes |\n|---|---|---|---|---|---|")
    for kind, source in sources.items():
        needs = [BandNeed(name) for name in BANDS]
        scene = open_scene(source, needs, SceneOptions(), reflectance=False)
        tiling = Tiling(*scene.grid.shape, arguments.window, arguments.halo, 0, 1, 16)
        print(f"| {kind} | {' | '.join(describe(scene, tiling, arguments.cache * 2**20))} |", flush=True)


if __name__ == "__main__":
    main()
