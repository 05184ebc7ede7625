"""Make the plan of a run: measure the model, then choose the tiling. ``seamline plan`` shows it without a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from seamline.flows.runs.measuring import locate_findings, measure, measure_context
from seamline.flows.runs.resume import UnfinishedRun
from seamline.flows.runs.scene_job import describe_raster, open_input
from seamline.flows.settings.credentials import connect_with_credentials, use_credentials
from seamline.flows.settings.engine_meter import EngineMeter
from seamline.flows.settings.findings import RunCosts, read_seconds_beside
from seamline.flows.settings.model_folder import Model, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.cluster.devices import list_devices
from seamline.pipeline.cluster.machine import CORES, NVIDIA_DRIVER, get_memory_limit
from seamline.pipeline.cluster.workers import (
    CHUNKS_AT_ONCE,
    choose_device_threads,
    get_worker_memory,
    wait_for_workers,
)
from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.chunk_context import Reading
from seamline.pipeline.execution.run_chunks import Totals
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.planning.chunks_at_once import count_useful_chunks, fit_chunks
from seamline.pipeline.planning.memory import Raster, check_memory, choose_block_cache, project_memory
from seamline.pipeline.planning.tilings import (
    PlanOptions,
    Reach,
    candidate_halos,
    choose_tiling,
    enlarge_chunks,
    is_halo_open,
    list_candidate_tilings,
    resolve_halo,
)
from seamline.pipeline.report.preview import stretch
from seamline.pipeline.report.thumbnail import read_thumbnail
from seamline.pipeline.scenes.scene import Scene, choose_display_bands, has_true_color

_MAX_WORKERS = 8
"""The most workers of a local cluster on CPUs, unless the user asks for more."""

_CORES_PER_WORKER = 2
"""Cores for each worker of a local cluster on CPUs, unless the user asks for another number of workers."""

_SMALL = 4096**2
"""Pixels of all scenes of a command up to which its own process segments them."""

_MEMORY_PER_WORKER = 3 * 2**30
"""Bytes of the machine's memory for each worker of a local cluster on CPUs, unless the user asks for more workers."""

_CHUNKS_PER_WORKER = 3
"""Chunks of a run for each worker from which on their times say what the next run will take."""


@dataclass(frozen=True, repr=False)
class Plan:
    """How a scene will be run.

    Attributes:
        scene: the scene.
        model: the model that segments it.
        tiling: windows, supports and chunks.
        measured: what the tiling and the settings were chosen from.
        projected_memory: bytes that a worker needs at most.
        workers: number of workers.
        reading: what a worker may hold, and take for reading.
        redundancy_by_halo: other halo in pixels → network pixels per scene pixel; empty if no halos were compared.
        findings: file of what is known of the model on the workers, which the run corrects.
    """

    scene: Scene
    model: Model
    tiling: Tiling
    measured: Measurement
    projected_memory: int
    workers: int
    reading: Reading
    redundancy_by_halo: dict[int, float]
    findings: Path

    def __repr__(self) -> str:
        """Return it as one line for people; the attributes have the rest."""
        tiling, chunks = self.tiling, self.tiling.chunk_grid
        return (
            f"<Plan of {self.scene.id}: window {tiling.window}, halo {tiling.halo}, overlap {tiling.overlap};"
            f" {format_count(tiling.tile_count, 'tile')} in {format_count(chunks.row * chunks.col, 'chunk')} for"
            f" {format_count(self.workers, 'worker')}, each of up to {self.projected_memory / 2**20:,.0f} MiB;"
            f" about {self.seconds:,.0f} s in the network>"
        )

    @property
    def seconds(self) -> float:
        """Estimated time of the network alone, with all workers."""
        busy = min(self.workers, self.tiling.chunk_grid.row * self.tiling.chunk_grid.col)
        return self.tiling.tile_count * self.measured.seconds_for(self.tiling.window) / busy

    @property
    def settings(self) -> EngineSettings:
        """How the network runs on windows of this plan."""
        return self.measured.settings_for(self.tiling.window)

    def compute_costs(self, totals: Totals) -> RunCosts:
        """Return what a run of this plan took.

        Its time per pixel is the median of its chunks, of what kept the network's thread busy. The first chunk of
        each worker is slower, so it is told only by a run with several chunks for each.
        """
        enough = len(totals.chunk_rates) >= _CHUNKS_PER_WORKER * self.workers
        return RunCosts(
            self.settings,
            self.tiling.window,
            median(totals.chunk_rates) if enough else None,
            totals.peak_memory - self.projected_memory,
            totals.device_memory,
            totals.seconds_beside if enough else None,
        )


def count_workers(options: SegmentOptions, pixels: float = math.inf) -> int:
    """Return the number of processes of a local cluster: as asked, by the scenes, or by the machine.

    For small scenes it is 0: this process works itself. To start others would take longer than they save.

    By the machine that is one for each CUDA device; without any, one for ``_CORES_PER_WORKER`` cores, but at most
    ``_MAX_WORKERS`` and one for each ``_MEMORY_PER_WORKER`` bytes of memory. Control groups may allow fewer cores and
    less memory.

    On two cores one process with two threads is as fast as two processes, holds the network once, and decodes fewer
    blocks twice. With many threads all of them wait for the one whose core reads the next chunk or takes the largest
    score of each pixel, while processes share cores fairly. With more than ``2 * _MAX_WORKERS`` cores each process
    gets several more.
    """
    if options.workers is not None:
        return options.workers
    if pixels <= _SMALL:
        return 0
    return _count_devices(options) or max(
        1, min(CORES // _CORES_PER_WORKER, _MAX_WORKERS, get_memory_limit() // _MEMORY_PER_WORKER)
    )


def _count_devices(options: SegmentOptions) -> int:
    """Return the number of CUDA devices of this machine that a run may use."""
    if options.device == "cpu" or not NVIDIA_DRIVER.exists():
        return 0
    import torch  # takes seconds to import, and is only needed where there is a GPU

    # torch counts one part of a divided GPU at most; where there is no nvidia-smi, it still counts GPUs.
    devices = torch.cuda.device_count()
    return len(list_devices()) or devices if devices else 0


def count_worker_threads(options: SegmentOptions, workers: int) -> int:
    """Return the Dask threads of each of several worker processes of this machine, the most chunks that it holds."""
    return choose_device_threads(CORES // workers) if _count_devices(options) else CHUNKS_AT_ONCE


def connect_workers(options: SegmentOptions, workers: int) -> AbstractContextManager[Client]:
    """Return a context that connects to the cluster of a run, or starts so many local workers (``connect``).

    Raises:
        ModelError: the workers would be of this machine, and the CUDA device that the options want is not.
    """
    if options.device == "cuda" and options.cluster == "local":
        from seamline.model.devices.cuda_device import require_cuda  # torch takes seconds to import

        require_cuda()
    threads = count_worker_threads(options, workers) if workers and options.cluster == "local" else CHUNKS_AT_ONCE
    return connect_with_credentials(options.credentials, options.cluster, workers, threads)


def _count_threads(options: SegmentOptions, workers: int) -> int:
    """Return the most threads of a worker's network; 0 leaves them to torch, on a cluster that we did not start."""
    return max(1, CORES // workers) if options.cluster == "local" else 0


@dataclass(frozen=True)
class _Workers:
    """What a run may take of its workers.

    Attributes:
        count: number of workers.
        memory: bytes that each may take.
        processes: worker processes on one host, at most.
        threads: Dask threads of a worker, at most.
    """

    count: int
    memory: int
    processes: int
    threads: int

    @classmethod
    def of(cls, client: Client) -> _Workers:
        """Return what there is on a cluster; ``RunError`` if there are no workers and none joins."""
        known = wait_for_workers(client).values()
        processes = max(Counter(worker["host"] for worker in known).values())
        return cls(len(known), get_worker_memory(client), processes, max(worker["nthreads"] for worker in known))

    def count_useful_chunks(self, measured: Measurement, window: int, findings: Path) -> int:
        """Return how many chunks keep a process busy; on a CPU more would only wait for the cores of the network."""
        if measured.settings.device != "cuda":
            return CHUNKS_AT_ONCE
        return count_useful_chunks(measured, window, read_seconds_beside(findings), self.threads)

    def describe_reading(self, block_cache: int, measured: Measurement, chunks_at_once: int) -> Reading:
        """Return what processes may hold and take to read."""
        settings = measured.settings  # a device with its own memory still takes one core
        network_threads = 1 if settings.device == "cuda" else settings.threads or None
        return Reading(block_cache, self.processes, network_threads, chunks_at_once)


def make_plan(
    client: Any,
    scene: Scene,
    model: Model,
    options: SegmentOptions,
    unfinished: UnfinishedRun | None,
    say: Callable[[str], None] = lambda text: None,
    *,
    compare_halos: bool = False,
) -> Plan:
    """Return the plan of an unfinished run as it was, otherwise the best for this scene, model and cluster.

    Args:
        client: client of the cluster.
        scene: the scene.
        model: the model that segments it.
        options: what the user fixes.
        unfinished: the run to resume; None to plan anew.
        say: is called with a sentence before anything that takes a while.
        compare_halos: measure how many labels smaller halos would change, also where the halo does not depend on it.

    Returns:
        The plan.

    Raises:
        InputError: no tiling fits into the memory of a worker, or the one of the unfinished run does not.
        RunError: there are no workers and none joins.
    """
    raster, workers = describe_raster(scene, model, options), _Workers.of(client)
    memory = workers.memory
    asked, reach, threads = options.plan_options, model.reach, _count_threads(options, workers.count)

    def locate(halo: int) -> tuple[EngineMeter, Path]:
        meter = EngineMeter(model, get_radiometry(scene), halo, options.engine_request, threads)
        return meter, locate_findings(client, meter)

    def describe(tiling: Tiling, measured: Measurement, findings: Path) -> Plan:
        useful = workers.count_useful_chunks(measured, tiling.window, findings)
        chunks = fit_chunks(raster, tiling, measured, memory, useful)
        cache = choose_block_cache(raster, tiling, measured, memory, chunks)
        needed = project_memory(raster, tiling, measured, cache, chunks)
        reading = workers.describe_reading(cache, measured, chunks)
        return Plan(scene, model, tiling, measured, needed, workers.count, reading, {}, findings)

    if unfinished is not None:
        check_memory(raster, unfinished.tiling, unfinished.measured, memory)
        return describe(unfinished.tiling, unfinished.measured, locate(unfinished.tiling.halo)[1])
    changed: dict[int, float] = {}
    if compare_halos or is_halo_open(asked, reach):
        halos = candidate_halos(raster, asked, reach)
        changed = measure_context(client, scene, model, options, halos, threads)
    halo = resolve_halo(asked, reach, changed)
    meter, findings = locate(halo)

    def choose(measured: Measurement) -> Plan:
        tiling = choose_tiling(raster, replace(asked, halo=halo), reach, measured, memory)
        useful = workers.count_useful_chunks(measured, tiling.window, findings)
        tiling = enlarge_chunks(tiling, raster, asked, measured, memory, workers.count, useful)
        return describe(tiling, measured, findings)

    measured = measure(client, scene, meter, options.window, findings, lambda costs: choose(costs).seconds, say)
    plan = choose(replace(measured, changed=changed))
    redundancies = _compute_redundancies(raster, asked, reach, plan.measured, memory) if compare_halos else {}
    return replace(plan, redundancy_by_halo=redundancies)


def _compute_redundancies(
    raster: Raster, options: PlanOptions, reach: Reach, measured: Measurement, memory: int
) -> dict[int, float]:
    """Return the network pixels per scene pixel with each halo of the measurement for which there is a tiling."""
    redundancies: dict[int, float] = {}
    for halo in measured.changed:
        with suppress(InputError):  # no tiling with this halo fits; it is only shown for comparison
            tiling = choose_tiling(raster, replace(options, halo=halo), reach, measured, memory)
            redundancies[halo] = tiling.redundancy
    return redundancies


def plan_scene(
    source: str | Path,
    model_name: str | Path,
    options: SegmentOptions,
    picture: Path | None,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Return the plan that ``segment`` would follow, measured on workers of the same kind.

    Args:
        source: a raster, a folder of band files, or a STAC item.
        model_name: an embedded model's name or a model folder.
        options: what the user fixes.
        picture: file to draw the plan to; None draws nothing.
        say: is called with a sentence before anything that takes a while.

    Returns:
        The plan, with other halos for comparison.

    Raises:
        InputError, ModelError: scene, model and options do not go together, or no tiling fits into memory.
        RunError: there are no workers and none joins.
    """
    model = open_model(model_name)
    use_credentials(options.credentials)
    scene = open_input(source, model, options)
    # Options that contradict each other are refused before a cluster is started.
    list_candidate_tilings(describe_raster(scene, model, options), options.plan_options, model.reach)
    model.tell_limits(say)
    workers = count_workers(options, math.prod(scene.grid.shape))
    with connect_workers(options, workers) as client:
        plan = make_plan(client, scene, model, options, None, say, compare_halos=True)
    if picture is not None:
        _draw_plan(plan, picture)
    return plan


def _draw_plan(plan: Plan, path: Path) -> None:
    """Draw windows, supports and chunks over a small picture of the scene."""
    from seamline.pipeline.report.plan_picture import write_plan_picture  # imports matplotlib

    tiling = plan.tiling
    tiles = [tile for chunk in tiling.chunks() for tile in tiling.tiles_of(chunk)]
    write_plan_picture(
        (tiling.height, tiling.width),
        [tiling.window_of(tile) for tile in tiles],
        [tiling.support_of(tile) for tile in tiles],
        [tiling.write_window_of(chunk) for chunk in tiling.chunks()],
        tiling.overlap,
        _render_thumbnail(plan.scene),
        plan.scene.id,
        path,
    )


def _render_thumbnail(scene: Scene, size: int = 1000) -> NDArray[np.uint8] | None:
    """Return a picture (height, width, 3) of the scene, or None if that would mean reading all of a large one."""
    names = [band.name for band in scene.bands]
    thumbnail = read_thumbnail(scene, [scene.bands[position] for position in choose_display_bands(names)], size)
    return None if thumbnail is None else stretch(*thumbnail, rgb=has_true_color(names))
