"""The promise: tiles cannot be seen, are computed once, and nothing but the plan decides the labels.

Real scenes, real Dask worker processes; the oracle is one forward of the whole mirrored scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import LAYER_SCALE, SCENE_LAYERS
from seamline.pipeline.products.zarr_store import open_store_raster
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.run_folders import FIXED_ENGINE, read_rasters
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_models import save_model
from tests.support.whole_scene import infer_whole_scene, label_scores

SCENES = {
    "Manaus": (MANAUS, {}),
    "Aquileia": ("aquileia-s2", {}),
    "Madagascar": ("madagascar-l8-2020", {}),
}


Cluster = Callable[[int], str]


def labels_in(result: RunResult) -> np.ndarray:
    with rasterio.open(result.folder / "segmentation.tif") as file:
        return file.read(1)


def run(source: Path, model: Model, out: Path, **options: object) -> RunResult:
    return segment(
        source, model.folder, out, SegmentOptions(**{"precision": "fp64", "engine": "torch", **options}), RunObserver()
    )


def scene_of(source: Path, model: Model) -> Scene:
    return open_input(source, model, SegmentOptions())


def valid_of(scene: Scene) -> np.ndarray:
    return read_block(scene, Window(0, 0, *scene.grid.shape)).valid


@pytest.fixture(scope="module")
def whole_labels(embedded_model: Model) -> Callable[[str], np.ndarray]:
    """The labels of one forward of a whole scene; computed once."""

    @cache
    def forward(name: str) -> np.ndarray:
        scene = scene_of(find_shared(SCENES[name][0]), embedded_model)
        return label_scores(infer_whole_scene(scene, embedded_model, 96, "fp32"), valid_of(scene))

    return forward


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("overlap", [0, 32])
def test_tiling_is_invisible_when_the_halo_covers_the_receptive_radius(
    name: str,
    overlap: int,
    embedded_model: Model,
    whole_labels: Callable[[str], np.ndarray],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    source = find_shared(SCENES[name][0])
    expected = whole_labels(name)
    options = {"cluster": cluster(2), "window": 512, "halo": 96, "overlap": overlap, "precision": "fp32"}
    result = run(source, embedded_model, tmp_path, **options)
    np.testing.assert_array_equal(labels_in(result), expected)
    assert len(np.unique(expected)) >= 2


def test_a_halo_one_divisor_short_can_be_seen(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = find_shared(MANAUS)
    scene = scene_of(source, small_model)
    exact = small_model.spec.exact_halo
    assert exact is not None
    oracle = label_scores(infer_whole_scene(scene, small_model, exact, "fp64"), valid_of(scene))
    short = exact - small_model.spec.divisor
    options = {"cluster": cluster(1), "chunk_tiles": 2}
    exactly = run(source, small_model, tmp_path / "a", window=128 + 2 * exact, halo=exact, **options)
    nearly = run(source, small_model, tmp_path / "b", window=128 + 2 * short, halo=short, **options)
    np.testing.assert_array_equal(labels_in(exactly), oracle)
    assert (labels_in(nearly) != oracle).any()


def test_an_area_of_interest_changes_no_label_inside(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = find_shared(MANAUS)
    left, bottom, right, top = open_input(source, small_model, SegmentOptions()).grid.extent.boundingbox.bbox
    third = (right - left) / 3
    ring = [(left + third, bottom), (right, bottom + third), (right - third, top), (left, top), (left + third, bottom)]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32620"}}
    aoi = tmp_path / "aoi.json"
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs}))
    options = {"cluster": cluster(2), "window": 128}
    everywhere = labels_in(run(source, small_model, tmp_path / "a", **options))
    result = run(source, small_model, tmp_path / "b", aoi=aoi, **options)
    within = labels_in(result)
    scene = open_input(source, small_model, SegmentOptions(aoi=aoi))
    wanted = read_block(scene, Window(0, 0, *scene.grid.shape)).label_mask
    np.testing.assert_array_equal(within, np.where(wanted, everywhere, 255))
    assert 0.2 < wanted.mean() < 0.8
    assert result.record.windows < run(source, small_model, tmp_path / "a", **options).record.windows


def test_tiles_of_an_unpadded_network_cannot_be_seen(cluster: Cluster, tmp_path: Path) -> None:
    torch.manual_seed(7)
    folder = tmp_path / "model"
    folder.mkdir()
    network = UNet(UNetConfig(6, 4, depth=3, base_width=4, norm="none", padding="valid")).eval()
    save_model(folder, network, names=[band.name for band in open_model("land-water-cloud").spec.bands])
    model = open_model(folder)
    scene = scene_of(find_shared(MANAUS), model)
    exact = model.spec.exact_halo
    assert exact is not None
    oracle = label_scores(infer_whole_scene(scene, model, exact), valid_of(scene))
    result = run(find_shared(MANAUS), model, tmp_path / "out", cluster=cluster(2), window=256, precision="fp32")
    np.testing.assert_array_equal(labels_in(result), oracle)


@pytest.mark.parametrize("overlap", [0, 32])
def test_labels_do_not_depend_on_chunk_size_or_workers(
    small_model: Model, cluster: Cluster, overlap: int, tmp_path: Path
) -> None:
    source = find_shared(MANAUS)
    found = {}
    for workers, chunk_tiles in ((1, 2), (2, 2), (2, 1), (1, 5)):
        out = tmp_path / f"{workers}-{chunk_tiles}"
        result = run(
            source,
            small_model,
            out,
            cluster=cluster(workers),
            window=192 + overlap,
            overlap=overlap,
            halo=48,
            chunk_tiles=chunk_tiles,
        )
        found[workers, chunk_tiles] = result
    first = labels_in(found[1, 2])
    for result in found.values():
        np.testing.assert_array_equal(labels_in(result), first)
        assert result.record.pixels_inferred == found[1, 2].record.pixels_inferred
    # The same plan: the same bytes, in every file of the store and in the COG.
    one, other = found[1, 2].folder, found[2, 2].folder
    assert (one / "segmentation.tif").read_bytes() == (other / "segmentation.tif").read_bytes()
    files = sorted(path.relative_to(one) for path in (one / "segmentation.zarr" / "segmentation").rglob("*"))
    assert files == sorted(
        path.relative_to(other) for path in (other / "segmentation.zarr" / "segmentation").rglob("*")
    )
    assert len(files) > 4
    for path in files:
        if (one / path).is_file():
            assert (one / path).read_bytes() == (other / path).read_bytes()


def test_a_small_scene_is_segmented_by_this_process_to_the_same_bytes(small_model: Model, tmp_path: Path) -> None:
    source, seen = find_shared(MANAUS), []
    options = {**FIXED_ENGINE, "window": 192, "halo": 48, "chunk_tiles": 2}
    observer = RunObserver(progress=lambda totals, plan: seen.append(len(psutil.Process().children(recursive=True))))
    before = len(psutil.Process().children(recursive=True))
    here = segment(source, small_model.folder, tmp_path / "here", SegmentOptions(**options), observer)
    assert seen and max(seen) == before
    there = run(source, small_model, tmp_path / "there", workers=1, **options)
    one, other = read_rasters(here.folder), read_rasters(there.folder)
    assert len(one) > 4 and one == other


def test_the_record_says_what_was_done(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = find_shared(MANAUS)
    result = run(source, small_model, tmp_path, cluster=cluster(2), window=256, halo=48, chunk_tiles=2)
    record = json.loads((result.folder / "run.json").read_text())
    assert record["plan"] == {"window": 256, "stride": 160, "halo": 48, "overlap": 0, "chunk_tiles": 2, "divisor": 8}
    assert record["pixels_scene"] == 468 * 851
    assert record["pixels_inferred"] == 3 * 6 * 256**2
    assert {"read", "infer", "blend", "write", "cog", "total"} <= set(record["seconds"])
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    started, finished = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
    assert (finished - started).total_seconds() == round(record["seconds"]["total"])  # whatever the clock was set to
    assert record["scene_digest"] != record["model_digest"]
    said = "number × 2.75e-05 -0.2 by the tags of the file"
    assert record["radiometry"] == said and said in (result.folder / "report.html").read_text()
    item = json.loads((result.folder / "item.json").read_text())
    assert item["properties"]["seamline:radiometry"] == said
    assert not (result.folder / ".run").exists()


def test_measured_memory_stays_within_the_projected(small_model: Model, tmp_path: Path) -> None:
    result = run(find_shared("aquileia-s2"), small_model, tmp_path, workers=1, chunk_tiles=2, precision="fp32")
    assert 0 < result.record.peak_memory_bytes <= result.record.projected_memory_bytes


def test_outputs_stand_on_the_scenes_grid_and_cog_equals_zarr(
    small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    source = find_shared(MANAUS)
    outputs = ("cog", "zarr", *SCENE_LAYERS)
    result = run(source, small_model, tmp_path, cluster=cluster(1), window=256, halo=48, overlap=32, outputs=outputs)
    with rasterio.open(source) as scene, rasterio.open(result.folder / "segmentation.tif") as cog:
        assert (cog.crs, cog.transform, cog.shape) == (scene.crs, scene.transform, scene.shape)
        assert (cog.dtypes, cog.nodata) == (("uint8",), 255)
        labels = cog.read(1)
    opened = xarray.open_zarr(result.folder / "segmentation.zarr", decode_coords="all")["segmentation"]
    assert opened.rio.crs == scene.crs
    assert opened.rio.transform().almost_equals(scene.transform)
    np.testing.assert_array_equal(opened.values, labels)
    layers = {}
    for name in SCENE_LAYERS:
        with rasterio.open(result.folder / f"{name}.tif") as file:
            assert (file.crs, file.transform, file.shape) == (scene.crs, scene.transform, scene.shape)
            assert set(file.nodatavals) == {255} and set(file.scales) == {LAYER_SCALE}
            assert set(file.colorinterp) <= {ColorInterp.gray, ColorInterp.undefined}
            assert cog_validate(file.name, quiet=True)[0]
            layers[name] = file.read()
        np.testing.assert_array_equal(
            open_store_raster(result.folder / "segmentation.zarr", name)[:], layers[name].squeeze()
        )
        assert ((layers[name] == 255) == (labels == 255)).all()
    labelled = labels != 255
    assert not layers["disagreement"][0][labelled].any()  # the halo covers what this network sees
    sure = labelled & (layers["confidence"][0] > 1)  # both are rounded
    np.testing.assert_array_equal(layers["probabilities"].argmax(0)[sure], labels[sure])
    assert sure.mean() > 0.1 * labelled.mean()
    assert np.abs(layers["probabilities"].sum(0, dtype=int)[labelled] - 250).max() <= 2
