"""From a store whose chunks are all written to results under their final names.

Nothing unfinished stands under a final name: the store is sealed and renamed, the other files are written beside
and renamed, the record of the run and the report come after the rasters they speak of, the STAC item after all files
whose checksums it holds, and the run directory goes last. A kill in between leaves a run that publishes again.
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
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.common.layout import CATALOG, COG, ITEM, ITEMS, OVERVIEW, PREVIEW, RECORD, REPORT, ZARR
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.chunk_context import QUICKLOOK, ChunkContext
from seamline.pipeline.execution.quicklook import assemble_quicklook
from seamline.pipeline.geometry.tiling import MapChunks
from seamline.pipeline.products.cog import (
    copy_cog_to_store,
    describe_labels,
    describe_layer,
    read_thinned_labels,
    write_cog,
)
from seamline.pipeline.products.layers import CONFIDENCE, LAYERS
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.sidecars import SIDECARS, has_sidecars, remove_sidecars, write_sidecars
from seamline.pipeline.products.zarr_store import (
    LABELS_ARRAY,
    ZarrLayout,
    create_store,
    is_sealed,
    list_store_rasters,
    open_labels,
    open_store_raster,
    seal,
)
from seamline.pipeline.raster_io.gdal import describe_error
from seamline.pipeline.report.formatting import format_crs, format_date
from seamline.pipeline.report.preview import Caption, decimate_labels, stretch, write_preview
from seamline.pipeline.report.report import ModelCard, write_report
from seamline.pipeline.report.thumbnail import read_thumbnail, write_overview
from seamline.pipeline.scenes.display_bands import choose_display_bands, has_true_color
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.class_areas import ClassArea, compute_class_areas
from seamline.pipeline.stac.footprint import compute_labelled_area, compute_labelled_hull
from seamline.pipeline.stac.items import read_run_checksum
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.vectors.vectors import PolygonOptions, write_polygons
from seamline.pipeline.vectors.writers import POLYGON_FILES

RASTERS = {"cog": LABELS_ARRAY} | {name: name for name in LAYERS}
"""Outputs that are COGs, and the arrays that they show: <array>.tif."""


@dataclass(frozen=True)
class Publication:
    """What to publish of a finished job, and where: ``folder`` is the scene's, ``out`` the catalogue's.

    ``polygons`` is what is wanted of the output of that name, ``sample_blocks`` does the work on its chunks.
    """

    job: ChunkContext
    model: ModelReference
    classes: tuple[LabelClass, ...]
    storage: ZarrLayout
    out: Path
    folder: Path
    outputs: tuple[str, ...]
    software: Mapping[str, str]
    lineage: str
    card: ModelCard
    polygons: PolygonOptions | None = None
    spread: MapChunks = map


@contextmanager
def _told(job: ChunkContext) -> Iterator[None]:
    """Say of a failure to write what is kept and how to go on."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise RunError(
            f"scene {job.scene.id}: the results cannot be written to {job.directory.path.parent}: "
            f"{describe_error(error)}; what was inferred is kept, make room and run the same command again"
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
    for part in folder.glob(".*.part"):  # of a publishing that was killed
        part.unlink()
    store = _sealed_store(publication, record, watch)
    labels, grid = open_labels(store), job.scene.grid
    with watch.stage("cog"):
        _write_cogs(publication, store, publication.outputs, record, job.directory.files)
    with watch.stage("polygons"):
        for kind in POLYGON_FILES.keys() - set(publication.polygons.formats if publication.polygons else ()):
            (folder / POLYGON_FILES[kind]).unlink(missing_ok=True)
        _write_polygons(publication, store, job.directory.files)
    with watch.stage("publish"):
        table = compute_class_areas(labels, grid, publication.classes)
        hull = compute_labelled_hull(labels)
        remove_sidecars(folder, SIDECARS.keys() - set(publication.outputs))
        _sidecars(publication, table)
        pixels, valid = assemble_quicklook(job)
        rgb = stretch(pixels, valid, rgb=_rgb(job))
        write_overview(rgb, valid, grid, job.quicklook_step, folder / OVERVIEW)
        _preview(publication, table, decimate_labels(labels, QUICKLOOK), rgb if valid.any() else None)
        _move(store, folder / ZARR, keep="zarr" in publication.outputs)
        for output in RASTERS.keys() - set(publication.outputs):
            _cog(folder, output).unlink(missing_ok=True)
    finished = datetime.now(UTC)
    complete = {
        **record,
        **_polygons_record(publication),
        "seconds": {**record["seconds"], **watch.seconds, "total": watch.now() - started},
        "classes": [asdict(row) for row in table],
        "hull": None if hull is None else [list(point) for point in hull.exterior.coords],
        "finished": finished.isoformat(timespec="seconds"),
    }
    _write_record(folder, complete)
    write_report(folder, job.scene, publication.classes, publication.card, complete)
    _item(publication, table, hull, finished)
    job.directory.clear()
    shutil.rmtree(job.directory.path, ignore_errors=True)  # a worker that the cluster lost may still write there
    return complete


def missing_outputs(folder: Path, outputs: Iterable[str], polygons: PolygonOptions | None) -> list[str]:
    """What is not there, or not whole, of a finished run: outputs, "style", "preview", "report", "item".

    Polygons by other rules than asked for are not there. The preview is missing without the overview, too, and the
    item where it or the catalogue does not speak of the record as it is: a kill came between.
    """
    there = {output: _cog(folder, output).exists() for output in RASTERS} | {"zarr": is_sealed(folder / ZARR)}
    there["polygons"] = polygons is None or polygons.has_files_in(folder, _record(folder))
    missing = [output for output in outputs if not there[output]]
    beside = {"preview": (PREVIEW, OVERVIEW), "report": (REPORT,)}
    missing += [what for what, names in beside.items() if not all((folder / name).exists() for name in names)]
    if not has_sidecars(folder, outputs):
        missing.append("style")
    return missing if _vouched(folder, outputs) else [*missing, "item"]


def _vouched(folder: Path, outputs: Iterable[str]) -> bool:
    """Whether catalogue and table are there, table and item have the record's checksum, and it knows of the outputs."""
    try:
        item = json.loads((folder / ITEM).read_text(encoding="utf-8"))
        record = _record(folder)
        checksum = item["assets"]["run"]["file:checksum"]
        known = set(outputs) <= set(record["outputs"])
        listed = read_run_checksum(folder.parent / ITEMS, folder.name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    there = (folder.parent / CATALOG).exists() and listed == checksum
    return known and there and checksum == compute_file_info(folder / RECORD)["file:checksum"]


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def can_complete(folder: Path, outputs: Iterable[str]) -> bool:
    """Whether the labels of a finished run, and its layers, are still there, as one raster or the other."""
    stored = list_store_rasters(folder / ZARR) if is_sealed(folder / ZARR) else ()
    wanted = {"cog", *outputs} & set(RASTERS)
    return all(RASTERS[output] in stored or _cog(folder, output).exists() for output in wanted)


def complete(publication: Publication, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write what is missing of a finished run from the raster that is there; returns the record as it is now.

    The scene is not read and nothing is inferred.
    """
    with _told(publication.job):
        return _completed(publication, record)


def _completed(publication: Publication, record: Mapping[str, Any]) -> dict[str, Any]:
    job, folder = publication.job, publication.folder
    scratch = job.directory.path
    missing = missing_outputs(folder, publication.outputs, publication.polygons)
    table = [ClassArea(**row) for row in record["classes"]]
    if "zarr" in missing:
        store = scratch / ZARR
        shutil.rmtree(folder / ZARR, ignore_errors=True)  # what is left of it
        _copy_store(publication, store, [name for name in record["outputs"] if name in LAYERS])
        _seal(store, publication, record)
        store.rename(folder / ZARR)
    _write_cogs(publication, folder / ZARR, missing, record, scratch)
    if "polygons" in missing:
        _write_record(folder, {**record, "polygons": None})  # a kill must not leave files by other rules than it says
        _write_polygons(publication, _readable_store(publication, scratch), scratch)
    if "style" in missing:
        _sidecars(publication, table)
    if "preview" in missing:
        thumbnail = read_thumbnail(job.scene, [job.scene.bands[k] for k in _shown(job)], QUICKLOOK)
        labels = open_labels(folder / ZARR) if is_sealed(folder / ZARR) else None
        small = (
            read_thinned_labels(folder / COG, job.quicklook_step)
            if labels is None
            else decimate_labels(labels, QUICKLOOK)
        )
        rgb = None if thumbnail is None else stretch(*thumbnail, rgb=_rgb(job))
        if thumbnail is not None and rgb is not None:
            write_overview(rgb, thumbnail[1], job.scene.grid, job.quicklook_step, folder / OVERVIEW)
        _preview(publication, table, small, rgb)
    outputs = sorted({*record["outputs"], *publication.outputs})
    now = {**record, **_polygons_record(publication), "outputs": outputs}
    _write_record(folder, now)
    write_report(folder, job.scene, publication.classes, publication.card, now)
    hull = record.get("hull")
    _item(
        publication, table, None if hull is None else shapely.Polygon(hull), datetime.fromisoformat(record["finished"])
    )
    shutil.rmtree(scratch)
    return now


def _copy_store(publication: Publication, store: Path, layers: Sequence[str]) -> None:
    """A new store with the labels and layers of the COGs."""
    shutil.rmtree(store, ignore_errors=True)
    grid, classes = publication.job.scene.grid, publication.classes
    create_store(store, grid, classes, publication.storage, title=publication.lineage, layers=layers)
    for name in list_store_rasters(store):
        copy_cog_to_store(publication.folder / f"{name}.tif", store, name)


def _readable_store(publication: Publication, scratch: Path) -> Path:
    """A store with the labels and, where it is known, their confidence: the published one, or a copy of the COGs."""
    folder = publication.folder
    if is_sealed(folder / ZARR):
        return folder / ZARR
    store = scratch / "labels.zarr"
    _copy_store(publication, store, [CONFIDENCE] if _cog(folder, CONFIDENCE).exists() else [])
    return store


def _write_polygons(publication: Publication, store: Path, scratch: Path) -> None:
    wanted, job, folder = publication.polygons, publication.job, publication.folder
    if wanted is not None:
        write_polygons(
            store, job.tiling, job.scene.grid, publication.classes, wanted, folder, scratch, publication.spread
        )


def _polygons_record(publication: Publication) -> dict[str, Any]:
    """By which rules the polygons were made."""
    return {} if publication.polygons is None else {"polygons": asdict(publication.polygons.rules)}


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(record[key]) for key in ("scene_digest", "model", "model_digest")}


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    with atomic_write(folder / RECORD) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _cog(folder: Path, output: str) -> Path:
    return folder / f"{RASTERS[output]}.tif"


def _write_cogs(
    publication: Publication, store: Path, outputs: Iterable[str], record: Mapping[str, Any], scratch: Path
) -> None:
    """Write those of the outputs that are COGs from the store."""
    classes, grid = publication.classes, publication.job.scene.grid
    for output in RASTERS:
        if output in outputs:
            name = RASTERS[output]
            content = describe_labels(classes) if name == LABELS_ARRAY else describe_layer(LAYERS[name], classes)
            path = _cog(publication.folder, output)
            write_cog(open_store_raster(store, name), grid, content, path, scratch, _tags(record))


def _sealed_store(publication: Publication, record: Mapping[str, Any], watch: Stopwatch) -> Path:
    """The store of the run, sealed; after a kill between its renaming and the record, the one in its final place."""
    directory = publication.job.directory
    store, final = directory.store, directory.path.parent / ZARR
    if not store.exists() and is_sealed(final):
        return final
    if not is_sealed(store):
        with watch.stage("overviews"):
            _seal(store, publication, record)
    return store


def _seal(store: Path, publication: Publication, record: Mapping[str, Any]) -> None:
    write_overviews(store, publication.job.scene.grid, publication.classes)
    seal(store, {key: record[key] for key in ("scene_digest", "model_digest", "plan")})


def _move(store: Path, final: Path, keep: bool) -> None:
    """Put the store in its place; an older one makes room in the moment before."""
    if store != final and final.exists():
        old = store.with_name("replaced.zarr")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    if store != final and keep:
        store.rename(final)
    # Of workers that were killed while they wrote. Only now is the store out of reach of one that the cluster lost.
    for part in final.rglob("*.partial"):
        part.unlink()


def _sidecars(publication: Publication, table: Sequence[ClassArea]) -> None:
    pixels = {row.value: row.pixels for row in table}
    write_sidecars(publication.folder, publication.outputs, publication.classes, pixels)


def _shown(job: ChunkContext) -> list[int]:
    return choose_display_bands([band.name for band in job.scene.bands])


def _rgb(job: ChunkContext) -> bool:
    return has_true_color([band.name for band in job.scene.bands])


def _preview(
    publication: Publication,
    table: Sequence[ClassArea],
    small: NDArray[np.uint8],
    rgb: NDArray[np.uint8] | None,
) -> None:
    scene = publication.job.scene
    height, width = scene.grid.shape
    note = f"{format_date(scene)}  ·  {width:,} × {height:,} pixels  ·  {format_crs(scene)}"
    write_preview(
        rgb,
        small,
        publication.classes,
        {row.name: row.share for row in table},
        Caption(scene.id, note, scene.grid),
        publication.folder / PREVIEW,
    )


def _item(
    publication: Publication, table: Sequence[ClassArea], hull: shapely.Polygon | None, finished: datetime
) -> None:
    scene, classes = publication.job.scene, publication.classes
    provenance = Provenance(
        scene.source, publication.model, scene.datetime, finished, publication.software, publication.lineage
    )
    area = compute_labelled_area(scene.grid, hull, scene.aoi)
    item = build_scene_item(publication.folder, scene.id, scene.grid, classes, table, provenance, area)
    write_item(item, publication.folder)
    update_catalog(publication.out)
