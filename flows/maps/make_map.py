"""Published scenes in, one map out: plan, fuse on workers, publish; or what is left to do of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from distributed import Client

from seamline.flows.maps.map_plan import MapPlan, plan_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.settings.credentials import connect_with_credentials
from seamline.pipeline.cluster.losses import raise_if_cluster_lost
from seamline.pipeline.cluster.machine import CORES
from seamline.pipeline.cluster.workers import wait_for_workers
from seamline.pipeline.common.errors import DamagedSceneError, InputError
from seamline.pipeline.common.layout import MODEL, RUN_DIRECTORY
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_tasks import ChunkOrigin
from seamline.pipeline.execution.run_chunks import map_on_workers
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.fusion.map_folder import (
    fetch_model,
    is_own,
    is_whole,
    list_in_catalogue,
    name_period,
    refuse_other_folder,
    refuse_taken_names,
    take_over_period,
    write_map_files,
)
from seamline.pipeline.fusion.period_run import PeriodRun, find_fused, open_period_store
from seamline.pipeline.fusion.publish_map import MAP_LAYERS, MapPublication, publish_period
from seamline.pipeline.geometry.map_grid import CHUNK
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.mosaic.map_record import write_map_record
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store
from seamline.pipeline.publishing.replacement import bring_back, put_in_place, settle
from seamline.pipeline.storage.atomic import check_writable, make_absolute
from seamline.pipeline.storage.digests import combine_digests
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url
from seamline.pipeline.storage.output_place import name_disk_errors

_SMALL = 64
"""Chunks that are to be computed up to which this process works itself: to start others would take longer."""
_MAX_WORKERS = 8
"""Worker processes of a local cluster, at most, unless the user asks for more."""
_WORKER_THREADS = 2
"""Chunks that a worker process of a local cluster fuses at a time."""


def make_map(
    results: str | Path,
    out: str | Path,
    options: MosaicOptions,
    observer: MapObserver,
    connect: Callable[[MosaicOptions, int], AbstractContextManager[Client]] | None = None,
) -> MapResult:
    """Make a map of the published scenes of a catalogue, or bring it up to date.

    Only chunks are computed that scenes touch which are new, replaced or withdrawn. The map of before stays until the
    new one is whole. A killed run goes on when it is called again.

    Args:
        results: the catalogue's folder, or ``s3://bucket/prefix``.
        out: the map's folder, which is named as the map.
        options: what the map is.
        observer: is called with plan and progress.
        connect: returns a context that yields a client, for so many chunks. Default: as the options say.

    Returns:
        What the run left.

    Raises:
        InUseError: another process works on the map.
        InputError: there is no such map to be made; nothing has been computed.
        DamagedSceneError: a scene that looks whole cannot be read, and the options do not skip it.
        SeamlineError: the run failed; what was done is kept, and the same call goes on.
    """
    begun, damaged = Stopwatch.now(), dict[str, str]()
    while True:
        try:
            with name_disk_errors(f"map {out}"):
                result = _make_map(results, out, options, observer, connect, damaged)
            return replace(result, seconds=Stopwatch.now() - begun)
        except DamagedSceneError as error:
            if options.on_bad_scene == "fail" or error.scene in damaged:
                raise
            observer.say(f"goes on without scene {error.scene}: {error.problem}")
            damaged[error.scene] = error.problem


def _make_map(
    results: str | Path,
    out: str | Path,
    options: MosaicOptions,
    observer: MapObserver,
    connect: Callable[[MosaicOptions, int], AbstractContextManager[Client]] | None,
    damaged: Mapping[str, str],
) -> MapResult:
    """Make a map as ``make_map`` does, without scenes that are known to be ``damaged``, by their ids."""
    begun, started = Stopwatch.now(), datetime.now(UTC)
    catalogue, folder = _open_catalogue(results), _parse_out(out)
    check_writable(folder.parent, f"--out {folder}")
    bring_back(folder)
    refuse_other_folder(folder)
    check_writable(folder, f"--out {folder}")
    if isinstance(catalogue, Path):
        check_writable(catalogue, f"results {catalogue}, whose catalogue lists the map")
    directory = RunDirectory(folder / RUN_DIRECTORY)
    with directory.lock():
        settle(directory, partial(is_own, folder.name))
        plan = plan_map(catalogue, folder, options, damaged)
        for warning in plan.warnings:
            observer.say(warning)
        if isinstance(catalogue, Path):
            refuse_taken_names(catalogue, folder, plan.record.periods)
        observer.planned(plan)
        is_done = plan.is_done
        if not is_done:
            run = _MapRun(plan, _open_run(directory, plan), options, str(results), started, observer)
            with (connect or _connect)(options, plan.chunk_count) as client:
                run.finish(client)
        if isinstance(catalogue, Path):
            list_in_catalogue(catalogue, folder, plan.record.periods)
    return MapResult(folder, plan.record, plan.chunk_count, not is_done, Stopwatch.now() - begun)


def preview_map(results: str | Path, out: str | Path, options: MosaicOptions) -> MapPlan:
    """Return what ``make_map`` would do; nothing is written.

    Args:
        results: the catalogue's folder, or ``s3://bucket/prefix``.
        out: the map's folder.
        options: what the map is.

    Raises:
        InputError: there is no such map to be made.
    """
    folder = _parse_out(out)
    refuse_other_folder(folder)
    return plan_map(_open_catalogue(results), folder, options)


def _open_catalogue(results: str | Path) -> Path | ObjectFolder:
    """Return the folder of the scenes, which is only read in object storage."""
    return ObjectFolder.from_url(str(results)) if is_object_url(str(results)) else make_absolute(results)


def _parse_out(out: str | Path) -> Path:
    if is_object_url(str(out)):
        raise InputError("--out", got=out, expected="a folder on disk", fix="copy the map, which is a folder of files")
    return make_absolute(out)


def _connect(options: MosaicOptions, chunks: int) -> AbstractContextManager[Client]:
    workers = options.workers
    if workers is None:
        workers = 0 if chunks <= _SMALL else min(CORES, _MAX_WORKERS)
    return connect_with_credentials(options.credentials, options.cluster, workers, _WORKER_THREADS)


def _open_run(directory: RunDirectory, plan: MapPlan) -> RunDirectory:
    """Return the run directory of an unfinished run of the same map, or of a new one."""
    digest = combine_digests({"record": plan.record.model_dump(mode="json"), "folder": str(plan.folder)})
    known = directory.read_plan()
    if known is not None and known.get("map") == digest:
        return directory.with_start(known["start"])
    new = directory.create_new_start()
    write_map_record(new.files, plan.record)
    new.write_plan({"map": digest})
    return new


@dataclass(frozen=True)
class _MapRun:
    """A run of a map.

    Attributes:
        plan: what is to be done.
        directory: its run directory.
        options: what the user asked for.
        source: address of the catalogue of the scenes.
        started: when it began.
        observer: is called with the progress.
    """

    plan: MapPlan
    directory: RunDirectory
    options: MosaicOptions
    source: str
    started: datetime
    observer: MapObserver

    def finish(self, client: Client) -> None:
        """Fuse what is to be computed, publish the periods, and put the map in its place."""
        plan, directory = self.plan, self.directory
        with raise_if_cluster_lost(client, f"map {plan.name}"):
            publication = self._describe_publication(client)
            done = 0
            for period, changes in plan.periods.items():
                final = directory.result / name_period(plan.name, period)
                if plan.is_period_unchanged(period):
                    if not final.exists():
                        take_over_period(plan.folder / final.name, final)
                elif not is_whole(final):
                    self._finish_period(publication, period, done)
                done += len(changes.computed)
        write_map_files(directory.result, plan.name, plan.record.model_copy(update={"updated": _now()}))
        put_in_place(directory)
        settle(directory, partial(is_own, plan.name))
        shutil.rmtree(directory.path, ignore_errors=True)

    def _describe_publication(self, client: Client) -> MapPublication:
        record = self.plan.record
        scenes = (scene for period in record.periods.values() for scene in period)
        model = fetch_model(
            scenes, record.definition.model, record.definition.model_digest, self.directory.files / MODEL
        )
        return MapPublication(
            name=self.plan.name,
            source=self.source,
            folder=self.plan.folder,
            record=record,
            model=model,
            software=_list_versions(),
            started=self.started,
            map_chunks=map_on_workers(client, ChunkOrigin(f"map {self.plan.name}", self.source)),
            workers=len(wait_for_workers(client)),
            polygons=self.options.polygon_options,
        )

    def _finish_period(self, publication: MapPublication, period: str, done: int) -> None:
        """Fuse and publish a period; ``done`` chunks of others are done."""
        period_id = name_period(self.plan.name, period)
        run = PeriodRun(period, self.directory.files, RunDirectory(self.directory.files / "periods", period_id))
        reports = self._fuse(publication, run, done)
        publish_period(publication, period, run.directory, list(reports.values()))
        run.directory.result.rename(self.directory.result / period_id)

    def _fuse(self, publication: MapPublication, run: PeriodRun, done: int) -> Mapping[Index, Report]:
        """Fuse the chunks of a period that are not yet fused; return the reports of all."""
        changes, old = self.plan.periods[run.period], self.plan.old
        kept_store = self.plan.find_kept_store(run.period)
        chunks = [*changes.computed, *(() if kept_store else changes.kept)]
        open_period_store(run, self._create_store, changes.kept, kept_store, old.map_grid if old else None)
        reports = find_fused(run)
        left = [chunk for chunk in chunks if chunk not in reports]
        total = self.plan.chunk_count
        self.observer.progress(min(total, done + len(chunks) - len(left)), total)
        for report in publication.map_chunks(run.fuse_chunk, left):
            reports[report.chunk] = report
            self.observer.progress(min(total, done + len(reports)), total)
        return reports

    def _create_store(self, path: Path) -> None:
        definition, grid = self.plan.record.definition, self.plan.record.map_grid
        asked = ("probabilities",) if "probabilities" in definition.outputs else ()
        layout = ZarrLayout(CHUNK, None, self.options.zarr_format)
        title = f"map {self.plan.name}, fused of scenes segmented with {definition.model}"
        create_store(path, grid.geobox, definition.label_classes, layout, title=title, layers=(*asked, *MAP_LAYERS))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _list_versions() -> dict[str, str]:
    """Return the versions of everything that decides what a map looks like."""
    return {name: version(name) for name in ("seamline", "numpy", "pyproj", "zarr", "rasterio", "dask")}
