"""What a plan says of a run before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seamline.flows.runs import planning
from seamline.flows.runs.planning import (
    Plan,
    _count_threads,
    connect_workers,
    count_worker_threads,
    count_workers,
    make_plan,
)
from seamline.flows.settings.findings import Correction, Findings, RunCosts, write_findings
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.execution.chunk_context import Reading
from seamline.pipeline.execution.run_chunks import Totals
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.planning.memory import Raster, project_memory

MEASURED: Any = SimpleNamespace(seconds_for=lambda window: window / 100)


@pytest.mark.parametrize(
    ("edge", "workers", "seconds"),
    [
        (160, 1, 2.56),  # one tile
        (160, 8, 2.56),  # one chunk: the other workers have nothing to do
        (4 * 160, 1, 16 * 2.56),
        (4 * 160, 3, 16 * 2.56 / 3),
        (4 * 160, 100, 16 * 2.56 / 4),  # four chunks of four tiles
    ],
)
def test_no_more_workers_are_busy_than_there_are_chunks(edge: int, workers: int, seconds: float) -> None:
    unused: Any = None
    tiling = Tiling(edge, edge, window=256, halo=48, overlap=0, chunk_tiles=2, divisor=16)
    plan = Plan(unused, unused, tiling, MEASURED, 0, workers, Reading(), {}, Path())
    assert plan.seconds == pytest.approx(seconds)


def test_a_plan_is_printed_as_one_line() -> None:
    scene, unused = SimpleNamespace(id="delta"), object()
    tiling = Tiling(640, 640, window=256, halo=48, overlap=0, chunk_tiles=2, divisor=16)
    plan = Plan(scene, unused, tiling, MEASURED, 2**30, 2, Reading(), {}, Path())  # type: ignore[arg-type]
    assert str(plan) == (
        "<Plan of delta: window 256, halo 48, overlap 0; 16 tiles in 4 chunks for 2 workers, each of up to 1,024 MiB;"
        " about 20 s in the network>"
    )


def test_a_run_tells_what_its_typical_chunk_took() -> None:
    """The first chunk of each worker loads and compiles; one with no tile to infer says nothing."""
    unused: Any = None
    tiling = Tiling(640, 640, window=256, halo=48, overlap=0, chunk_tiles=2, divisor=16)
    settings = EngineSettings()
    measured: Any = SimpleNamespace(settings_for=lambda window: settings)
    plan = Plan(unused, unused, tiling, measured, 1000, 2, Reading(), {}, Path())
    totals = Totals(7, device_memory=5)
    rates = [9.0, 9.0, 1.0, 1.25, 1.5, 1.25]
    for number, rate in enumerate(rates):
        assert plan.compute_costs(totals).seconds_per_pixel is None
        took = {"read": 150 * rate, "infer": 0.75 * rate, "blend": 0.25 * rate, "write": 50 * rate}
        totals.add(Report(Index(0, number), {"infer": 3.0, "read": 3.0}))
        totals.add(Report(Index(1, number), {"blend": 5.0, "write": 2.0}))  # adds the votes of neighbours
        totals.add(Report(Index(1, number), {name: 10 * s for name, s in took.items()}, 1, 10, peak_memory=1200))
    assert plan.compute_costs(totals) == RunCosts(settings, 256, 1.375, 200, 5, seconds_beside=276.0)


@pytest.mark.parametrize(
    ("by_torch", "by_driver", "expected"),
    [(2, ["GPU-a", "GPU-b"], 2), (1, ["MIG-a", "MIG-b", "MIG-c"], 3), (2, [], 2), (0, ["GPU-a"], 4)],
)
def test_there_is_a_process_for_each_device_that_torch_can_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_torch: int, by_driver: list[str], expected: int
) -> None:
    """Torch counts one part of a divided GPU; the driver's program may be missing, or torch be built without CUDA."""
    monkeypatch.setattr(planning, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr(planning, "list_devices", lambda: by_driver)
    monkeypatch.setattr(planning, "CORES", 9)
    monkeypatch.setattr(planning, "get_memory_limit", lambda: 2**40)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: by_torch)
    assert count_workers(SegmentOptions()) == expected
    assert count_workers(SegmentOptions(device="cpu")) == 4
    assert count_workers(SegmentOptions(workers=7)) == 7
    threads = 9 // expected + 1 if by_torch else 3
    assert count_worker_threads(SegmentOptions(), expected) == threads
    assert count_worker_threads(SegmentOptions(device="cpu"), expected) == 3


@pytest.mark.parametrize(
    ("cores", "gibibytes", "workers", "threads"),
    [
        (1, 64, 1, 1),
        (2, 64, 1, 2),
        (3, 64, 1, 3),
        (4, 64, 2, 2),
        (7, 64, 3, 2),
        (16, 64, 8, 2),
        (64, 64, 8, 8),
        (64, 7, 2, 32),
    ],
)
def test_local_workers_have_two_cores_and_three_gibibytes_each(
    monkeypatch: pytest.MonkeyPatch, cores: int, gibibytes: int, workers: int, threads: int
) -> None:
    monkeypatch.setattr(planning, "CORES", cores)
    monkeypatch.setattr(planning, "get_memory_limit", lambda: gibibytes * 2**30)
    options = SegmentOptions(device="cpu")
    assert count_workers(options) == workers and _count_threads(options, workers) == threads


@pytest.mark.parametrize("workers", [0, 2])
def test_no_worker_is_started_for_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="--device cuda: got "):
        connect_workers(SegmentOptions(device="cuda"), workers)


def test_a_small_scene_needs_no_other_process() -> None:
    assert count_workers(SegmentOptions(), 4096**2) == 0 < count_workers(SegmentOptions(), 4096**2 + 1)
    assert count_workers(SegmentOptions(workers=1), 100) == 1


@pytest.mark.parametrize(
    ("options", "count", "threads"),
    [
        (SegmentOptions(), 2, 10),
        (SegmentOptions(), 0, 3),  # this process
        (SegmentOptions(device="cpu"), 2, 3),
        (SegmentOptions(cluster="tcp://scheduler:8786"), 2, 3),  # whoever started its workers chose
    ],
)
def test_local_workers_of_devices_are_started_with_their_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: SegmentOptions, count: int, threads: int
) -> None:
    started: list[tuple[object, ...]] = []
    monkeypatch.setattr(planning, "connect_with_credentials", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(planning, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(planning, "CORES", 18)
    connect_workers(options, count)
    assert started == [(None, options.cluster, count, threads)]


def make_worker_entry(host: str, threads: int) -> dict[str, Any]:
    return {"host": host, "nthreads": threads, "memory_limit": 40 * 2**30, "status": "running"}


@pytest.fixture
def plan_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_model: Model) -> Callable[..., Plan]:
    """Makes the plan of a scene of 100,000² for workers that are only told of."""
    known = {"a": make_worker_entry("one", 16), "b": make_worker_entry("one", 12), "c": make_worker_entry("two", 16)}
    findings = tmp_path / "findings.json"
    monkeypatch.setattr(planning, "wait_for_workers", lambda client: known)
    monkeypatch.setattr(planning, "get_worker_memory", lambda client: 30 * 2**30)
    monkeypatch.setattr(planning, "locate_findings", lambda client, meter: findings)
    monkeypatch.setattr(planning, "describe_raster", lambda *arguments: Raster(100_000, 100_000, 6, 2, 4))
    monkeypatch.setattr(planning, "get_radiometry", lambda scene: None)

    def make(measured: Measurement, unfinished: Any = None, beside: float | None = None) -> Plan:
        monkeypatch.setattr(planning, "measure", lambda *arguments: measured)
        if beside is not None:
            write_findings(findings, Findings(measured, 1.0, correction=Correction(beside=beside)))
        unused: Any = None
        return make_plan(unused, unused, small_model, SegmentOptions(window=1024), unfinished)

    return make


ON_CPU = Measurement(EngineSettings(), {1024: 5e-9}, 10**9, 10.0, ())
ON_DEVICE = Measurement(EngineSettings(device="cuda"), {1024: 5e-9}, 10**9, 10.0, (), device_bytes=10**11)


def test_a_plan_holds_more_chunks_only_beside_a_device(plan_anew: Callable[..., Plan]) -> None:
    """On a CPU the cores that would read are those of the network, however many threads its workers have."""
    plan = plan_anew(ON_CPU)
    assert plan.reading.chunks_at_once == 3
    fast = plan_anew(ON_DEVICE)
    assert fast.reading == Reading(fast.reading.block_cache, 2, 1, chunks_at_once=14)
    assert fast.tiling.chunk_tiles < plan.tiling.chunk_tiles
    raster = Raster(100_000, 100_000, 6, 2, 4)
    assert fast.projected_memory == project_memory(raster, fast.tiling, ON_DEVICE, fast.reading.block_cache, 14)
    assert fast.projected_memory <= 30 * 2**30
    assert plan_anew(replace(ON_DEVICE, seconds={1024: 5e-7})).reading.chunks_at_once == 3


def test_what_runs_took_beside_the_network_decides(plan_anew: Callable[..., Plan]) -> None:
    assert plan_anew(ON_DEVICE, beside=0.5).reading.chunks_at_once == 8
    assert plan_anew(ON_DEVICE, beside=2.0).reading.chunks_at_once == 16


def test_a_run_goes_on_with_its_tiling_and_as_many_chunks_as_fit(plan_anew: Callable[..., Plan]) -> None:
    """A plan of large chunks, made for three of them: the number is no part of it."""
    tiling = Tiling(100_000, 100_000, 1024, 0, 0, 8, 2)
    plan = plan_anew(ON_DEVICE, SimpleNamespace(tiling=tiling, measured=ON_DEVICE))
    assert plan.tiling == tiling
    raster, chunks = Raster(100_000, 100_000, 6, 2, 4), plan.reading.chunks_at_once
    needed = [project_memory(raster, tiling, ON_DEVICE, chunks_at_once=count) for count in (chunks, chunks + 1)]
    assert 3 < chunks < 14 and needed[0] <= 30 * 2**30 < needed[1]
