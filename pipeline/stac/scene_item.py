"""The STAC 1.1 item of a segmented scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely.geometry
from odc.geo.geobox import GeoBox
from pystac.utils import datetime_to_str as to_rfc3339

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.layout import CATALOG, COLLECTION, MODEL
from seamline.pipeline.common.time_span import TimeSpan, to_utc
from seamline.pipeline.geometry.pixel_area import measure_pixel_area
from seamline.pipeline.products.geozarr import JSON, find_crs_code
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.stac.assets import build_renders, build_scene_assets
from seamline.pipeline.stac.class_areas import build_class_properties
from seamline.pipeline.stac.earth import Outline
from seamline.pipeline.stac.footprint import compute_bbox, compute_footprint, round_coordinates
from seamline.pipeline.stac.items import COLLECTION_ID, UNKNOWN_TIME
from seamline.pipeline.storage.digests import FileInfo, to_multihash

_EXTENSIONS = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in (
        ("projection", "2.0.0"),
        ("raster", "2.0.0"),
        ("classification", "2.0.0"),
        ("file", "2.1.0"),
        ("processing", "1.2.0"),
        ("render", "2.0.0"),
    )
}
PROJECTION_SCHEMA = _EXTENSIONS["projection"]
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
"""What items say as the earliest time of a scene of unknown time."""


@dataclass(frozen=True)
class ModelReference:
    """The model that segmented a scene.

    Attributes:
        name: its name.
        digest: SHA-256 of its document.
        document: its document, a copy of which lies beside the results.
        limits: what it is good for and what not, in one line; empty if nobody stated it.
    """

    name: str
    digest: str
    document: Path
    limits: str = ""


@dataclass(frozen=True)
class Provenance:
    """How a segmentation came about.

    Attributes:
        source: path or URL of the scene.
        model: the model.
        acquired: when the scene was taken. ``None``: unknown.
        processed: when it was segmented, with a time zone.
        software: versions by name.
        lineage: how it came about, in words.
        radiometry: what the numbers of the scene mean, and what says so; empty if unknown.
    """

    source: str
    model: ModelReference
    acquired: TimeSpan | None
    processed: datetime
    software: Mapping[str, str]
    lineage: str
    radiometry: str = ""


def build_scene_item(
    folder: Path,
    scene_id: str,
    grid: GeoBox,
    classes: Sequence[LabelClass],
    class_areas: Sequence[ClassArea],
    provenance: Provenance,
    labelled_area: Outline | None = None,
    *,
    known: Mapping[str, FileInfo] | None = None,
) -> pystac.Item:
    """Return the STAC 1.1 item of a segmented scene.

    STAC demands a time, or two that it lies between. Where the time of the scene is unknown, these are the year 1900
    and the time of processing, and the property ``seamline:datetime_unknown`` says so.

    Args:
        folder: the scene's folder. Its known files, also the copy of the model's document, become assets, with size and
            checksum, so write them first.
        scene_id: id of the scene and of the item.
        grid: grid of the labels.
        classes: classes of the labels.
        class_areas: how much of the scene each class covers.
        provenance: how the segmentation came about.
        labelled_area: where the grid has labels, in pixels (column, row). ``None``: everywhere.
        known: what is known of some files by their names, which are not read; they may be written afterwards.

    Returns:
        The item; its hrefs are relative to ``folder``.
    """
    footprint = compute_footprint(grid, labelled_area)
    assets = build_scene_assets(folder, classes, _compute_pixel_width(grid), known or {})
    renders = build_renders(assets, classes)
    item = pystac.Item(
        id=scene_id,
        geometry=None if footprint is None else round_coordinates(shapely.geometry.mapping(footprint)),
        bbox=None if footprint is None else compute_bbox(footprint),
        datetime=provenance.acquired.start if provenance.acquired and provenance.acquired.is_moment else None,
        collection=COLLECTION_ID,
        properties={
            "title": f"Segmentation of {scene_id}",
            **_build_projection(grid),
            **_build_times(provenance),
            **_build_history(provenance),
            **build_class_properties(classes, class_areas),
            **({"renders": renders} if renders else {}),
        },
        stac_extensions=_list_extensions(assets, has_renders=bool(renders)),
    )
    for key, asset in assets.items():
        item.add_asset(key, asset)
    item.add_link(pystac.Link("derived_from", provenance.source, title="the scene that was segmented"))
    item.add_link(_build_model_link(provenance.model))
    for relation, name in (("root", CATALOG), ("parent", CATALOG), ("collection", COLLECTION)):
        item.add_link(pystac.Link(relation, f"../{name}", media_type=pystac.MediaType.JSON))
    return item


def _list_extensions(assets: Mapping[str, pystac.Asset], *, has_renders: bool) -> list[str]:
    """Return the schemas of the extensions that an item uses; some schemas refuse an item without their fields."""
    extensions = dict(_EXTENSIONS)
    if not has_renders:
        del extensions["render"]
    if not any(field.startswith("raster:") for asset in assets.values() for field in asset.extra_fields):
        del extensions["raster"]
    return list(extensions.values())


def _compute_pixel_width(grid: GeoBox) -> float | None:
    """Return the edge in metres of a square as large as a pixel in the middle of the scene; None if unknown."""
    height, width = grid.shape
    area = measure_pixel_area(grid, height // 2, width // 2)
    return None if area is None else float(np.sqrt(area))


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


def _build_times(provenance: Provenance) -> dict[str, Any]:
    """Return the properties of an item whose ``datetime`` is null; none for a scene that was taken at one moment."""
    acquired = provenance.acquired
    if acquired is not None and acquired.is_moment:
        return {}
    first, last = (_EARLIEST, provenance.processed) if acquired is None else (acquired.start, acquired.end)
    span = {"start_datetime": to_rfc3339(first), "end_datetime": to_rfc3339(last)}
    return span | ({UNKNOWN_TIME: True} if acquired is None else {})


def read_acquired(properties: Mapping[str, Any]) -> TimeSpan | None:
    """Return when a scene was taken by the properties of its item; None if that is unknown.

    Raises:
        LookupError, TypeError, ValueError: the properties are damaged.
    """
    if properties.get(UNKNOWN_TIME):
        return None
    moment = properties["datetime"]
    return TimeSpan(
        to_utc(datetime.fromisoformat(moment or properties["start_datetime"])),
        to_utc(datetime.fromisoformat(moment or properties["end_datetime"])),
    )


def _build_history(provenance: Provenance) -> dict[str, Any]:
    radiometry = {"seamline:radiometry": provenance.radiometry} if provenance.radiometry else {}
    limits = {"seamline:model_limits": provenance.model.limits} if provenance.model.limits else {}
    return {
        "created": to_rfc3339(provenance.processed),
        "processing:software": dict(provenance.software),
        "processing:lineage": provenance.lineage,
        "processing:level": "L4",
        "model": provenance.model.name,
        "model_digest": provenance.model.digest,
        **limits,
        **radiometry,
    }


def _build_model_link(model: ModelReference) -> pystac.Link:
    """Return the link to the model's item that the MLM extension asks of an item which a model has inferred."""
    fields = {"mlm:name": model.name, "file:checksum": to_multihash(model.digest)}
    title = "the model that segmented it"
    return pystac.Link("derived_from", f"./{MODEL}", pystac.MediaType.GEOJSON, title, extra_fields=fields)
