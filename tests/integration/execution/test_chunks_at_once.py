"""A worker process works on as many chunks at once as its run says, however many threads its worker has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.typing import NDArray

from seamline.flows.runs.scene_job import open_input
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.execution import chunk_inference, chunk_tasks
from seamline.pipeline.execution.chunk_context import ChunkContext, Reading
from seamline.pipeline.execution.run_chunks import run_chunks
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels
from tests.support.host_predictors import HostPredictor
from tests.support.processes import wait_until
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff


class Brightness(HostPredictor):
    """A predictor whose classes are quarters of the first band's values."""

    def __call__(self) -> Brightness:
        return self

    def score(self, pixels: NDArray, valid: NDArray[np.bool_]) -> NDArray:
        return np.stack([pixels[0] % 4 == number for number in range(4)]).astype(np.float32)


class Gate:
    """Counts the threads that are inside; each waits there until it is opened."""

    def __init__(self) -> None:
        self.inside, self.most, self._is_open = 0, 0, False
        self._changed = Condition()

    @contextmanager
    def pass_through(self, *, waiting: bool) -> Iterator[None]:
        with self._changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if waiting:
                self._changed.wait_for(lambda: self._is_open, timeout=300)
        yield
        with self._changed:
            self.inside -= 1

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()


@pytest.fixture
def make_job(small_model: Model, tmp_path: Path) -> Callable[[int, int], ChunkContext]:
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 160, 160), names=BAND_NAMES)
    scene = open_input(source, small_model, SegmentOptions())

    def make(chunks_at_once: int, overlap: int = 0) -> ChunkContext:
        tiling = Tiling(160, 160, 16 + overlap, 0, overlap, 1, 8)
        directory = RunDirectory(tmp_path / "run")
        directory.path.mkdir()
        directory = directory.create_new_start()
        layout = ZarrLayout(tiling.store_chunk_size)
        create_store(directory.store, scene.grid, small_model.classes, layout, title="x")
        return ChunkContext(scene, tiling, 4, directory, reading=Reading(chunks_at_once=chunks_at_once))

    return make


@contextmanager
def start_worker(threads: int) -> Iterator[tuple[Any, Client]]:
    """A worker in this process: what its scheduler knows of it, and a client."""
    kind = {"n_workers": 1, "threads_per_worker": threads, "processes": False}
    with LocalCluster(**kind, dashboard_address=None) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=300)
        (worker,) = cluster.scheduler.workers.values()
        yield worker, client


@pytest.mark.parametrize(("threads", "chunks_at_once", "held"), [(8, 5, 5), (5, 5, 5), (8, 3, 3), (2, 5, 2)])
def test_a_process_reads_exactly_so_many_chunks_at_once(
    make_job: Callable[[int], ChunkContext],
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    chunks_at_once: int,
    held: int,
) -> None:
    job, gate, read = make_job(chunks_at_once), Gate(), chunk_inference.read_block

    def read_at_gate(*arguments: Any) -> Any:
        with gate.pass_through(waiting=True):
            return read(*arguments)

    monkeypatch.setattr(chunk_inference, "read_block", read_at_gate)
    with start_worker(threads) as (worker, client):
        thread = Thread(target=run_chunks, args=(client, job, Brightness()))
        thread.start()
        try:
            wait_until(lambda: gate.inside >= held and len(worker.processing) > held)
            assert len(worker.processing) == held + 1  # Dask hands out one in advance
        finally:
            gate.open()
            thread.join(60)
    assert gate.most == held and gate.inside == 0
    labels = open_labels(job.directory.store)[:]
    assert np.array_equal(labels, make_noise(6, 160, 160)[0] % 4)


def test_chunks_that_are_written_later_count(
    make_job: Callable[[int, int], ChunkContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With overlap a chunk is blended and written in a task of its own, which holds its votes in memory."""
    job, gate = make_job(3, 8), Gate()

    def count(work: Callable[..., Any], *arguments: Any) -> Any:
        with gate.pass_through(waiting=False):
            return work(*arguments)

    for name in ("infer_chunk", "write_chunk"):
        monkeypatch.setattr(chunk_tasks, name, partial(count, getattr(chunk_tasks, name)))
    with start_worker(12) as (_, client):
        totals = run_chunks(client, job, Brightness())
    assert totals.chunks_done == totals.chunks == 100
    assert gate.most == 3
