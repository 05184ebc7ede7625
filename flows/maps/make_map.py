"""Published scenes in, one map out: plan, fuse on workers, publish; or what is left to do of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from distributed import Client

from seamline.flows.maps.map_plan import MapPlan, plan_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.runs.result_location import CatalogLocation
from seamline.flows.settings.credentials import connect_with_credentials
from seamline.pipeline.cluster.losses import raise_if_cluster_lost
from seamline.pipeline.cluster.machine import CORES
from seamline.pipeline.cluster.workers import wait_for_workers
from seamline.pipeline.common.errors import DamagedSceneError, RunError
from seamline.pipeline.common.layout import MODEL, RUN_DIRECTORY
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_tasks import ChunkOrigin
from seamline.pipeline.execution.run_chunks import map_on_workers
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.fusion.period_run import PeriodRun, find_fused, open_period_store
from seamline.pipeline.geometry.map_grid import CHUNK
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.maps.map_folder import (
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
from seamline.pipeline.maps.map_storage import MapInBucket, MapOnDisk, MapStorage
from seamline.pipeline.maps.period_files import find_kept_result
from seamline.pipeline.maps.publish_map import MapPublication, list_store_layers, publish_period
from seamline.pipeline.maps.stored_copies import list_in_stored_catalogue, refuse_other_objects, refuse_taken_keys
from seamline.pipeline.maps.upload_map import settle_map, upload_map
from seamline.pipeline.mosaic.map_record import MapRecord, write_map_record
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store
from seamline.pipeline.publishing.replacement import bring_back, put_in_place, settle
from seamline.pipeline.storage.atomic import check_writable, make_absolute
from seamline.pipeline.storage.digests import combine_digests
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url
from seamline.pipeline.storage.output_place import name_disk_errors

_TRIES = 20
"""Attempts to publish a map that others publish, too; each failed attempt is a success of another run."""
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
        out: the map's folder, or ``s3://bucket/prefix``, whose last part is the name of the map.
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
                return _make_map(results, out, options, observer, connect, damaged, begun)
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
    begun: float,
) -> MapResult:
    """Make a map as ``make_map`` does, without scenes that are known to be ``damaged``, by their ids."""
    started = datetime.now(UTC)
    source, place = _open_catalogue(results), CatalogLocation.from_out(out, options.work)
    folder = place.folder
    named = f"--out {folder}" if place.objects is None else f"--work {folder.parent}"
    check_writable(folder.parent, named)
    bring_back(folder)
    _refuse_other_place(place)
    check_writable(folder, named)
    if isinstance(source, Path) and place.objects is None:
        check_writable(source, f"results {source}, whose catalogue lists the map")
    directory = RunDirectory(folder / RUN_DIRECTORY)
    computed = False
    with directory.lock():
        for _ in range(_TRIES):
            settle(directory, partial(is_own, folder.name))
            plan = plan_map(source, _open_storage(place, options), options, damaged)
            for warning in plan.warnings:
                observer.say(warning)
            _refuse_taken_names(source, place, plan)
            observer.planned(plan)
            if plan.is_done:  # what a run left that was killed after the map was whole, or that nobody wants any more
                directory.clear()
                shutil.rmtree(directory.path, ignore_errors=True)
                break
            computed = True
            run = _MapRun(plan, _open_run(directory, plan, options), options, str(results), started, observer)
            with (connect or _connect)(options, plan.chunk_count) as client:
                if run.finish(client):
                    break
            observer.say(f"another run has replaced {place.objects} meanwhile: looking again at what is to be done")
        else:
            raise RunError(f"{place.objects}: others replace the map again and again; run the same command again")
        _list_in_catalogue(source, place, plan)
    url = "" if place.objects is None else place.objects.to_url()
    return MapResult(folder, plan.record, plan.chunk_count, computed, Stopwatch.now() - begun, url)


def preview_map(results: str | Path, out: str | Path, options: MosaicOptions) -> MapPlan:
    """Return what ``make_map`` would do; nothing is written.

    Args:
        results: the catalogue's folder, or ``s3://bucket/prefix``.
        out: the map's folder, or ``s3://bucket/prefix``.
        options: what the map is.

    Raises:
        InputError: there is no such map to be made.
    """
    place = CatalogLocation.from_out(out, options.work, is_written=False)
    _refuse_other_place(place)
    return plan_map(_open_catalogue(results), _open_storage(place, options), options)


def _open_catalogue(results: str | Path) -> Path | ObjectFolder:
    """Return the folder of the scenes."""
    return ObjectFolder.from_url(str(results)) if is_object_url(str(results)) else make_absolute(results)


def _open_storage(place: CatalogLocation, options: MosaicOptions) -> MapStorage:
    if place.objects is None:
        return MapOnDisk(place.folder)
    return MapInBucket.open(place.objects, place.folder, overwrite=options.overwrite)


def _refuse_other_place(place: CatalogLocation) -> None:
    if place.objects is not None:
        refuse_other_objects(place.objects)
    refuse_other_folder(place.folder)


def _refuse_taken_names(source: Path | ObjectFolder, place: CatalogLocation, plan: MapPlan) -> None:
    if isinstance(source, Path) and place.objects is None:
        refuse_taken_names(source, place.folder, plan.record.periods)
    elif isinstance(source, ObjectFolder) and place.objects is not None:
        refuse_taken_keys(source, place.objects, plan.record.periods)


def _list_in_catalogue(source: Path | ObjectFolder, place: CatalogLocation, plan: MapPlan) -> None:
    """Bring the items of the map to the catalogue of its scenes, where both lie on disk or both in object storage."""
    if place.objects is not None:
        settle_map(place.objects)  # which a killed run may have left
    if isinstance(source, Path) and place.objects is None:
        list_in_catalogue(source, place.folder, plan.record.periods)
    elif isinstance(source, ObjectFolder) and place.objects is not None:
        list_in_stored_catalogue(source, place.objects)


def _connect(options: MosaicOptions, chunks: int) -> AbstractContextManager[Client]:
    workers = options.workers
    if workers is None:
        workers = 0 if chunks <= _SMALL else min(CORES, _MAX_WORKERS)
    return connect_with_credentials(options.credentials, options.cluster, workers, _WORKER_THREADS)


def _open_run(directory: RunDirectory, plan: MapPlan, options: MosaicOptions) -> RunDirectory:
    """Return the run directory of an unfinished run of the same map, or of a new one."""
    polygons = None if options.polygon_options is None else asdict(options.polygon_options)
    form = {"polygons": polygons, "zarr_format": options.zarr_format}
    digest = combine_digests({"record": plan.record.model_dump(mode="json"), "folder": str(plan.folder), **form})
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

    def finish(self, client: Client) -> bool:
        """Fuse what is to be computed, publish the periods, and put the map in its place.

        Returns:
            False if another run has replaced a map in object storage meanwhile; what was computed is kept.
        """
        plan, directory = self.plan, self.directory
        record = plan.record.model_copy(update={"updated": _now()})
        with raise_if_cluster_lost(client, f"map {plan.name}"):
            publication = self._describe_publication(client)
            self._finish_periods(publication)
            if isinstance(plan.storage, MapInBucket):
                if not self._upload(plan.storage, record, publication):
                    return False
                write_map_record(directory.result, record)
            else:
                write_map_files(directory.result, plan.name, record)
        put_in_place(directory)
        settle(directory, partial(is_own, plan.name))
        shutil.rmtree(directory.path, ignore_errors=True)
        return True

    def _finish_periods(self, publication: MapPublication) -> None:
        """Bring the files of all periods to the result folder; of a map in object storage those that are here."""
        plan, done = self.plan, 0
        for period, changes in plan.periods.items():
            final = self.directory.result / name_period(plan.name, period)
            if period in plan.unchanged:
                old = plan.folder / final.name
                if not final.exists() and old.exists():
                    take_over_period(old, final)
            elif not is_whole(final):
                self._finish_period(publication, period, done)
            done += len(changes.computed)

    def _upload(self, storage: MapInBucket, record: MapRecord, publication: MapPublication) -> bool:
        changed = self.plan.periods.keys() - self.plan.unchanged
        ids = {name_period(self.plan.name, name) for name in changed}
        map_groups = publication.map_chunks if publication.workers > 1 else None
        return upload_map(self.directory.result, storage, record, ids, map_groups, check=self.options.check)

    def _describe_publication(self, client: Client) -> MapPublication:
        record = self.plan.record
        scenes = (scene for period in record.periods.values() for scene in period)
        model = fetch_model(
            scenes, record.definition.model, record.definition.model_digest, self.directory.files / MODEL
        )
        return MapPublication(
            name=self.plan.name,
            source=self.source,
            folder=None if isinstance(self.plan.storage, MapInBucket) else self.plan.folder,
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
        kept_store = self.plan.find_kept_store(period)
        reports = self._fuse(publication, run, kept_store, done)
        kept = None if kept_store is None else self._find_kept_result(period, kept_store)
        publish_period(publication, period, run.directory, list(reports.values()), kept)
        run.directory.result.rename(self.directory.result / period_id)

    def _find_kept_result(self, period: str, store: Path) -> KeptResult | None:
        """Return the period as it was, by its store; None if it is on another grid."""
        old, new = self.plan.old, self.plan.record
        if old is None or old.grid != new.grid:
            return None
        return find_kept_result(store.parent, self.plan.periods[period].kept.keys(), new.map_grid)

    def _fuse(
        self, publication: MapPublication, run: PeriodRun, kept_store: Path | None, done: int
    ) -> Mapping[Index, Report]:
        """Fuse the chunks of a period that are not yet fused; return the reports of all."""
        changes, old = self.plan.periods[run.period], self.plan.old
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
        layers = list_store_layers(self.plan.record.outputs)
        layout = ZarrLayout(CHUNK, None, self.options.zarr_format)
        title = f"map {self.plan.name}, fused of scenes segmented with {definition.model}"
        create_store(path, grid.geobox, definition.label_classes, layout, title=title, layers=layers)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _list_versions() -> dict[str, str]:
    """Return the versions of everything that decides what a map looks like."""
    return {name: version(name) for name in ("seamline", "numpy", "pyproj", "zarr", "rasterio", "dask")}
