"""What client and scheduler send each other for a chunk, and where chunks wait."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from distributed import Client, LocalCluster, Worker, get_worker

from seamline.flows.runs.scene_job import open_input
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.cluster import losses, plugins, workers
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.common.errors import ChunkError, RunError
from seamline.pipeline.execution import chunk_tasks
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_tasks import ChunkOrigin
from seamline.pipeline.execution.run_chunks import call_on_worker, map_on_workers, run_chunks
from seamline.pipeline.execution.run_directory import Report, RunDirectory
from seamline.pipeline.geometry.tiling import Index, Tiling
from tests.support.processes import wait_until
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

CHUNKS = 400


@pytest.fixture
def job(small_model: Model, tmp_path: Path) -> ChunkContext:
    """A run of 400 chunks."""
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 160, 160), names=BAND_NAMES, nodata=0)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    scene = open_input(source, small_model, SegmentOptions())
    return ChunkContext(scene, Tiling(160, 160, 8, 0, 0, 1, 8), 4, directory.create_new_start())


@contextmanager
def start_workers(count: int, threads: int = 1) -> Iterator[tuple[LocalCluster, Client]]:
    """Workers of this process, so that tests can look into them and into their scheduler."""
    kind = {"n_workers": count, "threads_per_worker": threads, "processes": False}
    with (
        LocalCluster(**kind, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(count, timeout=60)
        yield cluster, client


def infer_nothing(context: ChunkContext, chunk: Index, *rest: object) -> Report:
    return Report(chunk, {"infer": 0.0})


def count_traffic(client: Client, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> tuple[int, int]:
    """Return how many requests and messages a client makes while it works, and the bytes of the messages."""
    sizes, send, sync = [], client._send_to_scheduler, client.sync

    def count_message(message: dict[str, Any]) -> None:
        frames = message["expr_ser"].frames if message["op"] == "update-graph" else []
        sizes.append(sum(map(len, frames)) + len(pickle.dumps(message["op"])))
        send(message)

    def count_request(*arguments: Any, **named: Any) -> Any:
        sizes.append(0)
        return sync(*arguments, **named)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("what is known of all workers was asked for")

    with monkeypatch.context() as patch:
        patch.setattr(client, "_send_to_scheduler", count_message)
        patch.setattr(client, "sync", count_request)
        for module in (losses, workers):
            patch.setattr(module, "get_known_workers", refuse)
        for module in (plugins, chunk_tasks):  # a busy machine may take longer than it to answer
            patch.setattr(module, "WORKER_CHECK_INTERVAL", 300)
        work()
    return len(sizes), sum(sizes)


def test_traffic_grows_neither_with_the_workers_nor_with_what_the_run_holds(
    job: ChunkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and messages: at most one for each of submitting, releasing and fetching a chunk."""
    monkeypatch.setattr(chunk_tasks, "infer_chunk", infer_nothing)
    large = replace(job, scene=replace(job.scene, aoi="0 " * 500_000))
    for count in (2, 6):
        with start_workers(count) as (_, client):
            for context in (job, large):
                number, size = count_traffic(client, monkeypatch, lambda: run_chunks(client, context, dict))  # noqa: B023
                assert number < 3.5 * CHUNKS
                assert size < 500 * CHUNKS, (count, context is large)


def test_publishing_sends_no_run_with_its_chunks(job: ChunkContext, monkeypatch: pytest.MonkeyPatch) -> None:
    large = replace(job, scene=replace(job.scene, aoi="0 " * 500_000))
    chunks = list(job.tiling.chunks())
    with start_workers(2) as (_, client):
        done: list[int] = []
        _, size = count_traffic(
            client, monkeypatch, lambda: done.extend(map_on_workers(client, ChunkOrigin.of(large.scene))(sum, chunks))
        )
    assert done == [sum(chunk) for chunk in chunks]
    assert size < 2000 * CHUNKS


def test_a_call_on_a_worker_is_one_request_and_names_no_chunk(
    job: ChunkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no room")

    origin, answers = ChunkOrigin.of(job.scene), list[object]()
    with start_workers(2) as (_, client):
        call = call_on_worker(client, origin)
        number, _ = count_traffic(client, monkeypatch, lambda: answers.append(call(get_worker)))
        with pytest.raises(ChunkError) as failure:
            call(fail)
    assert isinstance(answers[0], Worker)
    assert number <= 3  # the call, its result, and that nobody wants it any more
    assert str(failure.value) == f"scene scene of {job.scene.source}: OSError: no room"


@pytest.mark.parametrize("threads", [CHUNKS_AT_ONCE, 4 * CHUNKS_AT_ONCE])
def test_what_waits_is_known_to_the_scheduler_and_held_by_no_worker(
    job: ChunkContext, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """An adaptive cluster sees work for more workers; one that joins has work at once; a run that ends leaves none."""
    opened, ends = Event(), []

    def wait(context: ChunkContext, chunk: Index, *rest: object) -> Report:
        opened.wait(60)
        return Report(chunk, {})

    def run(client: Client) -> None:
        try:
            run_chunks(client, job, dict)
        except RunError as error:
            ends.append(error)

    monkeypatch.setattr(chunk_tasks, "infer_chunk", wait)
    with start_workers(1, threads) as (cluster, client):
        scheduler = cluster.scheduler
        runner = Client(cluster.scheduler_address, set_as_default=False)
        thread = Thread(target=run, args=(runner,))
        thread.start()
        (worker,) = scheduler.workers.values()
        wait_until(lambda: len(worker.processing) >= CHUNKS_AT_ONCE + 1)
        time.sleep(0.3)
        assert len(worker.processing) == CHUNKS_AT_ONCE + 1
        if threads == CHUNKS_AT_ONCE:
            assert scheduler.adaptive_target("1s") > 1  # Dask takes a chunk that it does not know for half a second
            cluster.scale(2)
            client.wait_for_workers(2, timeout=60)
            other = next(state for state in scheduler.workers.values() if state is not worker)
            wait_until(lambda: len(other.processing) == CHUNKS_AT_ONCE + 1)
        runner.close()
        thread.join(30)
        opened.set()
        wait_until(lambda: not scheduler.tasks)
    assert ends
