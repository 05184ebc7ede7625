"""A scene in, a seamless georeferenced segmentation out: the whole job as one function."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows.measuring import measure
from flows.models import Model, TorchLoader, open_model, radiometry_of
from flows.options import SegmentOptions
from flows.resume import Identity, finished_record, resumable
from model.tune import Measurement
from pipeline.cluster import connected, memory_of
from pipeline.errors import InputError
from pipeline.planning import Raster, candidates, choose, default_halo, projected_memory
from pipeline.publish import Publication, publish
from pipeline.run import Totals, run_chunks
from pipeline.rundir import RunDirectory
from pipeline.scene import Scene
from pipeline.sources import open_scene
from pipeline.store import create_store
from pipeline.tiling import Tiling
from pipeline.work import Job, Stopwatch

BYTES_PER_PIXEL = 0.5
"""Of all results together and what they need on the way; measured 0.05 to 0.2."""


@dataclass(frozen=True)
class Plan:
    """How a scene will be run: tiling, settings and what they were chosen from."""

    scene: Scene
    model: Model
    tiling: Tiling
    measured: Measurement
    projected_memory: int
    workers: int

    @property
    def seconds(self) -> float:
        """Estimated time of the network alone, with all workers."""
        return self.tiling.tile_count * self.measured.seconds_for(self.tiling.window) / self.workers


@dataclass(frozen=True)
class Result:
    """What a run left: the scene's folder, the record of the run, and whether there was anything to do."""

    folder: Path
    record: dict[str, Any]
    computed: bool


@dataclass(frozen=True)
class Watcher:
    """Who wants to know how a run goes on: told of the plan once, of the totals after each chunk."""

    planned: Callable[[Plan], None] = lambda plan: None
    progress: Callable[[Totals, Plan], None] = lambda totals, plan: None


def segment(
    sources: Sequence[str | Path], model_name: str | Path, out: Path, options: SegmentOptions, watcher: Watcher
) -> Result:
    """Segment one scene into ``out``/<scene id>.

    Args:
        sources: a raster, a folder of band files, a STAC item, or several band files of one scene.
        model_name: an embedded model's name or a model folder.
        out: the catalogue's folder.
        options: everything that has a default.
        watcher: is told of the plan and of progress.

    Raises:
        InputError, ModelError: the input cannot be worked with; nothing has been inferred.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    started, date = Stopwatch.now(), datetime.now(UTC)
    out = out.expanduser().absolute()  # workers may have another working directory
    model = open_model(model_name)
    scene = open_input(sources, model, options)
    folder = out / scene.id
    identity = Identity(scene.digest(), model.digest)
    if not options.overwrite and (record := finished_record(folder, identity, options)) is not None:
        return Result(folder, record, computed=False)
    candidates(raster_of(scene, model), options.plan, model.spec.divisor, model.spec.exact_halo)
    check_output(out, scene)
    directory = RunDirectory(folder / ".run")
    with ExitStack() as stack:
        stack.enter_context(directory.locked())
        client = stack.enter_context(connected(options.cluster, worker_count(options)))
        if options.overwrite:
            directory.clear()
        plan = make_plan(client, scene, model, options, resumable(directory, identity, options))
        watcher.planned(plan)
        job = Job(scene, plan.tiling, len(model.classes), directory, options.on_bad_block)
        _prepare(job, plan, identity)
        loader = TorchLoader(model.folder, model.digest, plan.measured.settings, radiometry_of(scene), plan.tiling.halo)
        start = Stopwatch.now() - started
        totals = run_chunks(client, job, loader, lambda totals: watcher.progress(totals, plan))
        publication = Publication(
            job, model.classes, out, folder, options.outputs, versions(), f"segmented with {model.spec.name}"
        )
        record = _record(plan, identity, options, totals)
        record["started"] = date.isoformat(timespec="seconds")
        record["seconds"] |= {"start": start, "run": totals.elapsed}
        record = publish(publication, record, Stopwatch(), started)
    return Result(folder, record, computed=True)


def open_input(sources: Sequence[str | Path], model: Model, options: SegmentOptions) -> Scene:
    """The scene that the user named, with the model's bands."""
    source = sources[0] if len(sources) == 1 else sources
    return open_scene(
        source,
        model.needs,
        options.scene,
        assumed_nodata=model.spec.assumed_nodata,
        reflectance=model.spec.quantity == "reflectance",
    )


def worker_count(options: SegmentOptions) -> int:
    """Worker processes of a local cluster: as asked, otherwise one for each CUDA device, one without any."""
    if options.workers is not None:
        return options.workers
    return max(1, torch.cuda.device_count()) if options.device != "cpu" else 1


def make_plan(
    client: Any, scene: Scene, model: Model, options: SegmentOptions, resumed: tuple[Tiling, Measurement] | None
) -> Plan:
    """The plan of a resumed run as it was, otherwise the best for this scene, model and cluster."""
    raster = raster_of(scene, model)
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    memory = memory_of(client)
    if resumed is not None:
        tiling, measured = resumed
    else:
        halo = default_halo(options.plan, model.spec.divisor, model.spec.exact_halo)
        threads = max(1, (os.cpu_count() or 1) // workers) if options.cluster == "local" else 0
        measured = measure(client, scene, model, options, halo, threads)
        tiling = choose(raster, options.plan, model.spec.divisor, model.spec.exact_halo, measured, memory)
    return Plan(scene, model, tiling, measured, projected_memory(raster, tiling, measured), workers)


def raster_of(scene: Scene, model: Model) -> Raster:
    """What the plan must know of the scene."""
    height, width = scene.grid.shape
    return Raster(height, width, len(scene.bands), np.dtype(scene.dtype).itemsize, len(model.classes))


def check_output(out: Path, scene: Scene) -> None:
    """Refuse an output folder that cannot be written to or whose disk is too small."""
    folder = out / scene.id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"--out {out}",
            got=error.strerror or error,
            expected="a folder that can be written to",
            fix="choose another",
        ) from error
    height, width = scene.grid.shape
    needed, free = int(height * width * BYTES_PER_PIXEL), shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"disk of --out {out}",
            got=f"{free / 2**20:.0f} MiB free",
            expected=f"{needed / 2**20:.0f} MiB for a scene of {height}×{width}",
            fix="free some space or choose another disk",
        )


def _prepare(job: Job, plan: Plan, identity: Identity) -> None:
    """Make the run directory of a new run; a resumed one is left as it is."""
    directory, tiling = job.directory, job.tiling
    if directory.identity() is not None:
        return
    directory.clear()
    title = f"{plan.scene.id}, segmented with {plan.model.spec.name}"
    create_store(directory.store, plan.scene.grid, plan.model.classes, tiling.store_chunk, title=title)
    directory.create({**asdict(identity), "tiling": asdict(tiling), "measured": plan.measured.to_dict()})


def versions() -> dict[str, str]:
    """Of everything that decides what the results look like."""
    return {name: version(name) for name in ("seamline", "torch", "rasterio", "zarr", "dask", "numpy")}


def _record(plan: Plan, identity: Identity, options: SegmentOptions, totals: Totals) -> dict[str, Any]:
    tiling, scene = plan.tiling, plan.scene
    return {
        "scene": scene.id,
        "source": scene.source,
        "model": plan.model.spec.name,
        "scene_digest": identity.scene_digest,
        "model_digest": identity.model_digest,
        "plan": plan_record(tiling),
        "settings": asdict(plan.measured.settings),
        "options": options.model_dump(mode="json", exclude_defaults=True),
        "outputs": list(options.outputs),
        "pixels_scene": tiling.height * tiling.width,
        "pixels_inferred": totals.pixels_inferred,
        "windows": totals.windows,
        "chunks": totals.chunks,
        "seconds": {stage: totals.seconds.get(stage, 0.0) for stage in ("read", "infer", "blend", "write")},
        "workers": plan.workers,
        "peak_memory_bytes": totals.peak_memory,
        "projected_memory_bytes": plan.projected_memory,
        "device_memory_bytes": totals.device_memory,
        "bad_blocks": totals.bad_blocks,
        "warnings": list(scene.warnings),
        "versions": versions(),
    }


def plan_record(tiling: Tiling) -> dict[str, int]:
    """The plan, as ``run.json`` has it."""
    names = ("window", "stride", "halo", "overlap", "chunk_tiles", "divisor")
    return {name: getattr(tiling, name) for name in names}
