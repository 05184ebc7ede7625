"""Every engine that runs here is measured; the fastest that agrees with torch is taken."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seamline.model.engines.engines import is_installed
from seamline.model.spec.config import EngineRequest, EngineSettings
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Measurement
from tests.support.engines import CONVERTED, make_tuner, measure_engines, skip_without
from tests.support.small_models import make_random_network, save_model


def test_every_engine_is_tried(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network())
    found = measure_engines(spec, tmp_path, EngineRequest("cpu"))
    there = {engine for engine in ("torch", *CONVERTED) if is_installed(spec.network, engine)}
    assert {trial.settings.engine for trial in found.trials} == there
    assert all(trial.is_accurate for trial in found.trials if trial.settings.precision == "fp32")
    assert found.settings in [trial.settings for trial in found.trials]
    assert Measurement.from_dict(found.to_dict()) == found


def test_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    skip_without("openvino")
    spec = save_model(tmp_path, make_random_network())
    found = measure_engines(spec, tmp_path, EngineRequest("cpu", "fp32", "openvino", batch=3, threads=1))
    assert {trial.settings for trial in found.trials} == {EngineSettings("cpu", "fp32", False, 3, 1, "openvino")}
    assert found.settings_for(1024).batch == 3


def test_an_engine_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    skip_without("onnxruntime")
    import onnxruntime

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such instruction\nat 0x7f")

    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    spec = save_model(tmp_path, make_random_network())
    found = measure_engines(spec, tmp_path, EngineRequest("cpu", "fp32"))
    assert "onnxruntime" not in {trial.settings.engine for trial in found.trials}
    assert "onnxruntime in fp32 is not tried" in caplog.text
    with pytest.raises(ModelError, match="take another --engine"):
        measure_engines(spec, tmp_path, EngineRequest("cpu", "fp32", "onnxruntime"))


def test_a_check_leaves_all_garbage_to_later_collections(tmp_path: Path) -> None:
    """It goes only through what it makes itself; afterwards nothing stays out of reach."""
    spec = save_model(tmp_path, make_random_network())
    during: list[int] = []

    def note() -> None:
        during.append(gc.get_freeze_count())

    before = gc.get_freeze_count()
    tuner = replace(make_tuner(spec, tmp_path, EngineRequest("cpu", "fp32")), reset_peak_memory=note)
    tuner.check((np.zeros((2, 128, 128), np.float32), np.ones((128, 128), bool)), 128)
    assert during and min(during) > 100_000 > before == gc.get_freeze_count()
