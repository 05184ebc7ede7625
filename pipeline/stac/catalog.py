"""What a run published, as a static STAC 1.1 catalogue: one item per scene, one catalogue and one table above them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.utils
import shapely.geometry
import zarr
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass, make_column_names
from seamline.pipeline.common.layout import CATALOG, ITEM, ITEMS
from seamline.pipeline.geometry.pixel_area import iter_row_bands, measure_pixel_area, measure_pixel_areas
from seamline.pipeline.products.cog import iter_row_windows
from seamline.pipeline.products.geozarr import JSON, find_crs_code
from seamline.pipeline.stac.assets import build_renders, build_scene_assets, to_multihash
from seamline.pipeline.stac.footprint import Outline, compute_bbox, compute_footprint, round_coordinates
from seamline.pipeline.stac.items import UNKNOWN_TIME, ItemDict, read_item, write_item_table
from seamline.pipeline.storage.atomic import atomic_write, remove_stale_parts

_EXTENSIONS = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in {
        "projection": "2.0.0",
        "raster": "2.0.0",
        "classification": "2.0.0",
        "file": "2.1.0",
        "processing": "1.2.0",
        "render": "2.0.0",
    }.items()
}


@dataclass(frozen=True)
class ModelReference:
    """The model that segmented a scene: its name, the SHA-256 of its document, and where the document lies."""

    name: str
    digest: str
    href: str


@dataclass(frozen=True)
class Provenance:
    """How a segmentation came about.

    ``source`` is the scene's path or URL, ``read_acquisition_time`` when it was taken (None: nobody knows), ``processed`` when it
    was segmented (both with a time zone), ``software`` names versions, ``lineage`` says it in words.
    """

    source: str
    model: ModelReference
    acquired: datetime | None
    processed: datetime
    software: Mapping[str, str]
    lineage: str


@dataclass(frozen=True)
class ClassArea:
    """How much of a scene a class covers; ``share`` of the valid pixels, ``area_m2`` None without a CRS."""

    name: str
    value: int
    pixels: int
    share: float
    area_m2: float | None


def compute_class_areas(labels: zarr.Array[Any], grid: GeoBox, classes: Sequence[LabelClass]) -> tuple[ClassArea, ...]:
    """Pixels, share and area of every class, reading ``labels`` (y, x) one row of Zarr chunks at a time.

    The area is that on the ellipsoid, also where the projection stretches it (four times in Web Mercator at
    60° north).
    """
    pixels, area = np.zeros(256, np.int64), np.zeros(256)
    areas = measure_pixel_areas(grid)
    for band in iter_row_windows(labels):
        block = np.asarray(labels[band.to_slices()])
        for rows in iter_row_bands(*band.shape):
            values = block[rows].ravel()
            pixels += np.bincount(values, minlength=256)
            if areas is not None:
                area += np.bincount(values, areas.for_window(band)[rows].ravel(), 256)
    valid = int(pixels.sum() - pixels[NODATA])
    return tuple(
        ClassArea(
            name=label.name,
            value=label.value,
            pixels=int(pixels[label.value]),
            share=int(pixels[label.value]) / max(1, valid),
            area_m2=None if areas is None else float(area[label.value]),
        )
        for label in classes
    )


def _compute_pixel_width(grid: GeoBox) -> float | None:
    """The edge in metres of a square as large as a pixel in the middle of the scene; None if unknown."""
    height, width = grid.shape
    area = measure_pixel_area(grid, height // 2, width // 2)
    return None if area is None else float(np.sqrt(area))


def build_scene_item(
    folder: Path,
    scene_id: str,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    table: Sequence[ClassArea],
    provenance: Provenance,
    area: Outline | None = None,
) -> pystac.Item:
    """The STAC 1.1 item of the scene whose results lie in ``folder``; hrefs are relative to it.

    ``area`` (column, row) is where the grid has labels (default: everywhere). STAC demands a time: where nobody knows
    when the scene was taken the item carries the time of processing and says so in ``seamline:datetime_unknown``. Files
    of the known names become assets where they exist, with size and checksum, so write them first.
    """
    outline = compute_footprint(grid, area)
    assets = build_scene_assets(folder, classes, _compute_pixel_width(grid))
    drawn = build_renders(assets, classes)
    extensions = dict(_EXTENSIONS)
    if not drawn:  # the schemas want what the extensions are for
        del extensions["render"]
    if not any(field.startswith("raster:") for asset in assets.values() for field in asset.extra_fields):
        del extensions["raster"]
    item = pystac.Item(
        id=scene_id,
        geometry=None if outline is None else round_coordinates(shapely.geometry.mapping(outline)),
        bbox=None if outline is None else compute_bbox(outline),
        datetime=provenance.acquired or provenance.processed,
        properties={
            "title": f"Segmentation of {scene_id}",
            **_build_projection(grid),
            **_build_history(provenance),
            **build_class_properties(classes, table),
            **({"renders": drawn} if drawn else {}),
        },
        stac_extensions=list(extensions.values()),
    )
    for key, asset in assets.items():
        item.add_asset(key, asset)
    item.add_link(pystac.Link("derived_from", provenance.source, title="the scene that was segmented"))
    item.add_link(_build_model_link(provenance.model))
    for relation in ("root", "parent"):
        item.add_link(pystac.Link(relation, f"../{CATALOG}", media_type=pystac.MediaType.JSON))
    return item


def _build_history(provenance: Provenance) -> dict[str, Any]:
    unknown = {UNKNOWN_TIME: True} if provenance.acquired is None else {}
    return {
        "created": pystac.utils.datetime_to_str(provenance.processed),
        "processing:software": dict(provenance.software),
        "processing:lineage": provenance.lineage,
        "processing:level": "L4",
        "model": provenance.model.name,
        "model_digest": provenance.model.digest,
        **unknown,
    }


def build_class_properties(classes: Sequence[LabelClass], table: Sequence[ClassArea]) -> dict[str, Any]:
    """The table of classes, and its figures once more as properties of their own, which SQL takes without quotes."""
    columns = make_column_names(classes)
    flat: dict[str, Any] = {}
    for row, column in zip(table, columns, strict=True):
        flat[f"{column}_share"] = row.share
        if row.area_m2 is not None:
            flat[f"{column}_area_m2"] = row.area_m2
    rows = [asdict(row) | {"column": column} for row, column in zip(table, columns, strict=True)]
    return {"seamline:classes": rows, **flat}


def _build_model_link(model: ModelReference) -> pystac.Link:
    """As the MLM extension wants the item of what a model inferred to speak of the model's own."""
    said = {"mlm:name": model.name, "file:checksum": to_multihash(model.digest)}
    title = "the model that segmented it"
    return pystac.Link("derived_from", model.href, pystac.MediaType.GEOJSON, title, extra_fields=said)


def write_item(item: pystac.Item, folder: Path) -> Path:
    """Write ``item`` to ``folder``/item.json in one step; returns its path."""
    path = folder / ITEM
    _write_json(path, item.to_dict(include_self_link=False, transform_hrefs=False))
    return path


def update_catalog(out: Path) -> Path:
    """Let ``out``/catalog.json and ``out``/items.parquet hold every ``out``/<scene>/item.json; returns the former.

    Needs no lock, which not every network file system has: whoever writes looks again afterwards and goes on until no
    item is new or another, so the last one to write has seen every item as it is. Write the item before you call this.
    """
    path, written, items = out / CATALOG, None, dict[str, tuple[FileStamp, ItemDict]]()
    while (stamps := _read_stamps(out)) != written:
        items = {scene: _read_stamped_item(out, scene, stamp, items.get(scene)) for scene, stamp in stamps.items()}
        _write_json(path, build_catalog(stamps))
        write_item_table({scene: item for scene, (_, item) in items.items() if item}, out / ITEMS)
        written = stamps
    for whole in (path, out / ITEMS):
        if whole.exists():
            remove_stale_parts(whole)
    return path


FileStamp = tuple[int, int, int]
"""What is another for every item that was written: its file's time, number and size."""


def _read_stamps(out: Path) -> dict[str, FileStamp]:
    """The folders of all items, in order, and the stamps of these."""
    found = {}
    for path in sorted(out.glob(f"*/{ITEM}")):
        with suppress(FileNotFoundError):  # just removed
            status = path.stat()
            found[path.parent.name] = (status.st_mtime_ns, status.st_ino, status.st_size)
    return found


def _read_stamped_item(
    out: Path, scene: str, stamp: FileStamp, known: tuple[FileStamp, ItemDict] | None
) -> tuple[FileStamp, ItemDict]:
    """An item with its stamp, read unless it is the known one; empty where it is damaged: that keeps no other out."""
    if known is not None and known[0] == stamp:
        return known
    try:
        return stamp, read_item(out / scene / ITEM)
    except (OSError, ValueError):
        return stamp, {}


def build_catalog(scenes: Iterable[str]) -> dict[str, Any]:
    """The catalogue of the items in folders of these names below it."""
    catalog = pystac.Catalog(
        id="seamline", title="Seamline segmentations", description="Segmented scenes, one item each."
    )
    catalog.add_link(pystac.Link("root", f"./{CATALOG}", media_type=pystac.MediaType.JSON))
    for scene in scenes:
        href = f"./{scene}/{ITEM}"
        catalog.add_link(pystac.Link("item", href, media_type=pystac.MediaType.GEOJSON, title=scene))
    return catalog.to_dict(include_self_link=False, transform_hrefs=False)  # type: ignore[no-any-return]


def _build_projection(grid: GeoBox) -> dict[str, JSON]:
    if grid.crs is None:
        return {"proj:code": None, "proj:shape": list(grid.shape)}
    code = find_crs_code(grid)
    return {
        "proj:code": code,
        **({"proj:wkt2": grid.crs.proj.to_wkt("WKT2_2019")} if code is None else {}),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "proj:bbox": list(grid.extent.boundingbox.bbox),
    }


def encode_json(document: Mapping[str, Any]) -> bytes:
    """A document of STAC as it is published."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with atomic_write(path, shared=True) as part:
        part.write_bytes(encode_json(document))
