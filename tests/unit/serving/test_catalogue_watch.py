"""What metrics and the list of scenes look at again, and that they miss nothing."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from seamline.flows.collection.ledger import Ledger, read_entries, read_failures
from seamline.flows.collection.scene_ref import SceneRef
from seamline.flows.serving import catalogue_watch
from seamline.flows.serving.metrics import _CatalogueCollector
from seamline.flows.serving.results import ServedResults
from seamline.pipeline.common.layout import ITEM, RUN_DIRECTORY, RUNNING
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.stac import stamped_table, waiting
from seamline.pipeline.stac.catalog import list_waiting_scenes, update_catalog
from tests.support.catalogues import count_files, make_catalog, put_item


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every catalogue is large, and nothing of it is looked at in turn."""
    for module in (waiting, stamped_table):
        monkeypatch.setattr(module, "LARGE_TABLE", 1)
    monkeypatch.setattr(waiting, "_BYTES_PER_SCENE", 1)
    monkeypatch.setattr(catalogue_watch, "_SHARE", 0)


def make_old(*folders: Path) -> None:
    """Set the time of folders back, as if nothing had been changed in them for an hour."""
    for folder in folders:
        os.utime(folder, (time.time() - 3600,) * 2)


def read(collector: _CatalogueCollector) -> dict[str, float]:
    return {metric.name.removeprefix("seamline_"): metric.samples[0].value for metric in collector.collect()}


def count_by_looking(out: Path) -> tuple[int, float, int]:
    """Number of published scenes, time of the last and unfinished runs, as a look at every scene tells them."""
    times = [item.stat().st_mtime for item in out.glob(f"*/{ITEM}")]
    return len(times), max(times, default=0), len(list(out.glob(f"*/{RUN_DIRECTORY}/plan.json")))


def test_looking_again_costs_the_same_however_many_scenes_there_are(tmp_path: Path) -> None:
    costs = []
    for count in (10, 1000):
        out = make_catalog(tmp_path / str(count), count)
        ledger = Ledger(out, "m", "o")
        for number in range(count):
            ledger.record_outcome(SceneRef(f"/s-{number}", f"s-{number}", "1"), "published")
        collector, results = _CatalogueCollector(out), ServedResults.from_folder(out)
        make_old(out)
        assert read(collector)["scenes_published"] == count == len(results.summarize_scenes().scenes)
        with count_files(with_status=True) as seen:
            assert read(collector)["scenes_published"] == count
        with count_files(with_status=True) as seen_by_list:
            assert len(results.summarize_scenes().scenes) == count
        put_item(out, "new")
        update_catalog(out, "new")
        with count_files(with_status=True) as seen_after_publishing:
            assert read(collector)["scenes_published"] == count + 1
        costs.append((len(seen), len(seen_by_list), len(seen_after_publishing)))
    assert costs[0] == costs[1] and max(costs[0]) < 25


def test_every_trace_of_a_change_is_seen(tmp_path: Path) -> None:
    out = make_catalog(tmp_path / "out", 30)
    collector = _CatalogueCollector(out)

    def check() -> None:
        make_old(out)
        found = read(collector)
        assert (found["scenes_published"], found["last_published_timestamp_seconds"]) == count_by_looking(out)[:2]

    check()
    put_item(out, "new")  # waits for a row
    update_catalog(out, "new")
    check()
    put_item(out, "s-00003")  # replaced; the renewal has removed the note before anybody looks
    update_catalog(out, "s-00003")
    list_waiting_scenes(out)
    check()
    shutil.rmtree(out / "s-00004")  # withdrawn by hand
    os.utime(out)
    check()
    shutil.copytree(out / "s-00005", out / "copy")
    check()
    other = shutil.copytree(out / "s-00007", tmp_path / "other", copy_function=shutil.copyfile)
    shutil.rmtree(out / "s-00006")  # replaced by hand, under the same name; by a folder that has an inode of its own
    other.rename(out / "s-00006")
    check()
    assert count_by_looking(out)[0] == 31


def test_what_leaves_no_trace_is_seen_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_catalog(tmp_path / "out", 30)
    collector = _CatalogueCollector(out)
    make_old(out)
    assert read(collector)["scenes_published"] == 30
    (out / "s-00007" / ITEM).unlink()
    assert read(collector)["scenes_published"] == 30
    monkeypatch.setattr(catalogue_watch, "_SHARE", 10)
    assert [read(collector)["scenes_published"] for _ in range(3)][-1] == 29


def test_a_run_is_counted_from_its_plan_to_its_end(tmp_path: Path) -> None:
    """Of a scene that was published before, too; a killed one stays."""
    out = make_catalog(tmp_path / "out", 3)
    collector, directory = _CatalogueCollector(out), RunDirectory(out / "s-00001" / RUN_DIRECTORY)
    assert read(collector)["runs_unfinished"] == 0
    tiling = {"height": 64, "width": 64, "window": 32, "halo": 0, "overlap": 0, "chunk_tiles": 1, "divisor": 8}

    def begin() -> None:
        with directory.lock(), directory.announce(out):
            make_old(out)
            directory.create_new_start().write_plan({"tiling": tiling})
            assert (read(collector)["runs_unfinished"], read(collector)["chunks_queued"]) == (1, 4)

    begin()
    assert read(collector)["runs_unfinished"] == 1 and [path.name for path in (out / RUNNING).iterdir()] == ["s-00001"]
    assert read(_CatalogueCollector(out))["runs_unfinished"] == 1
    with directory.lock(), directory.announce(out):
        shutil.rmtree(directory.path)
    assert read(collector)["runs_unfinished"] == 0 and not (out / RUNNING).exists()


def test_failures_are_those_of_all_entries(tmp_path: Path) -> None:
    scenes = [SceneRef(f"/s-{number}", f"s-{number}", "1") for number in range(4)]
    ledger = Ledger(tmp_path, "m", "o")
    for scene, outcome in zip(scenes, ("failed", "published", "failed", "failed"), strict=True):
        ledger.record_outcome(scene, outcome)  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / ".collection" / "failed")  # as ledgers of earlier versions are

    def check(*names: str) -> None:
        failed = {entry.scene for entry in read_failures(tmp_path)}
        assert failed == {e.scene for e in read_entries(tmp_path) if e.outcome == "failed"} == set(names)

    check("s-0", "s-2", "s-3")
    ledger.record_outcome(scenes[2], "published")
    check("s-0", "s-3")
    ledger.record_outcome(scenes[1], "failed")
    check("s-0", "s-1", "s-3")
    with count_files() as seen:
        check("s-0", "s-1", "s-3")
    assert sum(path.endswith(".json") for path in seen) == 3 + 4


def test_a_file_that_was_found_damaged_has_every_scene_looked_at(tmp_path: Path) -> None:
    out = make_catalog(tmp_path / "out", 10)
    results = ServedResults.from_folder(out)
    make_old(out)
    assert len(results.summarize_scenes().scenes) == 10
    (out / "s-00003" / ITEM).unlink()
    assert len(results.summarize_scenes().scenes) == 10
    results.checksums.wrong_files += 1
    assert [scene["id"] for scene in results.summarize_scenes().scenes] == [f"s-{n:05}" for n in range(10) if n != 3]
