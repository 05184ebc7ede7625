"""A scene in, a seamless georeferenced segmentation out: the whole job as one function."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from distributed import Client

from seamline.flows.runs.destination import delivered
from seamline.flows.runs.measuring import engine_versions
from seamline.flows.runs.planning import Plan, make_plan, worker_count
from seamline.flows.runs.resume import resumable
from seamline.flows.runs.scene_job import Request, open_requests
from seamline.flows.settings.credentials import connect_with_credentials
from seamline.flows.settings.model_folder import TorchLoader, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.document import MODEL_FILENAME
from seamline.pipeline.common.errors import BadBlockError, ChunkError, RunError
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.cluster import raise_if_cluster_lost
from seamline.pipeline.execution.run_chunks import Totals, map_on_workers, run_chunks
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store
from seamline.pipeline.publishing.publish import Publication, complete, missing_outputs, publish
from seamline.pipeline.stac.scene_item import ModelReference

T = TypeVar("T")
PLANNED = ("window", "halo", "overlap", "chunk_tiles", "divisor")
"""What fixes a tiling of a scene."""


@dataclass(frozen=True)
class Result:
    """What a run left: the scene's folder, the record of the run, and whether there was anything to infer.

    ``rewritten`` names the results that were lost, or not asked for before, of a scene that was finished. ``place`` is
    the scene's URL where it was published to object storage; of ``folder`` only the preview is left then.
    """

    folder: Path
    record: dict[str, Any]
    computed: bool
    rewritten: tuple[str, ...] = ()
    place: str = ""


class Stage(Protocol):
    """Does a stage of a scene's run, for whoever wants to see it as a step of its own."""

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Do ``work`` and return what it returns; its errors pass through."""
        ...


def _plainly(name: str, work: Callable[[], T]) -> T:
    return work()


@dataclass(frozen=True)
class Watcher:
    """Who wants to know how a run goes on: told of each scene's plan, of its totals after each chunk, of its end.

    ``say`` is told in words what takes a while before there is a plan; ``stage`` does each of the run's stages.
    """

    say: Callable[[str], None] = lambda text: None
    planned: Callable[[Plan], None] = lambda plan: None
    progress: Callable[[Totals, Plan], None] = lambda totals, plan: None
    finished: Callable[[Result], None] = lambda result: None
    stage: Stage = _plainly


def segment(
    source: str | Path, model_name: str | Path, out: str | Path, options: SegmentOptions, watcher: Watcher
) -> Result:
    """Segment one scene; as ``segment_all``."""
    return segment_all([source], model_name, out, options, watcher)[0]


def segment_all(
    sources: Sequence[str | Path], model_name: str | Path, out: str | Path, options: SegmentOptions, watcher: Watcher
) -> list[Result]:
    """Segment scenes into ``out``/<scene id>, one after the other on one cluster.

    All of them are checked before the first is begun. One that fails does not keep the others from being done.

    Args:
        sources: of each scene a raster, a folder of band files, or a STAC item.
        model_name: an embedded model's name or a model folder.
        out: the catalogue's folder, or ``s3://bucket/prefix``.
        options: everything that has a default.
        watcher: is told of plans, progress and results.

    Raises:
        InputError, ModelError: the input cannot be worked with; nothing has been inferred.
        SeamlineError: a run failed; what was done is kept and the same call goes on.
    """
    requests = open_requests(sources, open_model(model_name), out, options)
    results: list[Result] = []
    failures: list[BadBlockError | ChunkError] = []
    with ExitStack() as stack:
        background = stack.enter_context(ThreadPoolExecutor(1))

        @cache
        def cluster() -> Future[Client]:
            workers = worker_count(options)
            return background.submit(
                stack.enter_context, connect_with_credentials(options.credentials, options.cluster, workers)
            )

        if not all(request.seems_done() for request in requests):
            cluster()  # starts while the scenes' digests are computed
        for request in requests:
            request.finished()  # refuses what is of another scene, model or plan
        for request in requests:
            try:
                results.append(segmented(request, lambda: cluster().result(), watcher))
                watcher.finished(results[-1])
            except (BadBlockError, ChunkError) as error:
                failures.append(error)
    if failures and len(requests) == 1:
        raise failures[0]
    if failures:
        raise RunError(f"{len(failures)} of {len(requests)} scenes failed: " + "; ".join(map(str, failures)))
    return results


def segmented(request: Request, client: Callable[[], Client], watcher: Watcher) -> Result:
    """Segment one scene; ``client`` is called where there is something to do.

    Raises:
        InUseError: another process is at it.
        InputError: its folder has a run of another scene, model or plan.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    return delivered(request, partial(_segmented, request, client, watcher), watcher.stage)


def _segmented(request: Request, client: Callable[[], Client], watcher: Watcher) -> Result:
    begun = Stopwatch.now()
    record = request.finished()
    if record is not None and not request.unfinished_business():
        return Result(request.folder, record, computed=False)
    with request.directory.locked():
        record = request.finished()  # another process may have finished it in between
        if record is not None:
            return watcher.stage("publish", lambda: _completed(request, record))
        return _run(request, client(), watcher, begun)


def _completed(request: Request, record: dict[str, Any]) -> Result:
    """Write what the finished run did not, or what was lost since, from the raster that is there."""
    tiling = Tiling(*request.scene.grid.shape, **{name: record["plan"][name] for name in PLANNED})
    missing = missing_outputs(request.folder, request.options.outputs, request.options.polygon_options)
    if missing:
        job = ChunkContext(request.scene, tiling, len(request.model.classes), request.directory)
        record = complete(_publication(request, job), record)
    else:  # killed while it cleaned up
        shutil.rmtree(request.directory.path)
    return Result(request.folder, record, computed=False, rewritten=tuple(missing))


def _run(request: Request, client: Client, watcher: Watcher, begun: float) -> Result:
    started = begun - request.seconds
    date = datetime.now(UTC) - timedelta(seconds=Stopwatch.now() - started)
    scene, model, options = request.scene, request.model, request.options
    resumed = resumable(request.directory, request.identity, options)
    with raise_if_cluster_lost(client, f"scene {scene.id}"):
        plan = watcher.stage("plan", lambda: make_plan(client, scene, model, options, resumed, watcher.say))
    watcher.planned(plan)
    directory = _begun(request, plan) if resumed is None else resumed.directory
    job = ChunkContext(scene, plan.tiling, len(model.classes), directory, options.on_bad_block, options.layers)
    loader = TorchLoader(model.folder, model.digest, plan.settings, get_radiometry(scene), plan.tiling.halo)
    start = Stopwatch.now() - started

    def infer() -> Totals:
        return run_chunks(client, job, loader, lambda totals: watcher.progress(totals, plan))

    totals = watcher.stage("infer", infer)
    record = _record(plan, request, totals)
    record["started"] = date.isoformat(timespec="seconds")
    record["seconds"] |= {"start": start, "run": totals.elapsed}
    publication = replace(_publication(request, job), spread=map_on_workers(client, job))
    record = watcher.stage("publish", lambda: publish(publication, record, Stopwatch(), started))
    return Result(request.folder, record, computed=True)


def _begun(request: Request, plan: Plan) -> RunDirectory:
    """The run directory of a new run."""
    directory = request.directory.started()
    title = f"{plan.scene.id}, segmented with {plan.model.spec.name}"
    storage, layers = storage_of(plan.tiling, request.options), request.options.layers
    create_store(directory.store, plan.scene.grid, plan.model.classes, storage, title=title, layers=layers)
    options = request.options.model_dump(mode="json", exclude_defaults=True)
    identity = {
        **asdict(request.identity),
        "source": plan.scene.source,
        "options": options,
        "tiling": asdict(plan.tiling),
        "measured": plan.measured.to_dict(),
    }
    directory.commit(identity)
    return directory


def _publication(request: Request, job: ChunkContext) -> Publication:
    model, options = request.model, request.options
    title, storage = f"segmented with {model.spec.name}", storage_of(job.tiling, options)
    used = ModelReference(model.spec.name, model.digest, str(model.folder / MODEL_FILENAME))
    return Publication(
        job,
        used,
        model.classes,
        storage,
        request.out,
        request.folder,
        options.outputs,
        versions(),
        title,
        model.card,
        options.polygon_options,
    )


def storage_of(tiling: Tiling, options: SegmentOptions) -> ZarrLayout:
    """How the Zarr store lies on disk; a shard is a chunk of the run, since it has one writer."""
    return ZarrLayout(tiling.store_chunk_size, tiling.chunk_size if options.zarr_shards else None, options.zarr_format)


def versions() -> dict[str, str]:
    """Of everything that decides what the results look like."""
    return {name: version(name) for name in ("seamline", "rasterio", "zarr", "dask", "numpy")} | engine_versions()


def _record(plan: Plan, request: Request, totals: Totals) -> dict[str, Any]:
    tiling, scene, options = plan.tiling, plan.scene, request.options
    return {
        "scene": scene.id,
        "source": scene.source,
        "model": plan.model.spec.name,
        **asdict(request.identity),
        "plan": plan_record(tiling),
        "settings": asdict(plan.settings),
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
    return {name: getattr(tiling, name) for name in (*PLANNED, "stride")}
