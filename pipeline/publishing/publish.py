"""From a store whose chunks are all written to results under their final names.

Nothing unfinished stands under a final name. The store is sealed and renamed; the other files are written beside and
renamed. The record of the run and the report are written after the rasters that they describe, the STAC item after all
files whose checksums it holds, and the run directory is removed last. A kill in between leaves a run that publishes
again.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from seamline.pipeline.common.layout import OVERVIEW, ZARR
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_context import QUICKLOOK
from seamline.pipeline.execution.quicklook import assemble_quicklook
from seamline.pipeline.products.run_record import ClassArea, InferenceRecord, RunRecord, write_record
from seamline.pipeline.products.sidecars import SIDECARS, remove_sidecars
from seamline.pipeline.products.zarr_store import is_sealed, open_labels
from seamline.pipeline.publishing.publication import (
    COG_ARRAYS,
    Publication,
    get_cog_path,
    raise_as_run_error,
    seal_store,
    write_cogs,
    write_item_and_catalog,
    write_polygon_files,
    write_preview_picture,
    write_style_files,
)
from seamline.pipeline.report.preview import decimate_labels, stretch
from seamline.pipeline.report.report import write_report
from seamline.pipeline.report.thumbnail import write_scene_picture
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.footprint import compute_labelled_hull
from seamline.pipeline.vectors.writers import POLYGON_FILES


def publish(publication: Publication, inferred: InferenceRecord, started: float) -> RunRecord:
    """Write every result and the record of a run whose chunks are all written.

    Args:
        publication: what to publish, and where.
        inferred: what is known of the run so far.
        started: when the run began, by ``Stopwatch.now``.

    Returns:
        The record as written, with classes, hull, and the seconds of the stages of publishing.

    Raises:
        RunError: the results cannot be written; what was inferred is kept.
    """
    context, folder, watch = publication.context, publication.folder, Stopwatch()
    with raise_as_run_error(context):
        for part in folder.glob(".*.part"):  # of a publishing that was killed
            part.unlink()
        store = _seal_store_of_run(publication, inferred, watch)
        labels = open_labels(store)
        with watch.stage("cog"):
            write_cogs(publication, store, publication.outputs, inferred, context.directory.files)
        with watch.stage("polygons"):
            _remove_unwanted_polygons(publication)
            write_polygon_files(publication, store, context.directory.files)
        with watch.stage("publish"):
            areas = compute_class_areas(labels, context.scene.grid, publication.classes)
            hull = compute_labelled_hull(labels)
            _write_pictures_and_styles(publication, areas, store)
            _move_store(store, folder / ZARR, keep="zarr" in publication.outputs)
            for output in COG_ARRAYS.keys() - set(publication.outputs):
                get_cog_path(folder, output).unlink(missing_ok=True)
        finished = datetime.now(UTC)
        known = inferred.model_dump() | {
            "seconds": {**inferred.seconds, **watch.seconds, "total": watch.now() - started},
        }
        record = RunRecord(
            **known,
            polygons=publication.polygon_rules,
            classes=areas,
            hull=None if hull is None else tuple(hull.exterior.coords),
            finished=finished.isoformat(timespec="seconds"),
        )
        write_record(folder, record)
        write_report(folder, context.scene, publication.classes, publication.card, record)
        write_item_and_catalog(publication, areas, hull, finished)
        context.directory.clear()
        shutil.rmtree(context.directory.path, ignore_errors=True)  # a lost worker may still write there
    return record


def _seal_store_of_run(publication: Publication, inferred: InferenceRecord, watch: Stopwatch) -> Path:
    """Return the sealed store of the run; after a kill between its renaming and the record it is in its final place."""
    store, final = publication.context.directory.store, publication.folder / ZARR
    if not store.exists() and is_sealed(final):
        return final
    if not is_sealed(store):
        with watch.stage("overviews"):
            seal_store(store, publication, inferred)
    return store


def _remove_unwanted_polygons(publication: Publication) -> None:
    wanted = publication.polygons.formats if publication.polygons else ()
    for kind in POLYGON_FILES.keys() - set(wanted):
        (publication.folder / POLYGON_FILES[kind]).unlink(missing_ok=True)


def _write_pictures_and_styles(publication: Publication, areas: tuple[ClassArea, ...], store: Path) -> None:
    context, folder = publication.context, publication.folder
    remove_sidecars(folder, SIDECARS.keys() - set(publication.outputs))
    write_style_files(publication, areas)
    pixels, valid = assemble_quicklook(context)
    rgb = stretch(pixels, valid, rgb=publication.is_true_color)
    write_scene_picture(rgb, valid, context.scene.grid, context.quicklook_step, folder / OVERVIEW)
    small = decimate_labels(open_labels(store), QUICKLOOK)
    write_preview_picture(publication, areas, small, rgb if valid.any() else None)


def _move_store(store: Path, final: Path, *, keep: bool) -> None:
    """Put the store in its place if it is to be kept; an older one is moved away right before."""
    if store != final and final.exists():
        old = store.with_name("replaced.zarr")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    if store != final and keep:
        store.rename(final)
    # Left by workers that were killed while they wrote. From now on no lost worker can write to the store.
    for part in final.rglob("*.partial"):
        part.unlink()
