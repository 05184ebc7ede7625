"""How many chunks a process holds: by its threads, its memory, and what reads beside the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.planning.chunks_at_once import SECONDS_BESIDE, count_useful_chunks, fit_chunks
from seamline.pipeline.planning.memory import Raster, choose_block_cache, project_memory
from seamline.pipeline.planning.tilings import PlanOptions, enlarge_chunks
from seamline.pipeline.raster_io.block_cache import REQUEST_BYTES

EDGE = 100_000
RASTER = Raster(EDGE, EDGE, 6, 2, 4)
TILING = Tiling(EDGE, EDGE, 1024, 0, 0, 2, 16)


@dataclass(frozen=True)
class Device:
    """A network of so many pixels per second, which takes no memory of the process."""

    pixels_per_second: float
    process_bytes = 10**9

    def forward_bytes(self, window: int) -> int:
        return 0

    def fits(self, window: int) -> bool:
        return True

    def seconds_for(self, window: int) -> float:
        return window**2 / self.pixels_per_second


@pytest.mark.parametrize(
    ("pixels_per_second", "seconds_beside", "threads", "chunks"),
    [
        (2e8, SECONDS_BESIDE, 16, 14),  # one in the network, twelve cores keep up with it, one is ready
        (2e8, 48e-9, 16, 12),
        (2e8, SECONDS_BESIDE, 8, 8),
        (2e8, SECONDS_BESIDE, 1, 3),
        (1e9, SECONDS_BESIDE, 16, 16),
        (2e7, SECONDS_BESIDE, 16, 4),
        (2e6, SECONDS_BESIDE, 16, 3),
        (2e6, 10 * SECONDS_BESIDE, 16, 4),
    ],
)
def test_chunks_follow_from_rates_and_threads(
    pixels_per_second: float, seconds_beside: float, threads: int, chunks: int
) -> None:
    assert count_useful_chunks(Device(pixels_per_second), 1024, seconds_beside, threads) == chunks


@given(
    st.floats(1e5, 1e10),
    st.floats(1e-9, 1e-6),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(2**30, 2**36),
    st.sampled_from([0, 32]),
)
def test_all_bounds_hold_and_the_number_is_the_largest_within_them(
    speed: float, beside: float, threads: int, tiles: int, memory: int, overlap: int
) -> None:
    device, tiling = Device(speed), Tiling(EDGE, EDGE, 1024, 0, overlap, tiles, 16)
    useful = count_useful_chunks(device, 1024, beside, threads)
    chunks = fit_chunks(RASTER, tiling, device, memory, useful)

    def fits(count: int) -> bool:
        return project_memory(RASTER, tiling, device, chunks_at_once=count) <= memory

    assert CHUNKS_AT_ONCE <= chunks <= max(threads, CHUNKS_AT_ONCE)
    assert chunks == CHUNKS_AT_ONCE or fits(chunks)
    assert chunks == useful or not fits(chunks + 1)
    readers = beside * speed  # cores that keep up with the network
    assert useful == max(threads, CHUNKS_AT_ONCE) or 2 + readers <= useful + 1e-6
    assert useful == CHUNKS_AT_ONCE or useful < 3 + readers + 1e-6
    cache = choose_block_cache(RASTER, tiling, device, memory, chunks)
    assert not cache or project_memory(RASTER, tiling, device, cache, chunks) <= memory


@pytest.mark.parametrize("cache", [0, 10**8])
def test_each_chunk_counts_in_the_projected_memory(cache: int) -> None:
    needed = [project_memory(RASTER, TILING, Device(1e8), cache, count) for count in range(3, 17)]
    assert project_memory(RASTER, TILING, Device(1e8), cache) == needed[0]
    block = 2048**2 * (6 * 2 + 1)
    chunk = 3 * block + 3 * 2048**2 + (REQUEST_BYTES if cache else 0)
    for less, more in pairwise(needed):
        assert more - less == pytest.approx(1.3 * chunk, abs=2)


def test_more_chunks_are_smaller_ones() -> None:
    """Twelve that are read at once are a twelfth as large, within a row of tiles: the first is not read for longer."""
    for workers, memory in ((1, 10**12), (8, 10**12), (8, 20 * 10**9)):
        three = enlarge_chunks(TILING, RASTER, PlanOptions(), Device(2e8), memory, workers)
        assert three == enlarge_chunks(TILING, RASTER, PlanOptions(), Device(2e8), memory, workers, CHUNKS_AT_ONCE)
        many = enlarge_chunks(TILING, RASTER, PlanOptions(), Device(2e8), memory, workers, 14)
        expected = math.sqrt(1 / 12) * three.chunk_tiles
        assert expected - 1 <= many.chunk_tiles <= expected + 1
        assert project_memory(RASTER, many, Device(2e8), chunks_at_once=14) <= memory
    tight = project_memory(RASTER, TILING, Device(2e8), chunks_at_once=14)
    assert enlarge_chunks(TILING, RASTER, PlanOptions(), Device(2e8), tight, 8, 14) == TILING
    assert enlarge_chunks(TILING, RASTER, PlanOptions(), Device(2e8), tight, 8).chunk_tiles > 2
