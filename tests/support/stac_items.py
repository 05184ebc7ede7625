"""Items of scenes that no run made."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.validation
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

CLASSES = [LabelClass(0, "land", (200, 180, 120)), LabelClass(1, "water", (30, 90, 200), "open water")]
UTM = GeoBox((300, 200), Affine(30, 0, 600000, 0, -30, 9700000), "EPSG:32620")


ACQUIRED, PROCESSED = datetime(2023, 7, 23, 14, 20, tzinfo=UTC), datetime(2026, 11, 22, 12, tzinfo=UTC)


def make_store(folder: Path, grid: GeoBox, labels: np.ndarray | None = None, chunk: int = 64) -> Any:
    create_store(folder / "segmentation.zarr", grid, CLASSES, ZarrLayout(chunk), title="a scene")
    if labels is not None:
        write_labels(folder / "segmentation.zarr", Window(0, 0, *grid.shape), labels)
    return open_labels(folder / "segmentation.zarr")


def make_scene_item(
    folder: Path, grid: GeoBox, acquired: datetime | None = ACQUIRED, classes: list[LabelClass] = CLASSES
) -> pystac.Item:
    folder.mkdir(exist_ok=True)
    (folder / "segmentation.tif").write_bytes(b"labels")
    table = compute_class_areas(make_store(folder, grid, np.ones(grid.shape, np.uint8)), grid, classes)
    model = ModelReference("a U-Net", "ab" * 32, "/models/a/model.json")
    software = {"seamline": "0.1.0"}
    provenance = Provenance("/scenes/a.tif", model, acquired, PROCESSED, software, "segmented by a U-Net")
    return build_scene_item(folder, folder.name, grid, classes, table, provenance)


def check_core_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Core schema only, which pystac carries; the extensions' schemas would be fetched."""
    pystac.validation.validate_dict({**document, "stac_extensions": []})
    return document
