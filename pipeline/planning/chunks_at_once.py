"""Choose how many chunks a worker process of a run holds at once, so that the network never waits for the cores."""

from __future__ import annotations

import math

from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.planning.memory import Costs, Raster, project_memory

SECONDS_BESIDE = 60e-9
"""Seconds of one core that a pixel of network input costs beside the network, for reading and writing, where no run has
told. 48 were measured of six bands of 16 bits (``benchmarks/README.md``, ``scaling.py``)."""


def count_useful_chunks(costs: Costs, window: int, seconds_beside: float, threads: int) -> int:
    """Return how many chunks keep a network busy that does not share the cores of its process.

    One is inferred. As many are read and written as it takes cores to keep up with the network, and one more is ready
    when the network is done with the first.

    Args:
        costs: what was measured of the network.
        window: edge of the windows in pixels.
        seconds_beside: seconds of one core for a pixel of network input, for reading and writing.
        threads: Dask threads of a worker process; each holds one chunk.

    Returns:
        Chunks for each process: at most ``threads``, at least ``CHUNKS_AT_ONCE``.
    """
    network = max(costs.seconds_for(window), 1e-12)
    useful = math.ceil(1 + seconds_beside * window**2 / network) + 1
    return max(CHUNKS_AT_ONCE, min(useful, threads))


def fit_chunks(raster: Raster, tiling: Tiling, costs: Costs, memory: int, useful: int) -> int:
    """Return how many chunks a process holds at once: as many as are useful and fit into its memory.

    Args:
        raster: the scene and what is made of it.
        tiling: the tiling of the run.
        costs: what was measured of the network.
        memory: bytes that a worker may take.
        useful: chunks that keep the network busy (``count_useful_chunks``).

    Returns:
        Chunks: at least ``CHUNKS_AT_ONCE``, for which the tiling was chosen (``check_memory``).
    """
    fitting = (
        count
        for count in range(useful, CHUNKS_AT_ONCE, -1)
        if project_memory(raster, tiling, costs, chunks_at_once=count) <= memory
    )
    return next(fitting, CHUNKS_AT_ONCE)
