"""What runs make of what was measured: the next plan is made from what the last ones took."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seamline.flows.settings import engine_meter
from seamline.flows.settings.engine_meter import describe_device
from seamline.flows.settings.findings import (
    Correction,
    Findings,
    RunCosts,
    correct_findings,
    read_findings,
    read_seconds_beside,
    write_findings,
)
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.planning.chunks_at_once import SECONDS_BESIDE

SETTINGS = EngineSettings(precision="bf16", batch=4)
MEASURED = Measurement(SETTINGS, {512: 1e-6, 1024: 8e-7}, 10**8, 100.0, ())
KNOWN = Findings(MEASURED, check_seconds=2.0, budget=30.0)
ON_A_DEVICE = replace(MEASURED, settings=replace(SETTINGS, device="cuda"), device_bytes=10**10)


def make_costs(
    seconds: float | None, window: int = 1024, known: Measurement = MEASURED, excess: int = 0, device: int = 0
) -> RunCosts:
    return RunCosts(known.settings_for(window), window, seconds, excess, device)


def test_the_next_plan_counts_with_the_seconds_of_the_run() -> None:
    corrected = KNOWN.correct(make_costs(1e-6)).corrected
    assert corrected.seconds_for(1024) == pytest.approx(1e-6 * 1024**2)
    assert corrected.seconds[512] / corrected.seconds[1024] == pytest.approx(1e-6 / 8e-7)  # their relation stays
    assert replace(corrected, seconds=MEASURED.seconds) == MEASURED
    assert KNOWN.correct(make_costs(6e-7)).corrected.seconds_for(1024) == pytest.approx(6e-7 * 1024**2)
    between = KNOWN.correct(make_costs(1e-6, window=768)).corrected
    assert between.seconds_for(768) == pytest.approx(1e-6 * 768**2)


def test_a_correction_settles_and_is_taken_back_by_the_next_run() -> None:
    known = KNOWN
    for _ in range(3):
        known = known.correct(make_costs(1e-6))
        assert known.correction.seconds == pytest.approx(1.25)
    disturbed = known.correct(make_costs(1e-4))
    assert disturbed.correction.seconds == pytest.approx(1.5 * 1.25)
    assert disturbed.correct(make_costs(1e-6)).correction.seconds == pytest.approx(1.25)


@pytest.mark.parametrize(("seconds", "factor"), [(1.0, 4.0), (1e-12, 0.25)])
def test_all_runs_together_change_it_within_limits(seconds: float, factor: float) -> None:
    known, factors = KNOWN, [1.0]
    for _ in range(8):
        known = known.correct(make_costs(seconds))
        factors.append(known.correction.seconds)
    assert factors[-1] == factor
    assert max(max(a / b, b / a) for a, b in pairwise(factors)) == pytest.approx(1.5)


def test_only_the_settings_that_were_run_are_corrected() -> None:
    other = replace(make_costs(1e-6, excess=10**8), settings=replace(SETTINGS, engine="openvino"))
    assert KNOWN.correct(other) == KNOWN
    assert KNOWN.correct(replace(make_costs(1e-6), settings=SETTINGS)) == KNOWN  # a batch for other windows


def test_what_reading_and_writing_took_is_known_for_the_next_plan(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    assert read_seconds_beside(path) == SECONDS_BESIDE
    write_findings(path, KNOWN)
    for _ in range(2):
        correct_findings(path, replace(make_costs(None), seconds_beside=2 * SECONDS_BESIDE))
    assert read_seconds_beside(path) == pytest.approx(2 * SECONDS_BESIDE)
    known = read_findings(path)
    assert known is not None and known.corrected == MEASURED  # nothing of the network
    correct_findings(path, make_costs(None))
    assert read_seconds_beside(path) == pytest.approx(2 * SECONDS_BESIDE)
    correct_findings(path, replace(make_costs(None), seconds_beside=0.0))
    assert read_seconds_beside(path) == pytest.approx(2 / 1.5 * SECONDS_BESIDE)


def test_findings_without_seconds_beside_the_network_stay_usable(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_findings(path, KNOWN)
    values = json.loads(path.read_text())
    del values["correction"]["beside"]
    path.write_text(json.dumps(values))
    assert read_findings(path) == KNOWN


def test_few_chunks_say_nothing_of_the_time() -> None:
    assert KNOWN.correct(make_costs(None)) == KNOWN


def test_memory_grows_by_what_was_lacking_and_never_shrinks() -> None:
    held = MEASURED.process_bytes + MEASURED.forward_bytes(1024)
    corrected = KNOWN.correct(make_costs(None, excess=held // 4)).corrected
    assert corrected.process_bytes + corrected.forward_bytes(1024) == pytest.approx(1.25 * held)
    assert KNOWN.correct(make_costs(None, excess=-(10**12))) == KNOWN


def test_memory_of_a_device_grows_beside_that_of_the_process() -> None:
    known = Findings(ON_A_DEVICE, 2.0)
    taken = ON_A_DEVICE.batch_bytes(1024)
    grown = known.correct(make_costs(None, known=ON_A_DEVICE, device=int(1.2 * taken))).correction
    assert grown.bytes_per_pixel == pytest.approx(1.2) and grown.process_bytes == 1
    assert known.correct(make_costs(None, known=ON_A_DEVICE, device=int(taken / 2))) == known
    lacking = known.correct(make_costs(None, known=ON_A_DEVICE, excess=ON_A_DEVICE.process_bytes // 5)).correction
    assert lacking.process_bytes == pytest.approx(1.2) and lacking.bytes_per_pixel == 1


def test_what_a_run_took_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    correct_findings(path, make_costs(1e-6))
    assert not path.exists()  # nothing was known
    write_findings(path, KNOWN)
    correct_findings(path, make_costs(1e-6))
    kept = read_findings(path)
    assert kept is not None and kept.correction.seconds == pytest.approx(1.25)
    assert replace(kept, correction=Correction()) == KNOWN
    assert [entry.name for entry in tmp_path.iterdir()] == ["known.json"]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine_meter, "CORES", 3)
    return SimpleNamespace(name=lambda text: monkeypatch.setattr(engine_meter, "read_processor_name", lambda: text))


def test_a_device_is_known_by_its_processor_and_the_cores_that_it_may_use(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the cores of its host, its name or its memory: containers come and go."""
    processor.name("Fast 9000")
    described = describe_device()
    assert "Fast 9000" in described and " 3 cores" in described
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setenv("HOSTNAME", "another")
    assert describe_device() == described
    processor.name("Slow 100")
    assert describe_device() != described


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values["correction"].update(seconds="abc"),
        lambda values: values["correction"].update(process_bytes=None),
        lambda values: values["correction"].update(seconds=float("nan")),
        lambda values: values["correction"].update(beside=0),
        lambda values: values["correction"].update(bytes_per_pixel=-1),
        lambda values: values["measurement"].update(seconds={}),
        lambda values: values["measurement"].update(seconds={"512": "fast"}),
        lambda values: values["measurement"].update(seconds={"512": float("inf")}),
        lambda values: values["measurement"].update(process_bytes=-1),
        lambda values: values["measurement"].update(bytes_per_pixel=None),
    ],
)
def test_damaged_findings_are_none(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    path = tmp_path / "findings.json"
    write_findings(path, KNOWN)
    assert read_findings(path) == KNOWN
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    assert read_findings(path) is None


def test_findings_that_are_nested_without_end_are_none(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    path.write_text("[" * 100_000)
    assert read_findings(path) is None
