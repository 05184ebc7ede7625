"""A folder that scenes are dropped into: which of them are whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from seamline.flows.collection.fingerprint import (
    Discovery,
    RejectedSource,
    SceneRef,
    catch_as_rejected,
    inspect_source,
    list_local_files,
)
from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import InputError, SeamlineError
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import make_absolute

_SCENE_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".zip", ".json", ".geojson")
_PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".download", "~")


def is_partial(name: str) -> bool:
    """Whether a name is one that programs give to what they are still writing, or a hidden one."""
    return name.startswith((".", "~")) or name.lower().endswith(_PARTIAL_SUFFIXES)


def discover_inbox(inbox: Inbox) -> Discovery:
    """The scenes in an inbox that have not changed for a while; those that have are left for the next time.

    Files that a VRT or a STAC item beside them names are part of it and no scenes of their own.

    Raises ``InputError`` where there is no folder.
    """
    folder = make_absolute(inbox.folder)
    try:
        entries = sorted(path for path in folder.iterdir() if not is_partial(path.name) and _can_be_scene(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"inbox {folder}",
            got=getattr(error, "strerror", None) or error,
            expected="a folder",
            fix="make it, or name another",
        ) from error
    whole = _find_settled(entries, inbox.settle)
    waiting = [path for path in entries if path not in whole]
    found: list[SceneRef] = []
    refused: list[RejectedSource] = []
    parts: set[Path] = set()
    for path in whole:
        files = _list_parts(path)
        parts.update(file for file in files if file != path)
        missing = not all(map(_exists, files))
        if (missing and waiting) or any(file in waiting or is_partial(file.name) for file in files):
            waiting.append(path)  # the rest may be on its way
            continue
        scene = catch_as_rejected(str(path), path.name, partial(inspect_source, path))
        if isinstance(scene, SceneRef):
            found.append(scene)
        elif waiting and path.suffix.lower() == ".vrt":  # so may its sources
            waiting.append(path)
        else:
            refused.append(scene)
    return Discovery(
        tuple(scene for scene in found if Path(scene.source) not in parts),
        tuple(scene for scene in refused if Path(scene.source) not in parts),
        tuple(str(path) for path in sorted(waiting) if path not in parts),
    )


def _can_be_scene(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in _SCENE_SUFFIXES


def _list_parts(path: Path) -> list[Path]:
    """The files that an item or a VRT is made of, whether they are there or not; of a broken one ``inspect_source`` tells."""
    with suppress(SeamlineError):
        if path.suffix.lower() in (".json", ".geojson"):
            return [Path(raster) for raster in read_source_item(str(path)).rasters if "://" not in raster]
        if path.suffix.lower() == ".vrt":
            return [Path(file) for file in list_local_files(str(path))]
    return []


def _exists(path: Path) -> bool:
    return os.path.exists(path) or str(path).startswith("/vsi")  # noqa: PTH110 - a name may be longer than pathlib takes


def _find_settled(entries: Iterable[Path], settle: float) -> list[Path]:
    """Those that have not changed for ``merge_small_regions`` seconds.

    The time of change (ctime) counts beside that of writing, which programs set back while they copy. Where both lie in
    the future, clocks disagree: then what counts is that nothing changes while one waits.
    """
    now, whole, unclear = time.time(), [], {}
    for path in entries:
        states = _read_states(path)
        if states is None:
            continue
        last = [max((when for when in times if when <= now), default=None) for _, *times in states]
        if None in last:
            unclear[path] = states
        elif all(when is not None and now - when >= settle for when in last):
            whole.append(path)
    if unclear:
        time.sleep(settle)
        whole += [path for path, states in unclear.items() if _read_states(path) == states]
    return sorted(whole)


def _read_states(path: Path) -> list[tuple[int, float, float]] | None:
    """Size, time of writing and of change of a file, or of a folder and all in it; None while it is being written."""
    try:
        files = [path, *(path.rglob("*") if path.is_dir() else ())]
        if any(is_partial(file.name) for file in files):
            return None
        states = [file.stat() for file in sorted(files)]
    except OSError:
        return []  # gone, or a link that leads nowhere: whoever opens it says so
    return [(state.st_size, state.st_mtime, state.st_ctime) for state in states]
