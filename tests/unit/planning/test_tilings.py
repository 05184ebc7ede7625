"""The choice of a plan: halo and overlap follow from the network's reach, the window from time and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from seamline.flows.settings.findings import read_findings, write_cache
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.planning.memory import Raster, choose_block_cache, project_memory
from seamline.pipeline.planning.tilings import PlanOptions, Reach, enlarge_chunks, list_candidate_tilings

RASTER = Raster(3000, 2000, 6, 2, 4)


@pytest.mark.parametrize("divisor", [8, 16])
def test_plans_have_the_exact_halo_or_feather(divisor: int) -> None:
    exact = list_candidate_tilings(RASTER, PlanOptions(), Reach(divisor, 96))
    assert {(plan.halo, plan.overlap) for plan in exact} == {(96, 0)}
    feathered = list_candidate_tilings(RASTER, PlanOptions(), Reach(divisor, None))
    assert {(plan.halo, plan.overlap) for plan in feathered} == {(64, 64)}
    asked = list_candidate_tilings(RASTER, PlanOptions(halo=32, overlap=48), Reach(divisor, 96))
    assert {(plan.halo, plan.overlap) for plan in asked} == {(32, 48)}
    assert len({plan.window for plan in exact}) > 3


@pytest.mark.parametrize("halo", [0, 1, 4, 30])
def test_networks_that_need_little_context_get_no_tiny_windows(halo: int) -> None:
    """A network that looks at single pixels took windows of one pixel: no window reads more than it votes on."""
    plans = list_candidate_tilings(RASTER, PlanOptions(), Reach(1, halo))
    assert all(plan.stride > 100 for plan in plans) and len(plans) < 60
    small = list_candidate_tilings(Raster(50, 60, 6, 2, 4), PlanOptions(), Reach(1, halo))
    assert {plan.stride for plan in small} <= {25, 30, 50, 60}


def test_a_network_that_loses_its_border_wants_a_halo() -> None:
    reach = Reach(16, 112, least_halo=96)
    assert {plan.halo for plan in list_candidate_tilings(RASTER, PlanOptions(), reach)} == {112}
    assert {plan.halo for plan in list_candidate_tilings(RASTER, PlanOptions(halo=96), reach)} == {96}
    with pytest.raises(InputError, match="--halo: got 80, expected at least 96, what the network's unpadded"):
        list_candidate_tilings(RASTER, PlanOptions(halo=80), reach)


def test_a_network_of_one_size_has_one_plan() -> None:
    (plan,) = list_candidate_tilings(RASTER, PlanOptions(), Reach(32, None, window=256))
    assert (plan.window, plan.halo, plan.overlap, plan.stride) == (256, 32, 32, 160)
    with pytest.raises(InputError, match="--window: got 512, expected 256, the only one that the network takes"):
        list_candidate_tilings(RASTER, PlanOptions(window=512), Reach(32, None, window=256))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"measurement": {}}', '{"measurement": {"settings": []}}'])
def test_what_is_no_measurement_is_measured_anew(content: str, tmp_path: Path) -> None:
    path = tmp_path / "cached.json"
    path.write_text(content)
    assert read_findings(path) is None


def test_a_measurement_that_cannot_be_kept_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    write_cache(tmp_path / "file" / "cached.json", {})
    assert "cannot be kept" in caplog.text


@dataclass(frozen=True)
class Speed:
    """A network of so many pixels per second."""

    pixels_per_second: float
    process_bytes = 10**9

    def forward_bytes(self, window: int) -> int:
        return window**2

    def fits(self, window: int) -> bool:
        return True

    def seconds_for(self, window: int) -> float:
        return window**2 / self.pixels_per_second


@pytest.mark.parametrize("chunk_tiles", [1, 4])
def test_decoded_blocks_take_what_the_memory_of_a_worker_leaves(chunk_tiles: int) -> None:
    raster, tiling = Raster(10_980, 10_980, 6, 2, 3), Tiling(10_980, 10_980, 2400, 96, 0, chunk_tiles, 16)
    costs = Speed(1e6)
    least = project_memory(raster, tiling, costs)
    caches = []
    for memory in (least, *np.linspace(least, least + 2**30, 40).astype(int).tolist()):
        cache = choose_block_cache(raster, tiling, costs, memory)
        assert project_memory(raster, tiling, costs, cache) <= memory
        caches.append(cache)
    assert caches == sorted(caches) and caches[0] == 0 and caches[-1] == caches[-2] == 384 * 2**20
    one = Tiling(2000, 2000, 2400, 96, 0, 1, 16)
    assert choose_block_cache(Raster(2000, 2000, 6, 2, 3), one, costs, 2**40) == 0


def test_chunks_last_a_second_where_memory_and_workers_allow() -> None:
    """Beside trying each number of tiles."""
    edge, window = 100_000, 1024
    raster, tiling = Raster(edge, edge, 4, 2, 3), Tiling(edge, edge, window, 0, 0, 2, 16)
    for speed, memory, workers in product((2e6, 2e7, 2e8, 1e12), (2 * 10**9, 8 * 10**9, 10**12), (1, 8, 80, 5000)):
        costs = Speed(speed)

        def is_allowed(other: Tiling) -> bool:
            seconds_before = (other.chunk_tiles - 1) ** 2 * costs.seconds_for(window)  # noqa: B023
            enough = other.tile_count / other.chunk_tiles**2 >= 8 * workers  # noqa: B023
            enough |= seconds_before < 1e-3 * workers  # noqa: B023
            return seconds_before < 1 and enough and project_memory(raster, other, costs) <= memory  # noqa: B023

        possible = [replace(tiling, chunk_tiles=count) for count in range(3, 110)]
        expected = max((other.chunk_tiles for other in possible if is_allowed(other)), default=2)
        assert enlarge_chunks(tiling, raster, PlanOptions(), costs, memory, workers).chunk_tiles == expected
        assert enlarge_chunks(tiling, raster, PlanOptions(chunk_tiles=2), costs, memory, workers) == tiling
    assert enlarge_chunks(tiling, raster, PlanOptions(), Speed(2e6), 10**12, 1) == tiling
    assert (
        enlarge_chunks(tiling, raster, PlanOptions(), Speed(2e8), 10**12, 8).chunk_size == 12 * window
    )  # eight for each worker
    fast = enlarge_chunks(tiling, raster, PlanOptions(), Speed(2e8), 10**12, 80)
    assert fast.chunk_size == 4 * window  # all workers together do 954 of three windows a second
