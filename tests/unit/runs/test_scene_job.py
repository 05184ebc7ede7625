"""What is known of a scene before its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.flows.runs.scene_job import open_scene_jobs
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.scene import Scene
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff


def test_the_digest_is_computed_once_from_when_it_is_started(
    small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 100, 100), names=BAND_NAMES, nodata=0)
    (job,) = open_scene_jobs([source], small_model, tmp_path / "out", SegmentOptions())
    expected, calls = job.scene.compute_digest(), list[str]()

    def compute(scene: Scene) -> str:
        calls.append(scene.id)
        return expected

    monkeypatch.setattr(Scene, "compute_digest", compute)
    assert not calls
    job.digest.begin()
    assert job.identity.scene_digest == job.identity.scene_digest == expected
    again = job.with_overwrite()
    assert again.options.overwrite and again.identity == job.identity and calls == ["scene"]


def test_a_failure_to_read_the_scene_reaches_whoever_needs_its_digest(small_model: Model, tmp_path: Path) -> None:
    source = write_geotiff(tmp_path / "scene.tif", make_noise(6, 100, 100), names=BAND_NAMES, nodata=0)
    (job,) = open_scene_jobs([source], small_model, tmp_path / "out", SegmentOptions())
    source.unlink()
    job.digest.begin()
    with pytest.raises((OSError, InputError)):
        _ = job.identity
