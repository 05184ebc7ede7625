"""Do the item, the record, the COG and the store of a scene say the same of its place and its classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import shapely.geometry
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.products.geozarr import GRID_MAPPING, compute_coordinates
from seamline.pipeline.products.overviews import halve_grid
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags, list_store_rasters
from seamline.pipeline.stac.class_areas import build_class_properties
from seamline.pipeline.stac.footprint import compute_bbox, compute_footprint
from seamline.pipeline.stac.items import ItemDict

_OUTLINE_TOLERANCE = 0.05
"""How far an outline may reach over that of its grid, in edges of a square as large: both are chords of curves."""


def find_item_mismatches(item: ItemDict, record: ItemDict) -> Iterator[str]:
    """What the item says of its classes that the record does not, and where it lies outside of its own raster."""
    said = item["properties"]
    rows = [ClassArea(**row) for row in record["classes"]]
    classes = [LabelClass(row.value, row.name, (0, 0, 0)) for row in rows]
    for name, value in build_class_properties(classes, rows).items():
        if said.get(name) != value:
            yield f"{name} is not what run.json says"
    grid = _read_grid(item)
    if grid is None:
        return
    if not np.allclose(said["proj:bbox"], grid.extent.boundingbox.bbox, rtol=1e-12):
        yield "proj:bbox is not that of proj:transform and proj:shape"
    whole = compute_footprint(grid)
    if whole is None or item["geometry"] is None:
        yield from [] if whole is item["geometry"] else ["geometry is not that of its raster"]
        return
    outline: Any = shapely.geometry.shape(item["geometry"])
    if not whole.buffer(_OUTLINE_TOLERANCE * whole.area**0.5).covers(outline):
        yield "geometry lies outside of its raster"
    if not np.allclose(item["bbox"], compute_bbox(outline), rtol=0, atol=1e-6):
        yield "bbox is not that of its geometry"


def find_cog_mismatches(path: Path, item: ItemDict) -> Iterator[str]:
    """Whether a COG lies where the item says."""
    grid = _read_grid(item)
    with rasterio.open(path) as file:
        if list(file.shape) != item["properties"]["proj:shape"]:
            yield "shape is not the item's"
        if grid is None or grid.crs is None:
            return
        if not np.allclose(list(file.transform)[:6], list(grid.transform)[:6], rtol=1e-12):
            yield "transform is not the item's"
        code = None if file.crs is None else file.crs.to_epsg()
        if file.crs is None or (None not in (code, grid.crs.epsg) and code != grid.crs.epsg):
            yield f"CRS is {file.crs}, that of the item is {grid.crs}"


def find_store_mismatches(store: Path, item: ItemDict) -> Iterator[str]:
    """What a store says of place and classes that the item does not, in any of its groups, and twice otherwise."""
    own = {
        path.parent.relative_to(store).as_posix(): _read_attributes(path.parent) for path in _list_metadata_files(store)
    }
    yield from _find_stale_metadata(store)
    grid, level = _read_grid(item), store
    if grid is not None:
        texts = {text for attributes in own.values() for text in _list_crs_texts(attributes)}
        yield from _find_crs_mismatches(texts, grid, str(item["properties"]["proj:code"] or ""))
    flags = build_class_flags(_read_classes(item))
    while (level / LABELS_ARRAY).exists():
        place = level.relative_to(store).as_posix()
        labels = own[(Path(place) / LABELS_ARRAY).as_posix()]
        yield from (
            f"{place}/{LABELS_ARRAY}: {name} is not the item's" for name in flags if labels.get(name) != flags[name]
        )
        if grid is not None:
            yield from (f"{place}/{what} is not the item's" for what in _find_level_mismatches(level, grid))
            grid = halve_grid(grid)
        level = store / ("ovr_2x" if level == store else f"ovr_{2 * int(level.name[4:-1])}x")


def _find_level_mismatches(level: Path, grid: GeoBox) -> Iterator[str]:
    """What lies elsewhere than on ``grid`` in one group."""
    transform = grid.transform
    if _read_attributes(level / LABELS_ARRAY).get("spatial:shape") != list(grid.shape):
        yield f"{LABELS_ARRAY}: spatial:shape"
        return  # coordinates of the item's shape might not fit into memory
    for name in ("", *list_store_rasters(level)):
        said = _read_attributes(level / name)
        if said.get("spatial:transform") != list(transform)[:6] or said.get("spatial:shape") != list(grid.shape):
            yield f"{name}: spatial:transform"
        if not np.allclose(said["spatial:bbox"], grid.extent.boundingbox.bbox, rtol=1e-12):
            yield f"{name}: spatial:bbox"
    mapping = _read_attributes(level / GRID_MAPPING)
    if [float(number) for number in mapping["GeoTransform"].split()] != list(transform.to_gdal()):
        yield f"{GRID_MAPPING}: GeoTransform"
    for name, (values, _) in compute_coordinates(grid).items():
        if not np.array_equal(np.asarray(zarr.open_array(level / name, mode="r")[:]), values):
            yield name


def _find_crs_mismatches(texts: set[str], grid: GeoBox, code: str) -> Iterator[str]:
    """Which CRS are named that are not the grid's: as WKT, of which there is one text, as codes and as URLs."""
    wkt = {text for text in texts if "[" in text}
    if len(wkt) > 1 or (grid.crs is not None and not wkt):
        yield f"has {len(wkt)} texts of one CRS"
    for text in sorted(wkt):
        crs = pyproj.CRS(text)
        if grid.crs is None or not crs.equals(grid.crs.proj, ignore_axis_order=True):
            yield f"CRS is {crs.name}, not that of the item"
    for text in sorted(texts - wkt):
        if text.replace("/0/", ":").rsplit("/", 1)[-1] != code:
            yield f"CRS is {text}, {code} in the item"


def _list_crs_texts(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name in ("crs_wkt", "spatial_ref", "proj:wkt2", "proj:code"):
        if name in attributes:
            yield str(attributes[name])
    yield from map(str, attributes.get("_CRS", {}).values())


def _find_stale_metadata(store: Path) -> Iterator[str]:
    """Where consolidated metadata are not what the groups and arrays themselves say."""
    if (store / "zarr.json").exists():
        kept = _read_json(store / "zarr.json")["consolidated_metadata"]["metadata"]
        there = {path.parent.relative_to(store).as_posix(): _read_json(path) for path in _list_metadata_files(store)}
        del there["."]
    else:
        kept = _read_json(store / ".zmetadata")["metadata"]
        there = {path.relative_to(store).as_posix(): _read_json(path) for path in _list_metadata_files(store)}
    for name in sorted(kept.keys() | there.keys()):
        if _strip_additions(kept.get(name)) != _strip_additions(there.get(name)):
            yield f"consolidated metadata of {name} are others than its own"


def _strip_additions(document: Any) -> Any:
    """Without what consolidating and sealing add."""
    unlike = ("consolidated_metadata", "seamline")
    return {k: v for k, v in document.items() if k not in unlike} if isinstance(document, dict) else document


def _list_metadata_files(store: Path) -> list[Path]:
    names = ("zarr.json",) if (store / "zarr.json").exists() else (".zgroup", ".zarray", ".zattrs")
    return sorted(path for name in names for path in store.rglob(name))


def _read_attributes(place: Path) -> ItemDict:
    if (place / "zarr.json").exists():
        return dict(_read_json(place / "zarr.json").get("attributes", {}))
    return dict(_read_json(place / ".zattrs")) if (place / ".zattrs").exists() else {}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_grid(item: ItemDict) -> GeoBox | None:
    """Where the item's rasters lie; None of a scene without a place."""
    said = item["properties"]
    crs = said["proj:code"] or said.get("proj:wkt2")
    if crs is None:
        return None
    height, width = said["proj:shape"]
    return GeoBox((height, width), Affine(*said["proj:transform"]), crs)


def _read_classes(item: ItemDict) -> list[LabelClass]:
    """Of the labels, as their asset describes them."""
    labels = next(asset for key, asset in item["assets"].items() if key in ("segmentation", "zarr"))
    rows = [row for row in labels["classification:classes"] if not row.get("nodata")]
    colors = [bytes.fromhex(row["color_hint"]) for row in rows]
    return [LabelClass(row["value"], row["title"], (c[0], c[1], c[2])) for row, c in zip(rows, colors, strict=True)]
