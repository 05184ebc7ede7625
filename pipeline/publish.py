"""From a store whose chunks are all written to results under their final names.

Nothing unfinished stands under a final name: the store is sealed and renamed, the other files are written beside
and renamed, the record of the run comes after the rasters it speaks of, the STAC item after all files whose checksums
it holds, and the run directory goes last. A kill in between leaves a run that publishes again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from pipeline.catalog import ClassArea, class_table, scene_item, update_catalog, write_item
from pipeline.classes import LabelClass
from pipeline.cog import copy_labels, write_cog
from pipeline.errors import RunError
from pipeline.files import replacing
from pipeline.picture import decimated, stretch, write_preview
from pipeline.rasters import reason
from pipeline.store import create_store, is_sealed, open_labels, seal
from pipeline.work import QUICKLOOK, Job, Stopwatch, quicklook

COG, ZARR, ITEM, PREVIEW, RECORD = "segmentation.tif", "segmentation.zarr", "item.json", "preview.png", "run.json"


@dataclass(frozen=True)
class Publication:
    """What to publish of a finished job, and where: ``folder`` is the scene's, ``out`` the catalogue's."""

    job: Job
    classes: tuple[LabelClass, ...]
    out: Path
    folder: Path
    outputs: tuple[str, ...]
    software: Mapping[str, str]
    lineage: str


@contextmanager
def _told(job: Job) -> Iterator[None]:
    """Say of a failure to write what is kept and how to go on."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise RunError(
            f"scene {job.scene.id}: the results cannot be written to {job.directory.path.parent}: "
            f"{reason(error)}; what was inferred is kept, make room and run the same command again"
        ) from error


def publish(publication: Publication, record: Mapping[str, Any], watch: Stopwatch, started: float) -> dict[str, Any]:
    """Write every result and the record of the run; returns the record as written.

    ``record`` is completed by the class table, the stages that ``watch`` timed and ``total``, the seconds since
    ``started`` (``watch.now()``).
    """
    with _told(publication.job):
        return _published(publication, record, watch, started)


def _published(publication: Publication, record: Mapping[str, Any], watch: Stopwatch, started: float) -> dict[str, Any]:
    job, folder = publication.job, publication.folder
    store = _sealed_store(job, record)
    labels, grid = open_labels(store), job.scene.grid
    with watch.stage("cog"):
        if "cog" in publication.outputs:
            write_cog(labels, grid, publication.classes, folder / COG, job.directory.files, _tags(record))
    with watch.stage("publish"):
        table = class_table(labels, grid, publication.classes)
        _preview(publication, table, store)
        _move(store, folder / ZARR, keep="zarr" in publication.outputs)
        if "cog" not in publication.outputs:
            (folder / COG).unlink(missing_ok=True)
    finished = datetime.now(UTC)
    complete = {
        **record,
        "seconds": {**record["seconds"], **watch.seconds, "total": watch.now() - started},
        "classes": [asdict(row) for row in table],
        "finished": finished.isoformat(timespec="seconds"),
    }
    _write_record(folder, complete)
    _item(publication, table, finished)
    job.directory.clear()
    shutil.rmtree(job.directory.path)
    return complete


def missing_outputs(folder: Path, outputs: Iterable[str]) -> list[str]:
    """The outputs that are not there, of a scene whose run is finished; ``"item"`` for its STAC item."""
    names = {"cog": COG, "zarr": ZARR}
    missing = [output for output in outputs if not (folder / names[output]).exists()]
    return missing if (folder / ITEM).exists() else [*missing, "item"]


def can_complete(folder: Path) -> bool:
    """Whether the labels of a finished run are still there, as one raster or the other."""
    return is_sealed(folder / ZARR) or (folder / COG).exists()


def complete(publication: Publication, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write what is missing of a finished run from the raster that is there; returns the record as it is now.

    The scene is not read and nothing is inferred.
    """
    with _told(publication.job):
        return _completed(publication, record)


def _completed(publication: Publication, record: Mapping[str, Any]) -> dict[str, Any]:
    job, folder = publication.job, publication.folder
    grid, scratch = job.scene.grid, job.directory.path
    missing = missing_outputs(folder, publication.outputs)
    if "zarr" in missing:
        store = scratch / ZARR
        shutil.rmtree(store, ignore_errors=True)
        create_store(store, grid, publication.classes, job.tiling.store_chunk, title=publication.lineage)
        copy_labels(folder / COG, store)
        seal(store, {key: record[key] for key in ("scene_digest", "model_digest", "plan")})
        store.rename(folder / ZARR)
    if "cog" in missing:
        write_cog(open_labels(folder / ZARR), grid, publication.classes, folder / COG, scratch, _tags(record))
    now = {**record, "outputs": sorted({*record["outputs"], *publication.outputs})}
    _write_record(folder, now)
    _item(publication, [ClassArea(**row) for row in record["classes"]], datetime.fromisoformat(record["finished"]))
    shutil.rmtree(scratch)
    return now


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(record[key]) for key in ("scene_digest", "model", "model_digest")}


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    with replacing(folder / RECORD) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _sealed_store(job: Job, record: Mapping[str, Any]) -> Path:
    """The store of the run, sealed; after a kill between its renaming and the record, the one in its final place."""
    store, final = job.directory.store, job.directory.path.parent / ZARR
    if not store.exists() and is_sealed(final):
        return final
    if not is_sealed(store):
        seal(store, {key: record[key] for key in ("scene_digest", "model_digest", "plan")})
    return store


def _move(store: Path, final: Path, keep: bool) -> None:
    """Put the store in its place; an older one makes room in the moment before."""
    if store == final:
        return
    if final.exists():
        old = store.with_name("replaced.zarr")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    if keep:
        store.rename(final)


def _preview(publication: Publication, table: Sequence[ClassArea], store: Path) -> None:
    job = publication.job
    pixels, valid = quicklook(job)
    small = decimated(open_labels(store), QUICKLOOK)
    metres = _pixel_width(job) * job.quicklook_step
    write_preview(
        stretch(pixels.astype(np.float32), valid) if valid.any() else None,
        small,
        publication.classes,
        {row.name: row.share for row in table},
        job.scene.id,
        metres,
        publication.folder / PREVIEW,
    )


def _pixel_width(job: Job) -> float:
    """Metres across a pixel in the middle of the scene."""
    grid = job.scene.grid
    if grid.crs is None or not grid.crs.geographic:
        return float(abs(grid.resolution.x))
    latitude = grid.extent.centroid.coords[0][1]
    return float(abs(grid.resolution.x) * 111_320 * np.cos(np.radians(latitude)))


def _item(publication: Publication, table: Sequence[ClassArea], finished: datetime) -> None:
    scene = publication.job.scene
    item = scene_item(
        publication.folder,
        scene.id,
        scene.grid,
        publication.classes,
        table,
        source=scene.source,
        acquired=scene.datetime,
        processed=finished,
        software=publication.software,
        lineage=publication.lineage,
    )
    write_item(item, publication.folder)
    update_catalog(publication.out)
