"""Which recorded runs are taken for those that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.flows.runs.run_identity import RecordedRun, refuse_other_run
from seamline.flows.runs.scene_job import open_scene_jobs
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import OtherRunError
from seamline.pipeline.planning.tilings import Reach
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff


@pytest.mark.parametrize(
    ("had", "asks", "refused"),
    [
        ({"halo": 32}, {}, "--halo 32, with which tile borders may be seen.*give --halo 32 to take it"),
        ({"overlap": 0}, {}, "--overlap 0, with which"),
        ({"halo": 32, "overlap": 16}, {"halo": 32}, "got --overlap 16, with"),
        ({"halo": 32}, {"halo": 32}, None),
        ({}, {}, None),
    ],
)
def test_a_margin_that_was_chosen_is_not_taken_by_who_leaves_it_to_the_program(
    small_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    had: dict[str, int],
    asks: dict[str, int],
    refused: str | None,
) -> None:
    """Of a network that sees any distance, for which no halo is exact."""
    monkeypatch.setattr(Model, "reach", Reach(small_model.spec.divisor, None))
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 64, 64), names=BAND_NAMES)
    (job,) = open_scene_jobs([source], small_model, tmp_path / "out", SegmentOptions(**asks))
    plan = {"window": 512, "halo": 64, "overlap": 32, "chunk_tiles": 2, **had}
    digests = job.identity.scene_digest, job.identity.model_digest
    run = RecordedRun("finished run", *digests, plan, {}, had, ("cog", "zarr"), can_have_layers=True)
    if refused is None:
        refuse_other_run(run, job)
        return
    with pytest.raises(OtherRunError, match=refused):
        refuse_other_run(run, job)
