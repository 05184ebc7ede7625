"""The files of a scene as assets of its STAC item: one table of all that a run may leave behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac
import rasterio
from rasterio.errors import RasterioError

from seamline.pipeline.common.classes import NODATA, LabelClass, make_column_names
from seamline.pipeline.products.geozarr import JSON
from seamline.pipeline.products.layers import LAYER_SCALE, LAYERS
from seamline.pipeline.products.zarr_store import LABELS_ARRAY

Fields = dict[str, Any]


@dataclass(frozen=True)
class KnownFile:
    """A file that a run may leave in a scene's folder, and what its asset says.

    ``fields`` yields what a raster's pixels are, from the file and the classes.
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


def _describe_single_band(path: Path, classes: Sequence[LabelClass]) -> Fields:
    return _describe_quantized_bands(path, [{"name": path.stem}])


def _describe_class_bands(path: Path, classes: Sequence[LabelClass]) -> Fields:
    return _describe_quantized_bands(
        path, [{"name": label.name, "description": label.description or label.name} for label in classes]
    )


def _describe_quantized_bands(path: Path, bands: list[Fields]) -> Fields:
    described = [band | found for band, found in zip(bands, _read_statistics(path, len(bands)), strict=True)]
    return {"bands": described, "data_type": "uint8", "nodata": NODATA, "raster:scale": LAYER_SCALE, "raster:offset": 0}


def _read_statistics(path: Path, count: int) -> list[Fields]:
    """What the file says of the digital numbers of its bands; nothing where it says nothing."""
    try:
        with rasterio.open(path) as file:
            tags = [file.tags(index) for index in range(1, count + 1)]
    except (RasterioError, IndexError):
        return [{}] * count
    names = {"minimum": "MINIMUM", "maximum": "MAXIMUM", "mean": "MEAN", "stddev": "STDDEV"}
    return [
        {"statistics": {name: float(band[f"STATISTICS_{tag}"]) for name, tag in names.items()}}
        if all(f"STATISTICS_{tag}" in band for tag in names.values())
        else {}
        for band in tags
    ]


ASSETS: tuple[KnownFile, ...] = (
    KnownFile("segmentation", "segmentation.tif", "Labels (COG)", pystac.MediaType.COG, ("data",), _describe_labels),
    KnownFile("zarr", "segmentation.zarr", "Labels (Zarr)", pystac.MediaType.VND_ZARR, ("data",), _describe_labels),
    *(
        KnownFile(
            layer.name, f"{layer.name}.tif", f"{layer.title.capitalize()} (COG)", pystac.MediaType.COG, ("data",),
            _describe_class_bands if layer.per_class else _describe_single_band,
        )
        for layer in LAYERS.values()
    ),
    KnownFile("polygons", "polygons.parquet", "Polygons (GeoParquet)", pystac.MediaType.VND_APACHE_PARQUET, ("data",)),
    KnownFile("polygons-fgb", "polygons.fgb", "Polygons (FlatGeobuf)", pystac.MediaType.FLATGEOBUF, ("data",)),
    KnownFile("polygons-gpkg", "polygons.gpkg", "Polygons (GeoPackage)", pystac.MediaType.GEOPACKAGE, ("data",)),
    KnownFile("style", "segmentation.qml", "Style for QGIS", pystac.MediaType.XML, ("metadata", "style")),
    *(
        KnownFile(
            f"{name}-style", f"{name}.qml", f"Style of {name} for QGIS", pystac.MediaType.XML, ("metadata", "style")
        )
        for name in (*LAYERS, "polygons")
    ),
    KnownFile(
        "attribute-table", "segmentation.tif.aux.xml", "Raster attribute table", pystac.MediaType.XML, ("metadata",)
    ),
    KnownFile(
        "overview", "overview.tif", "The scene, small, in colour", pystac.MediaType.COG, ("overview", "visual")
    ),
    KnownFile("preview", "preview.png", "Preview", pystac.MediaType.PNG, ("overview", "thumbnail")),
    KnownFile("report", "report.html", "Report", pystac.MediaType.HTML, ("overview", "metadata")),
    KnownFile("run", "run.json", "Record of the run", pystac.MediaType.JSON, ("metadata",)),
)  # fmt: skip


def build_scene_assets(folder: Path, classes: Sequence[LabelClass], pixel: float | None) -> dict[str, pystac.Asset]:
    """The known files that lie in ``folder``, with size and checksum; rasters say how wide a ``pixel`` is in metres."""
    assets = {}
    for known in ASSETS:
        path = folder / known.name
        if path.exists():
            fields = known.fields(path, classes)
            if fields and pixel is not None:
                fields["raster:spatial_resolution"] = round(pixel, 3)
            assets[known.key] = pystac.Asset(
                f"./{known.name}",
                title=known.title,
                media_type=f"{known.media_type}{_get_media_type_suffix(path)}",
                roles=list(known.roles),
                extra_fields=fields | compute_file_info(path),
            )
    return assets


def _get_media_type_suffix(path: Path) -> str:
    """Of a Zarr store, for its media type."""
    if not path.is_dir():
        return ""
    return "; version=3" if (path / "zarr.json").exists() else "; version=2"


def build_renders(assets: Iterable[str], classes: Sequence[LabelClass]) -> dict[str, Fields]:
    """How the rasters among ``assets`` (keys) are drawn, for the render extension: what titiler takes."""
    drawn: dict[str, Fields] = {
        "segmentation": {
            "title": "Classes",
            "assets": ["segmentation"],
            "nodata": NODATA,
            "resampling": "nearest",
            "colormap": {str(label.value): [*label.color, 255] for label in classes},
        },
        **{name: _build_ramp(name.capitalize(), name) for name in LAYERS if not LAYERS[name].per_class},
    } | {
        f"probability_{column}": _build_ramp(f"Probability of {label.name}", "probabilities", band)
        for band, (label, column) in enumerate(zip(classes, make_column_names(classes), strict=True), start=1)
    }
    there = set(assets)
    return {name: render for name, render in drawn.items() if there.issuperset(render["assets"])}


def _build_ramp(title: str, layer: str, band: int = 1) -> Fields:
    shown = LAYERS[layer]
    look = {"rescale": [[0, round(shown.brightest / LAYER_SCALE, 3)]], "colormap_name": shown.colormap}
    return {"title": title, "assets": [layer], "nodata": NODATA, **look, "bidx": [band]}


def _build_classification(classes: Sequence[LabelClass]) -> list[Fields]:
    """Names as the extension wants them, without spaces; the title is what people call the class."""
    described: list[Fields] = [
        {
            "value": label.value,
            "name": name if set(label.name) - _NAME_CHARACTERS else label.name,
            "title": label.name,
            "description": label.description or label.name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*label.color),
        }
        for label, name in zip(classes, make_column_names(classes), strict=True)
    ]
    return [*described, {"value": NODATA, "name": "nodata", "description": "no data", "nodata": True}]


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def compute_file_info(path: Path) -> dict[str, JSON]:
    """Size and, of a file, checksum: the fields of STAC's file extension."""
    if path.is_dir():
        return {"file:size": sum(file.stat().st_size for file in path.rglob("*") if file.is_file())}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file:size": path.stat().st_size, "file:checksum": to_multihash(digest)}


def to_multihash(sha256: str) -> str:
    """A SHA-256 in hexadecimal digits that says which hash it is (0x12) and how many bytes it has (0x20)."""
    return f"1220{sha256}"
