"""Results of scenes of which maps are made: published in a moment, with any grid, labels, probabilities and files."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from benchmarks.run_records import make_up_record
from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import describe_labels, describe_layer, write_cog
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.run_record import write_record
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels, write_store_raster
from seamline.pipeline.stac.catalog import write_item
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item
from tests.support.stac_items import tabulate_classes

CLASSES = [
    LabelClass(2, "land", (200, 180, 120)),
    LabelClass(0, "water", (30, 90, 200)),
    LabelClass(7, "cloud", (250,) * 3),
]
"""Labels that are no positions."""
CLOUD = 2
"""Position of the class that hides the ground."""
PROCESSED = datetime(2026, 11, 22, 12, tzinfo=UTC)


def make_probabilities(shape: tuple[int, int], seed: int = 0, classes: Sequence[LabelClass] = CLASSES) -> np.ndarray:
    """Noise that is nodata in the upper left corner."""
    random = np.random.default_rng(seed)
    probabilities = random.integers(0, 251, (len(classes), *shape), np.uint8)
    probabilities[:, : shape[0] // 4, : shape[1] // 3] = NODATA
    return probabilities


def find_labels(probabilities: np.ndarray, classes: Sequence[LabelClass] = CLASSES) -> np.ndarray:
    """The labels of the highest probabilities."""
    values = np.array([label.value for label in classes], np.uint8)
    return np.where(probabilities[0] == NODATA, np.uint8(NODATA), values[probabilities.argmax(0)])


def publish_scene(
    folder: Path,
    grid: GeoBox,
    probabilities: np.ndarray,
    *,
    acquired: TimeSpan | None = None,
    files: Collection[str] = ("zarr", "cog", "probabilities"),
    zarr_format: int = 3,
) -> Path:
    """What a run leaves of a scene, without pictures and overviews."""
    folder.mkdir(parents=True)
    layers = ["probabilities"] if "probabilities" in files else []
    store, shape, labels = folder / "segmentation.zarr", tuple(grid.shape), find_labels(probabilities)
    create_store(store, grid, CLASSES, ZarrLayout(48, zarr_format=zarr_format), title="a scene", layers=layers)
    write_labels(store, Window(0, 0, *shape), labels)
    record = make_up_record(folder.name, shape, tabulate_classes(labels, grid, CLASSES), sorted(files))
    contents = [describe_labels(CLASSES)] if "cog" in files else []
    if layers:
        write_store_raster(store, "probabilities", Window(0, 0, *shape), probabilities)
        contents.append(describe_layer(LAYERS["probabilities"], CLASSES))
    for content in contents:
        write_cog(store, grid, content, folder / f"{content.array}.tif", folder / "s", record.digests)
    shutil.rmtree(folder / "s", ignore_errors=True)
    seal(store, record.digests)
    if "zarr" not in files:
        shutil.rmtree(store)
    write_record(folder, record)
    model = ModelReference("a U-Net", "ab" * 32, Path("/models/a/model.json"))
    provenance = Provenance("a.tif", model, acquired, PROCESSED, {}, "by hand")
    table = tabulate_classes(labels, grid, CLASSES)
    write_item(build_scene_item(folder, folder.name, grid, CLASSES, table, provenance), folder)
    return folder
