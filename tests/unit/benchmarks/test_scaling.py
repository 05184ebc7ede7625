"""What the prediction for large clusters says of runs that can be counted by hand."""

from __future__ import annotations

import pytest

from benchmarks.scaling import Cluster
from seamline.pipeline.geometry.tiling import Tiling

TILING = Tiling(4000, 4000, 1000, 0, 0, 1, 2)
"""Sixteen chunks of a million pixels: a second each in a network of 1 Mpx/s."""


@pytest.mark.parametrize(
    ("count", "cores", "chunks_at_once", "beside", "per_chunk", "seconds"),
    [
        (1, 0, 3, 0.5, 0.0, 24.0),  # one core does both
        (16, 0, 3, 0.5, 0.0, 1.5),
        (1, 1, 3, 0.5, 0.0, 16.5),  # the network waits for the first
        (1, 1, 3, 2.0, 0.0, 33.0),  # the core is the slower
        (1, 4, 6, 2.0, 0.0, 18.0),
        (1, 4, 3, 4.0, 0.0, 30.0),  # three places, each free again after five seconds: the last begins after 25
        (1, 4, 4, 0.0, 1.5, 23.5),  # client and scheduler are the slowest
    ],
)
def test_a_run_takes_what_can_be_counted(
    count: int, cores: int, chunks_at_once: int, beside: float, per_chunk: float, seconds: float
) -> None:
    cluster = Cluster("x", count, 1e6, cores, 2**35)
    assert cluster.simulate_run(TILING, chunks_at_once, beside * 1e-6, per_chunk) == pytest.approx(seconds)


@pytest.mark.parametrize(("speed", "cores", "held"), [(2e8, 16, 12), (2e8, 3, 5), (2e6, 16, 3), (2e8, 0, 3)])
def test_plans_hold_what_runs_would(speed: float, cores: int, held: int) -> None:
    _, chunks = Cluster("x", 8, speed, cores, 2**35).plan_chunks(100_000, 48e-9)
    assert chunks == held
