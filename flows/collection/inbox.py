"""Find the scenes in a folder that scenes are dropped into, once their files are complete."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from seamline.flows.collection.containment import Enclosure, OutsideError
from seamline.flows.collection.fingerprint import catch_as_rejected, inspect_source, list_local_files
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import make_absolute

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
_PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".download", "~")


def is_partial(name: str) -> bool:
    """Whether a file name is hidden, or of the kind that programs give to files they are still writing."""
    return name.startswith((".", "~")) or name.lower().endswith(_PARTIAL_SUFFIXES)


def _is_of_macos(name: str) -> bool:
    """Return whether a hidden file is what macOS leaves beside others, and nothing that is still being written."""
    return name.startswith("._") or name == ".DS_Store"


def discover_inbox(inbox: Inbox) -> Discovery:
    """Find the scenes in an inbox whose files have not changed for ``inbox.settle`` seconds.

    Files that still change are waiting, and so are VRTs and STAC items that need files which are not complete. Files
    that a VRT or a STAC item in the inbox refers to are part of it and no scenes of their own.

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    entries, enclosure = _list_entries(make_absolute(inbox.folder)), Enclosure.of_inbox(inbox)
    settled = _find_settled(entries, inbox.settle)
    waiting = [path for path in entries if path not in settled]
    candidates: list[SceneRef | RejectedSource] = []
    parts: set[Path] = set()
    for path in settled:
        refused = _find_outsider(path, enclosure)
        if refused is not None:
            candidates.append(refused)
            continue
        files = _list_parts(path)
        parts.update(file for file in files if file != path)
        any_missing = not all(map(_exists, files))
        any_incomplete = any(file in waiting or is_partial(file.name) for file in files)
        if any_incomplete or (any_missing and waiting):  # the missing file may be on its way
            waiting.append(path)
            continue
        candidate = catch_as_rejected(str(path), path.name, partial(inspect_source, path))
        if isinstance(candidate, RejectedSource) and waiting and path.suffix.lower() == ".vrt":
            waiting.append(path)  # GDAL may have failed because a source of the VRT is still on its way
        else:
            candidates.append(candidate)
    discovery = Discovery.from_candidates(scene for scene in candidates if Path(scene.source) not in parts)
    still_waiting = tuple(str(path) for path in sorted(waiting) if path not in parts)
    return Discovery(discovery.scenes, discovery.rejected, still_waiting)


def _find_outsider(path: Path, enclosure: Enclosure) -> RejectedSource | None:
    """Return the rejection of a scene that consists of what lies elsewhere; None for all others, also broken ones."""
    try:
        enclosure.check_scene(path)
    except OutsideError as error:
        return RejectedSource(str(path), path.name, str(error))
    except (SeamlineError, OSError, ValueError):
        return None  # the inspection that follows reports the error
    return None


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
    return path.is_dir() or path.name.lower().endswith(_SCENE_SUFFIXES)


def _list_parts(path: Path) -> list[Path]:
    """Return the files that a STAC item or a VRT refers to, also missing ones; none of a document that is broken."""
    with suppress(SeamlineError):  # the inspection that follows reports the error
        if path.suffix.lower() in (".json", ".geojson"):
            return [Path(raster) for _, raster in read_source_item(str(path)).rasters if "://" not in raster]
        if path.suffix.lower() == ".vrt":
            return [Path(file) for file in list_local_files(str(path))]
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
