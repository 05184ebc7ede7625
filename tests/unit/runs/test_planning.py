"""What a plan says of a run before it begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from seamline.flows.runs.planning import Plan
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
    plan = Plan(unused, unused, tiling, MEASURED, 0, workers, {})
    assert plan.seconds == pytest.approx(seconds)
