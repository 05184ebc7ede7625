"""Scenes for the map, as runs leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def publish_labels(folder: Path, grid: GeoBox, labels: np.ndarray) -> None:
    """A scene's results, as a run leaves them, of labels."""
    folder.mkdir(parents=True)
    store = folder / "segmentation.zarr"
    create_store(store, grid, CLASSES, ZarrLayout(128), title="a scene", layers=["probabilities", "confidence"])
    write_labels(store, Window(0, 0, *SHAPE), labels)
    probabilities = np.where(labels == NODATA, NODATA, np.stack([np.where(labels == k, 150, 50) for k in range(3)]))
    values = {"probabilities": probabilities.astype(np.uint8)}
    values["confidence"] = np.where(labels == NODATA, NODATA, 100).astype(np.uint8)
    for name, layer in values.items():
        write_store_raster(store, name, Window(0, 0, *SHAPE), layer)
    write_overviews(store, grid, CLASSES, folder / "s")
    write_cog(store, grid, describe_labels(CLASSES), folder / "segmentation.tif", folder / "s", {})
    for name in values:
        write_cog(store, grid, describe_layer(LAYERS[name], CLASSES), folder / f"{name}.tif", folder / "s", {})
    (folder / "s").rmdir()
    rgb = np.dstack([labels * 60] * 3)[::2, ::2]
    write_scene_picture(rgb, labels[::2, ::2] != NODATA, grid, 2, folder / "overview.tif")
    Image.fromarray(rgb).save(folder / "preview.png")
    table = tabulate_classes(labels, grid, CLASSES)
    write_record(folder, make_up_record(folder.name, SHAPE, table))
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
