"""How a scene will be run; ``seamline plan`` shows it without doing it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from seamline.flows.runs.measuring import measure, measure_context
from seamline.flows.runs.resume import UnfinishedRun
from seamline.flows.runs.scene_job import describe_raster, open_input
from seamline.flows.settings.credentials import connect_with_credentials, use_credentials
from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.cluster import get_worker_memory, wait_for_workers
from seamline.pipeline.execution.planning import (
    candidate_halos,
    check_memory,
    choose_halo,
    choose_tiling,
    get_default_halo,
    list_candidate_tilings,
    project_memory,
)
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.report.plan_picture import write_plan_picture
from seamline.pipeline.report.preview import stretch
from seamline.pipeline.report.thumbnail import read_thumbnail
from seamline.pipeline.scenes.display_bands import choose_display_bands, has_true_color
from seamline.pipeline.scenes.scene import Scene

NVIDIA_DRIVER = Path("/proc/driver/nvidia")

MAX_WORKERS, MEMORY_PER_WORKER = 8, 3 * 2**30
"""Of a local cluster on CPUs by default: how many at most, and bytes of the machine's memory for each."""


@dataclass(frozen=True)
class Plan:
    """How a scene will be run: tiling, settings and what they were chosen from.

    ``costs`` maps other halos that were looked at to the network pixels per scene pixel of the plan with them.
    """

    scene: Scene
    model: Model
    tiling: Tiling
    measured: Measurement
    projected_memory: int
    workers: int
    costs: dict[int, float]

    @property
    def seconds(self) -> float:
        """Estimated time of the network alone, with all workers."""
        busy = min(self.workers, self.tiling.chunk_grid.row * self.tiling.chunk_grid.col)
        return self.tiling.tile_count * self.measured.seconds_for(self.tiling.window) / busy

    @property
    def settings(self) -> EngineSettings:
        """How the network runs on windows of this plan."""
        return self.measured.settings_for(self.tiling.window)


def count_workers(options: SegmentOptions) -> int:
    """Worker processes of a local cluster: as asked, otherwise one a CUDA device; without any, one a core.

    Not one with as many threads: all threads of a network wait for the one whose core reads the next chunk, while
    processes share cores fairly. On two cores that made a run a fifth faster. Of many cores each gets several.
    """
    if options.workers is not None:
        return options.workers
    if options.device != "cpu" and NVIDIA_DRIVER.exists():
        import torch  # takes seconds

        if devices := torch.cuda.device_count():
            return devices
    return max(1, min(os.cpu_count() or 1, MAX_WORKERS, psutil.virtual_memory().total // MEMORY_PER_WORKER))


def make_plan(
    client: Any,
    scene: Scene,
    model: Model,
    options: SegmentOptions,
    unfinished: UnfinishedRun | None,
    say: Callable[[str], None] = lambda text: None,
    *,
    curious: bool = False,
) -> Plan:
    """The plan of a resumed run as it was, otherwise the best for this scene, model and cluster.

    How many labels a smaller halo would change is measured where the halo hangs on it, or if ``curious``.

    Raises:
        InputError: no plan fits into the memory of a worker, or the resumed one does not.
        RunError: there are no workers and none comes.
    """
    raster = describe_raster(scene, model, options)
    workers = len(wait_for_workers(client))
    memory = get_worker_memory(client)
    costs: dict[int, float] = {}
    if unfinished is not None:
        tiling, measured = unfinished.tiling, unfinished.measured
        check_memory(raster, tiling, measured, memory)
    else:
        reach, asked, threads = model.reach, options.plan_options, count_threads(options, workers)
        chosen = asked.halo is None and reach.exact_halo is None
        changed: dict[int, float] = {}
        if curious or chosen:
            changed = measure_context(client, scene, model, options, candidate_halos(raster, asked, reach), threads)
        halo = choose_halo(changed, reach) if chosen else get_default_halo(asked, reach)
        measured = replace(measure(client, scene, model, options, halo, threads, say), changed=changed)
        tiling = choose_tiling(raster, replace(asked, halo=halo), reach, measured, memory)
        for tried in changed if curious else ():
            with suppress(InputError):  # the one that is asked for fits; another one need not
                costs[tried] = choose_tiling(raster, replace(asked, halo=tried), reach, measured, memory).redundancy
    return Plan(scene, model, tiling, measured, project_memory(raster, tiling, measured), workers, costs)


def count_threads(options: SegmentOptions, workers: int) -> int:
    """The most threads of a worker's network; 0: as torch sees it, on somebody else's cluster."""
    return max(1, (os.cpu_count() or 1) // workers) if options.cluster == "local" else 0


def plan_scene(
    source: str | Path,
    model_name: str | Path,
    options: SegmentOptions,
    picture: Path | None,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """The plan that ``segment`` would follow, measured on the same kind of workers; drawn to ``encode_picture`` if given."""
    model = open_model(model_name)
    use_credentials(options.credentials)
    scene = open_input(source, model, options)
    list_candidate_tilings(describe_raster(scene, model, options), options.plan_options, model.reach)
    with connect_with_credentials(options.credentials, options.cluster, count_workers(options)) as client:
        plan = make_plan(client, scene, model, options, None, say, curious=True)
    if picture is not None:
        _draw_plan(plan, picture)
    return plan


def _draw_plan(plan: Plan, path: Path) -> None:
    """Draw windows, supports and chunks over a thumbnail of the scene."""
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
    """A small picture (height, width, 3) of the scene, ``None`` where it would cost reading all of a large one."""
    names = [band.name for band in scene.bands]
    thinned = read_thumbnail(scene, [scene.bands[position] for position in choose_display_bands(names)], size)
    return None if thinned is None else stretch(*thinned, rgb=has_true_color(names))
