"""From a store whose chunks are all written to results under their final names.

Nothing unfinished stands under a final name. All files are written to the result folder of the run directory: the
report after the rasters that it describes, the STAC item after all files whose checksums it holds. Then this folder
takes the place of the scene's (``replacement.py``). A kill before that leaves a run that publishes again; a kill after
it leaves results that the catalogue does not list yet, which the next run mends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial

import shapely

from seamline.pipeline.common.errors import ChunkError
from seamline.pipeline.common.layout import ZARR
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.done_chunks import refuse_lost_chunks
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.products.run_record import ClassArea, InferenceRecord, RunRecord
from seamline.pipeline.products.store_files import StoredFile, remove_partial_files
from seamline.pipeline.publishing.label_summary import LabelSummary, join_thinned_labels, summarize_labels
from seamline.pipeline.publishing.publication import (
    Publication,
    raise_as_run_error,
    write_item_and_record,
)
from seamline.pipeline.publishing.replacement import put_in_place, settle
from seamline.pipeline.report.report import load_report_template, write_report
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.footprint import join_hulls
from seamline.pipeline.storage.atomic import remove


def publish(publication: Publication, inferred: InferenceRecord, started: float) -> RunRecord:
    """Write every result and the record of a run whose chunks are all written, and put them in place.

    Args:
        publication: what to publish; its folder is the result of the run directory.
        inferred: what is known of the run so far.
        started: when the run began, by ``Stopwatch.now``.

    Returns:
        The record as written, with classes, hull, and the seconds of the stages of publishing.

    Raises:
        RunError: the results cannot be written; what was inferred is kept.
    """
    directory = publication.context.directory
    with raise_as_run_error(publication.context):
        _remove_all_but_store(directory)
        record = _write_results(publication, inferred, started)
        put_in_place(directory)
        remove_partial_files(directory.path.parent / ZARR)  # no lost worker can write to the store any more
        update_catalog(publication.catalog, publication.context.scene.id)
        settle(directory)
        shutil.rmtree(directory.path, ignore_errors=True)  # a lost worker may still write there
    return record


def _remove_all_but_store(directory: RunDirectory) -> None:
    """Clear away what a killed publishing left."""
    for path in (path for path in directory.result.iterdir() if path != directory.store):
        remove(path)


def _write_results(publication: Publication, inferred: InferenceRecord, started: float) -> RunRecord:
    context, folder, files, watch = publication.context, publication.folder, publication.files, Stopwatch()
    store = context.directory.store
    with ThreadPoolExecutor(4) as threads:  # workers draw while others compress; join meanwhile
        scene = threads.submit(publication.call, publication.pictures.stretch_scene)
        threads.submit(load_report_template)  # which takes a moment, too
        overview = threads.submit(_draw_after, scene, publication, publication.pictures.write_overview)
        with watch.stage("overviews"):
            summaries, found = _write_overviews(publication)
            areas = compute_class_areas([summary.counts for summary in summaries], publication.classes)
            draw = partial(publication.pictures.write_preview, areas, join_thinned_labels(summaries))
            preview = threads.submit(_draw_after, scene, publication, draw)
            refuse_lost_chunks(context, {name: file.digest for name, file in found.items()})
            store_info = files.seal_store(store, inferred, found)
        with watch.stage("cog"):
            cogs = files.write_cogs(store, publication.outputs, inferred, context.directory.files, threads)
        with watch.stage("polygons"):
            polygons = files.write_polygons(store, context.directory.files)
        with watch.stage("publish"):
            hull = join_hulls([summary.corners for summary in summaries])
            files.write_styles(areas)
            overview.result()
            preview.result()
            known = polygons | {name: info.result() for name, info in cogs.items()}
            if "zarr" in publication.outputs:
                known[ZARR] = store_info
            else:
                store.rename(context.directory.files / ZARR)
    seconds = {**watch.seconds, "total": watch.now() - started}
    record = _describe_finished_run(publication, inferred, seconds, areas, hull)
    files.write_model_document()
    write_report(folder, context.scene, publication.classes, publication.card, record)
    write_item_and_record(publication, record, known)
    return record


def _write_overviews(publication: Publication) -> tuple[list[LabelSummary], dict[str, StoredFile]]:
    """Write the overviews of the store. Its chunks are read once for all of publishing.

    Returns:
        What is known of the labels of each area, and the files as they were found.

    Raises:
        RunError: files of a chunk are lost or changed.
    """
    context = publication.context
    summarize = partial(summarize_labels, measure_pixel_areas(context.scene.grid), context.quicklook_step)
    try:
        return publication.files.write_overviews(context.directory.store, context.directory.files, summarize)
    except (OSError, ChunkError):
        refuse_lost_chunks(context)  # says so where a worker could not read a file for that reason
        raise


def _describe_finished_run(
    publication: Publication,
    inferred: InferenceRecord,
    seconds: Mapping[str, float],
    areas: tuple[ClassArea, ...],
    hull: shapely.Polygon | None,
) -> RunRecord:
    known = inferred.model_dump() | {"seconds": {**inferred.seconds, **seconds}}
    # Not by the clock, which may have been set meanwhile: nothing is finished before it has started.
    finished = datetime.fromisoformat(inferred.started) + timedelta(seconds=round(seconds["total"]))
    return RunRecord(
        **known,
        polygons=publication.files.polygon_rules,
        classes=areas,
        hull=None if hull is None else tuple(hull.exterior.coords),
        finished=finished.isoformat(timespec="seconds"),
    )


def _draw_after(scene: Future[None], publication: Publication, draw: Callable[[], None]) -> None:
    """Draw a picture on a worker, once one has made the colours of the scene."""
    scene.result()
    publication.call(draw)
