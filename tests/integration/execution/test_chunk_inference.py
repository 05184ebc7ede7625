"""Chunks of tiles on this thread: every tile is inferred once, and every vote counts once with its weight."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model, RuntimeLoader, get_radiometry
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineSettings
from seamline.pipeline.execution.chunk_blending import write_chunk
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_inference import infer_chunk
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.taper import make_taper
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.geometry.votes import FULL_VOTE, argmax_classes, weighted_scores
from seamline.pipeline.products.layers import LAYER_SCALE, SCENE_LAYERS
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, open_store_raster
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.host_predictors import HostPredictor
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff
from tests.support.whole_scene import infer_whole_scene


def run(source: Path, model: Model, out: Path, **options: object) -> RunResult:
    return segment(
        source, model.folder, out, SegmentOptions(**{"precision": "fp64", "engine": "torch", **options}), RunObserver()
    )


def scene_of(source: Path, model: Model) -> Scene:
    return open_input(source, model, SegmentOptions())


@pytest.mark.parametrize("overlap", [0, 16, 64])
@pytest.mark.parametrize("chunk_tiles", [1, 3])
def test_blended_probabilities_are_those_of_the_whole_scene(
    small_model: Model, overlap: int, chunk_tiles: int, tmp_path: Path
) -> None:
    scene = scene_of(find_shared(MANAUS), small_model)
    halo = small_model.spec.exact_halo
    oracle = infer_whole_scene(scene, small_model, halo)
    tiling = Tiling(*scene.grid.shape, 64 + 2 * halo + overlap, halo, overlap, chunk_tiles, small_model.spec.divisor)
    predictor = RuntimeLoader(small_model.folder, small_model.digest, EngineSettings(), get_radiometry(scene), halo)()
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


class Identity(HostPredictor):
    """A network that names the brightest band, halo and all."""

    def __init__(self, halo: int) -> None:
        self.halo = halo
        self.windows = 0

    def score(self, pixels: NDArray, valid: NDArray[np.bool_]) -> NDArray:
        self.windows += 1
        inner = pixels[:, self.halo : pixels.shape[1] - self.halo, self.halo : pixels.shape[2] - self.halo]
        total = inner.astype(np.float32).sum(0)
        return inner.astype(np.float32) / np.where(total > 0, total, 1)


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize("chunk_tiles", [1, 2, 5])
def test_an_identity_model_reproduces_the_image_and_every_tile_is_inferred_once(
    small_model: Model, overlap: int, chunk_tiles: int, tmp_path: Path
) -> None:
    scene = scene_of(find_shared("madagascar-l8-2020"), small_model)
    halo = 16
    tiling = Tiling(*scene.grid.shape, 64 + 2 * halo + overlap, halo, overlap, chunk_tiles, 8)
    (tmp_path / "run").mkdir()
    directory = RunDirectory(tmp_path / "run").create_new_start()
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


class Quarrel(HostPredictor):
    """A network whose windows disagree on the pixels that they share, and prefer a class by a few units of a vote."""

    def __init__(self, support: int) -> None:
        self.support, self.windows = support, 0

    def score(self, pixels: NDArray, valid: NDArray[np.bool_]) -> NDArray:
        self.windows += 1
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(pixels)))
        half = rng.uniform(0.2, 0.5, (self.support, self.support))
        little = rng.integers(-64, 65, half.shape) / FULL_VOTE
        return np.stack([half + little, half - little, 1 - 2 * half])


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize("chunk_tiles", [1, 2, 9])
def test_every_vote_counts_once_with_its_weight_whoever_shares_a_chunk(
    small_model: Model, overlap: int, chunk_tiles: int, tmp_path: Path
) -> None:
    """Where tiles agree, a lost strip or a wrong weight changes no label; so here they do not agree."""
    pixels = make_noise(6, 203, 277)
    pixels[:, 60:140, 100:230] = 0  # the supports of whole tiles, and parts of bands and corners
    scene = scene_of(write_geotiff(tmp_path / "scene.tif", pixels, names=BAND_NAMES, nodata=0), small_model)
    tiling = Tiling(203, 277, 32 + 2 * 8 + overlap, 8, overlap, chunk_tiles, 8)
    (tmp_path / "run").mkdir()
    job = ChunkContext(scene, tiling, 3, RunDirectory(tmp_path / "run").create_new_start(), layers=SCENE_LAYERS)
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
        scores = predictor.score(block.pixels, block.valid)
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
