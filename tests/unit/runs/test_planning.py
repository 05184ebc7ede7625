"""What a plan says of a run before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seamline.flows.runs import planning
from seamline.flows.runs.planning import Plan, _count_threads, count_workers
from seamline.flows.settings.findings import RunCosts
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineSettings
from seamline.pipeline.execution.chunk_context import Reading
from seamline.pipeline.execution.run_chunks import Totals
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index, Tiling

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
        took = {"read": 100.0, "infer": 0.75 * rate, "blend": 0.25 * rate, "write": 100.0}
        totals.add(Report(Index(0, number), {"infer": 3.0, "read": 3.0}))
        totals.add(Report(Index(1, number), {name: 10 * s for name, s in took.items()}, 1, 10, peak_memory=1200))
    assert plan.compute_costs(totals) == RunCosts(settings, 256, 1.375, 200, 5)


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


def test_a_small_scene_needs_no_other_process() -> None:
    assert count_workers(SegmentOptions(), 4096**2) == 0 < count_workers(SegmentOptions(), 4096**2 + 1)
    assert count_workers(SegmentOptions(workers=1), 100) == 1
