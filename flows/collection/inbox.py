"""Find the scenes in a folder that scenes are dropped into, once their files are complete."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version as find_version
from pathlib import Path

import rasterio

from seamline.flows.collection.containment import check_sidecars, make_confinement
from seamline.flows.collection.fingerprint import catch_as_rejected, hash_file_states, inspect_source, reject_source
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import atomic_write, make_absolute
from seamline.pipeline.storage.confinement import check_confined, confine

_SCENE_SUFFIXES = (
    ".tif",
    ".tiff",
    ".jp2",
    ".vrt",
    ".img",
    ".zip",
    ".tar",
    ".tgz",
    ".tar.gz",
    ".json",
    ".geojson",
)
_NOTE_SUFFIX = ".rejected.txt"
_NOTE_BEGIN = "Seamline has set this file aside"
_NOTE_END = "It is tried again once it changes (`touch` is enough), and with another model or other options."
_LONGEST_NOTE = 10_000
"""Characters."""
_PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".download", "~")


def is_partial(name: str) -> bool:
    """Whether a file name is hidden, or of the kind that programs give to files they are still writing."""
    return name.startswith((".", "~")) or name.lower().endswith(_PARTIAL_SUFFIXES)


def _is_of_macos(name: str) -> bool:
    """Return whether a hidden file is what macOS leaves beside others, and nothing that is still being written."""
    return name.startswith("._") or name == ".DS_Store"


def discover_inbox(inbox: Inbox, known: Iterable[RejectedSource] = ()) -> Discovery:
    """Find the scenes in an inbox whose files have not changed for ``inbox.settle`` seconds.

    Files that still change are waiting, and so are STAC items that need files which are not complete. Files that a STAC
    item in the inbox refers to are part of it and no scenes of their own. All of it is read under the confinement of
    the inbox.

    Args:
        inbox: The inbox.
        known: What was rejected before. What is the same by the same rules is rejected again, and not opened.

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    rules = _describe_rules(inbox)
    before = {source.source: source for source in known if source.fingerprint}
    with confine(make_confinement(inbox)):
        candidates = {path: _refuse_outsider(path) for path in _list_entries(make_absolute(inbox.folder))}
        inside = [path for path, rejected in candidates.items() if rejected is None]
        settled = _find_settled(inside, inbox.settle)
        waiting = [path for path in inside if path not in settled]
        parts: set[Path] = set()
        for path in settled:
            files = _list_parts(path)
            parts.update(file for file in files if file != path)
            any_missing = not all(map(_exists, files))
            any_incomplete = any(file in waiting or is_partial(file.name) for file in files)
            if any_incomplete or (any_missing and waiting):  # the missing file may be on its way
                waiting.append(path)
            else:
                candidates[path] = _inspect_unless_known(path, files, before.get(str(path)), rules)
    found = (scene for scene in candidates.values() if scene is not None and Path(scene.source) not in parts)
    discovery = Discovery.from_candidates(found)
    still_waiting = tuple(str(path) for path in sorted(waiting) if path not in parts)
    return Discovery(discovery.scenes, discovery.rejected, still_waiting)


def sync_notes(inbox: Inbox, reasons: Mapping[str, str]) -> None:
    """Leave a note beside each source of an inbox that is set aside, and remove the notes of all others.

    What cannot be written, such as into an inbox that is only read, is left out: the ledger knows it all the same.

    Args:
        inbox: The inbox.
        reasons: Path of each source that is set aside → why, in one line.
    """
    folder = make_absolute(inbox.folder)
    notes = {
        f"{path.name}{_NOTE_SUFFIX}": why for source, why in reasons.items() if (path := Path(source)).parent == folder
    }
    with suppress(OSError):
        for path in folder.glob(f"*{_NOTE_SUFFIX}"):
            if path.name not in notes and _read_note(path).startswith(_NOTE_BEGIN):
                path.unlink()
    for name, reason in notes.items():
        text = f"{_NOTE_BEGIN}: {reason}\n{_NOTE_END}\n"
        with suppress(OSError, InputError):
            if _read_note(folder / name) != text:
                with atomic_write(folder / name, shared=True) as part:
                    part.write_text(text, encoding="utf-8")


def _read_note(path: Path) -> str:
    """Return the text of a note; nothing if there is no such file."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_LONGEST_NOTE)


def _refuse_outsider(path: Path) -> SceneRef | RejectedSource | None:
    """Return the rejection of an entry that is a link to what lies outside; None for all others."""
    try:
        check_confined(str(path))
    except InputError as error:
        return reject_source(str(path), path.name, str(error), _hash_state(path, [path]))
    return None


def _inspect_unless_known(
    path: Path, files: Sequence[Path], before: RejectedSource | None, rules: str
) -> SceneRef | RejectedSource:
    """Inspect an entry, or return how it was rejected before if nothing has changed since.

    Args:
        path: The entry.
        files: Files that it refers to.
        before: How it was rejected before.
        rules: What the same entry may be judged by in another way, see ``_describe_rules``.
    """
    if before is not None and (before.fingerprint, before.rules) == (
        _hash_state(path, files),
        _hash_rules(path, files, rules),
    ):
        return before
    found = catch_as_rejected(str(path), path.name, partial(_inspect, path), partial(_hash_state, path, files))
    return replace(found, rules=_hash_rules(path, files, rules)) if isinstance(found, RejectedSource) else found


def _describe_rules(inbox: Inbox) -> str:
    """Return what decides, beside files, whether an entry is rejected."""
    return repr((find_version("seamline"), rasterio.__gdal_version__, sorted(inbox.allow)))


def _hash_rules(path: Path, files: Sequence[Path], rules: str) -> str:
    """Return a hash of rules and of the files beside an entry's own, such as a mask, by which it may be rejected."""
    beside: set[Path] = set()
    for file in {path, *files}:
        with suppress(OSError):
            begin = f"{file.name}.".casefold()
            beside |= {other for other in file.parent.iterdir() if other.name.casefold().startswith(begin)}
    states = hash_file_states(file for file in beside if not file.name.endswith(_NOTE_SUFFIX))
    return hashlib.sha256(f"{rules} {states}".encode()).hexdigest()[:32]


def _hash_state(path: Path, parts: Sequence[Path] = ()) -> str:
    """Return a hash that changes when a rejected entry becomes another one, which then fails anew if it is rejected.

    Args:
        path: The entry.
        parts: Files that the entry refers to. Without any it is a file, or a folder with all that lies in it.
    """
    return hash_file_states([path, *parts] if parts else [path, *(path.rglob("*") if path.is_dir() else ())])


def _inspect(path: Path) -> SceneRef:
    check_sidecars(str(path))
    return inspect_source(path)


def _list_entries(folder: Path) -> list[Path]:
    """Return what may be a scene in a folder, in order, without files whose names say that they are partial."""
    try:
        return sorted(path for path in folder.iterdir() if not is_partial(path.name) and _can_be_scene(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"inbox {folder}",
            got=getattr(error, "strerror", None) or error,
            expected="a folder",
            fix="make it, or name another",
        ) from error


def _can_be_scene(path: Path) -> bool:
    if path.name.endswith(_NOTE_SUFFIX):
        return False
    return path.is_dir() or path.name.lower().endswith(_SCENE_SUFFIXES)


def _list_parts(path: Path) -> list[Path]:
    """Return the files that a STAC item refers to, also missing ones; none of a document that is broken."""
    if path.suffix.lower() in (".json", ".geojson"):
        with suppress(Exception):  # the inspection that follows reports the error
            return [Path(raster) for _, raster in read_source_item(str(path)).rasters if "://" not in raster]
    return []


def _exists(path: Path) -> bool:
    # Path.exists raises for names that are longer than the file system allows.
    return os.path.exists(path) or str(path).startswith("/vsi")  # noqa: PTH110


def _find_settled(entries: Iterable[Path], settle: float) -> list[Path]:
    """Return the entries that have not changed for ``settle`` seconds, in order.

    A change is the later of mtime and ctime, because copying programs set mtime back. If both lie in the future, the
    clocks of two machines disagree. Such entries are settled if nothing changes during a wait of ``settle`` seconds.
    """
    now = time.time()
    settled: list[Path] = []
    unclear: dict[Path, list[tuple[int, float, float]]] = {}
    for path in entries:
        states = _read_file_states(path)
        if states is None:
            continue
        last_changes = [max((t for t in (mtime, ctime) if t <= now), default=None) for _, mtime, ctime in states]
        if None in last_changes:
            unclear[path] = states
        elif all(change is not None and now - change >= settle for change in last_changes):
            settled.append(path)
    if unclear:
        time.sleep(settle)
        settled += [path for path, states in unclear.items() if _read_file_states(path) == states]
    return sorted(settled)


def _read_file_states(path: Path) -> list[tuple[int, float, float]] | None:
    """Return size, mtime and ctime (s) of a file, or of a folder and all files in it; None if one has a partial name.

    The list is empty if a file vanished or a link is dangling. The entry then counts as settled, and the inspection
    that follows reports the error.
    """
    try:
        files = [path, *(file for file in (path.rglob("*") if path.is_dir() else ()) if not _is_of_macos(file.name))]
        if any(is_partial(file.name) for file in files):
            return None
        states = [file.stat() for file in sorted(files)]
    except OSError:
        return []
    return [(state.st_size, state.st_mtime, state.st_ctime) for state in states]
