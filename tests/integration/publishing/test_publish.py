"""Whole runs with every output: odd sizes, odd classes, areas of interest, shards; and what is made of them later."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.features
import shapely
import torch

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.spec import ModelClass
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.products.zarr_store import list_store_rasters, open_store_raster
from seamline.pipeline.results.open import find_result
from seamline.pipeline.results.verify import verify
from tests.support.kill_points import kill_after_call
from tests.support.small_models import save_model
from tests.support.small_rasters import BAND_NAMES, UTM, make_noise, write_geotiff

Cluster = Callable[[int], str]
EVERYTHING = ("cog", "zarr", "polygons", "probabilities", "confidence", "disagreement")
NOWHERE = "tcp://127.0.0.1:1"
"""An address at which no cluster answers: what needs none asks for none."""


def run(scene: Path, model: Path, out: Path, cluster: str, **options: Any) -> RunResult:
    how = {"window": 128, "engine": "torch", "precision": "fp32", "batch": 1, "threads": 1, "outputs": EVERYTHING}
    return segment(scene, model, out, SegmentOptions(cluster=cluster, **{**how, **options}), RunObserver())


def run_in_chunks_of_two(scene: Path, model: Path, out: Path, cluster: str) -> None:
    run(scene, model, out, cluster, chunk_tiles=2)


def polygons_of(folder: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(folder / "polygons.parquet").to_pydict()
    return columns


def drawn(folder: Path) -> np.ndarray:
    """The polygons as labels on the grid of the COG, drawn by GDAL."""
    columns = polygons_of(folder)
    with rasterio.open(folder / "segmentation.tif") as file:
        shape, transform = file.shape, file.transform
    if not columns["class"]:
        return np.full(shape, NODATA, np.uint8)
    pairs = zip(map(shapely.from_wkb, columns["geometry"]), columns["class"], strict=True)
    return np.asarray(rasterio.features.rasterize(pairs, shape, fill=NODATA, transform=transform, dtype="uint8"))


def labels_of(folder: Path) -> np.ndarray:
    with rasterio.open(folder / "segmentation.tif") as file:
        return np.asarray(file.read(1))


@pytest.mark.parametrize(("height", "width", "empty"), [(1, 1, False), (3, 3000, False), (60, 70, True)])
def test_scenes_of_any_shape_have_every_output(
    tmp_path: Path, small_model: Model, cluster: Cluster, height: int, width: int, empty: bool
) -> None:
    pixels = np.zeros((6, height, width), np.uint16) if empty else make_noise(6, height, width)
    scene = write_geotiff(tmp_path / "scene.tif", pixels, names=BAND_NAMES, nodata=0)
    done = run(scene, small_model.folder, tmp_path / "out", cluster(1), overlap=32, window=160)
    assert list(verify(tmp_path / "out")) == []
    assert (labels_of(done.folder) == NODATA).all() == empty
    np.testing.assert_array_equal(drawn(done.folder), labels_of(done.folder))
    item = json.loads((done.folder / "item.json").read_text())
    assert item["geometry"]["type"] == "Polygon" and len(item["bbox"]) == 4
    assert not run(scene, small_model.folder, tmp_path / "out", NOWHERE, overlap=32, window=160).rewritten


def test_an_area_of_interest_cuts_every_output_and_the_item(
    tmp_path: Path, small_model: Model, cluster: Cluster
) -> None:
    pixels = make_noise(6, 200, 300)
    pixels[:, :, :90] = 0
    scene = write_geotiff(tmp_path / "scene.tif", pixels, names=BAND_NAMES, nodata=0)
    corners = [(40, 20), (280, 60), (150, 190)]
    area = shapely.Polygon([UTM @ corner for corner in corners])
    crs = {"type": "name", "properties": {"name": "EPSG:32620"}}
    (tmp_path / "aoi.json").write_text(json.dumps({**shapely.geometry.mapping(area), "crs": crs}))
    done = run(scene, small_model.folder, tmp_path / "out", cluster(1), aoi=tmp_path / "aoi.json")
    row, col = np.mgrid[:200, :300] + 0.5
    wanted = shapely.contains_xy(shapely.Polygon(corners), col, row) & (col > 90)
    np.testing.assert_array_equal(labels_of(done.folder) != NODATA, wanted)
    np.testing.assert_array_equal(drawn(done.folder), labels_of(done.folder))
    with rasterio.open(done.folder / "probabilities.tif") as file:
        np.testing.assert_array_equal(file.read() != NODATA, np.broadcast_to(wanted, (4, *wanted.shape)))
    item = json.loads((done.folder / "item.json").read_text())
    outline = shapely.geometry.shape(item["geometry"])
    west, south, east, north = item["bbox"]
    with rasterio.open(scene) as file:
        place = rasterio.warp.transform_geom("EPSG:32620", "OGC:CRS84", shapely.geometry.mapping(area))
        left, bottom, right, top = rasterio.warp.transform_bounds(file.crs, "OGC:CRS84", *file.bounds)
    expected = shapely.intersection(
        shapely.geometry.shape(place), shapely.box(left + (right - left) * 0.3, bottom, right, top)
    )
    assert outline.symmetric_difference(expected).area < 0.03 * expected.area
    report = (done.folder / "report.html").read_text()
    bands = "; ".join(f"{name}: band {number}" for number, name in enumerate(BAND_NAMES, 1))
    assert f"<dd>{bands}</dd>" in report and "<dt>No data</dt><dd>0</dd>" in report
    assert "or outside of the area of interest" in report
    assert (west, south, east, north) == pytest.approx(outline.bounds)
    (done.folder / "item.json").unlink()
    run(scene, small_model.folder, tmp_path / "out", NOWHERE, aoi=tmp_path / "aoi.json")
    assert json.loads((done.folder / "item.json").read_text())["geometry"] == item["geometry"]


def test_polygons_know_their_confidence_without_its_output(
    tmp_path: Path, small_model: Model, cluster: Cluster
) -> None:
    scene = write_geotiff(tmp_path / "scene.tif", make_noise(6, 160, 200), names=BAND_NAMES)
    outputs = ("cog", "zarr", "polygons")
    done = run(scene, small_model.folder, tmp_path / "out", cluster(1), outputs=outputs)
    first = polygons_of(done.folder)
    assert len(first["confidence"]) > 100 and all(0 <= value <= 1 for value in first["confidence"])
    assert not (done.folder / "confidence.tif").exists() and list(verify(tmp_path / "out")) == []
    for path in done.folder.glob("polygons.*"):
        path.unlink()
    again = run(scene, small_model.folder, tmp_path / "out", NOWHERE, outputs=outputs)
    assert set(again.rewritten) == {"polygons", "style"} and polygons_of(done.folder) == first


def test_shards_hold_the_same_at_every_level(tmp_path: Path, small_model: Model, cluster: Cluster) -> None:
    scene = write_geotiff(tmp_path / "scene.tif", make_noise(6, 60, 1100), names=BAND_NAMES)
    stores = []
    for sharded in (False, True):
        options = {"zarr_shards": sharded, "outputs": ("zarr", "probabilities"), "chunk_tiles": 2}
        done = run(scene, small_model.folder, tmp_path / str(sharded), cluster(1), **options)
        stores.append(done.folder / "segmentation.zarr")
    plain, sharded = stores
    levels = [".", "ovr_2x", "ovr_4x"]
    assert [path.name for path in sorted(sharded.glob("ovr_*"))] == levels[1:]
    for level in levels:
        assert (
            list_store_rasters(plain / level)
            == list_store_rasters(sharded / level)
            == ("segmentation", "probabilities")
        )
        for name in list_store_rasters(plain / level):
            assert open_store_raster(sharded / level, name).shards is not None
            np.testing.assert_array_equal(
                open_store_raster(plain / level, name)[:], open_store_raster(sharded / level, name)[:]
            )


ODD = ("a, b; c", '"it\'s"', "</script><script>alert(1)</script>", "🌊 water", "$x_1$", "%s {0}", "..", "Ölfeld/лес")


def test_200_classes_of_odd_names(tmp_path: Path, cluster: Cluster) -> None:
    torch.manual_seed(3)
    network = UNet(UNetConfig(2, 200, depth=1, base_width=4, norm="none")).eval()
    (tmp_path / "model").mkdir()
    spec = save_model(tmp_path / "model", network, ("red", "nir"))
    names = [*ODD, *(f"class {value}" for value in range(len(ODD), 200))]
    classes = tuple(ModelClass(name, (value, 255 - value, 7)) for value, name in enumerate(names))
    write_model_spec(replace(spec, classes=classes), tmp_path / "model")
    scene = write_geotiff(tmp_path / "scene.tif", make_noise(2, 70, 90), names=("red", "nir"))
    done = run(scene, tmp_path / "model", tmp_path / "out", cluster(1))
    assert list(verify(tmp_path / "out")) == []
    result = find_result(tmp_path / "out", "scene")
    assert [label.name for label in result.classes] == names
    np.testing.assert_array_equal(drawn(done.folder), labels_of(done.folder))
    assert set(polygons_of(done.folder)["name"]) == {names[value] for value in np.unique(labels_of(done.folder))}
    with rasterio.open(done.folder / "probabilities.tif") as file:
        assert file.count == 200 and list(file.descriptions) == names
    style = ElementTree.parse(done.folder / "polygons.qml").findall(".//category")
    assert [category.get("label") for category in style] == names
    report = (done.folder / "report.html").read_text()
    assert "<script>alert" not in report and "&lt;/script&gt;" in report
    item = json.loads((done.folder / "item.json").read_text())
    assert len([name for name in item["properties"] if name.endswith("_share")]) == 200
    with rasterio.open(done.folder / "segmentation.tif") as file:
        assert file.tags()["CLASS_3"] == ODD[3]


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every file but those that say when they were written."""
    dated = {"run.json", "report.html", "item.json", "items.parquet", "collection.json"}
    undated = [path for path in out.rglob("*") if path.is_file() and path.name not in dated]
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in undated
        if path.suffix != ".gpkg" and ".run" not in path.parts  # which has the time in it, too
    }


@pytest.fixture(scope="module")
def unbroken(small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scene, and a folder in which all of its results were written without a kill."""
    folder = tmp_path_factory.mktemp("unbroken")
    scene = write_geotiff(folder / "scene.tif", make_noise(6, 40, 1100), names=BAND_NAMES)
    run_in_chunks_of_two(scene, small_model.folder, folder / "out", cluster(1))
    return scene, folder / "out"


@pytest.mark.parametrize(
    "where",
    [
        "seamline.pipeline.products.overviews:_put_into_store",
        "seamline.pipeline.products.cog:append_bytes",
        "seamline.pipeline.vectors.writers:pq.ParquetWriter.write_batch",
        "seamline.pipeline.stac.items:pq.write_table",
    ],
)
def test_a_kill_in_the_middle_of_a_file_is_not_seen_afterwards(
    where: str, unbroken: tuple[Path, Path], small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    scene, whole = unbroken
    out = tmp_path / "out"
    kill_after_call(where, run_in_chunks_of_two, scene, small_model.folder, out, cluster(1))
    expected = bytes_of(whole)
    for name, found in bytes_of(out).items():
        is_mark = name == ".running/scene"  # of a run that was killed; the next one removes it
        assert is_mark or name.endswith(".part") or found == expected.get(name), name
    before = time.time() - 2 * 86_400
    for part in out.glob(".*.part"):  # what another process may be writing is left alone for a while
        os.utime(part, (before, before))
    run_in_chunks_of_two(scene, small_model.folder, out, cluster(1))
    assert bytes_of(out) == expected
    assert list(verify(out)) == []
    assert not [path for path in out.rglob("*") if path.name.endswith((".part", ".partial")) or path.name == ".run"]
