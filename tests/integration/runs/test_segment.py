"""The promise: tiles cannot be seen, are computed once, and nothing but the plan decides the labels.

Real scenes, real Dask worker processes; the oracle is one forward of the whole mirrored scene.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model, TorchLoader, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import EngineSettings, UNetConfig
from seamline.pipeline.execution.chunk_blending import write_chunk
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_inference import infer_chunk
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.taper import make_taper
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.geometry.votes import FULL_VOTE, argmax_classes, weighted_scores
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import LAYER_SCALE, LAYERS
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, open_store_raster
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.sample_data import MANAUS, shared
from tests.support.small_models import saved_model
from tests.support.small_rasters import noise, write
from tests.support.whole_scene import labels_of, whole_scene

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


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("overlap", [0, 32])
def test_tiling_is_invisible_when_the_halo_covers_the_receptive_radius(
    name: str, overlap: int, embedded_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    source = shared(SCENES[name][0])
    scene = scene_of(source, embedded_model)
    expected = labels_of(whole_scene(scene, embedded_model, 96, "fp32"), valid_of(scene))
    options = {"cluster": cluster(2), "window": 512, "halo": 96, "overlap": overlap, "precision": "fp32"}
    result = run(source, embedded_model, tmp_path, **options)
    np.testing.assert_array_equal(labels_in(result), expected)
    assert len(np.unique(expected)) >= 2


def test_a_halo_one_divisor_short_can_be_seen(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = shared(MANAUS)
    scene = scene_of(source, small_model)
    exact = small_model.spec.exact_halo
    assert exact is not None
    oracle = labels_of(whole_scene(scene, small_model, exact, "fp64"), valid_of(scene))
    short = exact - small_model.spec.divisor
    options = {"cluster": cluster(1), "chunk_tiles": 2}
    exactly = run(source, small_model, tmp_path / "a", window=128 + 2 * exact, halo=exact, **options)
    nearly = run(source, small_model, tmp_path / "b", window=128 + 2 * short, halo=short, **options)
    np.testing.assert_array_equal(labels_in(exactly), oracle)
    assert (labels_in(nearly) != oracle).any()


def test_an_area_of_interest_changes_no_label_inside(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = shared(MANAUS)
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
    saved_model(folder, network, names=[band.name for band in open_model("land-water-cloud").spec.bands])
    model = open_model(folder)
    scene = scene_of(shared(MANAUS), model)
    exact = model.spec.exact_halo
    assert exact is not None
    oracle = labels_of(whole_scene(scene, model, exact), valid_of(scene))
    result = run(shared(MANAUS), model, tmp_path / "out", cluster=cluster(2), window=256, precision="fp32")
    np.testing.assert_array_equal(labels_in(result), oracle)


@pytest.mark.parametrize("overlap", [0, 16, 64])
@pytest.mark.parametrize("chunk_tiles", [1, 3])
def test_blended_probabilities_are_those_of_the_whole_scene(
    small_model: Model, overlap: int, chunk_tiles: int, tmp_path: Path
) -> None:
    scene = scene_of(shared(MANAUS), small_model)
    halo = small_model.spec.exact_halo
    oracle = whole_scene(scene, small_model, halo)
    tiling = Tiling(*scene.grid.shape, 64 + 2 * halo + overlap, halo, overlap, chunk_tiles, small_model.spec.divisor)
    predictor = TorchLoader(small_model.folder, small_model.digest, EngineSettings(), get_radiometry(scene), halo)()
    summed = np.zeros(oracle.shape, np.int64)
    last = tiling.tile_grid
    for chunk in tiling.chunks():
        for tile in tiling.tiles_of(chunk):
            block = read_block(scene, tiling.window_of(tile))
            (scores,) = predictor.predict([block.pixels], [block.valid])
            probabilities = predictor.probabilities(scores)
            support = tiling.support_of(tile).intersection(tiling.scene_window)
            cast = weighted_scores(
                probabilities[:, : support.height, : support.width],
                make_taper(tiling.support, overlap, tile.row > 0, tile.row < last.row - 1)[: support.height],
                make_taper(tiling.support, overlap, tile.col > 0, tile.col < last.col - 1)[: support.width],
            )
            rows, cols = support.to_slices()
            summed[:, rows, cols] += cast.numpy()
    np.testing.assert_allclose(summed / FULL_VOTE, oracle, rtol=0, atol=1e-5)


def inline(work: Callable[[], object]) -> object:
    return work()


class Identity:
    """A network that names the brightest band, halo and all."""

    def __init__(self, halo: int) -> None:
        self.halo = halo
        self.windows = 0
        self.device_memory = 0

    def predict(self, pixels, valid):
        for window in pixels:
            self.windows += 1
            inner = window[:, self.halo : window.shape[1] - self.halo, self.halo : window.shape[2] - self.halo]
            total = inner.astype(np.float32).sum(0)
            yield inner.astype(np.float32) / np.where(total > 0, total, 1)

    def probabilities(self, scores):
        return scores

    def to_host(self, array):
        return array


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize("chunk_tiles", [1, 2, 5])
def test_an_identity_model_reproduces_the_image_and_every_tile_is_inferred_once(
    small_model: Model, overlap: int, chunk_tiles: int, tmp_path: Path
) -> None:
    scene = scene_of(shared("madagascar-l8-2020"), small_model)
    halo = 16
    tiling = Tiling(*scene.grid.shape, 64 + 2 * halo + overlap, halo, overlap, chunk_tiles, 8)
    (tmp_path / "run").mkdir()
    directory = RunDirectory(tmp_path / "run").with_new_start()
    job = ChunkContext(scene, tiling, 6, directory)
    create_store(
        directory.store, scene.grid, small_model.classes, ZarrLayout(tiling.store_chunk_size), title="identity"
    )
    predictor = Identity(halo)
    for chunk in reversed(list(tiling.chunks())):
        infer_chunk(job, chunk, predictor, inline)
        infer_chunk(job, chunk, predictor, inline)  # a worker that died before it could say so
    if overlap:
        for chunk in tiling.chunks():
            write_chunk(job, chunk)
    block = read_block(scene, tiling.scene_window)
    np.testing.assert_array_equal(
        open_labels(directory.store)[:], np.where(block.valid, block.pixels.argmax(0), 255).astype(np.uint8)
    )
    with_data = 0
    for chunk in tiling.chunks():
        for tile in tiling.tiles_of(chunk):
            with_data += block.valid[tiling.support_of(tile).intersection(tiling.scene_window).to_slices()].any()
    assert predictor.windows == with_data


class Quarrel:
    """A network whose windows disagree on the pixels that they share, and prefer a class by a few units of a vote."""

    device_memory = 0

    def __init__(self, support: int) -> None:
        self.support, self.windows = support, 0

    def predict(self, pixels, valid):
        for window in pixels:
            self.windows += 1
            rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(window)))
            half = rng.uniform(0.2, 0.5, (self.support, self.support))
            little = rng.integers(-64, 65, half.shape) / FULL_VOTE
            yield np.stack([half + little, half - little, 1 - 2 * half])

    def probabilities(self, scores):
        return scores

    def to_host(self, array):
        return array


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize("chunk_tiles", [1, 2, 9])
def test_every_vote_counts_once_with_its_weight_whoever_shares_a_chunk(
    small_model: Model, overlap: int, chunk_tiles: int, tmp_path: Path
) -> None:
    """Where tiles agree, a lost strip or a wrong weight changes no label; so here they do not agree."""
    pixels = noise(6, 203, 277)
    pixels[:, 60:140, 100:230] = 0  # the supports of whole tiles, and parts of bands and corners
    names = ("blue", "green", "red", "nir", "swir16", "swir22")
    scene = scene_of(write(tmp_path / "scene.tif", pixels, names=names, nodata=0), small_model)
    tiling = Tiling(203, 277, 32 + 2 * 8 + overlap, 8, overlap, chunk_tiles, 8)
    (tmp_path / "run").mkdir()
    job = ChunkContext(scene, tiling, 3, RunDirectory(tmp_path / "run").with_new_start(), layers=tuple(LAYERS))
    storage, store = ZarrLayout(tiling.store_chunk_size), job.directory.store
    create_store(store, scene.grid, small_model.classes[:3], storage, title="quarrel", layers=job.layers)
    predictor = Quarrel(tiling.support)
    for chunk in tiling.chunks():
        infer_chunk(job, chunk, predictor, inline)
    if overlap:
        for chunk in tiling.chunks():
            write_chunk(job, chunk)
    # The definition, without chunks: the votes of all tiles on the whole scene.
    valid, last = read_block(scene, tiling.scene_window).valid, tiling.tile_grid
    summed, windows, skipped = np.zeros((3, 203, 277), np.int64), predictor.windows, 0
    means, spread = np.zeros((3, 203, 277)), np.zeros((203, 277))
    for tile in (tile for chunk in tiling.chunks() for tile in tiling.tiles_of(chunk)):
        block = read_block(scene, tiling.window_of(tile))
        (scores,) = predictor.predict([block.pixels], [block.valid])
        support = tiling.support_of(tile).intersection(tiling.scene_window)
        down = make_taper(tiling.support, overlap, tile.row > 0, tile.row < last.row - 1)[: support.height]
        across = make_taper(tiling.support, overlap, tile.col > 0, tile.col < last.col - 1)[: support.width]
        scores = scores[:, : support.height, : support.width]
        summed[:, *support.to_slices()] += weighted_scores(scores, down, across)
        means[:, *support.to_slices()] += scores * np.outer(down, across)
        spread[support.to_slices()] += (scores**2).sum(0) * np.outer(down, across)
        skipped += not valid[support.to_slices()].any()
    np.testing.assert_array_equal(open_labels(store)[:], np.where(valid, argmax_classes(summed), 255))
    ordered = np.sort(means, axis=0)
    layers = {
        "probabilities": means,
        "confidence": ordered[-1] - ordered[-2],
        "disagreement": np.sqrt(np.maximum(spread - (means**2).sum(0), 0)),
    }
    assert (layers["disagreement"].max() > 0.05) == (overlap > 0)
    for name, values in layers.items():
        found = open_store_raster(store, name)[:]
        assert (found == 255)[..., ~valid].all() and not (found == 255)[..., valid].any(), name
        np.testing.assert_allclose(found[..., valid] * LAYER_SCALE, values[..., valid], atol=0.5 * LAYER_SCALE + 1e-4)
    reports = job.directory.read_inferred().values()
    assert 0 < skipped < tiling.tile_count
    assert sum(report.windows for report in reports) == windows == tiling.tile_count - skipped
    assert sum(report.pixels_inferred for report in reports) == windows * tiling.window**2


@pytest.mark.parametrize("overlap", [0, 32])
def test_labels_do_not_depend_on_chunk_size_or_workers(
    small_model: Model, cluster: Cluster, overlap: int, tmp_path: Path
) -> None:
    source = shared("aquileia-s2")
    found = {}
    for workers, chunk_tiles in ((1, 2), (2, 2), (3, 2), (2, 1), (1, 5)):
        out = tmp_path / f"{workers}-{chunk_tiles}"
        result = run(
            source, small_model, out, cluster=cluster(workers), window=256 + overlap, overlap=overlap, halo=48,
            chunk_tiles=chunk_tiles,
        )  # fmt: skip
        found[workers, chunk_tiles] = result
    first = labels_in(found[1, 2])
    for result in found.values():
        np.testing.assert_array_equal(labels_in(result), first)
        assert result.record.pixels_inferred == found[1, 2].record.pixels_inferred
    # The same plan: the same bytes, in every file of the store and in the COG.
    one, other = found[1, 2].folder, found[3, 2].folder
    assert (one / "segmentation.tif").read_bytes() == (other / "segmentation.tif").read_bytes()
    files = sorted(path.relative_to(one) for path in (one / "segmentation.zarr" / "segmentation").rglob("*"))
    assert files == sorted(
        path.relative_to(other) for path in (other / "segmentation.zarr" / "segmentation").rglob("*")
    )
    assert len(files) > 4
    for path in files:
        if (one / path).is_file():
            assert (one / path).read_bytes() == (other / path).read_bytes()


def test_the_record_says_what_was_done(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = shared(MANAUS)
    result = run(source, small_model, tmp_path, cluster=cluster(2), window=256, halo=48, chunk_tiles=2)
    record = json.loads((result.folder / "run.json").read_text())
    assert record["plan"] == {"window": 256, "stride": 160, "halo": 48, "overlap": 0, "chunk_tiles": 2, "divisor": 8}
    assert record["pixels_scene"] == 468 * 851
    assert record["pixels_inferred"] == 3 * 6 * 256**2
    assert {"read", "infer", "blend", "write", "cog", "total"} <= set(record["seconds"])
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert record["scene_digest"] != record["model_digest"]
    assert not (result.folder / ".run").exists()


def test_measured_memory_stays_within_the_projected(small_model: Model, tmp_path: Path) -> None:
    result = run(shared("aquileia-s2"), small_model, tmp_path, workers=1, chunk_tiles=2)
    assert 0 < result.record.peak_memory_bytes <= result.record.projected_memory_bytes


def test_outputs_stand_on_the_scenes_grid_and_cog_equals_zarr(
    small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    source = shared(MANAUS)
    outputs = ("cog", "zarr", *LAYERS)
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
    for name in LAYERS:
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
