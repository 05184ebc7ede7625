"""The choice of a plan: halo and overlap follow from the network's reach, the window from time and memory."""

from __future__ import annotations

import pytest

from pipeline.planning import PlanOptions, Raster, candidates

RASTER = Raster(3000, 2000, 6, 2, 4)


@pytest.mark.parametrize("divisor", [8, 16])
def test_plans_have_the_exact_halo_or_feather(divisor: int) -> None:
    exact = candidates(RASTER, PlanOptions(), divisor, 96)
    assert {(plan.halo, plan.overlap) for plan in exact} == {(96, 0)}
    feathered = candidates(RASTER, PlanOptions(), divisor, None)
    assert {(plan.halo, plan.overlap) for plan in feathered} == {(64, 64)}
    asked = candidates(RASTER, PlanOptions(halo=32, overlap=48), divisor, 96)
    assert {(plan.halo, plan.overlap) for plan in asked} == {(32, 48)}
    assert len({plan.window for plan in exact}) > 3
