"""A measurement stays within its budget, finds more with a larger one, and is checked against float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seamline.model.engines import candidates, tune
from seamline.model.engines.candidates import choose_default_settings, choose_plain_settings
from seamline.model.engines.timing import Budget, time_in_turns
from seamline.model.engines.tune import Tuner
from seamline.model.spec.config import EngineRequest, EngineSettings, UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Sample
from seamline.model.spec.spec import ModelSpec
from tests.support.engines import PLAIN
from tests.support.small_models import make_random_network, save_model

NETWORK = UNetConfig(2, 3)
SPEEDS = {("torch", "fp32"): 1.0, ("torch", "bf16"): 0.5, ("openvino", "bf16"): 0.2, ("openvino", "fp32"): 0.9}
"""Seconds of a window of 128² by engine and precision; the other engines and layouts take two seconds."""
LOADING = 0.25


@dataclass
class FakeMachine:
    """Engines that take a set time by a clock of their own, and label all pixels alike but some."""

    wrong: dict[str, float] = field(default_factory=dict)
    time: float = 0.0
    loaded: list[EngineSettings] = field(default_factory=list)

    def clock(self) -> float:
        return self.time

    def make_forward(self, settings: EngineSettings, sample: Sample, edge: int) -> Callable[[], Tensor]:
        self.time += LOADING
        self.loaded.append(settings)

        def forward() -> Tensor:
            speed = SPEEDS.get((settings.engine, settings.precision), 2.0)
            self.time += speed * settings.batch * (edge / 128) ** 2
            scores = torch.zeros(3, edge, edge)
            scores[1, : int(edge * self.wrong.get(settings.precision, 0))] = 1
            return scores

        return forward


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return save_model(tmp_path, make_random_network())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """A machine with all engines, a CPU with bf16, and a clock that only engines move."""
    machine = FakeMachine()
    monkeypatch.setattr(candidates, "_list_fast_precisions", lambda device: ("bf16",))
    monkeypatch.setattr(candidates, "list_engines_to_try", lambda network, device: ["torch", "onnxruntime", "openvino"])
    monkeypatch.setattr(candidates, "is_installed", lambda network, engine: True)
    monkeypatch.setattr(candidates, "check_engine", lambda network, settings: None)
    possible = {"torch": ("fp32", "bf16"), "openvino": ("fp32", "bf16")}
    monkeypatch.setattr(candidates, "list_precisions", lambda network, engine, device: possible.get(engine, ("fp32",)))
    monkeypatch.setattr(Tuner, "_make_forward", lambda self, *arguments: machine.make_forward(*arguments))
    monkeypatch.setattr(tune, "release_memory", lambda: 100)
    return machine


def make_tuner(spec: ModelSpec, machine: FakeMachine, **request: Any) -> Tuner:
    asked = EngineRequest("cpu", **request)
    return Tuner(spec, Path(), PLAIN, 24, asked, 1, lambda: None, lambda: 1100, machine.clock)


SAMPLE = np.zeros((2, 128, 128), np.float32), np.ones((128, 128), np.bool_)


def test_the_check_takes_a_precision_whose_labels_agree(spec: ModelSpec, machine: FakeMachine) -> None:
    checked = make_tuner(spec, machine).check(SAMPLE, 128)
    assert checked.settings == EngineSettings("cpu", "bf16", True, 1, 1)
    assert [trial.settings.precision for trial in checked.trials] == ["fp32", "bf16"]
    assert checked.seconds == {128: SPEEDS["torch", "bf16"] / 128**2}
    assert (checked.process_bytes, checked.bytes_per_pixel) == (100, 1000 / 128**2)
    # Every forward that is not of the default costs a run in vain: of float32 one that warms up, and one that is timed.
    assert machine.time == pytest.approx(3 * LOADING + 2 * SPEEDS["torch", "fp32"] + 4 * SPEEDS["torch", "bf16"])


@pytest.mark.parametrize(("seconds", "precision"), [(1.05, "bf16"), (1.2, "fp32")])
def test_a_precision_that_is_slower_here_is_not_taken(
    spec: ModelSpec, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, seconds: float, precision: str
) -> None:
    """Some processors have instructions for bf16 that take longer than float32."""
    monkeypatch.setitem(SPEEDS, ("torch", "bf16"), seconds)
    checked = make_tuner(spec, machine).check(SAMPLE, 128)
    assert checked.settings.precision == precision
    assert checked.seconds[128] == pytest.approx(SPEEDS["torch", precision] / 128**2)


@pytest.mark.parametrize(("share", "precision"), [(0.0, "bf16"), (0.02, "fp32")])
def test_the_check_falls_back_to_float32(spec: ModelSpec, machine: FakeMachine, share: float, precision: str) -> None:
    """The labels of one window decide, by the rule of every measurement: 99.9 % of them in each quarter."""
    machine.wrong["bf16"] = share
    checked = make_tuner(spec, machine).check(SAMPLE, 128)
    assert checked.settings == EngineSettings("cpu", precision, True, 1, 1)
    assert checked.trials[1].is_accurate == (precision == "bf16")
    assert checked.seconds == {128: SPEEDS["torch", precision] / 128**2}


def test_a_precision_that_does_not_run_is_not_taken(
    spec: ModelSpec, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Tuner, settings: EngineSettings, *arguments: Any) -> Callable[[], Tensor]:
        if settings.precision == "bf16":
            raise ModelError("the network", got="scores that are no numbers", expected="finite scores", fix="none")
        return machine.make_forward(settings, *arguments)

    monkeypatch.setattr(Tuner, "_make_forward", refuse)
    assert make_tuner(spec, machine).check(SAMPLE, 128).settings.precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fixed_precision_is_not_compared(spec: ModelSpec, machine: FakeMachine, precision: Any) -> None:
    machine.wrong["bf16"] = 1.0
    checked = make_tuner(spec, machine, precision=precision).check(SAMPLE, 128)
    assert checked.settings.precision == precision
    assert {settings.precision for settings in machine.loaded} == {precision} and len(machine.loaded) == 1


SIZES = (128, 256, 512)


def measure(spec: ModelSpec, machine: FakeMachine, seconds: float) -> tuple[set[EngineSettings], tune.Measurement]:
    machine.time, machine.loaded = 0.0, []
    tuner = make_tuner(spec, machine)
    known = choose_default_settings(spec.network, tuner.request, 1)
    measurement = tuner(SAMPLE, SIZES, known, seconds)
    return set(machine.loaded), measurement


def test_a_measurement_stays_within_its_budget(spec: ModelSpec, machine: FakeMachine) -> None:
    """What is tried without asking is the plain and the known settings, and the windows' memory."""
    least = 5 * LOADING + 8 * SPEEDS["torch", "fp32"]
    for seconds in (least, 10, 20, 30, 60, 120, 240):
        measure(spec, machine, seconds)
        assert machine.time <= seconds, seconds


def test_a_larger_budget_tries_all_that_a_smaller_one_does(spec: ModelSpec, machine: FakeMachine) -> None:
    tried = [measure(spec, machine, seconds) for seconds in (0, 5, 10, 20, 40, 80, 160, math.inf)]
    for (fewer, smaller), (more, larger) in pairwise(tried):
        assert fewer <= more
        assert set(smaller.seconds) <= set(larger.seconds)
        assert len(smaller.trials) <= len(larger.trials)
    assert tried[0][1].settings == EngineSettings("cpu", "bf16", True, 1, 1)  # nothing better was looked for
    assert tried[-1][1].settings == EngineSettings("cpu", "bf16", False, 1, 1, "openvino")
    assert set(tried[-1][1].seconds) == set(SIZES)


def test_the_most_promising_settings_are_tried_first(spec: ModelSpec, machine: FakeMachine) -> None:
    measure(spec, machine, 10)
    ways = [(settings.engine, settings.precision, settings.channels_last) for settings in machine.loaded]
    assert ways[:3] == [("torch", "fp32", False), ("torch", "bf16", True), ("openvino", "bf16", False)]


def test_known_settings_in_float32_are_not_given_up_for_plain_ones(spec: ModelSpec, machine: FakeMachine) -> None:
    machine.wrong["bf16"] = 0.5
    tuner = make_tuner(spec, machine)
    known = tuner.check(SAMPLE, 128).settings
    machine.loaded = []
    tuner(SAMPLE, SIZES, known, 0.0)
    assert machine.loaded[1] == known == EngineSettings("cpu", "fp32", True, 1, 1)


def test_rounds_end_with_the_budget() -> None:
    machine = FakeMachine()
    calls = []

    def work(seconds: float) -> None:
        calls.append(seconds)
        machine.time += seconds

    def count_rounds(budget: float) -> int:
        calls.clear()
        time_in_turns([lambda: work(0.25), lambda: work(0.5)], Budget(budget, machine.clock))
        return len(calls) // 2

    assert [count_rounds(budget) for budget in (0, 1.4, 1.5, 2.2, 2.3, 100)] == [1, 1, 2, 2, 3, 3]


def test_the_default_is_what_the_processor_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    request = EngineRequest("cpu", engine="torch")
    plain = EngineSettings("cpu", "fp32", True, 1, 2)
    monkeypatch.setattr(candidates, "list_precisions", lambda network, engine, device: ("fp32", "bf16"))
    for able, precision in (({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert choose_default_settings(NETWORK, request, 2) == replace(plain, precision=precision)
    assert choose_default_settings(NETWORK, replace(request, precision="fp32", batch=4), 2) == replace(plain, batch=4)
    monkeypatch.setattr(candidates, "list_precisions", lambda network, engine, device: ("fp32",))
    assert choose_default_settings(NETWORK, request, 2) == plain


@pytest.mark.parametrize(("capability", "precision"), [((6, 1), "fp32"), ((7, 5), "fp16"), ((9, 0), "bf16")])
def test_the_default_of_a_device_follows_its_capability(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    settings = choose_default_settings(NETWORK, EngineRequest("cuda"), 0)
    assert (settings.device, settings.precision, settings.batch, settings.engine) == ("cuda", precision, 8, "torch")


def test_a_worker_without_the_device_refuses_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for choose in (choose_default_settings, choose_plain_settings):
        with pytest.raises(ModelError, match="expected a CUDA device on every worker; take --device cpu"):
            choose(NETWORK, EngineRequest("cuda"), 0)
