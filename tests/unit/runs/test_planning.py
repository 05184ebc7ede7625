"""What a plan says of a run before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seamline.flows.runs import planning
from seamline.flows.runs.planning import Plan, count_workers
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.execution.chunk_context import Reading
from seamline.pipeline.geometry.tiling import Tiling

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
    plan = Plan(unused, unused, tiling, MEASURED, 0, workers, Reading(), {})
    assert plan.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("by_torch", "by_driver", "expected"),
    [(2, ["GPU-a", "GPU-b"], 2), (1, ["MIG-a", "MIG-b", "MIG-c"], 3), (2, [], 2), (0, ["GPU-a"], 5)],
)
def test_there_is_a_process_for_each_device_that_torch_can_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_torch: int, by_driver: list[str], expected: int
) -> None:
    """Torch counts one part of a divided GPU; the driver's program may be missing, or torch be built without CUDA."""
    monkeypatch.setattr(planning, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr(planning, "list_devices", lambda: by_driver)
    monkeypatch.setattr(planning, "CORES", 5)
    monkeypatch.setattr(planning, "get_memory_limit", lambda: 2**40)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: by_torch)
    assert count_workers(SegmentOptions()) == expected
    assert count_workers(SegmentOptions(device="cpu")) == 5
    assert count_workers(SegmentOptions(workers=7)) == 7


def test_a_small_scene_needs_no_other_process() -> None:
    assert count_workers(SegmentOptions(), 4096**2) == 0 < count_workers(SegmentOptions(), 4096**2 + 1)
    assert count_workers(SegmentOptions(workers=1), 100) == 1
