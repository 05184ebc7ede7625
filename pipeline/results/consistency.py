"""Check that the item, the record, the COG and the Zarr store of a scene agree on location and classes."""

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
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.layout import RECORD
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.products.geozarr import GRID_MAPPING, compute_coordinates
from seamline.pipeline.products.overviews import halve_grid
from seamline.pipeline.products.run_record import RunRecord
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, build_class_flags, list_store_rasters
from seamline.pipeline.stac.class_areas import build_class_properties
from seamline.pipeline.stac.earth import EarthGrid
from seamline.pipeline.stac.footprint import compute_bbox, compute_footprint
from seamline.pipeline.stac.items import ItemDict
from seamline.pipeline.stac.scene_item import read_acquired

_OUTLINE_TOLERANCE = 0.05
"""How far a scene's outline may reach beyond that of its grid, in edges of a square of the same area.

Both outlines approximate curves by chords, at different points.
"""

_SAMPLED_LABELS = 64
"""Labels along either side of a raster that are looked for in the scene's outline."""

_MOST_LABELS = 2**22
"""Of a store's smallest level that are looked for there. A store that has lost its overviews has more."""

_SHARE_OUTSIDE = 0.1
"""Of these labels. A few along the edges of a narrow scene may lie outside, since overviews hold them."""


def find_item_mismatches(item: ItemDict, record: RunRecord) -> Iterator[str]:
    """Yield a sentence for each class statistic, time and location of the item that contradicts record or raster.

    Classes and a time that the run was given are compared with ``run.json``, geometry and bounds with the grid that
    the item itself states.
    """
    properties = item["properties"]
    rows = record.classes
    classes = [LabelClass(row.value, row.name, (0, 0, 0)) for row in rows]
    for name, value in build_class_properties(classes, rows).items():
        if properties.get(name) != value:
            yield f"{name} is not what run.json says"
    given = record.given_time
    if given is not None and read_acquired(properties) != TimeSpan.from_text(given):
        yield f"its time is not the {given} of {RECORD}"
    grid = _read_grid(item)
    if grid is None:
        return
    if not np.allclose(properties["proj:bbox"], grid.extent.boundingbox.bbox, rtol=1e-12):
        yield "proj:bbox is not that of proj:transform and proj:shape"
    grid_footprint = compute_footprint(grid)
    if grid_footprint is None or item["geometry"] is None:
        if grid_footprint is not item["geometry"]:
            yield "geometry is not that of its raster"
        return
    outline: Any = shapely.geometry.shape(item["geometry"])
    if not outline.is_valid:
        yield f"geometry is not valid: {shapely.is_valid_reason(outline)}"
        return
    if not grid_footprint.buffer(_OUTLINE_TOLERANCE * grid_footprint.area**0.5).covers(outline):
        yield "geometry lies outside of its raster"
    if not np.allclose(item["bbox"], compute_bbox(outline), rtol=0, atol=1e-6):
        yield "bbox is not that of its geometry"


def find_cog_mismatches(path: Path, item: ItemDict) -> Iterator[str]:
    """Yield a sentence for shape, transform, CRS and labels of a COG that contradict the item."""
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
        shape = (min(file.height, _SAMPLED_LABELS), min(file.width, _SAMPLED_LABELS))
        yield from _find_labels_outside(file.read(1, out_shape=shape), grid, item)


def _find_labels_outside(labels: NDArray[np.uint8], grid: GeoBox, item: ItemDict) -> Iterator[str]:
    """Yield a sentence if the geometry of an item leaves out labels.

    Args:
        labels: (y, x), evenly spread over the grid.
        grid: Grid of the raster that they are from.
        item: The item.
    """
    if grid.crs is None:
        return
    row, col = np.nonzero(labels != NODATA)
    scale = np.divide(grid.shape[::-1], labels.shape[::-1])
    degrees = EarthGrid.from_grid(grid).locate((np.column_stack([col, row]) + 0.5) * scale)
    degrees = degrees[np.isfinite(degrees).all(axis=1)]
    outline: Any = shapely.geometry.shape(item["geometry"]) if item["geometry"] else shapely.Polygon()
    if not len(degrees) or not outline.is_valid:
        return
    wide = outline.buffer(_OUTLINE_TOLERANCE * outline.area**0.5)
    outside = float((~shapely.contains_xy(wide, degrees)).mean())
    if outside > _SHARE_OUTSIDE:
        yield f"{outside:.0%} of the labels lie outside of the item's geometry"


def find_store_mismatches(store: Path, item: ItemDict) -> Iterator[str]:
    """Yield a sentence for each contradiction between a Zarr store's metadata and the item, or within the metadata.

    The labels and every overview level are checked, in both versions of the Zarr format.
    """
    attributes_of = {
        path.parent.relative_to(store).as_posix(): _read_attributes(path.parent) for path in _list_metadata_files(store)
    }
    yield from _find_stale_metadata(store)
    grid, level = _read_grid(item), store
    if grid is not None:
        texts = {text for attributes in attributes_of.values() for text in _list_crs_texts(attributes)}
        yield from _find_crs_mismatches(texts, grid, str(item["properties"]["proj:code"] or ""))
    flags, placed = build_class_flags(_read_classes(item)), None
    while (level / LABELS_ARRAY).exists():
        group = level.relative_to(store).as_posix()
        labels = attributes_of[(Path(group) / LABELS_ARRAY).as_posix()]
        for name, value in flags.items():
            if labels.get(name) != value:
                yield f"{group}/{LABELS_ARRAY}: {name} is not the item's"
        if grid is not None:
            yield from (f"{group}/{what} is not the item's" for what in _find_level_mismatches(level, grid))
            placed, grid = (level, grid), halve_grid(grid)
        level = store / ("ovr_2x" if level == store else f"ovr_{2 * int(level.name[4:-1])}x")
    if placed is not None:
        smallest = zarr.open_array(placed[0] / LABELS_ARRAY, mode="r")
        if smallest.size <= _MOST_LABELS:
            yield from _find_labels_outside(np.asarray(smallest[:]), placed[1], item)


def _find_level_mismatches(level: Path, grid: GeoBox) -> Iterator[str]:
    """Yield the names of arrays and attributes of one group that do not describe ``grid``."""
    transform = grid.transform
    if _read_attributes(level / LABELS_ARRAY).get("spatial:shape") != list(grid.shape):
        yield f"{LABELS_ARRAY}: spatial:shape"
        return  # coordinates of the item's shape might not fit into memory
    for name in ("", *list_store_rasters(level)):
        attributes = _read_attributes(level / name)
        is_placed = attributes.get("spatial:transform") == list(transform)[:6]
        if not is_placed or attributes.get("spatial:shape") != list(grid.shape):
            yield f"{name}: spatial:transform"
        if not np.allclose(attributes["spatial:bbox"], grid.extent.boundingbox.bbox, rtol=1e-12):
            yield f"{name}: spatial:bbox"
    mapping = _read_attributes(level / GRID_MAPPING)
    if [float(number) for number in mapping["GeoTransform"].split()] != list(transform.to_gdal()):
        yield f"{GRID_MAPPING}: GeoTransform"
    for name, (values, _) in compute_coordinates(grid).items():
        if not np.array_equal(np.asarray(zarr.open_array(level / name, mode="r")[:]), values):
            yield name


def _find_crs_mismatches(texts: set[str], grid: GeoBox, code: str) -> Iterator[str]:
    """Yield a sentence for each CRS that is not the grid's.

    Args:
        texts: All names of a CRS in the store: WKT, codes such as EPSG:32620, and URLs of OGC.
        grid: The item's grid.
        code: The item's ``proj:code``, or "" where it has none.
    """
    wkt = {text for text in texts if "[" in text}
    if len(wkt) > 1 or (grid.crs is not None and not wkt):
        yield f"has {len(wkt)} texts of one CRS"
    for text in sorted(wkt):
        crs = pyproj.CRS(text)
        if grid.crs is None or not crs.equals(grid.crs.proj, ignore_axis_order=True):
            yield f"CRS is {crs.name}, not that of the item"
    for text in sorted(texts - wkt):
        # .../def/crs/EPSG/0/32620 becomes EPSG:32620
        if text.replace("/0/", ":").rsplit("/", 1)[-1] != code:
            yield f"CRS is {text}, {code} in the item"


def _list_crs_texts(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name in ("crs_wkt", "spatial_ref", "proj:wkt2", "proj:code"):
        if name in attributes:
            yield str(attributes[name])
    yield from map(str, attributes.get("_CRS", {}).values())


def _find_stale_metadata(store: Path) -> Iterator[str]:
    """Yield a sentence for each group or array whose consolidated metadata are not its own metadata."""
    files = _list_metadata_files(store)
    if (store / "zarr.json").exists():
        consolidated = _read_json(store / "zarr.json")["consolidated_metadata"]["metadata"]
        actual = {path.parent.relative_to(store).as_posix(): _read_json(path) for path in files}
        del actual["."]
    else:
        consolidated = _read_json(store / ".zmetadata")["metadata"]
        actual = {path.relative_to(store).as_posix(): _read_json(path) for path in files}
    for name in sorted(consolidated.keys() | actual.keys()):
        if _strip_additions(consolidated.get(name)) != _strip_additions(actual.get(name)):
            yield f"consolidated metadata of {name} are others than its own"


def _strip_additions(document: Any) -> Any:
    """Return metadata without the fields that consolidating and sealing add afterwards."""
    if not isinstance(document, dict):
        return document
    return {key: value for key, value in document.items() if key not in ("consolidated_metadata", "seamline")}


def _list_metadata_files(store: Path) -> list[Path]:
    names = ("zarr.json",) if (store / "zarr.json").exists() else (".zgroup", ".zarray", ".zattrs")
    return sorted(path for name in names for path in store.rglob(name))


def _read_attributes(node: Path) -> ItemDict:
    """Return the attributes of a group or array, in Zarr format 3 or 2."""
    if (node / "zarr.json").exists():
        return dict(_read_json(node / "zarr.json").get("attributes", {}))
    return dict(_read_json(node / ".zattrs")) if (node / ".zattrs").exists() else {}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_grid(item: ItemDict) -> GeoBox | None:
    """Return the grid of the item's rasters, or None where the scene has no CRS."""
    properties = item["properties"]
    crs = properties["proj:code"] or properties.get("proj:wkt2")
    if crs is None:
        return None
    height, width = properties["proj:shape"]
    return GeoBox((height, width), Affine(*properties["proj:transform"]), crs)


def _read_classes(item: ItemDict) -> list[LabelClass]:
    """Return the classes as the asset of the labels describes them."""
    labels = next(asset for key, asset in item["assets"].items() if key in ("segmentation", "zarr"))
    rows = [row for row in labels["classification:classes"] if not row.get("nodata")]
    classes = []
    for row in rows:
        color = bytes.fromhex(row["color_hint"])
        classes.append(LabelClass(row["value"], row["title"], (color[0], color[1], color[2])))
    return classes
