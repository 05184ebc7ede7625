"""COG, overviews and polygons of a result, beside ``rio cogeo create`` and ``gdal_polygonize.py`` on the same labels.

    python benchmarks/outputs.py [--size 20000] [--rasters] [--workers 2] [--min-area M2] [--simplify PX]

The labels are simulated: regions of four classes, some hundred pixels wide, and islands down to a few pixels. Polygons
are made as in ``seamline segment``: on worker processes, joined in one process. Without ``gdal_polygonize.py`` only
Seamline is measured. Printed are seconds, peak memory, numbers of polygons and bytes on disk.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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
from seamline.pipeline.common.layout import POLYGON_FILES
from seamline.pipeline.common.memory import read_peak_memory
from seamline.pipeline.common.threads import map_in_threads
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.products.cog import describe_labels, write_cog
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels
from seamline.pipeline.vectors.polygon_options import PolygonOptions, PolygonRules
from seamline.pipeline.vectors.vectors import write_polygons

CHUNK, CLASSES = 2048, tuple(LabelClass(value, f"class {value}", (60 * value, 100, 20)) for value in range(4))
POLYGONIZE = "gdal_polygonize.py"


def build_grid(size: int) -> GeoBox:
    """Return a grid of ``size``² pixels of 10 m in UTM zone 32."""
    return GeoBox((size, size), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")


def main() -> None:
    """Simulate labels, time both programs on them, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--rasters", action="store_true", help="only COG and overviews")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--min-area", type=float, default=0)
    parser.add_argument("--simplify", type=float, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = build_grid(arguments.size)
        tiling = Tiling(arguments.size, arguments.size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
        create_store(folder / "s.zarr", grid, CLASSES, ZarrLayout(1024), title="simulated")
        for chunk in tiling.chunks():
            write_labels(folder / "s.zarr", tiling.write_window_of(chunk), simulate_labels(tiling, chunk))
        print(f"{arguments.size}² pixels, {tiling.chunk_grid.row}² chunks of {CHUNK}")
        print(f"labels in the store: {format_size(folder / 's.zarr')}")
        measure_rasters(folder, arguments.size)
        if arguments.rasters:
            return
        for formats in (("parquet",), ("fgb",), ("pmtiles",), tuple(POLYGON_FILES)):
            rules = PolygonRules(arguments.min_area, arguments.simplify)
            measure_polygons(folder, arguments.size, PolygonOptions(formats, rules), arguments.workers)
        if shutil.which(POLYGONIZE):
            measure_gdal(folder)
        else:
            print(f"{POLYGONIZE} is not installed")


def measure_rasters(folder: Path, size: int) -> None:
    """Print time and memory of COG and overviews, each in a separate process, and of rio-cogeo's COG of the COG."""
    rio = [str(Path(sys.executable).parent / "rio"), "cogeo", "create", str(folder / "s.tif"), str(folder / "r.tif")]
    steps = {
        "ours, overviews": ([sys.executable, __file__, "--step", "overviews", str(folder), str(size)], "s.zarr"),
        "ours, COG of them": ([sys.executable, __file__, "--step", "cog", str(folder), str(size)], "s.tif"),
        "rio cogeo create": ([*rio, "--cog-profile", "lzw", "--overview-resampling", "mode", "--quiet"], "r.tif"),
        "the same, ALL_CPUS": (
            [*rio, "--cog-profile", "lzw", "--overview-resampling", "mode", "--quiet", "--threads", "ALL_CPUS"],
            "r.tif",
        ),
    }
    for name, (command, result) in steps.items():
        seconds, peak = run_metered(name, command)
        print(f"{name}: {seconds:.1f} s with start, {peak} MiB, {format_size(folder / result)}", flush=True)


METER = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


def run_metered(name: str, command: list[str]) -> tuple[float, int]:
    """Run a command and return its seconds and its peak memory in MiB.

    The command's parent is a small process of its own, since the peak of a child starts at the memory of its parent.
    """
    done = subprocess.run([sys.executable, "-c", METER, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed")
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), int(peak)


def write_raster(product: str, folder: Path, size: int) -> None:
    """Write what ``measure_rasters`` measures.

    Args:
        product: ``"cog"`` or ``"overviews"``.
        folder: has the labels in ``s.zarr``.
        size: edge of the labels, in pixels.
    """
    grid, store, scratch = build_grid(size), folder / "s.zarr", folder / "scratch"
    if product == "cog":
        write_cog(store, grid, describe_labels(CLASSES), folder / "s.tif", scratch, {}, map_in_threads)
    else:
        write_overviews(store, grid, CLASSES, scratch, map_in_threads)


def format_size(path: Path) -> str:
    """Return the size of a file or folder in words."""
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f} MB"


@cache
def make_class_fields(side: int) -> np.ndarray:
    """Return a smooth random field for each class, (4, side, side)."""
    return ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((4, side, side)), (0, 3, 3))


def simulate_labels(tiling: Tiling, chunk: Index) -> np.ndarray:
    """Return the labels (height, width) of a chunk, which continue those of its neighbours."""
    window, margin = tiling.write_window_of(chunk), 64
    step = 16
    coarse = make_class_fields(-(-max(tiling.height, tiling.width) // step) + 2 * margin)
    rows = (np.arange(window.row, window.stop_row) / step + margin)[:, None]
    cols = (np.arange(window.col, window.stop_col) / step + margin)[None, :]
    where = np.broadcast_arrays(rows, cols)
    fields = np.stack([ndimage.map_coordinates(field, where, order=1) for field in coarse])
    grain = np.random.default_rng([chunk.row, chunk.col]).standard_normal(fields.shape).astype(np.float32)
    return (fields + 0.05 * ndimage.gaussian_filter(grain, (0, 1.5, 1.5))).argmax(0).astype(np.uint8)


def measure_polygons(folder: Path, size: int, options: PolygonOptions, workers: int) -> None:
    """Print time and memory of Seamline's polygons, made in a separate process so that its peak memory is theirs.

    Args:
        folder: has the labels in ``s.zarr``.
        size: edge of the labels, in pixels.
        options: formats and rules.
        workers: number of worker processes.
    """
    for old in POLYGON_FILES.values():
        (folder / old).unlink(missing_ok=True)
    command = [sys.executable, __file__, "--one", str(folder), str(size), ",".join(options.formats)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, str(options.rules.min_area), str(options.rules.simplify), str(workers)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    print(f"ours, {'+'.join(options.formats)}: {done.stdout.strip()} ({seconds:.1f} s with start)")


def make_polygons(folder: Path, size: int, options: PolygonOptions, workers: int) -> None:
    """Make what ``measure_polygons`` measures and print the figures.

    Args:
        folder: has the labels in ``s.zarr``.
        size: edge of the labels, in pixels.
        options: formats and rules.
        workers: number of worker processes.
    """
    grid = build_grid(size)
    tiling = Tiling(size, size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
    with LocalCluster(workers, threads_per_worker=3, dashboard_address=":0") as cluster, Client(cluster) as client:

        def map_chunks(function: Callable[[Index], Any], chunks: Iterable[Index]) -> Iterator[Any]:
            """Call a function for each chunk on the workers, at most six tasks a worker at once, as a run does."""
            remaining, running = iter(chunks), []
            while True:
                while len(running) < 6 * workers and (chunk := next(remaining, None)) is not None:
                    running.append(client.submit(function, chunk, pure=False))
                if not running:
                    return
                yield running.pop(0).result()

        started = time.perf_counter()
        write_polygons(folder / "s.zarr", tiling, grid, CLASSES, options, folder, folder / "scratch", map_chunks)
        seconds = time.perf_counter() - started
        peaks = sum(client.run(read_peak_memory).values())
    parquet = folder / POLYGON_FILES["parquet"]
    count = f"{pq.read_metadata(parquet).num_rows} polygons, " if parquet.exists() else ""
    sizes = ", ".join(
        f"{name} {format_size(folder / name)}" for name in POLYGON_FILES.values() if (folder / name).exists()
    )
    print(
        f"{count}{seconds:.1f} s, {sizes}, {read_peak_memory() >> 20} MiB here, {peaks >> 20} MiB in {workers} workers"
    )


def measure_gdal(folder: Path) -> None:
    """Print time and memory of GDAL's program on the COG."""
    for driver, name in (("FlatGeobuf", "g.fgb"), ("GPKG", "g.gpkg")):
        command = [POLYGONIZE, "-q", "-of", driver, str(folder / "s.tif"), str(folder / name), "polygons", "class"]
        # An empty environment, so that GDAL's program runs in the system's Python and not in this one.
        seconds, peak = run_metered(POLYGONIZE, ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", *command])
        count = pyogrio.read_info(folder / name)["features"]
        print(f"{POLYGONIZE}, {driver}: {count} polygons, {seconds:.1f} s, {peak} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        write_raster(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        raise SystemExit
    if sys.argv[1:2] == ["--one"]:
        folder, size, formats, min_area, simplify, workers = sys.argv[2:]
        rules = PolygonRules(float(min_area), float(simplify))
        make_polygons(Path(folder), int(size), PolygonOptions(tuple(formats.split(",")), rules), int(workers))
    else:
        main()
