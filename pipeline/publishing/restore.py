"""Write what is missing of a finished run from the rasters that are there; the scene is not inferred again."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.common.layout import COG, ZARR
from seamline.pipeline.execution.chunk_context import QUICKLOOK
from seamline.pipeline.products.layers import CONFIDENCE, LAYERS
from seamline.pipeline.products.run_record import RunRecord
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.products.store_files import iter_row_windows
from seamline.pipeline.products.zarr_store import (
    create_store,
    list_store_rasters,
    open_labels,
    open_store_raster,
    write_store_raster,
)
from seamline.pipeline.publishing.publication import (
    Publication,
    raise_as_run_error,
    write_item_and_record,
)
from seamline.pipeline.publishing.result_files import get_cog_path
from seamline.pipeline.report.preview import decimate_labels
from seamline.pipeline.report.report import write_report
from seamline.pipeline.stac.catalog import list_waiting_scenes, update_catalog
from seamline.pipeline.stac.waiting import is_waiting


def restore_outputs(publication: Publication, record: RunRecord, missing: Sequence[str]) -> RunRecord:
    """Write what is missing of a finished run from the raster that is there.

    Args:
        publication: what is wanted of the run.
        record: its record.
        missing: what ``completeness.list_missing_outputs`` says.

    Returns:
        The record as it is now.

    Raises:
        RunError: the results cannot be written.
    """
    with raise_as_run_error(publication.context):
        return _restore_outputs(publication, record, missing)


def _restore_outputs(publication: Publication, record: RunRecord, missing: Sequence[str]) -> RunRecord:
    context, folder, files = publication.context, publication.folder, publication.files
    scratch = context.directory.path
    if is_waiting(publication.catalog, folder.name):
        list_waiting_scenes(publication.catalog)  # after a kill the table tells an older record from a damaged one
    if "zarr" in missing:
        store = scratch / ZARR
        shutil.rmtree(folder / ZARR, ignore_errors=True)  # what is left of it
        _copy_cogs_to_store(publication, store, [name for name in record.outputs if name in LAYERS])
        _, found = files.write_overviews(store, scratch)
        files.seal_store(store, record, found)
        store.rename(folder / ZARR)
    with ThreadPoolExecutor(1) as thread:
        cogs = files.write_cogs(folder / ZARR, missing, record, scratch, thread)
    known = {name: info.result() for name, info in cogs.items()}
    if "polygons" in missing:
        # A kill must not leave files by other rules than the record says.
        write_item_and_record(publication, record.model_copy(update={"polygons": None}))
        known |= files.write_polygons(_find_readable_store(publication, scratch), scratch)
    if "style" in missing:
        files.write_styles(record.classes)
    if "preview" in missing:
        publication.pictures.restore(record.classes, _thin_labels(publication))
    now = record.model_copy(
        update={
            "polygons": files.polygon_rules or record.polygons,
            "outputs": tuple(dict.fromkeys((*record.outputs, *publication.outputs))),
        }
    )
    files.write_model_document()
    write_report(folder, context.scene, publication.classes, publication.card, now)
    write_item_and_record(publication, now, known)
    update_catalog(publication.catalog, publication.context.scene.id)
    shutil.rmtree(scratch)
    return now


def _thin_labels(publication: Publication) -> NDArray[np.uint8]:
    folder = publication.folder
    if is_sealed(folder / ZARR):
        return decimate_labels(open_labels(folder / ZARR), QUICKLOOK)
    step = publication.context.quicklook_step
    with rasterio.open(folder / COG) as file:  # GDAL reads an overview
        shape = math.ceil(file.height / step), math.ceil(file.width / step)
        return np.asarray(file.read(1, out_shape=shape), dtype=np.uint8)


def _copy_cogs_to_store(publication: Publication, store: Path, layers: Sequence[str]) -> None:
    """Write a new store with the labels and layers of the COGs."""
    shutil.rmtree(store, ignore_errors=True)
    grid, classes = publication.context.scene.grid, publication.classes
    create_store(store, grid, classes, publication.layout, title=publication.title, layers=layers)
    for name in list_store_rasters(store):
        _copy_cog_to_store(publication.folder / f"{name}.tif", store, name)


def _copy_cog_to_store(path: Path, store: Path, name: str) -> None:
    """Copy a COG into an empty array of a Zarr store on the same grid, one row of Zarr chunks at a time.

    Args:
        path: the COG.
        store: the Zarr store.
        name: name of the array, (y, x) or (class, y, x).
    """
    array = open_store_raster(store, name)
    with rasterio.open(path) as cog:
        for window in iter_row_windows(array):
            values = cog.read(window=RasterioWindow(window.col, window.row, window.width, window.height))
            write_store_raster(store, name, window, values.reshape(*array.shape[:-2], *window.shape))


def _find_readable_store(publication: Publication, scratch: Path) -> Path:
    """Return a store with labels and, if it is known, their confidence: the published one, or a copy of the COGs."""
    folder = publication.folder
    if is_sealed(folder / ZARR):
        return folder / ZARR
    store = scratch / "labels.zarr"
    _copy_cogs_to_store(publication, store, [CONFIDENCE] if get_cog_path(folder, CONFIDENCE).exists() else [])
    return store
