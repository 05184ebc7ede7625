"""Collections of thousands of scenes: what is submitted at a time, and what Prefect's database has to keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seamline.flows import segment_collection as module
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import SceneRef
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.tracking import artifacts
from seamline.pipeline.common.errors import RunError

COUNT = 3000


@dataclass(eq=False)
class FakeFuture:
    """What a task runner returns."""

    result: Any


class FakeRunner:
    """Runs nothing; knows which tasks were submitted and not awaited yet."""

    def __init__(self, max_workers: int) -> None:
        self.running: set[Any] = set()
        self.most = 0

    def __enter__(self) -> FakeRunner:
        return self

    def __exit__(self, *rest: object) -> None:
        assert not self.running

    def submit(self, task: object, parameters: dict[str, Any]) -> Any:
        name = parameters["name"]

        def result(raise_on_failure: bool) -> RunError:
            self.running.remove(future)
            return RunError(name)

        future = FakeFuture(result)
        self.running.add(future)
        self.most = max(self.most, len(self.running))
        return future


def test_a_few_scenes_are_submitted_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    runners: list[FakeRunner] = []

    def make_runner(max_workers: int) -> FakeRunner:
        runners.append(FakeRunner(max_workers))
        return runners[-1]

    def take_last(futures: list[Any]) -> Iterator[Any]:
        yield futures[-1]

    session = SimpleNamespace(get_client=None)
    monkeypatch.setattr(module, "ThreadPoolTaskRunner", make_runner)
    monkeypatch.setattr(module, "ClusterSession", lambda options: nullcontext(session))
    monkeypatch.setattr(module, "connect_task", lambda client: None)
    monkeypatch.setattr(module, "as_completed", take_last)
    scenes = [SceneRef(f"s-{number}", f"/s-{number}", "1") for number in range(COUNT)]
    recorded: list[str] = []
    ledger: Any = SimpleNamespace(record_outcome=lambda scene, outcome, reason: recorded.append(scene.name))
    outcomes = list(module._segment_new(scenes, ledger, Path("out"), "m", SegmentOptions(), 4, False, None))
    assert sorted(outcome.name for outcome in outcomes) == sorted(recorded) == sorted(scene.name for scene in scenes)
    assert all(outcome.reason == outcome.name for outcome in outcomes)
    assert runners[0].most == 8


def test_the_report_of_a_large_collection_is_bounded() -> None:
    outcomes = [Outcome(f"s-{number}", "published") for number in range(COUNT)] + [Outcome("bad", "failed", "broken")]
    text = artifacts._format_collection_report(outcomes, 0, ["late"], "a collection")
    rows = text.splitlines()
    assert f"{COUNT} published" in rows[2] and "1 failed" in rows[2] and rows[6].startswith("| bad |")
    assert len(rows) == 6 + artifacts._MOST_ROWS + 1 and f"{COUNT + 2 - artifacts._MOST_ROWS} more" in rows[-1]
    few = artifacts._format_collection_report(outcomes[-3:], 0, [], "a collection")
    assert len(few.splitlines()) == 6 + 3 and "more" not in few
