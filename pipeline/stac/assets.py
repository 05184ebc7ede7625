"""The files of a scene as assets of its STAC item: one table of all files that a run may leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pystac
from rasterio.errors import RasterioError

from seamline.pipeline.common.band_statistics import BandStatistics
from seamline.pipeline.common.classes import NODATA, LabelClass, make_column_names
from seamline.pipeline.common.layout import COG, MODEL, OVERVIEW, PREVIEW, RECORD, REPORT, ZARR
from seamline.pipeline.products.cog import read_statistics
from seamline.pipeline.products.layers import LAYERS, PROBABILITIES, Layer
from seamline.pipeline.products.seal import list_store_files
from seamline.pipeline.products.sidecars import ATTRIBUTE_TABLE, normalize_attribute_table
from seamline.pipeline.products.zarr_store import LABELS_ARRAY
from seamline.pipeline.storage.digests import FileInfo, describe_content, describe_file

Fields = dict[str, Any]

_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
"""Characters that the classification extension allows in the name of a class."""


@dataclass(frozen=True)
class KnownFile:
    """A file that a run may leave in a scene's folder, and what its asset says.

    Attributes:
        key: key of the asset.
        name: name of the file.
        title: title of the asset.
        media_type: media type, without a version.
        roles: roles of the asset.
        fields: returns what the asset says of a raster's pixels, from its path and the classes.
    """

    key: str
    name: str
    title: str
    media_type: str
    roles: tuple[str, ...]
    fields: Callable[[Path, Sequence[LabelClass]], Fields] = lambda path, classes: {}


def _describe_labels(path: Path, classes: Sequence[LabelClass]) -> Fields:
    return {
        "bands": [{"name": LABELS_ARRAY}],
        "data_type": "uint8",
        "nodata": NODATA,
        "classification:classes": _build_classification(classes),
    }


def _describe_layer(layer: Layer, path: Path, classes: Sequence[LabelClass]) -> Fields:
    bands: list[Fields] = [{"name": layer.name}]
    if layer.per_class:
        bands = [{"name": label.name, "description": label.description or label.name} for label in classes]
    found = _read_statistics(path, len(bands))
    return {
        "bands": [
            band | ({} if statistics is None else {"statistics": statistics.to_fields()})
            for band, statistics in zip(bands, found, strict=True)
        ],
        "data_type": layer.dtype,
        "nodata": layer.nodata,
        **({} if layer.unit == "1" else {"unit": layer.unit}),
        **({} if layer.scale == 1 else {"raster:scale": layer.scale, "raster:offset": 0}),
    }


def _read_statistics(path: Path, count: int) -> list[BandStatistics | None]:
    """Return the statistics of the digital numbers of each band, as the file has them; None where it has none."""
    try:
        found = read_statistics(path)
    except RasterioError:
        found = []
    return found if len(found) == count else [None] * count


_TYPES = pystac.MediaType
_DATA, _STYLE, _METADATA = ("data",), ("metadata", "style"), ("metadata",)

ASSETS: tuple[KnownFile, ...] = (
    KnownFile("segmentation", COG, "Labels (COG)", _TYPES.COG, _DATA, _describe_labels),
    KnownFile("zarr", ZARR, "Labels (Zarr)", _TYPES.VND_ZARR, _DATA, _describe_labels),
    *(
        KnownFile(
            layer.name,
            f"{layer.name}.tif",
            f"{layer.title.capitalize()} (COG)",
            _TYPES.COG,
            _DATA,
            partial(_describe_layer, layer),
        )
        for layer in LAYERS.values()
    ),
    KnownFile("polygons", "polygons.parquet", "Polygons (GeoParquet)", _TYPES.VND_APACHE_PARQUET, _DATA),
    KnownFile("polygons-fgb", "polygons.fgb", "Polygons (FlatGeobuf)", _TYPES.FLATGEOBUF, _DATA),
    KnownFile("polygons-gpkg", "polygons.gpkg", "Polygons (GeoPackage)", _TYPES.GEOPACKAGE, _DATA),
    KnownFile("polygons-pmtiles", "polygons.pmtiles", "Polygons (PMTiles)", _TYPES.VND_PMTILES, _DATA),
    KnownFile("style", "segmentation.qml", "Style for QGIS", _TYPES.XML, _STYLE),
    *(
        KnownFile(f"{name}-style", f"{name}.qml", f"Style of {name} for QGIS", _TYPES.XML, _STYLE)
        for name in (*LAYERS, "polygons")
    ),
    KnownFile("attribute-table", ATTRIBUTE_TABLE, "Raster attribute table", _TYPES.XML, _METADATA),
    KnownFile("overview", OVERVIEW, "The scene, small, in colour", _TYPES.COG, ("overview", "visual")),
    KnownFile("preview", PREVIEW, "Preview", _TYPES.PNG, ("overview", "thumbnail")),
    KnownFile("report", REPORT, "Report", _TYPES.HTML, ("overview", "metadata")),
    KnownFile("model", MODEL, "The model that segmented it", _TYPES.GEOJSON, _METADATA),
    KnownFile("run", RECORD, "Record of the run", _TYPES.JSON, _METADATA),
)
"""All files that a run may leave in a scene's folder, in the order of the assets."""


def build_scene_assets(
    folder: Path, classes: Sequence[LabelClass], pixel: float | None, known: Mapping[str, FileInfo]
) -> dict[str, pystac.Asset]:
    """Return assets of the known files in a scene's folder, with size and checksum.

    Args:
        folder: the scene's folder.
        classes: classes of the labels.
        pixel: width of a pixel in metres, which rasters get as spatial resolution. ``None``: unknown.
        known: what ``compute_file_info`` returned, or will return, of some files, by their names; these need not exist
            yet.

    Returns:
        Assets by key. Hrefs are relative to the folder.
    """
    assets = {}
    for file in ASSETS:
        path, info = folder / file.name, known.get(file.name)
        if info is not None or path.exists():
            fields = file.fields(path, classes)
            if fields and pixel is not None:
                fields["raster:spatial_resolution"] = round(pixel, 3)
            assets[file.key] = pystac.Asset(
                f"./{file.name}",
                title=file.title,
                media_type=f"{file.media_type}{_get_media_type_suffix(path)}",
                roles=list(file.roles),
                extra_fields=fields | (compute_file_info(path) if info is None else dict(info)),
            )
    return assets


def build_renders(assets: Mapping[str, pystac.Asset], classes: Sequence[LabelClass]) -> dict[str, Fields]:
    """Return how the rasters of an item are drawn, for the render extension; titiler takes these fields.

    Args:
        assets: the item's assets by key.
        classes: classes of the labels.

    Returns:
        Renders by name, of those rasters that are among the assets.
    """
    labels = {
        "title": "Classes",
        "assets": ["segmentation"],
        "nodata": NODATA,
        "resampling": "nearest",
        "colormap": {str(label.value): [*label.color, 255] for label in classes},
    }
    layers = {
        layer.name: _build_ramp(layer.name.capitalize().replace("_", " "), layer, assets)
        for layer in LAYERS.values()
        if not layer.per_class
    }
    probabilities = {
        f"probability_{column}": _build_ramp(f"Probability of {label.name}", LAYERS[PROBABILITIES], assets, band)
        for band, (label, column) in enumerate(zip(classes, make_column_names(classes), strict=True), start=1)
    }
    renders: dict[str, Fields] = {"segmentation": labels, **layers, **probabilities}
    return {name: render for name, render in renders.items() if set(assets).issuperset(render["assets"])}


def compute_file_info(path: Path, *, with_checksum: bool = True) -> FileInfo:
    """Return the fields of STAC's file extension: the size in bytes and, unless it is a Zarr store, the checksum.

    Those of GDAL's side-car are of what a run wrote of it, whatever programs added that opened the raster.
    """
    if path.is_dir():
        return {"file:size": sum(file.stat().st_size for file in list_store_files(path))}
    if path.name == ATTRIBUTE_TABLE:
        return describe_content(normalize_attribute_table(path.read_bytes()))
    return describe_file(path) if with_checksum else {"file:size": path.stat().st_size}


def _get_media_type_suffix(path: Path) -> str:
    """Return the version parameter for the media type of a Zarr store; empty for a file."""
    if not path.is_dir():
        return ""
    return "; version=3" if (path / "zarr.json").exists() else "; version=2"


def _build_ramp(title: str, layer: Layer, assets: Mapping[str, pystac.Asset], band: int = 1) -> Fields:
    """Return the render of one band of a layer, as its colour map shows it."""
    bands = assets[layer.name].extra_fields["bands"] if layer.name in assets else [{}]
    statistics = bands[0].get("statistics")
    low, high = layer.find_range(None if statistics is None else BandStatistics(**statistics))
    return {
        "title": title,
        "assets": [layer.name],
        "nodata": layer.nodata,
        "rescale": [[round(low / layer.scale, 3) or 0, round(high / layer.scale, 3)]],
        "colormap_name": layer.colormap,
        "bidx": [band],
    }


def _build_classification(classes: Sequence[LabelClass]) -> list[Fields]:
    """Return the classes for the classification extension: a name without spaces, and a title for people."""
    fields: list[Fields] = [
        {
            "value": label.value,
            "name": column if set(label.name) - _NAME_CHARACTERS else label.name,
            "title": label.name,
            "description": label.description or label.name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*label.color),
        }
        for label, column in zip(classes, make_column_names(classes), strict=True)
    ]
    return [*fields, {"value": NODATA, "name": "nodata", "description": "no data", "nodata": True}]
