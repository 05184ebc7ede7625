"""A run that nobody waits for any more: its workers stop within a window, and keep nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from distributed import Client, Worker
from numpy.typing import NDArray

from seamline.flows.runs.scene_job import open_input
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.predictor import PLUGIN_PREFIX
from seamline.pipeline.execution.run_chunks import run_chunks
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store
from tests.support.host_predictors import HostPredictor
from tests.support.processes import wait_until_idle
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SECONDS_A_WINDOW = 0.05


@dataclass(frozen=True)
class Slow(HostPredictor):
    """Loads a predictor that takes its time, and writes down each window that it was given."""

    diary: Path

    def __call__(self) -> Slow:
        return self

    def score(self, pixels: NDArray, valid: NDArray[np.bool_]) -> NDArray:
        time.sleep(SECONDS_A_WINDOW)
        with self.diary.open("a") as file:
            file.write(".")
        return np.ones((4, *pixels.shape[1:]), np.float32)


def plugins(dask_worker: Worker) -> list[str]:
    return [name for name in dask_worker.plugins if name.startswith(f"{PLUGIN_PREFIX}/")]


@pytest.fixture
def job(small_model: Model, tmp_path: Path) -> ChunkContext:
    """One chunk of 12 × 12 windows."""
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 384, 384), names=BAND_NAMES, nodata=0)
    tiling = Tiling(384, 384, 32, 0, 0, 12, 8)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory = directory.create_new_start()
    scene = open_input(source, small_model, SegmentOptions())
    create_store(directory.store, scene.grid, small_model.classes, ZarrLayout(tiling.store_chunk_size), title="slow")
    return ChunkContext(scene, tiling, 4, directory)


def test_workers_stop_when_their_client_is_gone_and_the_next_run_takes_what_it_left(
    job: ChunkContext, cluster: Callable[[int], str], tmp_path: Path
) -> None:
    diary, failures = tmp_path / "diary", []
    diary.touch()
    client = Client(cluster(2), set_as_default=False)

    def run() -> None:
        try:
            run_chunks(client, job, Slow(diary))
        except RunError as error:
            failures.append(error)

    thread = Thread(target=run)
    thread.start()
    while diary.stat().st_size < 5:
        time.sleep(0.05)
    client.close()
    thread.join(60)
    assert "what is done is kept" in str(failures[0])
    wait_until_idle(cluster(2))
    with Client(cluster(2), set_as_default=False) as other:
        assert diary.stat().st_size < 12 * 12
        assert not job.directory.read_inferred()
        left = other.run(plugins)
        assert any(client.id in name for names in left.values() for name in names)
        run_chunks(other, job, Slow(tmp_path / "second"))
        assert not any(other.run(plugins).values())
    assert (tmp_path / "second").stat().st_size == 12 * 12


def test_local_workers_print_nothing_of_a_chunk_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RunError("the chunk is bad")

    with connect("local", 1) as client:
        failed = client.submit(fail, pure=False)
        with pytest.raises(RunError, match="the chunk is bad"):
            failed.result(timeout=60)
    assert "Traceback" not in capfd.readouterr().err
