"""Overviews and COGs that the workers of a cluster make are those that one process makes, also when a worker dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from distributed import Client, LocalCluster
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.execution.chunk_tasks import ChunkOrigin
from seamline.pipeline.execution.run_chunks import map_on_workers
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import describe_labels, describe_layer, write_cog
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels, write_store_raster
from seamline.pipeline.publishing.label_summary import join_thinned_labels, summarize_labels
from seamline.pipeline.stac.class_areas import compute_class_areas

CLASSES = [LabelClass(value, f"class {value}", (value * 60, 100, 20)) for value in range(3)]
GRID = GeoBox((4200, 8300), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")
"""Six areas, and overviews that are made in two rounds."""


def make_store(path: Path, labels: np.ndarray) -> Path:
    create_store(path, GRID, CLASSES, ZarrLayout(900), title="a scene", layers=["confidence"])
    write_labels(path, Window(0, 0, *GRID.shape), labels)
    write_store_raster(path, "confidence", Window(0, 0, *GRID.shape), np.where(labels == NODATA, NODATA, labels * 80))
    return path


def publish(folder: Path, labels: np.ndarray, map_areas: Any) -> dict[str, Any]:
    """Make a store and COGs in a folder; return the bytes of all files, and what is known of the labels."""
    store = make_store(folder / "s.zarr", labels)
    summarize = partial(summarize_labels, measure_pixel_areas(GRID), 9)
    summaries, stored = write_overviews(store, GRID, CLASSES, folder / "scratch", map_areas, summarize)
    for content in (describe_labels(CLASSES), describe_layer(LAYERS["confidence"], CLASSES)):
        write_cog(store, GRID, content, folder / f"{content.array}.tif", folder / "scratch", {}, map_areas)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not list((folder / "scratch").iterdir())
    table = compute_class_areas([summary.counts for summary in summaries], CLASSES)
    return {**files, "stored": stored, "table": table, "thinned": join_thinned_labels(summaries).tolist()}


def die_once(mark: Path, function: Callable[[Index], Any], place: Index) -> Any:
    """Kill the worker in the middle of the second area, the first time."""
    if place == Index(0, 1) and not mark.exists():
        function(place)
        mark.touch()
        os._exit(1)
    return function(place)


def test_workers_write_the_same_bytes_also_when_one_dies(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    blocks = rng.choice([0, 1, 2, NODATA], (GRID.shape[0] // 20, GRID.shape[1] // 20)).astype(np.uint8)
    labels = blocks.repeat(20, 0).repeat(20, 1)
    expected = publish(tmp_path / "alone", labels, map)
    scene: Any = SimpleNamespace(id="a", source="a.tif")
    marks = iter(tmp_path / f"died-{number}" for number in range(99))
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def map_areas(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
            return map_on_workers(client, ChunkOrigin.of(scene))(partial(die_once, next(marks), function), places)

        assert publish(tmp_path / "together", labels, map_areas) == expected
    assert len(list(tmp_path.glob("died-*"))) >= 4  # labels and confidence, overviews and COG
    path = tmp_path / "together" / "segmentation.tif"
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), labels)
