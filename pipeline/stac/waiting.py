"""Scenes that are published and that catalogue and table do not list as they are yet.

The more items there are, the longer it takes to write the table of all. So a large catalogue is not renewed for each
scene: who publishes one leaves a note with its name, and who finds that many notes wait, or one for long, renews
catalogue and table. Who reads the table reads the items of scenes that wait instead of their rows.

A note is an empty file or object, ``.waiting/<scene>~<time><random>``. Each publishing leaves another one, so that a
renewal removes those alone that were there before it read the items. On a file system a renewal leaves a note without
a scene while it is at work. One that is still there after a minute was perhaps killed, and the next who publishes
renews. In object storage a renewal replaces what it has read, and nothing else, so that it needs none.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.layout import ITEMS, WAITING
from seamline.pipeline.storage.atomic import sync
from seamline.pipeline.storage.object_store import ObjectFolder

LARGE_TABLE = 500_000
"""Bytes of a table from which on it is not written anew for each scene: that of some hundred scenes. A table of one
scene with many classes and outputs may have 100,000 already, most of them for its columns."""

_BYTES_PER_SCENE = 20_000
"""Bytes of the table for each scene that may wait. So to renew costs as much for each scene however many there are."""
_MOST_WAITING = 2000
"""Scenes that may wait: who reads the table reads so many items beside it."""
_LONGEST_WAIT_S = 3600
"""Seconds that a note may wait for a renewal, if scenes are still published."""
_LONGEST_RENEWAL_S = 60
"""Seconds after which a renewal that left a note and did not remove it was perhaps killed."""
_MARK = "~"
_TIME_DIGITS = 16
_NOTE = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]*)?{_MARK}[0-9a-f]{{24}}")
"""The random part has 8 digits."""


def note_waiting(out: Path | ObjectFolder, scene: str) -> str:
    """Leave a note that a scene waits, or, with an empty name, that a renewal has begun; return the note."""
    note = f"{scene}{_MARK}{time.time_ns():0{_TIME_DIGITS}x}{uuid.uuid4().hex[:8]}"
    keep_note(out, note)
    return note


def keep_note(out: Path | ObjectFolder, note: str) -> None:
    """Leave a note again, in case that somebody has removed it."""
    if isinstance(out, ObjectFolder):
        out.put(f"{WAITING}/{note}", b"")
        return
    folder = out / WAITING
    while True:
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # a renewal has just removed the folder, which was empty
            (folder / note).touch()
            sync(folder)
            return


def list_notes(out: Path | ObjectFolder) -> list[str]:
    """Return all notes, in order."""
    names: list[str] = []
    if isinstance(out, ObjectFolder):
        names = [key.rpartition("/")[2] for key in out.list_sizes(WAITING)]
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            names = [path.name for path in (out / WAITING).iterdir()]
    return sorted(name for name in names if _NOTE.fullmatch(name))


def list_scenes(notes: Iterable[str]) -> set[str]:
    """Return the scenes of notes."""
    return {note.rpartition(_MARK)[0] for note in notes} - {""}


def remove_notes(out: Path | ObjectFolder, notes: Iterable[str]) -> None:
    """Remove notes; those that are gone already are passed over."""
    if isinstance(out, ObjectFolder):
        out.delete(f"{WAITING}/{note}" for note in notes)
        return
    for note in notes:
        (out / WAITING / note).unlink(missing_ok=True)
    with suppress(OSError):  # others wait
        (out / WAITING).rmdir()


def is_waiting(out: Path | ObjectFolder, scene: str) -> bool:
    """Return whether a scene was published after catalogue and table were renewed."""
    return scene in list_scenes(list_notes(out))


def may_wait(out: Path | ObjectFolder) -> bool:
    """Return whether the catalogue is so large that it is not renewed for each scene."""
    return _get_table_size(out) >= LARGE_TABLE


def must_renew(out: Path | ObjectFolder) -> bool:
    """Return whether so many notes wait, or one for so long, that catalogue and table are to be renewed."""
    notes = list_notes(out)
    return (
        len(list_scenes(notes)) > min(_MOST_WAITING, _get_table_size(out) // _BYTES_PER_SCENE)
        or max(map(_get_age, notes), default=0) > _LONGEST_WAIT_S
        or any(note.startswith(_MARK) and not is_at_work(note) for note in notes)
    )


def is_at_work(note: str) -> bool:
    """Return whether a note is that of a renewal that goes on, and not that of a scene or of a killed renewal."""
    return note.startswith(_MARK) and _get_age(note) <= _LONGEST_RENEWAL_S


def _get_age(note: str) -> float:
    """Return the seconds since a note was left."""
    return (time.time_ns() - int(note.rpartition(_MARK)[2][:_TIME_DIGITS], 16)) / 1e9


def _get_table_size(out: Path | ObjectFolder) -> int:
    if isinstance(out, ObjectFolder):
        return out.get_size(ITEMS) or 0
    with suppress(FileNotFoundError):
        return (out / ITEMS).stat().st_size
    return 0
