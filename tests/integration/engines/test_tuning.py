"""Every engine that runs here is measured; the fastest that agrees with torch is taken."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seamline.model.engines.engines import is_installed
from seamline.model.engines.estimate import estimate_measurement
from seamline.model.spec.config import Engine, EngineRequest, EngineSettings, Precision
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory
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


@pytest.mark.parametrize(
    ("network", "engine", "precision", "batch"),
    [
        ({"base_width": 32}, "torch", "fp32", 1),
        ({"classes": 40, "base_width": 4, "depth": 2}, "torch", "fp32", 2),
        ({"base_width": 16, "upsampling": "bilinear"}, "torch", "fp32", 1),
        ({"base_width": 16, "norm": "group"}, "torch", "fp32", 1),
        ({"base_width": 8, "depth": 4}, "torch", "fp64", 1),
        ({"base_width": 16}, "openvino", "fp32", 1),
        ({"base_width": 16}, "onnxruntime", "fp32", 1),
    ],
)
def test_what_is_estimated_is_more_than_a_window_takes(
    tmp_path: Path, network: dict[str, object], engine: Engine, precision: Precision, batch: int
) -> None:
    skip_without(engine)
    spec = save_model(tmp_path, make_random_network(**network))
    request = EngineRequest("cpu", precision, engine, batch, 1)
    estimated = estimate_measurement(spec, tmp_path, request, 1, 384)
    tuner = replace(
        make_tuner(spec, tmp_path, request), halo=0, reset_peak_memory=reset_peak_memory, peak_memory=read_peak_memory
    )
    run = tuner.check((np.zeros((2, 384, 384), np.float32), np.ones((384, 384), bool)), 384)
    assert estimated.settings == run.settings and estimated.batch == run.batch == batch
    assert run.bytes_per_pixel < estimated.bytes_per_pixel
    assert run.process_bytes < estimated.process_bytes
    assert 0 < estimated.seconds_for(384) < 100 * run.seconds_for(384)
