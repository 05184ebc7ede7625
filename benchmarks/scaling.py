"""What client, scheduler and workers take of processors beside the network, and what that means for large clusters.

    python benchmarks/scaling.py [--processes 1 2 4 8] [--size 8192] [--pretended 16 256 1000] [--chunks 2000]

The first table has real runs of a simulated scene with a network of no cost: what is left is reading, blending and
writing. The second has chunks that do nothing, on as many of Dask's workers as are asked for, all in a few processes:
what is left is the traffic between client, scheduler and workers. Its scene has an area of interest of a megabyte. CPU
seconds are those of processes, so that other programs of the machine matter little.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import product
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from distributed import Client, Scheduler, Worker
from rich.console import Console
from rich.table import Table

from seamline.flows.runs.scene_job import open_input
from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE, choose_device_threads
from seamline.pipeline.execution import chunk_tasks
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.run_chunks import run_chunks
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.planning.chunks_at_once import count_useful_chunks, fit_chunks
from seamline.pipeline.planning.memory import Raster
from seamline.pipeline.planning.tilings import PlanOptions, enlarge_chunks
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store
from seamline.pipeline.synthetic.simulate import Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation

WORKERS_OF_A_PROCESS = 64
SCENE_EDGES = (100_000, 400_000)


@dataclass(frozen=True)
class FreeNetwork:
    """Loads a predictor that costs nothing: every pixel is of the first class.

    Attributes:
        classes: number of classes.
        halo: pixels on every side of a window that are thrown away.
    """

    classes: int
    halo: int
    device_memory = 0

    def __call__(self) -> FreeNetwork:
        """Return the predictor, which is its own loader."""
        return self

    def load(self, pixels: Any, valid: Any, label_mask: Any, result_bytes: int) -> FreeBlock:
        """Return the mask of a block; nobody looks at its pixels."""
        return FreeBlock(label_mask)

    def infer(self, block: FreeBlock, places: Any) -> Iterator[Any]:
        """Yield the scores of each window, all the same array."""
        rows, _ = places[0]
        edge = rows.stop - rows.start - 2 * self.halo
        scores = np.zeros((self.classes, edge, edge), np.float32)
        scores[0] = 1
        for _ in places:
            yield scores

    def probabilities(self, scores: Any) -> Any:
        """Return the scores, which are probabilities."""
        return scores

    def upload(self, array: Any) -> Any:
        """Return the array, which lies in memory."""
        return array

    def fetch(self, block: FreeBlock, arrays: Any) -> FreeArrays:
        """Return the arrays, which lie in memory."""
        return FreeArrays(dict(arrays))


@dataclass(frozen=True)
class FreeBlock:
    """What a ``FreeNetwork`` keeps of a block.

    Attributes:
        label_mask: which pixels get a label.
    """

    label_mask: Any

    def __enter__(self) -> FreeBlock:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True)
class FreeArrays:
    """Arrays that are there.

    Attributes:
        arrays: by name.
    """

    arrays: dict[Any, Any]

    def result(self) -> dict[Any, Any]:
        """Return them."""
        return self.arrays


@dataclass(frozen=True)
class Usage:
    """CPU seconds of one run of chunks.

    Attributes:
        workers: number of workers.
        chunks: number of chunks.
        pixels: pixels of the scene.
        client: CPU seconds of the client.
        scheduler: CPU seconds of the scheduler.
        working: CPU seconds of all workers.
    """

    workers: int
    chunks: int
    pixels: int
    client: float
    scheduler: float
    working: float


def infer_nothing(context: ChunkContext, chunk: Index, *rest: object) -> Report:
    """Report a chunk as inferred; a report of as many bytes as a real one."""
    return Report(chunk, {"read": 0.1, "infer": 0.1, "blend": 0.1, "write": 0.1}, 4, 4 * 1024**2, 10**9)


def _is_over(stop: Event) -> bool:
    parent = multiprocessing.parent_process()
    return stop.is_set() or parent is None or not parent.is_alive()


def _run_scheduler(pipe: Any, stop: Event) -> None:
    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0") as scheduler:
            pipe.send(scheduler.address)
            while not _is_over(stop):
                await asyncio.sleep(0.2)

    asyncio.run(serve())


def _run_workers(address: str, count: int, pretend: bool, stop: Event) -> None:
    if pretend:
        chunk_tasks.infer_chunk = infer_nothing  # type: ignore[assignment, attr-defined]

    async def work() -> None:
        workers = [
            Worker(address, nthreads=CHUNKS_AT_ONCE, memory_limit=0, dashboard=False, local_directory="/dev/shm")
            for _ in range(count)
        ]
        await asyncio.gather(*workers)
        while not _is_over(stop):
            await asyncio.sleep(0.2)
        await asyncio.gather(*(worker.close(nanny=False) for worker in workers), return_exceptions=True)

    asyncio.run(work())


@contextmanager
def start_cluster(counts: list[int], pretend: bool) -> Iterator[tuple[Client, psutil.Process, list[psutil.Process]]]:
    """Start a scheduler and processes with so many workers each; yield a client, and the processes."""
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"  # workers that leave at once are many lines
    context = multiprocessing.get_context("spawn")
    stop, (receiver, sender) = context.Event(), context.Pipe(duplex=False)
    scheduler = context.Process(target=_run_scheduler, args=(sender, stop))
    scheduler.start()
    address = receiver.recv()
    processes = [context.Process(target=_run_workers, args=(address, count, pretend, stop)) for count in counts]
    for process in processes:
        process.start()
    try:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(sum(counts), timeout=600)
            yield client, psutil.Process(scheduler.pid), [psutil.Process(process.pid) for process in processes]
    finally:
        stop.set()
        for process in (*processes, scheduler):
            process.join(60)
            process.kill()


def _read_cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(begin: Callable[[], ChunkContext], counts: list[int], pretend: bool) -> Usage:
    """Run all chunks twice on a cluster of its own; return what the second run took, which imports nothing any more.

    What the same cluster takes in as much time without a run is left out.
    """
    context = begin()
    network = FreeNetwork(context.classes, context.tiling.halo)
    with start_cluster(counts, pretend) as (client, scheduler, processes):
        everybody = [psutil.Process(), scheduler, *processes]
        run_chunks(client, context, network)
        context = begin()
        started = time.monotonic()
        before = [_read_cpu(process) for process in everybody]
        totals = run_chunks(client, context, network)
        after = [_read_cpu(process) for process in everybody]
        time.sleep(time.monotonic() - started)
        idle = [_read_cpu(process) - end for process, end in zip(everybody, after, strict=True)]
        spent = [max(end - start - rest, 0.0) for start, end, rest in zip(before, after, idle, strict=True)]
    pixels = context.tiling.height * context.tiling.width
    return Usage(sum(counts), totals.chunks, pixels, spent[0], spent[1], sum(spent[2:]))


def make_context(folder: Path, model: Model, size: int) -> ChunkContext:
    """Simulate a scene and begin a run of it in windows of 512 without a halo, chunks of 2048."""
    write_simulation(Simulation(size, size, seed=0), folder / "scene.tif")
    scene = open_input(folder / "scene.tif", model, SegmentOptions())
    tiling = Tiling(size, size, 512, 0, 0, 4, 8)
    return ChunkContext(scene, tiling, len(model.classes), RunDirectory(folder / "run"))


def begin_run(context: ChunkContext, model: Model) -> ChunkContext:
    """Return the context with a new run directory and an empty store."""
    shutil.rmtree(context.directory.path, ignore_errors=True)
    context.directory.path.mkdir()
    directory = context.directory.create_new_start()
    layout = ZarrLayout(context.tiling.store_chunk_size)
    create_store(directory.store, context.scene.grid, model.classes, layout, title="scaling")
    return replace(context, directory=directory)


def pretend_chunks(context: ChunkContext, chunks: int) -> ChunkContext:
    """Return a context of about so many chunks and with an area of interest of a megabyte, which nobody reads."""
    edge = 2048 * round(chunks**0.5)
    scene = replace(context.scene, aoi="POLYGON ((" + "0 0, " * 200_000 + "0 0))")
    return replace(context, scene=scene, tiling=replace(context.tiling, height=edge, width=edge))


def print_usage(title: str, usages: list[Usage]) -> None:
    """Print CPU seconds for each gigapixel and milliseconds for each chunk."""
    table = Table(
        "workers", "chunks", *(f"{who}, {unit}" for unit in ("s/Gpx", "ms/chunk") for who in WHO), title=title
    )
    for usage in usages:
        seconds = (usage.client, usage.scheduler, usage.working)
        by_pixel = [f"{second / usage.pixels * 1e9:.2f}" for second in seconds]
        by_chunk = [f"{second / usage.chunks * 1e3:.2f}" for second in seconds]
        table.add_row(str(usage.workers), str(usage.chunks), *by_pixel, *by_chunk)
    Console(width=140).print(table)


WHO = ("client", "scheduler", "workers")


@dataclass(frozen=True)
class Cluster:
    """Workers whose efficiency is predicted.

    Attributes:
        name: what they are.
        count: number of workers.
        speed: pixels per second of the network on one of them.
        cores: cores of a worker that work beside the network and the thread that feeds it; 0 if there is one core,
            which also runs the network.
        memory: bytes of a worker.
    """

    name: str
    count: int
    speed: float
    cores: int
    memory: int

    def plan_chunks(self, edge: int, other: float) -> tuple[Tiling, int]:
        """Return how a run on this cluster goes.

        Args:
            edge: of a square scene, in pixels.
            other: seconds of a core for each pixel beside the network.

        Returns:
            The tiling, in windows of 1024 without a halo, and the chunks that a worker holds at once.
        """
        raster = Raster(edge, edge, bands=6, itemsize=2, classes=4)
        tiling, costs = Tiling(edge, edge, 1024, 0, 0, 2, 16), _Costs(self.speed)
        threads = choose_device_threads(self.cores + 1) if self.cores else CHUNKS_AT_ONCE
        useful = count_useful_chunks(costs, tiling.window, other, threads)
        tiling = enlarge_chunks(tiling, raster, PlanOptions(), costs, self.memory, self.count, useful)
        return tiling, fit_chunks(raster, tiling, costs, self.memory, useful)

    def simulate_run(self, tiling: Tiling, chunks_at_once: int, other: float, per_chunk: float) -> float:
        """Return the seconds of a run in which each worker takes the next chunk as soon as it has room.

        A chunk first takes a core for what is beside the network, then the network. Without cores of its own the
        network waits meanwhile.

        Args:
            tiling: the chunks.
            chunks_at_once: chunks that a worker holds.
            other: seconds of a core for each pixel beside the network.
            per_chunk: seconds after which client and scheduler have the next chunk ready.
        """
        places = [(0.0, worker) for worker in range(self.count) for _ in range(chunks_at_once if self.cores else 1)]
        cores = [[0.0] * max(1, self.cores) for _ in range(self.count)]
        network = [0.0] * self.count
        for number, chunk in enumerate(tiling.chunks()):
            pixels = tiling.write_window_of(chunk).pixel_count
            free, worker = heappop(places)
            read = max(free, number * per_chunk, heappop(cores[worker])) + other * pixels
            heappush(cores[worker], read)
            network[worker] = max(network[worker], read) + pixels / self.speed
            heappush(places, (network[worker], worker))
        return max(network)


@dataclass(frozen=True)
class _Costs:
    """What a plan asks of a network of so many pixels per second."""

    speed: float
    process_bytes = 2**30

    def forward_bytes(self, window: int) -> int:
        return 300 * window**2

    def fits(self, window: int) -> bool:
        return True

    def seconds_for(self, window: int) -> float:
        return window**2 / self.speed


CLUSTERS = (
    Cluster("CPU workers of 2 Mpx/s", 64, 2e6, 0, 4 * 2**30),
    *(
        Cluster("GPUs of 200 Mpx/s", count, 2e8, cores, memory * 2**30)
        for count in (8, 80)
        for cores, memory in ((3, 32), (8, 32), (16, 8), (16, 32))
    ),
)


def predict(real: Usage, pretended: Usage) -> None:
    """Print the efficiency of large clusters on scenes of ``SCENE_EDGES``².

    From the first table comes the CPU seconds of a worker for a pixel beside the network. From the second come those of
    client and scheduler for a chunk; each of them does one thing at a time, so that a chunk is ready after each of the
    larger of both. ``Cluster.plan_chunks`` plans as a run does, ``Cluster.simulate_run`` hands out the chunks.
    Efficiency is the time of the network alone, on all workers together, by that of the run. Disks and networks are
    taken as fast enough, and GDAL decodes each chunk with one thread; what a run takes before its first and after its
    last chunk is not in it.
    """
    per_chunk = max(pretended.client, pretended.scheduler) / pretended.chunks
    other = real.working / real.pixels
    titles = ("workers", "cores beside", "GiB", "scene", "chunk", "chunks", "held at once", "seconds", "efficiency")
    table = Table(*titles, title=f"{other * 1e9:.1f} ns a pixel, {per_chunk * 1e3:.2f} ms a chunk")
    for cluster, edge in product(CLUSTERS, SCENE_EDGES):
        tiling, held = cluster.plan_chunks(edge, other)
        seconds = cluster.simulate_run(tiling, held, other, per_chunk)
        efficiency = edge**2 / cluster.count / cluster.speed / seconds
        table.add_row(
            f"{cluster.count} {cluster.name}",
            str(cluster.cores),
            str(cluster.memory // 2**30),
            f"{edge:,}²",
            f"{tiling.chunk_size}²",
            str(tiling.chunk_grid.row * tiling.chunk_grid.col),
            str(held),
            f"{seconds:.1f}",
            f"{efficiency:.0%}",
        )
    Console(width=140).print(table)


def main() -> None:
    """Measure both tables and print them with the prediction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--pretended", type=int, nargs="*", default=[16, 256, 1000])
    parser.add_argument("--chunks", type=int, default=2000)
    arguments = parser.parse_args()
    folder, model = Path(tempfile.mkdtemp()), open_model("land-water-cloud")
    try:
        context = make_context(folder, model, arguments.size)
        empty = pretend_chunks(context, arguments.chunks)
        real = [measure(lambda: begin_run(context, model), [1] * n, pretend=False) for n in arguments.processes]
        print_usage("a network of no cost", real)
        pretended = []
        for count in arguments.pretended:
            full, rest = divmod(count, WORKERS_OF_A_PROCESS)
            counts = [WORKERS_OF_A_PROCESS] * full + [rest] * bool(rest)
            pretended.append(measure(lambda: begin_run(empty, model), counts, pretend=True))
            print(pretended[-1], flush=True)
        print_usage("chunks that do nothing", pretended)
        if real and pretended:
            predict(real[0], pretended[-1])
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
