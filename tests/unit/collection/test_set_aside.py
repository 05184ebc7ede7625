"""What cannot be used of an inbox fails once, and is tried again when there is a reason to."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from seamline.flows.collection import inbox as inbox_module
from seamline.flows.collection.collection_run import CollectionRun
from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_sources import Glob, Inbox, SceneSource
from seamline.pipeline.common.errors import BadBlockError, InputError, OtherRunError, RunError, UnusableSceneError
from seamline.pipeline.common.extras import MissingExtraError
from tests.support.small_sources import write_band, write_item_file

WRONG = {"got": "a", "expected": "b", "fix": "c"}
ERRORS = {
    UnusableSceneError("scene", **WRONG): "set aside",
    BadBlockError("a block cannot be read"): "set aside",
    OtherRunError("result", **WRONG): "set aside",
    InputError("--cluster", **WRONG): "failed",
    RunError("the cluster is gone"): "failed",
    MissingExtraError("s3", **WRONG): "failed",
    OSError("no space left"): "failed",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def look(source: SceneSource, error: BaseException | None = None, results: bool = True, **others: str) -> list[str]:
    """Return how each source of a run ends where all that are tried end alike, and write down what the run does."""
    options = {"model": "m", "options": "o"} | others
    run = CollectionRun.begin(
        source, Ledger(Path(source.get_location()).parent / "out", **options), lambda name: results
    )
    outcomes = run.list_refused()
    for scene in run.new:
        outcome = Outcome(scene.name, "published") if error is None else Outcome.from_error(scene.name, error)
        run.record(scene, outcome)
        outcomes.append(outcome)
    states = [outcome.state for outcome in outcomes]
    if "failed" in states:
        with pytest.raises(RunError):
            run.finish(outcomes)
    else:
        assert run.finish(outcomes) == {"known": run.known, "waiting": []} | Counter(states)
    return states


def test_what_is_set_aside_is_not_opened_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is, if it changes, if other places are allowed, and if it is to be retried."""
    (folder / "broken.tif").write_bytes(b"II*\0" + b"\xff" * 20)
    (folder / "folder").mkdir()
    (folder / "folder" / "broken.tif").write_bytes(b"II*\0" + b"\xff" * 20)
    opened: list[str] = []
    inspect = inbox_module._inspect
    monkeypatch.setattr(inbox_module, "_inspect", lambda path: (opened.append(path.name), inspect(path))[1])
    source = Inbox(folder=folder, settle=0)

    def tried(source: Inbox, retry: bool = False) -> list[str]:
        opened.clear()
        ledger = Ledger(folder.parent / "out", "m", "o")
        run = CollectionRun.begin(source, ledger, lambda name: True, retry=retry)
        assert len(run.discovery.rejected) == 2
        assert all("cannot open" in outcome.reason for outcome in run.list_refused())
        return sorted(opened)

    both = ["broken.tif", "folder"]
    assert tried(source) == both
    assert tried(source) == tried(source) == []
    os.utime(folder / "broken.tif", ns=(1, 1))
    assert tried(source) == ["broken.tif"] and tried(source) == []
    allowing = Inbox(folder=folder, settle=0, allow=("/data",))
    assert tried(allowing) == both and tried(allowing) == []
    assert tried(allowing, retry=True) == both


def test_gdals_messages_name_no_descriptors(folder: Path) -> None:
    """What lies in an inbox is opened by a descriptor, whose number GDAL takes for the name of the file."""
    (folder / "broken.tif").write_bytes(b"II*\0" + (10_000).to_bytes(4, "little") + bytes(100))
    source = Inbox(folder=folder, settle=0)
    run = CollectionRun.begin(source, Ledger(folder.parent / "out", "m", "o"), lambda name: True)
    (outcome,) = run.list_refused()
    assert "got TIFFReadDirectory:Failed to read directory" in outcome.reason


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_only_what_would_fail_again_is_set_aside(folder: Path, error: BaseException) -> None:
    scene, inbox = write_band(folder / "a.tif"), Inbox(folder=folder, settle=0)
    assert look(inbox, error) == ["failed"]
    assert look(inbox, error) == [ERRORS[error]]
    assert look(inbox, error, model="n") == ["failed"]
    assert look(inbox, error, model="n", options="p") == ["failed"]
    assert look(inbox, error) == ["failed"]
    os.utime(scene, ns=(1, 1))
    assert look(inbox, error) == ["failed"]


def test_a_result_in_the_way_counts_as_long_as_it_is_there(folder: Path) -> None:
    write_band(folder / "a.tif")
    inbox, error = Inbox(folder=folder, settle=0), OtherRunError("result", **WRONG)
    assert [look(inbox, error), look(inbox, error), look(inbox, results=False)] == [
        ["failed"],
        ["set aside"],
        ["published"],
    ]


def test_other_collections_fail_each_time(folder: Path) -> None:
    write_band(folder / "a.tif")
    (folder / "text.tif").write_text("no raster")
    pattern = Glob(pattern=f"{folder}/*.tif")
    options = {"model": "m", "options": "o"}
    for _ in range(2):
        run = CollectionRun.begin(pattern, Ledger(folder.parent / "out", **options), lambda name: True)
        assert [outcome.state for outcome in run.list_refused()] == ["failed"] and len(run.new) == 1
        run.record(run.new[0], Outcome.from_error("a", UnusableSceneError("scene", **WRONG)))


def rewrite(folder: Path) -> None:
    (folder / "a.tif").write_text("nor this")


def remove_sidecar(folder: Path) -> None:
    (folder / "good.tif.msk").unlink()


def put_text(folder: Path) -> None:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("no raster")


def change_text(folder: Path) -> None:
    (folder / "texts" / "a.txt").write_text("nor is this")


def fill(folder: Path) -> None:
    write_band(folder / "empty" / "red.tif")


def link_inside(folder: Path) -> None:
    (folder / "link.tif").unlink()
    (folder / "link.tif").symlink_to(write_band(folder / "deep" / "b.tif"))


MENDED: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "no raster": (lambda folder: (folder / "a.tif").write_text("no raster"), rewrite),
    "a mask": (lambda folder: shutil.copy(write_band(folder / "good.tif"), folder / "good.tif.msk"), remove_sidecar),
    "an empty folder": (lambda folder: (folder / "empty").mkdir(), fill),
    "a folder of texts": (put_text, change_text),
    "a link to elsewhere": (lambda folder: (folder / "link.tif").symlink_to("/proc/version"), link_inside),
}


STILL_WRONG = ("no raster", "a folder of texts")


@pytest.mark.parametrize("case", MENDED)
def test_what_is_refused_is_told_again_once_somebody_did_something_about_it(folder: Path, case: str) -> None:
    spoil, mend = MENDED[case]
    spoil(folder)
    inbox = Inbox(folder=folder, settle=0, notes=True)
    assert look(inbox) == ["failed"]
    (note,) = folder.glob("*.rejected.txt")
    written = note.stat().st_mtime_ns
    assert [look(inbox), look(inbox)] == [["set aside"]] * 2
    assert note.stat().st_mtime_ns == written
    mend(folder)
    assert set(look(inbox)) == {"failed" if case in STILL_WRONG else "published"}
    assert note.exists() == (case in STILL_WRONG)


def test_a_part_that_arrives_late_makes_an_item_another(folder: Path) -> None:
    write_item_file(folder / "x.json", "./red.tif")
    inbox, error = Inbox(folder=folder, settle=0), UnusableSceneError("no such file", **WRONG)
    assert [look(inbox, error), look(inbox, error)] == [["failed"], ["set aside"]]
    write_band(folder / "red.tif")
    assert look(inbox) == ["published"]


def test_more_that_is_allowed_is_a_reason_to_try_again(folder: Path, tmp_path: Path) -> None:
    (folder / "link.tif").symlink_to(write_band(tmp_path / "elsewhere" / "a.tif"))
    inbox = Inbox(folder=folder, settle=0)
    assert [look(inbox), look(inbox)] == [["failed"], ["set aside"]]
    assert look(inbox.model_copy(update={"allow": (str(tmp_path / "elsewhere"),)})) == ["published"]


def test_the_second_of_a_name_takes_its_turn_when_the_first_is_gone(folder: Path) -> None:
    write_band(folder / "a" / "red.tif")
    write_band(folder / "a.tif")
    inbox = Inbox(folder=folder, settle=0, notes=True)
    assert [look(inbox), look(inbox, results=True)] == [["failed", "published"], ["set aside"]]
    assert (folder / "a.tif.rejected.txt").exists()
    shutil.rmtree(folder / "a")
    assert look(inbox) == ["published"] and not list(folder.glob("*.txt"))


def test_a_server_that_does_not_answer_sets_nothing_aside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(path: Path) -> None:
        raise RunError("no answer")

    write_band(folder / "a.tif")
    monkeypatch.setattr(inbox_module, "_inspect", inspect)
    assert [look(Inbox(folder=folder, settle=0)) for _ in range(2)] == [["failed"]] * 2


def test_notes_say_why_and_touch_nothing_of_others(folder: Path, tmp_path: Path) -> None:
    (folder / "text.tif").write_text("no raster")
    own = folder / "mine.rejected.txt"
    own.write_text("a list of mine")
    write_band(folder / "text.rejected.txt" / "red.tif")  # a folder of that name is no scene
    assert look(Inbox(folder=folder, settle=0)) == ["failed"]
    shutil.rmtree(folder / "text.rejected.txt")
    assert list(folder.glob("*.rejected.txt")) == [own]
    note, victim = folder / "text.tif.rejected.txt", tmp_path / "victim"
    victim.write_text("Seamline has set this file aside: not this one")
    note.symlink_to(victim)
    look(Inbox(folder=folder, settle=0, notes=True))
    assert not note.is_symlink() and "neither GeoTIFF nor JPEG 2000" in note.read_text()
    (folder / "text.tif").unlink()
    look(Inbox(folder=folder, settle=0, notes=True))
    assert list(folder.glob("*.rejected.txt")) == [own]
    assert victim.read_text().endswith("not this one")


def test_an_inbox_that_is_only_read_is_looked_into_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("read-only file system")

    (folder / "text.tif").write_text("no raster")
    monkeypatch.setattr(inbox_module, "atomic_write", refuse)
    assert look(Inbox(folder=folder, settle=0, notes=True)) == ["failed"]
    assert look(Inbox(folder=folder, settle=0, notes=True)) == ["set aside"]
