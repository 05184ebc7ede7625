"""Engines that a test compares, and their measurement on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seamline.model.engines.engines import is_installed
from seamline.model.engines.tune import Tuner
from seamline.model.spec.config import Engine, EngineRequest, Radiometry, UNetConfig
from seamline.model.spec.measurement import Measurement
from seamline.model.spec.spec import ModelSpec

PLAIN = Radiometry((1.0, 1.0), (0.0, 0.0), (None, None))
"""Two bands whose digital numbers are their values."""

CONVERTED: tuple[Engine, ...] = ("onnxruntime", "openvino")
"""Engines that run a graph which is made of the network."""


def skip_without(engine: Engine) -> None:
    if not is_installed(UNetConfig(1, 1), engine):
        pytest.skip(f"{engine} is not installed")


def make_tuner(spec: ModelSpec, folder: Path, request: EngineRequest) -> Tuner:
    return Tuner(spec, folder, PLAIN, 24, request, 1, lambda: None, lambda: 0)


def measure_engines(spec: ModelSpec, folder: Path, request: EngineRequest) -> Measurement:
    """Measure windows of 128 and 192 on noise."""
    pixels = np.random.default_rng(0).standard_normal((2, 192, 192)).astype(np.float32)
    return make_tuner(spec, folder, request)((pixels, np.ones((192, 192), bool)), (128, 192))
