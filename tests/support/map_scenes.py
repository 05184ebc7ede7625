"""Published scenes for maps: all files that a selection looks at, without a run and almost without pixels."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from benchmarks.run_records import make_up_record
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.run_record import ClassArea, write_record
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels
from seamline.pipeline.stac.catalog import write_item
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

CLASSES = (
    LabelClass(0, "land", (200, 180, 120)),
    LabelClass(1, "water", (30, 90, 200)),
    LabelClass(2, "cloud", (250, 250, 250)),
)
SIZE = 64
"""Pixels of 30 m along an edge of a scene."""
PROCESSED = datetime(2026, 11, 22, tzinfo=UTC)


def make_scene_grid(x: float = 600_000, y: float = 5_300_000, crs: str | None = "EPSG:32620") -> GeoBox:
    """A grid by its upper left corner."""
    return GeoBox((SIZE, SIZE), Affine(30, 0, x, 0, -30, y), crs)


def publish_map_scene(
    out: Path,
    scene: str,
    acquired: str | None = "2024-07-23",
    *,
    grid: GeoBox | None = None,
    model: str = "a U-Net",
    unseen: Sequence[str] | None = ("cloud",),
    classes: Sequence[LabelClass] = CLASSES,
    files: Sequence[str] = ("zarr", "cog", "probabilities"),
) -> Path:
    """A scene's folder with its item; ``update_catalog`` lists it."""
    grid = make_scene_grid() if grid is None else grid
    folder = out / scene
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    document = {"properties": {"title": model} | ({} if unseen is None else {"seamline:unseen": list(unseen)})}
    (folder / "model.json").write_text(json.dumps(document))
    digest = hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    if "zarr" in files:
        store = folder / "segmentation.zarr"
        layers = ["probabilities"] if "probabilities" in files else []
        create_store(store, grid, classes, ZarrLayout(SIZE), title=scene, layers=layers)
        write_labels(store, Window(0, 0, *grid.shape), np.zeros(grid.shape, np.uint8))
        seal(store, {"scene_digest": "a", "model_digest": digest})
    for kind, name in {"cog": "segmentation.tif", "probabilities": "probabilities.tif"}.items():
        if kind in files:
            (folder / name).write_bytes(f"{kind} of {scene}".encode())
    table = [ClassArea(entry.name, entry.value, 1, 0.5, 1.0) for entry in classes]
    record = make_up_record(scene, (SIZE, SIZE), table)
    span = None if acquired is None else TimeSpan.from_text(acquired)
    write_record(folder, record.model_copy(update={"model_digest": digest, "options": {"datetime": acquired}}))
    reference = ModelReference(model, digest, folder / "model.json")
    provenance = Provenance(f"/scenes/{scene}.tif", reference, span, PROCESSED, {}, "by hand")
    write_item(build_scene_item(folder, scene, grid, classes, table, provenance), folder)
    return folder
