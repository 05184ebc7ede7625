"""What is left to do after the last chunk: seconds of the client with its scheduler, and of the workers, per gigapixel.

    python benchmarks/publishing.py [--size 32768] [--workers 2] [--outputs cog,zarr] [--stages]

A run is made up whose chunks are all inferred: a scene without pixels, and labels of 4×4 simulated chunks that are
repeated over it (layers have them with noise). It is published on a local cluster, as ``seamline segment`` does it.
Client and scheduler are one process. Printed are its CPU seconds, those of the workers, and wall time, and what of them
passes in series, while the workers have nothing to do. ``--stages`` prints the functions in which the client spends
the most.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from distributed import Client
from outputs import CHUNK, CLASSES, simulate_labels
from run_records import make_up_inference

from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_tasks import ChunkOrigin
from seamline.pipeline.execution.run_chunks import map_on_workers
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.store_files import list_chunk_files
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    ZarrLayout,
    create_store,
    list_store_rasters,
    open_store_raster,
    write_store_raster,
)
from seamline.pipeline.publishing.publication import Publication
from seamline.pipeline.publishing.publish import publish
from seamline.pipeline.report.report import ModelCard
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.stac.scene_item import ModelReference
from seamline.pipeline.vectors.polygon_options import PolygonOptions

IDLE_SECONDS = 10
"""Seconds in which it is measured what a cluster takes that does nothing: heartbeats."""
NOISE = 16
"""Different values of the noise in layers, which then take half a byte for each value."""
REPEATED = 4
"""Chunks along each side of the labels that are simulated and then repeated."""


def main() -> None:
    """Make up a run, publish it, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32_768)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--outputs", default="cog,zarr")
    parser.add_argument("--stages", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outputs = tuple(arguments.outputs.split(","))
        publication = make_up_run(Path(name), arguments.size, outputs)
        with connect("local", arguments.workers) as client:
            measure_publishing(publication, client, stages=arguments.stages)


def make_up_run(folder: Path, size: int, outputs: tuple[str, ...]) -> Publication:
    """Write what a run of ``size``² pixels leaves in its run directory before it is published."""
    source, grid = folder / "scene.tif", Affine(10, 0, 5e5, 0, -10, 6e6)
    profile = {"driver": "GTiff", "height": size, "width": size, "count": 3, "dtype": "uint8", "transform": grid}
    with rasterio.open(source, "w", crs="EPSG:32632", tiled=True, sparse_ok=True, **profile) as file:
        for number, band in enumerate(("red", "green", "blue"), 1):
            file.set_band_description(number, band)
    needs = [BandNeed(band) for band in ("red", "green", "blue")]
    scene = open_scene(source, needs, SceneOptions(nodata=255.0), reflectance=False)
    tiling = Tiling(size, size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
    layers = tuple(name for name in outputs if name in LAYERS)
    run = folder / "out" / scene.id / ".run"
    run.mkdir(parents=True)
    directory = RunDirectory(run).create_new_start()
    context = ChunkContext(scene, tiling, len(CLASSES), directory, layers=layers)
    layout = ZarrLayout(tiling.store_chunk_size)
    create_store(directory.store, scene.grid, CLASSES, layout, title="simulated", layers=layers)
    directory.write_plan({})
    fill_store(context)
    model = folder / "model.json"
    model.write_text("{}", encoding="utf-8")
    return Publication(
        context=context,
        model=ModelReference("none", "00" * 32, model),
        card=ModelCard("none", "1", "none", "none"),
        classes=CLASSES,
        layout=layout,
        catalog=folder / "out",
        folder=directory.result,
        outputs=outputs,
        software={},
        lineage="simulated",
        polygons=PolygonOptions() if "polygons" in outputs else None,
    )


def fill_store(context: ChunkContext) -> None:
    """Write what workers leave: labels, noisy layers and quicklooks of all chunks, and reports of them."""
    tiling, step = context.tiling, context.quicklook_step
    known = replace(tiling, height=REPEATED * CHUNK, width=REPEATED * CHUNK)
    parts = {chunk: simulate_labels(known, chunk) for chunk in known.chunks()}
    store = context.directory.store
    for chunk in tiling.chunks():
        window = tiling.write_window_of(chunk)
        labels = parts[Index(chunk.row % REPEATED, chunk.col % REPEATED)][: window.height, : window.width]
        files = []
        for name in list_store_rasters(store):
            values = labels
            if name != LABELS_ARRAY:
                shape = (*open_store_raster(store, name).shape[:-2], *window.shape)
                values = labels * 60 + np.random.default_rng(0).integers(0, NOISE, shape, np.uint8)
            write_store_raster(store, name, window, values)
            files += list_chunk_files(store, name, window)
        thinned = labels[-window.row % step :: step, -window.col % step :: step]
        files.append(context.directory.save_quicklook(chunk, np.stack([thinned * 60] * 3), thinned < len(CLASSES)))
        context.directory.report_inferred(Report(chunk, {}, files=context.directory.compute_digests(files)))


def measure_publishing(publication: Publication, client: Client, *, stages: bool) -> None:
    """Publish a run, and print what it took; ``stages``: and where the client spent it."""
    context = publication.context
    plan = context.tiling
    record = make_up_inference(context.scene.id, plan, publication.outputs)
    client.run(load_publishing)
    idle, _ = meter(client, lambda: time.sleep(IDLE_SECONDS))
    profile = cProfile.Profile(time.thread_time)
    alone = _SeriesMeter()
    on_workers = replace(publication, map_chunks=alone.wrap(map_on_workers(client, ChunkOrigin.of(context.scene))))
    if stages:
        profile.enable()
    busy, result = meter(client, lambda: publish(on_workers, record, time.perf_counter()))
    profile.disable()
    busy |= {
        "CPU of client and scheduler in series": busy["CPU of client and scheduler, pictures included"] - alone.cpu,
        "wall in series": busy["wall"] - alone.wall,
    }
    gigapixels = plan.height * plan.width / 1e9
    print(
        f"{gigapixels:.2f} gigapixels, {','.join(publication.outputs)}; per gigapixel, less what an idle cluster takes:"
    )
    for name, spent in busy.items():
        waiting = idle[name] / idle["wall"] * busy["wall"] if name in idle and name != "wall" else 0
        print(f"{name}: {(spent - waiting) / gigapixels:.2f} s")
    print({stage: round(seconds / gigapixels, 2) for stage, seconds in result.seconds.items()})
    if stages:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


@dataclass
class _SeriesMeter:
    """CPU and wall seconds of this process while workers have something to do."""

    cpu: float = 0.0
    wall: float = 0.0

    def wrap(self, map_chunks: Any) -> Any:
        """Return the same map over chunks, whose time is counted."""

        def counted(function: Callable[[Index], Any], chunks: Iterable[Index]) -> Iterator[Any]:
            cpu, wall = time.process_time(), time.perf_counter()
            yield from map_chunks(function, chunks)
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall

        return counted


def meter(client: Client, work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return the CPU seconds of this thread, this process and the workers, and wall time; and what ``work`` returns."""

    def read() -> dict[str, float]:
        return {
            "CPU of the client's thread": time.thread_time(),
            "CPU of client and scheduler, pictures included": time.process_time(),
            "CPU of the workers": sum(client.run(time.process_time).values()),
            "wall": time.perf_counter(),
        }

    before = read()
    result = work()
    return {name: after - before[name] for name, after in read().items()}, result


def load_publishing() -> int:
    """Import on a worker what publishing needs; return its process."""
    import seamline.pipeline.publishing.publish  # noqa: F401

    return os.getpid()


if __name__ == "__main__":
    main()
