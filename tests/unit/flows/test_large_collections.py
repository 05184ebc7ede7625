"""Collections of thousands of scenes: what is submitted at a time, and what Prefect's database has to keep."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from seamline.flows import segment_collection as module
from seamline.flows.collection.collection_run import CollectionRun
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import Discovery, SceneRef
from seamline.flows.collection.scene_sources import Glob
from seamline.flows.runs.observer import RunResult
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.tracking import artifacts
from seamline.flows.tracking.variables import MAP_URL_VARIABLE
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.common.layout import PREVIEW

COUNT = 3000


@dataclass(eq=False)
class FakeFuture:
    """What a task runner returns."""

    result: Any


class FakeRunner:
    """Runs nothing; knows which tasks were submitted and not awaited yet."""

    def __init__(self, max_workers: int) -> None:
        self.running: set[Any] = set()
        self.most = self.pictures = 0

    def __enter__(self) -> FakeRunner:
        return self

    def __exit__(self, *rest: object) -> None:
        assert not self.running

    def submit(self, task: object, parameters: dict[str, Any]) -> Any:
        name = parameters["name"]
        self.pictures += parameters["with_picture"]

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
    ledger: Any = SimpleNamespace(record_outcome=lambda scene, outcome, reason, fault: recorded.append(scene.name))
    run = CollectionRun(Glob(pattern="*"), ledger, Discovery(tuple(scenes)), tuple(scenes))
    outcomes = list(module._segment_new(run, Path("out"), "m", SegmentOptions(), 4, False))
    assert sorted(outcome.name for outcome in outcomes) == sorted(recorded) == sorted(scene.name for scene in scenes)
    assert all(outcome.reason == outcome.name for outcome in outcomes)
    assert (runners[0].most, runners[0].pictures) == (8, 100)


def test_the_report_of_a_large_collection_is_bounded() -> None:
    outcomes = [Outcome(f"s-{number}", "published") for number in range(COUNT)] + [Outcome("bad", "failed", "broken")]
    text = artifacts._format_collection_report(outcomes, 0, ["late"], "a collection")
    rows = text.splitlines()
    assert f"{COUNT} published" in rows[2] and "1 failed" in rows[2] and rows[6].startswith("| bad |")
    assert len(rows) == 6 + artifacts._MOST_ROWS + 1 and f"{COUNT + 2 - artifacts._MOST_ROWS} more" in rows[-1]
    few = artifacts._format_collection_report(outcomes[-3:], 0, [], "a collection")
    assert len(few.splitlines()) == 6 + 3 and "more" not in few


def test_the_message_of_a_failed_run_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [Outcome(f"s-{number}", "failed", "broken") for number in range(COUNT)]
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(module, "discover_task", lambda scenes, known: Discovery((), (), ()))
    monkeypatch.setattr(module, "_segment_new", lambda *arguments: iter(failed))
    monkeypatch.setattr(module, "show", lambda *arguments: None)
    with pytest.raises(RunError, match=rf"^{COUNT} of {COUNT} scenes failed: s-0: broken; ") as caught:
        module.segment_collection.fn(Glob(pattern=f"{tmp_path}/*.tif"), out=tmp_path / "out")
    text, _, table = str(caught.value).rpartition(" more in the log and in ")
    assert text.endswith(f"; {COUNT - 20}") and len(text) < 1000
    assert len(Path(table).read_text().splitlines()) == 1 + COUNT


@pytest.mark.parametrize(
    ("with_picture", "map_url", "kept"),
    [
        (True, "", "data:image/jpeg;base64,"),
        (False, "", ""),
        (False, "http://map/", "http://map/scenes/a%20b/preview.png"),
    ],
)
def test_prefect_keeps_pictures_only_where_they_are_asked_for_and_there_is_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_picture: bool, map_url: str, kept: str
) -> None:
    urls: list[str] = []
    monkeypatch.setenv(MAP_URL_VARIABLE, map_url)
    monkeypatch.setattr(artifacts, "_format_summary", lambda result: "")
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **artifact: None)
    monkeypatch.setattr(artifacts, "create_image_artifact", lambda image_url, **artifact: urls.append(image_url))
    monkeypatch.setattr(artifacts, "emit_event", lambda **event: None)
    Image.new("RGB", (2000, 1000)).save(tmp_path / PREVIEW)
    record: Any = SimpleNamespace(scene="a b", source="", model="", model_digest="", classes=())
    artifacts.create_scene_artifacts(RunResult(tmp_path, record, computed=True), with_picture)
    assert len(urls) == bool(kept) and all(url.startswith(kept) and len(url) < 5000 for url in urls)
