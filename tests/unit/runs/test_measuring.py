"""What finding out how a model runs may cost: a check, and a measurement only where a run is long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seamline.flows.runs import measuring
from seamline.flows.runs.measuring import (
    _allow_for_growth,
    _choose_check_window,
    is_worth_measuring,
    locate_findings,
    measure,
)
from seamline.flows.settings.engine_meter import EngineMeter, describe_device
from seamline.flows.settings.findings import (
    Correction,
    Findings,
    RunCosts,
    correct_findings,
    read_findings,
    write_findings,
)
from seamline.flows.settings.folders import get_cache_folder
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineRequest, EngineSettings, Radiometry
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.planning.tilings import Reach
from tests.support.run_folders import FIXED_ENGINE

CHECK_SECONDS = 2.0
CHECKED = Measurement(EngineSettings(precision="bf16"), {512: 1e-6}, 10**8, 100.0, ())
MEASURED = Measurement(EngineSettings(engine="openvino"), {512: 9e-7, 2048: 8e-7}, 10**8, 90.0, ())


@dataclass
class FakeCluster:
    """Workers on which a check takes two seconds of a clock that nothing else moves."""

    time: float = 0.0
    checked: list[int] = field(default_factory=list)
    estimated: list[int] = field(default_factory=list)
    measured: list[tuple[tuple[int, ...], EngineSettings, float]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=lambda: ["tcp://127.0.0.1:1"])
    said: list[str] = field(default_factory=list)

    def run(
        self,
        client: object,
        limit: int | None,
        work: Callable[..., object],
        *arguments: Any,
        while_waiting: Callable[[], None] = print,
    ) -> list[object]:
        if work is describe_device:
            return ["a machine"]
        if work.__name__ == EngineMeter.estimate.__name__:
            self.estimated.append(arguments[0])
            return [replace(CHECKED, seconds={arguments[0]: 1e-6}, bytes_per_pixel=200.0)]
        name, arguments = work.__name__, arguments[1:]
        if name == EngineMeter.check.__name__:
            self.time += CHECK_SECONDS
            self.checked.append(arguments[0])
            return [Measurement(CHECKED.settings, {arguments[0]: 1e-6}, 10**8, 100.0, ())]
        assert name == EngineMeter.measure.__name__
        self.measured.append(arguments)  # type: ignore[arg-type]
        self.time += 7
        while_waiting()
        return [MEASURED]

    def measure(
        self,
        model: Model,
        seconds: float | Sequence[float],
        extent: int = 10_000,
        project: Callable[[Measurement], float] | None = None,
        **options: Any,
    ) -> Measurement:
        scene: Any = SimpleNamespace(grid=SimpleNamespace(shape=(extent, extent)))
        client: Any = None
        given, unused = SegmentOptions(**options), Radiometry((), (), ())
        meter = EngineMeter(model, unused, 96, given.engine_request, 1)
        path = locate_findings(client, meter)
        return measure(client, scene, meter, given.window, path, project or (lambda costs: seconds), self.said.append)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCluster:
    cluster = FakeCluster()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measuring, "run_on_first_host", cluster.run)
    monkeypatch.setattr(measuring, "list_first_host_workers", lambda client: cluster.addresses)
    monkeypatch.setattr(measuring, "read_sample", lambda scene, edge: edge)
    monkeypatch.setattr(measuring, "time", SimpleNamespace(monotonic=lambda: cluster.time))
    return cluster


def test_a_short_run_is_only_checked_and_only_once(cluster: FakeCluster, small_model: Model) -> None:
    for _ in range(2):
        assert cluster.measure(small_model, seconds=50, extent=512) == CHECKED
    assert cluster.checked == [512] and not cluster.measured
    assert len(cluster.said) == 1 and "checking" in cluster.said[0]


def test_a_worker_in_the_clients_process_is_checked_for_itself(cluster: FakeCluster, small_model: Model) -> None:
    """Its memory is that of the client, too."""
    for address in ("tcp://127.0.0.1:1", "inproc://127.0.0.1/1/1", "inproc://127.0.0.1/2/1"):
        cluster.addresses = [address]
        cluster.measure(small_model, seconds=50, extent=512)
    assert cluster.checked == [512, 512]


def test_a_long_run_is_measured_for_a_tenth_of_it(cluster: FakeCluster, small_model: Model) -> None:
    assert cluster.measure(small_model, seconds=300) == MEASURED
    sizes, settings, budget = cluster.measured[0]
    assert (sizes, settings) == ((512, 1024, 2048), CHECKED.settings)
    assert budget == pytest.approx(0.1 * 300 - CHECK_SECONDS)  # with the check no more than a tenth
    assert "a run of 300 s" in cluster.said[1] and "at most 28 s" in cluster.said[1]
    assert cluster.said[2:] == ["measuring: 7 of at most 28 s"]


def test_it_is_measured_again_only_for_a_much_longer_run(cluster: FakeCluster, small_model: Model) -> None:
    for seconds in (300, 300, 400, 10, 700, 700, 1000):
        cluster.measure(small_model, seconds)
    assert cluster.checked == [512]
    assert [budget for _, _, budget in cluster.measured] == pytest.approx([28, 70])


def test_plans_are_made_from_what_runs_took(cluster: FakeCluster, small_model: Model) -> None:
    """The projection, what is measured for it, and what the tiling is chosen from."""
    projected: list[float] = []

    def project(costs: Measurement) -> float:
        projected.append(costs.seconds_for(512))
        return 50.0

    first = cluster.measure(small_model, 0, extent=512, project=project)
    (path,) = get_cache_folder().glob("*.json")
    correct_findings(path, RunCosts(first.settings_for(512), 512, 1.2e-6, 10**8, 0))
    second = cluster.measure(small_model, 0, extent=512, project=project)
    assert projected[1] == pytest.approx(1.2 * projected[0]) == second.seconds_for(512)
    assert second.process_bytes > first.process_bytes
    assert cluster.checked == [512]


def test_with_everything_fixed_nothing_is_run(cluster: FakeCluster, small_model: Model) -> None:
    """However long the run. What is estimated is kept, and corrected by runs."""
    for _ in range(2):
        first = cluster.measure(small_model, seconds=1e6, window=1024, **FIXED_ENGINE)
    assert cluster.estimated == [1024] and not cluster.checked and not cluster.measured and not cluster.said
    (path,) = get_cache_folder().glob("*.json")
    correct_findings(path, RunCosts(first.settings_for(1024), 1024, None, 10**8, 0))
    second = cluster.measure(small_model, seconds=1e6, window=1024, **FIXED_ENGINE)
    assert second.process_bytes > first.process_bytes and cluster.estimated == [1024]


def test_with_something_open_it_is_found_out(cluster: FakeCluster, small_model: Model) -> None:
    cluster.measure(small_model, seconds=1e6, window=1024, **FIXED_ENGINE)
    cluster.measure(small_model, seconds=1e6, **FIXED_ENGINE)  # windows are chosen by what was run, not by an estimate
    assert cluster.checked == [512] and not cluster.measured
    cluster.measure(small_model, seconds=1e6, window=1024, **FIXED_ENGINE)
    assert cluster.estimated == [1024] and cluster.checked == [512]
    for name in ("precision", "engine", "batch", "threads"):
        open_one = {key: value for key, value in FIXED_ENGINE.items() if key != name}
        cluster.measure(small_model, seconds=1e6, window=1024, **open_one)
    assert len(cluster.measured) == 4


def test_an_estimate_that_does_not_fit_is_checked_before_it_is_refused(
    cluster: FakeCluster, small_model: Model
) -> None:
    def project(costs: Measurement) -> float:
        if costs.bytes_per_pixel > 110:
            raise InputError("memory of a worker", got=1, expected=2, fix="none")
        return 1.0

    for _ in range(2):
        found = cluster.measure(small_model, 0, project=project, window=1024, **FIXED_ENGINE)
        assert found.bytes_per_pixel == 100
    assert cluster.estimated == cluster.checked == [1024]


def test_what_is_worth_measuring_grows_with_the_budget() -> None:
    request = EngineRequest()
    worth = [is_worth_measuring(request, budget, 1.0, 6.0) for budget in range(20)]
    assert worth == sorted(worth) and worth.index(True) == 12  # twice the last budget
    assert [is_worth_measuring(request, budget, 1.0, 0.0) for budget in (-1, 3, 4)] == [False, False, True]


def test_a_fixed_window_that_seems_too_large_is_run_before_it_is_refused(
    cluster: FakeCluster, small_model: Model
) -> None:
    def project(costs: Measurement) -> float:
        if costs.bytes_per_pixel > 110:
            raise InputError("memory of a worker", got=1, expected=2, fix="none")
        return 1.0

    assert cluster.measure(small_model, 0, window=2048, project=project).bytes_per_pixel == 100
    assert cluster.checked == [512, 2048]
    with pytest.raises(InputError, match="memory of a worker"):
        cluster.measure(small_model, 0, project=project)


def test_windows_beyond_those_that_were_run_may_take_more_memory() -> None:
    assert _allow_for_growth(CHECKED, (512,)) == CHECKED
    assert _allow_for_growth(CHECKED, (512, 1024)).bytes_per_pixel == pytest.approx(130)
    assert _allow_for_growth(MEASURED, (512, 2048)) == MEASURED


def test_the_checked_window_is_the_smallest_that_says_something() -> None:
    reach = Reach(16, 96)
    for windows, halo, edge in (((512, 1024), 96, 512), ((2048,), 96, 512), ((2048,), 300, 1024), ((320,), 96, 320)):
        assert _choose_check_window(windows, halo, reach) == edge
    assert _choose_check_window((1024,), 64, Reach(32, None, window=1024)) == 1024


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    known = Findings(MEASURED, 1.5, 30.0, Correction(1.2, 1.1, 1.3))
    write_findings(tmp_path / "a.json", known)
    assert read_findings(tmp_path / "a.json") == known
