"""The choice of a plan: halo and overlap follow from the network's reach, the window from time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.flows.runs.measuring import _read_findings, _write_cache
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.planning.memory import Raster
from seamline.pipeline.planning.tilings import PlanOptions, Reach, list_candidate_tilings

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
    assert _read_findings(path) is None


def test_a_measurement_that_cannot_be_kept_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    _write_cache(tmp_path / "file" / "cached.json", {})
    assert "cannot be kept" in caplog.text
