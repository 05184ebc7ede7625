"""A scene in, a seamless georeferenced segmentation out: the whole job as one function."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path

from dask.utils import format_bytes
from distributed import Client

from seamline.flows.runs.finished import (
    find_finished,
    find_record,
    find_recorded_time,
    has_source_changed,
    list_missing,
    refuse_result_of_other_run,
)
from seamline.flows.runs.measuring import load_engines
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.planning import Plan, connect_workers, count_workers, make_plan
from seamline.flows.runs.resume import UnfinishedRun, find_unfinished
from seamline.flows.runs.scene_job import UNDATED, SceneJob, open_scene_jobs
from seamline.flows.runs.worker_checks import check_workers
from seamline.flows.settings.engine_meter import list_engine_versions
from seamline.flows.settings.findings import correct_findings
from seamline.flows.settings.model_folder import RuntimeLoader, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.document import MODEL_FILENAME
from seamline.pipeline.cluster.losses import WorkersDiedError, raise_if_cluster_lost
from seamline.pipeline.common.errors import (
    BadBlockError,
    ChunkError,
    InputError,
    InUseError,
    OtherRunError,
    RunError,
    SeamlineError,
)
from seamline.pipeline.common.layout import PREVIEW
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_tasks import ChunkOrigin
from seamline.pipeline.execution.run_chunks import Totals, call_on_worker, map_on_workers, run_chunks
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import MapChunks, Tiling
from seamline.pipeline.products.run_record import InferenceRecord, RunRecord, TilingRecord
from seamline.pipeline.products.store_files import renew_store
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store
from seamline.pipeline.publishing.publication import Publication
from seamline.pipeline.publishing.publish import publish
from seamline.pipeline.publishing.replacement import bring_back, settle
from seamline.pipeline.publishing.restore import restore_outputs
from seamline.pipeline.publishing.upload import upload
from seamline.pipeline.stac.scene_item import ModelReference


def segment(
    source: str | Path, model_name: str | Path, out: str | Path, options: SegmentOptions, observer: RunObserver
) -> RunResult:
    """Segment one scene.

    Args:
        source: a raster, a folder of band files, or a STAC item.
        model_name: an embedded model's name or a model folder.
        out: the catalogue's folder, or ``s3://bucket/prefix``.
        options: everything that has a default.
        observer: is called with plan, progress and result.

    Returns:
        What the run left.

    Raises:
        InputError, ModelError: the input cannot be worked with; nothing has been inferred.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    return segment_scenes([source], model_name, out, options, observer)[0]


def segment_scenes(
    sources: Sequence[str | Path],
    model_name: str | Path,
    out: str | Path,
    options: SegmentOptions,
    observer: RunObserver,
    *,
    is_strict: bool = True,
) -> list[RunResult]:
    """Segment scenes into ``out``/<scene id>, one after the other on one cluster.

    All of them are checked before the first is begun. One that fails does not keep the others from being done.

    Args:
        sources: for each scene a raster, a folder of band files, or a STAC item.
        model_name: an embedded model's name or a model folder.
        out: the catalogue's folder, or ``s3://bucket/prefix``.
        options: everything that has a default.
        observer: is called with plans, progress and results.
        is_strict: whether one of several scenes that cannot be opened, or has a result of another run, keeps all from
            being begun. Otherwise it is one of those that fail.

    Returns:
        What each scene's run left.

    Raises:
        InputError, ModelError: the input cannot be worked with; nothing has been inferred.
        SeamlineError: a run failed; what was done is kept and the same call goes on.
    """
    failures: list[SeamlineError] = []

    def note(error: InputError) -> None:
        if is_strict or len(sources) == 1:
            raise error
        observer.say(f"goes on without it: {error}")
        failures.append(error)

    model = open_model(model_name)
    jobs = open_scene_jobs(sources, model, out, options, refuse=note)
    model.tell_limits(observer.say)
    results: list[RunResult] = []
    with ExitStack() as stack:
        background = stack.enter_context(ThreadPoolExecutor(1))

        @cache
        def start_cluster() -> Future[Client]:
            pixels = sum(math.prod(job.scene.grid.shape) for job in jobs)
            cluster = connect_workers(options, count_workers(options, pixels))
            return background.submit(lambda: load_engines(stack.enter_context(cluster)))

        if not all(job.is_probably_done() for job in jobs):
            start_cluster()
        for job in list(jobs):
            try:
                refuse_result_of_other_run(job)
            except InputError as error:
                note(error)
                jobs.remove(job)
        for job in jobs:
            try:
                results.append(segment_scene(job, lambda: start_cluster().result(), observer))
                observer.finished(results[-1])
            except InUseError as error:
                note(error)
            except (BadBlockError, ChunkError) as error:
                failures.append(error)
    if failures and len(sources) == 1:
        raise failures[0]
    if failures:
        raise RunError(f"{len(failures)} of {len(sources)} scenes failed: " + "; ".join(map(str, failures)))
    return results


def segment_scene(job: SceneJob, get_client: Callable[[], Client], observer: RunObserver) -> RunResult:
    """Segment one scene, or do what is left to do of it.

    Args:
        job: the scene, the model, the options and the place of the result.
        get_client: returns the client of a cluster; called only if there is something to infer.
        observer: is called with plan, progress and stages.

    Returns:
        What the run left.

    Raises:
        InUseError: another process works on the scene.
        InputError: the folder has a run of another scene, model or plan.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    begun = Stopwatch.now()
    job.digest.begin()  # while the workers start
    finished = find_finished(job)
    if finished is not None:
        job.location.run_directory.remove_mark(job.location.catalog.folder)  # a kill at the very end left it
        return finished
    bring_back(job.location.folder)
    directory = job.location.run_directory
    with directory.lock(), directory.announce(job.location.catalog.folder):
        settle(directory)
        record = find_record(job)  # of a run that lost an output, or that another process has finished since
        if record is not None:
            result = observer.run_stage("publish", lambda: _restore(job, record))
        else:
            result = _run(job, get_client(), observer, begun - job.seconds)
    map_groups = (
        map_on_workers(get_client(), ChunkOrigin.of(job.scene)) if result.computed and job.location.objects else None
    )
    return _upload(job, result, observer, map_groups)


def segment_anew(job: SceneJob, get_client: Callable[[], Client], observer: RunObserver, *, renew: bool) -> RunResult:
    """Segment one scene of a collection, whose earlier result may be of an earlier state of the same source.

    Args:
        job: the scene, the model, the options and the place of the result.
        get_client: returns the client of a cluster; called only if there is something to infer.
        observer: is called with plan, progress and stages.
        renew: replace a result of another model or plan, too.

    Returns:
        What the run left.

    Raises:
        SeamlineError: as ``segment_scene``.
    """
    try:
        return segment_scene(job, get_client, observer)
    except OtherRunError:
        if not (renew or has_source_changed(job)):
            raise
        return segment_scene(job.with_overwrite(), get_client, observer)


def _restore(job: SceneJob, record: RunRecord) -> RunResult:
    """Write what a finished run did not write, or what was lost since, from the raster that is there."""
    job, folder = job.with_recorded_time(record.given_time), job.location.folder
    missing = list_missing(job, check=True)
    if missing:
        record = _redate_record(record, job)
        height, width = job.scene.grid.shape
        tiling = Tiling(height, width, **record.plan.model_dump(exclude={"stride"}))
        context = ChunkContext(job.scene, tiling, len(job.model.classes), job.location.run_directory)
        record = restore_outputs(_describe_publication(job, context), record, missing)
    else:  # the run was killed while it cleaned up
        shutil.rmtree(job.location.run_directory.path)
    return RunResult(folder, record, computed=False, rewritten=tuple(missing))


def _redate_record(record: RunRecord, job: SceneJob) -> RunRecord:
    """Return the record of a finished run with the time of acquisition that the job was given."""
    if job.options.datetime is None:
        return record
    warnings = tuple(warning for warning in record.warnings if warning != UNDATED)
    return record.model_copy(
        update={"options": {**record.options, "datetime": job.options.datetime}, "warnings": warnings}
    )


def _run(job: SceneJob, client: Client, observer: RunObserver, started: float) -> RunResult:
    """Plan the run, infer its chunks, publish the results; ``started`` is a time of ``Stopwatch.now``."""
    date = datetime.now(UTC) - timedelta(seconds=Stopwatch.now() - started)
    unfinished = find_unfinished(job)
    job = job.with_recorded_time(find_recorded_time(job))
    with raise_if_cluster_lost(client, f"scene {job.scene.id}"):
        if job.options.cluster != "local":
            files = [*job.scene.list_local_files(), job.location.run_directory.lock_file]
            check_workers(client, files, job.extras)
        plan = observer.run_stage(
            "plan", lambda: make_plan(client, job.scene, job.model, job.options, unfinished, observer.say)
        )
    observer.planned(plan)
    directory = _open_run_directory(job, plan, unfinished)
    options, classes = job.options, len(job.model.classes)
    context = ChunkContext(
        job.scene, plan.tiling, classes, directory, options.on_bad_block, options.layers, plan.reading
    )
    radiometry = get_radiometry(job.scene)
    room = plan.measured.chunk_bytes(plan.tiling.window)
    loader = RuntimeLoader(job.model.folder, job.model.digest, plan.settings, radiometry, plan.tiling.halo, room)
    start_seconds = Stopwatch.now() - started
    try:
        totals = observer.run_stage(
            "infer", lambda: run_chunks(client, context, loader, lambda totals: observer.progress(totals, plan))
        )
    except WorkersDiedError as error:
        raise RunError(f"{error}; the plan expects {format_bytes(plan.projected_memory)} of each") from error
    if change := job.scene.describe_change():
        raise RunError(f"scene {job.scene.id}: {change}")
    inferred = _describe_inference(job, plan, totals, date, start_seconds)
    origin = ChunkOrigin.of(job.scene)
    publication = replace(
        _describe_publication(job, context),
        folder=directory.result,
        map_chunks=map_on_workers(client, origin),
        call=call_on_worker(client, origin),
    )
    record = observer.run_stage("publish", lambda: publish(publication, inferred, started))
    correct_findings(plan.findings, plan.compute_costs(totals))
    return RunResult(job.location.folder, record, computed=True)


def _upload(job: SceneJob, result: RunResult, observer: RunObserver, map_groups: MapChunks | None) -> RunResult:
    """Publish a finished scene to object storage, if it belongs there, and clear the working folder.

    ``map_groups`` works on its files on workers; None where there are none.
    """
    location = job.location
    catalogue = location.objects
    if catalogue is None:
        return result
    with location.run_directory.lock():
        observer.run_stage("upload", lambda: upload(location.folder, catalogue, map_groups=map_groups))
        location.run_directory.clear()
        # The lock goes last, so that nobody works here meanwhile. Those who watch the run are shown the preview.
        kept = {location.run_directory.path.name, PREVIEW}
        for path in (path for path in location.folder.iterdir() if path.name not in kept):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return replace(result, url=location.url)


def _open_run_directory(job: SceneJob, plan: Plan, unfinished: UnfinishedRun | None) -> RunDirectory:
    """Return the run directory of an unfinished or a new run, with a Zarr store for its chunks."""
    title = f"{plan.scene.id}, segmented with {plan.model.spec.name}"
    layout, layers = _choose_layout(plan.tiling, job.options), job.options.layers

    def create(path: Path) -> None:
        create_store(path, plan.scene.grid, plan.model.classes, layout, title=title, layers=layers)

    if unfinished is not None:
        unfinished.directory.make_folders()
        renew_store(unfinished.directory.store, create)
        return unfinished.directory
    directory = job.location.run_directory.create_new_start()
    create(directory.store)
    directory.write_plan(
        {
            **asdict(job.identity),
            "source": plan.scene.source,
            "options": job.options.model_dump(mode="json", exclude_defaults=True),
            "tiling": asdict(plan.tiling),
            "measured": plan.measured.to_dict(),
        }
    )
    return directory


def _describe_publication(job: SceneJob, context: ChunkContext) -> Publication:
    spec = job.model.spec
    return Publication(
        context=context,
        model=ModelReference(spec.name, job.model.digest, job.model.folder / MODEL_FILENAME, spec.limits),
        card=job.model.card,
        classes=job.model.classes,
        layout=_choose_layout(context.tiling, job.options),
        catalog=job.location.catalog.folder,
        folder=job.location.folder,
        outputs=job.options.outputs,
        software=_list_versions(),
        lineage=f"segmented with {spec.name}",
        polygons=job.options.polygon_options,
    )


def _choose_layout(tiling: Tiling, options: SegmentOptions) -> ZarrLayout:
    """Return the layout of the Zarr store; a shard is a chunk of the run, since it has one writer."""
    return ZarrLayout(tiling.store_chunk_size, tiling.chunk_size if options.zarr_shards else None, options.zarr_format)


@cache
def _list_versions() -> dict[str, str]:
    """Return the versions of everything that decides what the results look like."""
    return {name: version(name) for name in ("seamline", "rasterio", "zarr", "dask", "numpy")} | list_engine_versions()


def _describe_inference(
    job: SceneJob, plan: Plan, totals: Totals, date: datetime, start_seconds: float
) -> InferenceRecord:
    """Return the record of a run before its results are published.

    Args:
        job: what was asked for.
        plan: how it was run.
        totals: what the run did.
        date: when it began.
        start_seconds: seconds until the first chunk was submitted.
    """
    tiling, scene = plan.tiling, plan.scene
    seconds = {stage: totals.seconds.get(stage, 0.0) for stage in ("read", "infer", "blend", "write")}
    return InferenceRecord(
        scene=scene.id,
        source=scene.source,
        model=plan.model.spec.name,
        scene_digest=job.identity.scene_digest,
        model_digest=job.identity.model_digest,
        plan=TilingRecord(
            window=tiling.window,
            halo=tiling.halo,
            overlap=tiling.overlap,
            chunk_tiles=tiling.chunk_tiles,
            divisor=tiling.divisor,
            stride=tiling.stride,
        ),
        settings=asdict(plan.settings),
        options=job.options.model_dump(mode="json", exclude_defaults=True),
        outputs=job.options.outputs,
        pixels_scene=tiling.height * tiling.width,
        pixels_inferred=totals.pixels_inferred,
        windows=totals.windows,
        chunks=totals.chunks,
        seconds={**seconds, "start": start_seconds, "run": totals.elapsed},
        workers=plan.workers,
        peak_memory_bytes=totals.peak_memory,
        projected_memory_bytes=plan.projected_memory,
        device_memory_bytes=totals.device_memory,
        bad_blocks=tuple(totals.bad_blocks),
        warnings=tuple(scene.warnings),
        radiometry=scene.radiometry,
        versions=_list_versions(),
        started=date.isoformat(timespec="seconds"),
    )
