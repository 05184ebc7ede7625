"""From the store of a period of a map, whose chunks are all written, to the files of the period: those of a scene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, format_count
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.common.layout import PREVIEW, RECORD, ZARR
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.geometry.map_grid import CHUNK
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.tiling import MapChunks, Tiling
from seamline.pipeline.maps.map_folder import name_period
from seamline.pipeline.maps.map_item import build_map_item, relate_scene
from seamline.pipeline.maps.map_report import write_map_report
from seamline.pipeline.mosaic.map_record import MapRecord, MapScene
from seamline.pipeline.mosaic.periods import Period
from seamline.pipeline.products.geozarr import find_crs_code
from seamline.pipeline.products.kept_result import KeptResult
from seamline.pipeline.products.layers import PROBABILITIES
from seamline.pipeline.products.run_record import (
    InferenceRecord,
    RunRecord,
    TilingRecord,
    encode_record,
    write_record,
)
from seamline.pipeline.publishing.label_summary import join_thinned_labels, summarize_labels
from seamline.pipeline.publishing.result_files import ResultFiles
from seamline.pipeline.report.preview import Caption, write_preview
from seamline.pipeline.stac.catalog import write_item
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.footprint import compute_labelled_area, join_hulls
from seamline.pipeline.stac.scene_item import ModelReference, Provenance
from seamline.pipeline.storage.digests import FileInfo, describe_content
from seamline.pipeline.vectors.polygon_options import PolygonOptions

_LAYERS = ("observations", "agreement", "last_date")
"""Layers that each map has."""
_PREVIEW_EDGE = 1000
"""Pixels of the labels on a preview, at most."""


def list_period_outputs(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs of a period from those that were asked for: with the layers of every map beside COGs."""
    return (*asked, *(_LAYERS if "cog" in asked else ()))


def list_store_layers(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the layers of the store of a period from the outputs that were asked for."""
    return (*((PROBABILITIES,) if PROBABILITIES in asked else ()), *_LAYERS)


@dataclass(frozen=True)
class MapPublication:
    """What the files of a map say, and who writes them.

    Attributes:
        name: name of the map.
        source: address of the catalogue of the scenes.
        folder: absolute path of the map, where its files will lie; None in object storage.
        record: the record of the map as it is to be.
        model: the model that segmented the scenes; its document is there.
        software: versions of the software that decides the map.
        started: when the run began.
        map_chunks: applies a function to chunks or areas, on the workers of a cluster if there is one.
        workers: number of workers.
        polygons: what is wanted of the output "polygons"; None if it is not.
    """

    name: str
    source: str
    folder: Path | None
    record: MapRecord
    model: ModelReference
    software: Mapping[str, str]
    started: datetime
    map_chunks: MapChunks
    workers: int
    polygons: PolygonOptions | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of each period, with the layers of every map where COGs are wanted."""
        return list_period_outputs(self.record.outputs)

    def describe_files(self, folder: Path, kept: KeptResult | None) -> ResultFiles:
        """Return what is written to the folder of a period; ``kept``: the period as it was, on the same grid."""
        grid = self.record.map_grid
        return ResultFiles(
            grid=grid.geobox,
            tiling=Tiling(grid.height, grid.width, CHUNK, 0, 0, 1, 1),
            classes=self.record.definition.label_classes,
            model=self.model,
            folder=folder,
            outputs=self.outputs,
            polygons=self.polygons,
            map_chunks=self.map_chunks,
            kept=kept,
        )


def publish_period(
    publication: MapPublication,
    period: str,
    directory: RunDirectory,
    reports: Sequence[Report],
    kept: KeptResult | None = None,
) -> None:
    """Write all files of a period to the result folder of its run directory.

    Args:
        publication: the map.
        period: name of the period.
        period_id: id of its item, which becomes the name of its folder.
        directory: run directory of the period, whose store is written.
        reports: what workers reported of the chunks that were fused.
        kept: the period as it was, on the same grid; what lies beside its changed chunks is taken from it.

    Raises:
        RunError: files of a chunk were lost or changed since they were reported.
    """
    folder, store, watch = directory.result, directory.store, Stopwatch()
    files, scratch = publication.describe_files(folder, kept), directory.files
    period_id = name_period(publication.name, period)
    inferred = _describe_run(publication, period, period_id, reports)
    step = math.ceil(max(files.grid.shape) / _PREVIEW_EDGE)
    with watch.stage("overviews"):
        summarize = partial(summarize_labels, measure_pixel_areas(files.grid), step)
        summaries, found = files.write_overviews(store, scratch, summarize)
        _refuse_lost_files(directory, reports, {name: file.digest for name, file in found.items()})
        store_info = files.seal_store(store, inferred, found)
    areas = compute_class_areas([summary.counts for summary in summaries], files.classes)
    hull = join_hulls([summary.corners for summary in summaries])
    with ThreadPoolExecutor(1) as thread:
        with watch.stage("cog"):
            cogs = files.write_cogs(store, files.outputs, inferred, scratch, thread)
        with watch.stage("polygons"):
            polygons = files.write_polygons(store, scratch)
        with watch.stage("publish"):
            scenes = publication.record.periods[period]
            time = "time unknown" if (span := _find_time(Period.from_name(period), scenes)) is None else str(span)
            crs = find_crs_code(files.grid) or files.grid.crs.proj.name
            note = "  ·  ".join((time, format_count(len(scenes), "scene"), crs))
            shares = {row.name: row.share for row in areas}
            labels, shown = _crop_to_labels(join_thinned_labels(summaries), files.grid, step)
            write_preview(None, labels, files.classes, shares, Caption(period_id, note, shown), folder / PREVIEW)
            known = polygons | {name: info.result() for name, info in cogs.items()} | {ZARR: store_info}
            files.write_styles(areas)  # by the statistics of the COGs
    finished = datetime.now(UTC)
    record = RunRecord(
        **inferred.model_dump() | {"seconds": _sum_seconds(reports, watch, finished - publication.started)},
        polygons=files.polygon_rules,
        classes=areas,
        hull=None if hull is None else tuple(hull.exterior.coords),
        finished=finished.isoformat(timespec="seconds"),
    )
    files.write_model_document()
    definition, skipped = publication.record.definition, publication.record.skipped
    write_map_report(folder, files.grid, definition, scenes, skipped, files.classes, publication.model, record, time)
    _write_item_and_record(publication, period, files, record, known)


def _crop_to_labels(labels: NDArray[np.uint8], grid: GeoBox, step: int) -> tuple[NDArray[np.uint8], GeoBox]:
    """Return the part of thinned labels (height, width) where there are any, and the grid of this part."""
    rows, cols = (np.flatnonzero((labels != NODATA).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return labels, grid
    row, stop_row, col, stop_col = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    return labels[row:stop_row, col:stop_col], grid[row * step : stop_row * step, col * step : stop_col * step]


def _sum_seconds(reports: Sequence[Report], watch: Stopwatch, total: timedelta) -> dict[str, float]:
    """Return the seconds of the stages: those of workers summed, those of publishing as wall time."""
    stages = {name: sum(report.seconds[name] for report in reports) for name in ("fuse", "write")}
    return {**stages, **watch.seconds, "total": total.total_seconds()}


def _refuse_lost_files(directory: RunDirectory, reports: Sequence[Report], stored: Mapping[str, str]) -> None:
    """Check that the files of the store are what the workers wrote; ``stored`` has their digests."""
    below = directory.store.relative_to(directory.files).as_posix()
    lost = sum(
        any(stored.get(name.removeprefix(f"{below}/")) != digest for name, digest in report.files.items())
        for report in reports
    )
    if lost:
        raise RunError(
            f"map {directory.files.name}: files of {lost} chunks in {directory.store} were lost or changed while the "
            "run went on; run the same command again to fuse them anew"
        )


def _describe_run(
    publication: MapPublication, period: str, period_id: str, reports: Sequence[Report]
) -> InferenceRecord:
    """Return what is known of the run of a period before it is published."""
    record, grid = publication.record, publication.record.map_grid
    return InferenceRecord(
        scene=period_id,
        source=publication.source,
        model=record.definition.model,
        scene_digest=record.compute_period_digest(period),
        model_digest=record.definition.model_digest,
        plan=TilingRecord(window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1, stride=CHUNK),
        settings={"fused": "probability × confidence × taper at the scene's edge, as integers"},
        options=record.definition.model_dump(mode="json", exclude_defaults=True, exclude={"classes"}),
        outputs=publication.outputs,
        pixels_scene=grid.height * grid.width,
        pixels_inferred=0,
        windows=0,
        chunks=len(grid.chunks),
        seconds={},
        workers=publication.workers,
        peak_memory_bytes=max((report.peak_memory for report in reports), default=0),
        projected_memory_bytes=0,
        versions=dict(publication.software),
        started=publication.started.isoformat(timespec="seconds"),
    )


def _write_item_and_record(
    publication: MapPublication,
    period: str,
    files: ResultFiles,
    record: RunRecord,
    known: Mapping[str, FileInfo],
) -> None:
    """Write the item of a period, which holds checksums of all other files, and then the record."""
    definition, scenes = publication.record.definition, publication.record.periods[period]
    hull = None if record.hull is None else shapely.Polygon(record.hull)
    final = None if publication.folder is None else publication.folder / record.scene
    linked = [scene.model_copy(update={"href": relate_scene(scene.href, final)}) for scene in scenes]
    item = build_map_item(
        files.folder,
        record.scene,
        publication.name,
        period,
        linked,
        files.grid,
        files.classes,
        record.classes,
        Provenance(
            publication.source,
            publication.model,
            _find_time(Period.from_name(period), scenes),
            datetime.fromisoformat(record.finished),
            publication.software,
            f"fused of {format_count(len(scenes), 'scene')} segmented with {definition.model}",
        ),
        compute_labelled_area(files.grid, hull, definition.area),
        {**known, RECORD: describe_content(encode_record(record))},
    )
    write_item(item, files.folder)
    write_record(files.folder, record)


def _find_time(period: Period, scenes: Sequence[MapScene]) -> TimeSpan | None:
    """Return the time of a period; of all scenes, from the first to the last one that is known."""
    if period.start is not None and period.end is not None:
        return TimeSpan(period.start, period.end - timedelta(seconds=1))
    spans = [span for scene in scenes if (span := scene.time_span) is not None]
    return TimeSpan(min(span.start for span in spans), max(span.end for span in spans)) if spans else None
