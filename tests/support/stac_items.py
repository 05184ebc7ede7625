"""Items of scenes that no run made, and items that describe a source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.validation
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels
from seamline.pipeline.stac.class_areas import compute_class_areas, count_labels
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

CLASSES = [LabelClass(0, "land", (200, 180, 120)), LabelClass(1, "water", (30, 90, 200), "open water")]
UTM = GeoBox((300, 200), Affine(30, 0, 600000, 0, -30, 9700000), "EPSG:32620")


ACQUIRED, PROCESSED = datetime(2023, 7, 23, 14, 20, tzinfo=UTC), datetime(2026, 11, 22, 12, tzinfo=UTC)


def write_source_item(folder: Path, assets: dict[str, Any]) -> Path:
    """An item of STAC 1.0 that says nothing but its assets."""
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "geometry": None,
        "links": [],
        "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "assets": assets,
    }
    path = folder / "item.json"
    path.write_text(json.dumps(item))
    return path


def tabulate_classes(labels: np.ndarray, grid: GeoBox, classes: Sequence[LabelClass]) -> tuple[ClassArea, ...]:
    return compute_class_areas([count_labels(labels, measure_pixel_areas(grid))], classes)


def make_scene_item(
    folder: Path, grid: GeoBox, acquired: datetime | None = ACQUIRED, classes: list[LabelClass] = CLASSES
) -> pystac.Item:
    folder.mkdir(exist_ok=True)
    (folder / "segmentation.tif").write_bytes(b"labels")
    labels = np.ones(grid.shape, np.uint8)
    create_store(folder / "segmentation.zarr", grid, CLASSES, ZarrLayout(64), title="a scene")
    write_labels(folder / "segmentation.zarr", Window(0, 0, *grid.shape), labels)
    table = tabulate_classes(labels, grid, classes)
    model = ModelReference("a U-Net", "ab" * 32, Path("/models/a/model.json"))
    software = {"seamline": "0.1.0"}
    provenance = Provenance(
        "/scenes/a.tif", model, acquired and TimeSpan.at(acquired), PROCESSED, software, "segmented by a U-Net"
    )
    return build_scene_item(folder, folder.name, grid, classes, table, provenance)


def check_core_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Core schema only, which pystac carries; the extensions' schemas would be fetched."""
    pystac.validation.validate_dict({**document, "stac_extensions": []})
    return document
