"""COG, overviews and polygons of a result, beside ``rio cogeo create`` and ``gdal_polygonize.py`` on the same labels.

    python benchmarks/outputs.py [--size 20000] [--rasters] [--workers 2] [--min-area M2] [--simplify PX]

The labels are simulated: fields of four classes in regions of some hundred pixels, and islands down to a few. Ours run
as in ``seamline segment``: on worker processes, joined in this one. Without ``gdal_polygonize.py`` only ours run. Told
are seconds, peak memory, numbers of polygons, bytes on disk.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyogrio
from affine import Affine
from distributed import Client, LocalCluster
from odc.geo.geobox import GeoBox
from scipy import ndimage

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.memory import read_peak_memory
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.products.cog import describe_labels, write_cog
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels
from seamline.pipeline.vectors.vectors import PolygonOptions, PolygonRules, write_polygons
from seamline.pipeline.vectors.writers import POLYGON_FILES

CHUNK, CLASSES = 2048, tuple(LabelClass(value, f"class {value}", (60 * value, 100, 20)) for value in range(4))
POLYGONIZE = "gdal_polygonize.py"


def main() -> None:
    """Simulate, time both, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rasters", action="store_true", help="only COG and overviews")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--min-area", type=float, default=0)
    parser.add_argument("--simplify", type=float, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = GeoBox((asked.size, asked.size), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")
        tiling = Tiling(asked.size, asked.size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
        create_store(folder / "s.zarr", grid, CLASSES, ZarrLayout(1024), title="simulated")
        for chunk in tiling.chunks():
            write_labels(folder / "s.zarr", tiling.write_window_of(chunk), simulated(tiling, chunk))
        print(f"{asked.size}² pixels, {tiling.chunk_grid.row}² chunks of {CHUNK}")
        print(f"labels in the store: {size_of(folder / 's.zarr')}")
        rasters(folder, asked.size)
        if asked.rasters:
            return
        for formats in (("parquet",), ("fgb",), tuple(POLYGON_FILES)):
            rules = PolygonRules(asked.min_area, asked.simplify)
            ours(folder, tiling, grid, PolygonOptions(formats, rules), asked.workers)
        if shutil.which(POLYGONIZE):
            gdal(folder)
        else:
            print(f"{POLYGONIZE} is not installed")


def rasters(folder: Path, size: int) -> None:
    """Time COG and overviews, each in a process of its own, and rio-cogeo's COG of the COG."""
    rio = [str(Path(sys.executable).parent / "rio"), "cogeo", "create", str(folder / "s.tif"), str(folder / "r.tif")]
    steps = {
        "ours, COG": ([sys.executable, __file__, "--step", "cog", str(folder), str(size)], "s.tif"),
        "ours, overviews": ([sys.executable, __file__, "--step", "overviews", str(folder), str(size)], "s.zarr"),
        "rio cogeo create": ([*rio, "--cog-profile", "lzw", "--overview-resampling", "mode", "--quiet"], "r.tif"),
        "the same, ALL_CPUS": (
            [*rio, "--cog-profile", "lzw", "--overview-resampling", "mode", "--quiet", "--threads", "ALL_CPUS"],
            "r.tif",
        ),
    }
    for what, (command, result) in steps.items():
        seconds, peak = metered(what, command)
        print(f"{what}: {seconds:.1f} s with start, {peak} MiB, {size_of(folder / result)}", flush=True)


METER = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


def metered(what: str, command: list[str]) -> tuple[float, int]:
    """Seconds and peak memory (MiB) of a command.

    Its parent is a process that has nothing in memory: a child's counter starts at what its parent holds.
    """
    done = subprocess.run([sys.executable, "-c", METER, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{what} failed")
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), int(peak)


def step(what: str, folder: Path, size: int) -> None:
    """What ``rasters`` measures."""
    grid = GeoBox((size, size), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")
    if what == "cog":
        labels, content = open_labels(folder / "s.zarr"), describe_labels(CLASSES)
        write_cog(labels, grid, content, folder / "s.tif", folder / "scratch", {})
    else:
        write_overviews(folder / "s.zarr", grid, CLASSES)


def size_of(path: Path) -> str:
    """Of a file or folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f} MB"


@cache
def fields_of(side: int) -> np.ndarray:
    """A smooth field for each class, (4, side, side)."""
    return ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((4, side, side)), (0, 3, 3))


def simulated(tiling: Tiling, chunk: Index) -> np.ndarray:
    """Labels of a chunk that fit to those of its neighbours."""
    window, margin = tiling.write_window_of(chunk), 64
    step = 16
    coarse = fields_of(-(-max(tiling.height, tiling.width) // step) + 2 * margin)
    rows = (np.arange(window.row, window.stop_row) / step + margin)[:, None]
    cols = (np.arange(window.col, window.stop_col) / step + margin)[None, :]
    where = np.broadcast_arrays(rows, cols)
    fields = np.stack([ndimage.map_coordinates(field, where, order=1) for field in coarse])
    grain = np.random.default_rng([chunk.row, chunk.col]).standard_normal(fields.shape).astype(np.float32)
    return (fields + 0.05 * ndimage.gaussian_filter(grain, (0, 1.5, 1.5))).argmax(0).astype(np.uint8)


def ours(folder: Path, tiling: Tiling, grid: GeoBox, wanted: PolygonOptions, workers: int) -> None:
    """Time our polygons in a process of its own, whose peak of memory is then its own."""
    for old in POLYGON_FILES.values():
        (folder / old).unlink(missing_ok=True)
    command = [sys.executable, __file__, "--one", str(folder), str(tiling.height), ",".join(wanted.formats)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, str(wanted.rules.min_area), str(wanted.rules.simplify), str(workers)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    print(f"ours, {'+'.join(wanted.formats)}: {done.stdout.strip()} ({time.perf_counter() - started:.1f} s with start)")


def one(folder: Path, size: int, wanted: PolygonOptions, workers: int) -> None:
    """What ``ours`` measures."""
    grid = GeoBox((size, size), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")
    tiling = Tiling(size, size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
    with LocalCluster(workers, threads_per_worker=3, dashboard_address=":0") as cluster, Client(cluster) as client:

        def spread(work: Callable[[Index], Any], chunks: Any) -> Iterator[Any]:
            """As ``seamline.pipeline.execution.scheduler.sample_blocks``, without what names errors."""
            left, running = iter(chunks), []
            while True:
                while len(running) < 6 * workers and (chunk := next(left, None)) is not None:
                    running.append(client.submit(work, chunk, pure=False))
                if not running:
                    return
                yield running.pop(0).result()

        started = time.perf_counter()
        write_polygons(folder / "s.zarr", tiling, grid, CLASSES, wanted, folder, folder / "scratch", spread)
        seconds = time.perf_counter() - started
        peaks = sum(client.run(read_peak_memory).values())
    found = folder / POLYGON_FILES["parquet"]
    count = f"{pq.read_metadata(found).num_rows} polygons, " if found.exists() else ""
    sizes = ", ".join(f"{name} {size_of(folder / name)}" for name in POLYGON_FILES.values() if (folder / name).exists())
    print(
        f"{count}{seconds:.1f} s, {sizes}, {read_peak_memory() >> 20} MiB here, {peaks >> 20} MiB in {workers} workers"
    )


def gdal(folder: Path) -> None:
    """Time GDAL's program on the COG."""
    for driver, name in (("FlatGeobuf", "g.fgb"), ("GPKG", "g.gpkg")):
        command = [POLYGONIZE, "-q", "-of", driver, str(folder / "s.tif"), str(folder / name), "polygons", "class"]
        # Not this environment's Python.
        seconds, peak = metered(POLYGONIZE, ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", *command])
        found = pyogrio.read_info(folder / name)["features"]
        print(f"{POLYGONIZE}, {driver}: {found} polygons, {seconds:.1f} s, {peak} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        raise SystemExit
    if sys.argv[1:2] == ["--one"]:
        place, size, formats, min_area, simplify, workers = sys.argv[2:]
        rules = PolygonRules(float(min_area), float(simplify))
        one(Path(place), int(size), PolygonOptions(tuple(formats.split(",")), rules), int(workers))
    else:
        main()
