"""Scenes for the map, as runs leave them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.features import shapes
from scipy import ndimage

from benchmarks.run_records import make_up_record
from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import describe_labels, describe_layer, write_cog
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.run_record import write_record
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.zarr_store import (
    ZarrLayout,
    create_store,
    write_labels,
    write_store_raster,
)
from seamline.pipeline.report.thumbnail import write_scene_picture
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item
from tests.support.stac_items import tabulate_classes

CLASSES = [
    LabelClass(0, "land", (200, 180, 120)),
    LabelClass(1, "water", (30, 90, 200)),
    LabelClass(2, "ice", (250,) * 3),
]


COLORS = np.array([label.color for label in CLASSES], np.uint8)
SHAPE = (300, 420)
GRIDS = {
    "utm": GeoBox(SHAPE, Affine(30, 0, 600_000, 0, -30, 5_300_000), "EPSG:32620"),
    "degrees": GeoBox(SHAPE, Affine(0.001, 0, 12, 0, -0.0008, 46), "EPSG:4326"),
    "rotated": GeoBox(SHAPE, Affine(30, 0, 500_000, 0, -30, 5_900_000) @ Affine.rotation(25), "EPSG:32633"),
    "nowhere": GeoBox(SHAPE, Affine.identity(), None),
}


ACROSS = {
    "utm": GeoBox(SHAPE, Affine(30, 0, 270_000, 0, -30, 5_300_000), "EPSG:32601"),
    "pacific": GeoBox(SHAPE, Affine(60, 0, 3_326_984, 0, -60, -1_900_000), "EPSG:3832"),
    "east": GeoBox(SHAPE, Affine(0.001, 0, 179.8, 0, -0.0008, 46), "EPSG:4326"),
    "west": GeoBox(SHAPE, Affine(0.001, 0, -180.2, 0, -0.0008, 46), "EPSG:4326"),
}
"""Across the antimeridian; in degrees there are two ways to go on."""


WHEN = datetime(2026, 11, 22, 12, tzinfo=UTC)


def make_smooth_labels(seed: int) -> np.ndarray:
    fields = ndimage.gaussian_filter(np.random.default_rng(seed).random((3, *SHAPE)), (0, 12, 12))
    labels = fields.argmax(0).astype(np.uint8)
    labels[:40, :60] = NODATA
    return labels


def make_scene_layers(labels: np.ndarray) -> dict[str, np.ndarray]:
    probabilities = np.where(labels == NODATA, NODATA, np.stack([np.where(labels == k, 150, 50) for k in range(3)]))
    confidence = np.where(labels == NODATA, NODATA, 100)
    return {"probabilities": probabilities.astype(np.uint8), "confidence": confidence.astype(np.uint8)}


def publish_labels(folder: Path, grid: GeoBox, labels: np.ndarray, layers: Mapping[str, np.ndarray] = {}) -> None:
    """A scene's results, as a run leaves them, of labels; with those layers that are given, or with some of a scene."""
    folder.mkdir(parents=True)
    store, values = folder / "segmentation.zarr", layers or make_scene_layers(labels)
    create_store(store, grid, CLASSES, ZarrLayout(128), title="a scene", layers=[*values])
    write_labels(store, Window(0, 0, *SHAPE), labels)
    for name, layer in values.items():
        write_store_raster(store, name, Window(0, 0, *SHAPE), layer)
    _, files = write_overviews(store, grid, CLASSES, folder / "s")
    table = tabulate_classes(labels, grid, CLASSES)
    record = make_up_record(folder.name, SHAPE, table, ["cog", *values])
    seal(store, record.digests, files)
    tags = record.digests
    write_cog(store, grid, describe_labels(CLASSES), folder / "segmentation.tif", folder / "s", tags)
    for name in values:
        write_cog(store, grid, describe_layer(LAYERS[name], CLASSES), folder / f"{name}.tif", folder / "s", tags)
    (folder / "s").rmdir()
    rgb = np.dstack([labels * 60] * 3)[::2, ::2]
    write_scene_picture(rgb, labels[::2, ::2] != NODATA, grid, 2, folder / "overview.tif")
    Image.fromarray(rgb).save(folder / "preview.png")
    write_record(folder, record)
    model = ModelReference("a U-Net", "ab" * 32, Path("/models/a/model.json"))
    item = build_scene_item(
        folder, folder.name, grid, CLASSES, table, Provenance("a.tif", model, TimeSpan.at(WHEN), WHEN, {}, "by hand")
    )
    write_item(item, folder)
    update_catalog(folder.parent)


def write_polygon_file(path: Path, grid: GeoBox, labels: np.ndarray) -> None:
    found = list(shapes(labels, mask=labels != NODATA, transform=grid.transform))
    geometries = np.array([shapely.geometry.shape(shape) for shape, _ in found])
    columns = [np.array([int(value) for _, value in found]), shapely.area(geometries)]
    pyogrio.raw.write(
        path,
        shapely.to_wkb(geometries),
        columns,
        ["class", "area_m2"],
        crs=str(grid.crs),
        geometry_type="Polygon",
        driver="FlatGeobuf",
    )


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "out"
    for seed, (name, grid) in enumerate(GRIDS.items()):
        publish_labels(folder / name, grid, make_smooth_labels(seed))
    write_polygon_file(folder / "utm" / "polygons.fgb", GRIDS["utm"], make_smooth_labels(0))
    return folder


def make_period_layers(labels: np.ndarray) -> dict[str, np.ndarray]:
    """What a map has beside labels, smooth, so that neighbours have similar colours; row 0 lies outside of it."""
    rows, cols = np.indices(labels.shape)
    missing, outside = labels == NODATA, rows == 0
    agreement = np.where(missing, NODATA, 100 + rows // 2).astype(np.uint8)
    observations = np.where(outside, 65535, np.where(missing, 0, 1 + cols)).astype(np.uint16)
    last_date = np.where(missing, 65535, 19_000 + rows + cols).astype(np.uint16)
    return {"agreement": agreement, "observations": observations, "last_date": last_date}


@pytest.fixture(scope="session")
def period_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A period of a map as a result, with sidecars."""
    folder, labels = tmp_path_factory.mktemp("period") / "out", make_smooth_labels(0)
    layers = make_period_layers(labels)
    publish_labels(folder / "utm", GRIDS["utm"], labels, layers)
    return folder


@pytest.fixture(scope="session")
def antimeridian_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("across") / "out"
    for seed, (name, grid) in enumerate(ACROSS.items()):
        publish_labels(folder / name, grid, make_smooth_labels(seed))
        write_polygon_file(folder / name / "polygons.fgb", grid, make_smooth_labels(seed))
    return folder


def edit_item(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(scene: Path) -> None:
        item = json.loads((scene / "item.json").read_text())
        change(item)
        (scene / "item.json").write_text(json.dumps(item))

    return edit
