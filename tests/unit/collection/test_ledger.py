"""The ledger of a collection: entries, order and addresses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.flows.collection.ledger import Ledger, read_entries
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import SceneRef
from seamline.flows.runs.result_location import CatalogLocation
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, RECORD

SCENES = [SceneRef(f"/data/{name}.tif", name, "1") for name in "abc"]


def publish(out: Path, scene: SceneRef) -> None:
    (out / scene.name).mkdir(parents=True, exist_ok=True)
    for name in (RECORD, "segmentation.tif"):
        (out / scene.name / name).write_text("{}")
    (out / scene.name / ITEM).write_text(json.dumps({"assets": {"a": {"href": "./segmentation.tif"}}}))


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["published", "failed", "lost", "damaged", "look"]),
        st.integers(0, 1),
        st.sampled_from([("1", "m", "o"), ("1", "m", "o"), ("2", "m", "o"), ("1", "n", "o"), ("1", "m", "p")]),
    ),
    max_size=20,
)


@given(ACTIONS)
def test_a_ledger_is_what_a_dictionary_says(actions: list[tuple[str, int, tuple[str, str, str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        last: dict[str, tuple[str, tuple[str, str, str]]] = {}
        tries: dict[str, int] = {}
        results: set[str] = set()
        for action, number, known in actions:
            fingerprint, model, options = known
            scene = SceneRef(SCENES[number].source, SCENES[number].name, fingerprint)
            ledger = Ledger(out, model, options)
            if action == "lost":
                shutil.rmtree(out / scene.name, ignore_errors=True)
                results.discard(scene.name)
            elif action == "damaged":
                (out / scene.name / (ITEM, RECORD, "segmentation.tif")[len(results)]).unlink(missing_ok=True)
                results.discard(scene.name)
            elif action == "look":
                done = last.get(scene.source) == ("published", known) and scene.name in results
                assert ledger.find_new([scene], CatalogLocation(out).has_result) == ([] if done else [scene])
            else:
                again = last.get(scene.source) == ("failed", known)
                tries[scene.source] = 0 if action == "published" else tries[scene.source] + 1 if again else 1
                if action == "published":
                    publish(out, scene)
                    results.add(scene.name)
                    ledger.record_outcome(scene, "published")
                else:
                    ledger.record_outcome(scene, "failed", "no\nreason")
                last[scene.source] = action, known
                entry = ledger.read_entry(scene)
                assert entry is not None and (entry.outcome, entry.tries) == (action, tries[scene.source])
                assert "\n" not in entry.reason


def test_order_is_kept_and_unreadable_entries_are_new(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "m", "o")
    for scene in SCENES:
        publish(tmp_path, scene)
        ledger.record_outcome(scene, "published")
    assert ledger.find_new(SCENES, CatalogLocation(tmp_path).has_result) == []
    shutil.rmtree(tmp_path / "b")
    assert ledger.find_new(SCENES, CatalogLocation(tmp_path).has_result) == [SCENES[1]]
    publish(tmp_path, SCENES[1])
    first, second, _ = sorted((tmp_path / ".collection").glob("*.json"))
    first.write_text("{")
    second.write_text(json.dumps({"outcome": "published"}))
    new = ledger.find_new(SCENES, CatalogLocation(tmp_path).has_result)
    assert len(new) == 2 and new == [scene for scene in SCENES if scene in new]


def test_addresses_are_kept_without_what_gives_access(tmp_path: Path) -> None:
    """A signature is another each night, and neither it nor a password belongs into files and logs."""
    ledger = Ledger(tmp_path, "m", "o")
    publish(tmp_path, SceneRef("", "x", ""))
    for number, access in enumerate(("?Signature=a&Expires=1", "?Signature=b")):
        scene = SceneRef(f"https://me:word@host/x.tif{access}", "x", "1")
        assert len(ledger.find_new([scene], CatalogLocation(tmp_path).has_result)) == (1 - number)
        ledger.record_outcome(scene, "published", f"got HTTP 403 at {scene.source}, expected it")
    (entry,) = read_entries(tmp_path)
    assert (entry.source, entry.reason) == ("https://host/x.tif?…", "got HTTP 403 at https://host/x.tif?…, expected it")
    ledger.record_rejected("https://me:word@host/api", [])
    error = InputError(f"cannot open {scene.source}", got="HTTP 403", expected="a raster", fix="ask for access")
    assert str(error).startswith("cannot open https://host/x.tif?…: got HTTP 403, ")


def test_what_killed_processes_left_half_written_goes_after_a_day(tmp_path: Path) -> None:
    ledger, scene = Ledger(tmp_path, "m", "o"), SceneRef("/x.tif", "x", "f")
    ledger.record_outcome(scene, "published")
    (entry,) = (tmp_path / ".collection").glob("*.json")
    left = {age: entry.with_name(f".{entry.name}.{age}.part") for age in ("day", "hour")}
    for part in left.values():
        part.touch()
    os.utime(left["day"], (time.time() - 25 * 60 * 60,) * 2)
    ledger.record_outcome(scene, "published")
    assert not left["day"].exists() and left["hour"].exists()


def test_all_failures_of_a_run_are_in_a_table(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "m", "o")
    failed = [Outcome(f"s-{number}", "failed", f'broken,\n"{number}"') for number in range(1000)]
    table = ledger.record_failures("/in", [*failed, failed[0], Outcome("x", "failed", "no https://me:word@host/x")])
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["scene"] for row in rows] == [*(f"s-{number}" for number in range(1000)), "s-0", "x"]
    assert rows[7]["reason"] == 'broken, "7"' and "word" not in rows[-1]["reason"]
    other = ledger.record_failures("/elsewhere", failed)
    assert not ledger.record_failures("/in", []).exists() and other.exists()


@pytest.mark.parametrize("name", ["", "failed", "refused", "failures"])
def test_something_else_in_the_place_of_the_ledger_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / ".collection" / name if name else tmp_path / ".collection"
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(InputError, match=r"ledger .*\.collection.* got a file, expected a folder"):
        Ledger(tmp_path, "m", "o").refuse_other_files()


def test_an_entry_that_is_nested_without_end_is_none(tmp_path: Path) -> None:
    (tmp_path / ".collection").mkdir()
    (tmp_path / ".collection" / "a.json").write_text("[" * 100_000)
    assert list(read_entries(tmp_path)) == []
