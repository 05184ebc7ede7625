"""How many threads a worker has, and how many chunks a cluster of such workers takes."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from seamline.pipeline.cluster import machine
from seamline.pipeline.cluster.workers import _count_places, choose_device_threads
from seamline.pipeline.execution.chunk_context import Reading


@pytest.mark.parametrize(("cores", "threads"), [(0, 3), (1, 3), (2, 3), (3, 4), (8, 9), (14, 15), (15, 16), (96, 16)])
def test_workers_of_devices_have_threads_for_their_cores(cores: int, threads: int) -> None:
    assert choose_device_threads(cores) == threads


@pytest.mark.parametrize(
    ("threads", "chunks_at_once", "held", "submitted"),
    [
        ([3, 3], 3, 6, 25),
        ([16, 16], 16, 32, 129),
        ([16, 16], 10, 20, 21),  # they would take six more each
        ([3, 16], 10, 13, 14),
        ([3, 10], 10, 13, 53),
        ([], 10, 0, 1),
    ],
)
def test_no_worker_is_given_what_others_could_begin(
    threads: list[int], chunks_at_once: int, held: int, submitted: int
) -> None:
    states = [SimpleNamespace(nthreads=count, status=SimpleNamespace(name="running")) for count in threads]
    scheduler: Any = SimpleNamespace(workers=dict(enumerate(states)), WORKER_SATURATION=1.1)
    assert _count_places(scheduler, chunks_at_once) == (held, submitted)


def test_the_program_prints_devices_with_the_threads_of_their_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "seamline.pipeline.cluster.devices"
    monkeypatch.setattr(machine, "CORES", 18)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.delitem(sys.modules, name)
    runpy.run_module(name, run_name="__main__")
    assert capsys.readouterr().out == "GPU-a 10\nGPU-b 10\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    runpy.run_module(name, run_name="__main__")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("chunks_at_once", "processes", "threads"), [(3, 1, 15), (3, 2, 7), (10, 1, 1), (5, 1, 5), (1, 1, 15), (16, 4, 1)]
)
def test_chunks_that_are_read_at_once_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, chunks_at_once: int, processes: int, threads: int
) -> None:
    from seamline.pipeline.execution import chunk_context

    monkeypatch.setattr(chunk_context, "CORES", 16)
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(chunk_context, "BlockCache", lambda *arguments: made.append(arguments))
    tiling: Any = SimpleNamespace(list_read_ranges=lambda: ("rows", "cols"))
    Reading(1000, processes, 1, chunks_at_once).make_cache(tiling)
    assert made == [("rows", "cols", 1000, threads)]


def test_a_process_holds_at_least_one_chunk() -> None:
    with pytest.raises(ValueError, match="chunks_at_once: got 0, expected at least 1"):
        Reading(chunks_at_once=0)
