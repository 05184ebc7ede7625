"""Tell which scenes of a catalogue to look at again, without looking at each of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.layout import RUNNING, STAMPS
from seamline.pipeline.stac.stamped_table import FileStamp, read_item_stamps, read_stamp
from seamline.pipeline.stac.waiting import list_notes, list_scenes

_SHARE = 100
"""Scenes without a trace of a change that are looked at each time, one share after the other."""

_SETTLING_S = 2.0
"""Seconds for which a folder may change again without another time of modification, as file systems count time."""


class CatalogueWatch:
    """What has changed in the folder of a catalogue since it was last asked.

    Whoever publishes, replaces or begins a scene leaves a trace in the catalogue's folder itself: a new folder, a note
    of a scene that waits or is worked on, another table. Only what somebody changes by hand inside of a scene's folder
    leaves none; so a share of all scenes is due each time, in turn. Thus the cost of asking depends on what was
    published and on the share, and not on the number of scenes. Not for several threads at once.
    """

    def __init__(self, root: Path) -> None:
        """Keep the catalogue's folder, which need not exist yet."""
        self._root = root
        self._listed_at: int | None = None
        self._table_stamp: FileStamp | None = None
        self._stamps: dict[str, FileStamp] = {}
        self._notes: frozenset[str] = frozenset()
        self._begun: frozenset[str] = frozenset()
        self._turns: list[str] = []
        self._folders: dict[str, int] = {}

    @property
    def scenes(self) -> Iterable[str]:
        """Names of the folders that may be scenes, as of the last ``list_due``."""
        return self._folders.keys()

    def list_due(self) -> set[str]:
        """Return the scenes to look at now: all at the first time, later those that may have changed, and a share."""
        due = self._list_folders() | self._list_noted() | self._list_renewed()
        if not self._turns:
            self._turns = sorted(self._folders, reverse=True)
        due |= {self._turns.pop() for _ in range(min(_SHARE, len(self._turns)))}
        return due & self._folders.keys()

    def _list_folders(self) -> set[str]:
        """List the catalogue's folder again if it has changed, and return the scenes that this may concern."""
        with suppress(FileNotFoundError, NotADirectoryError):
            changed_at = self._root.stat().st_mtime_ns
            if changed_at == self._listed_at:
                return set()
            with os.scandir(self._root) as entries:
                folders = {e.name: e.inode() for e in entries if not e.name.startswith(".") and e.is_dir()}
            is_settled = abs(time.time() - changed_at / 1e9) > _SETTLING_S
            self._listed_at = changed_at if is_settled else None
            # A small catalogue is renewed with each scene, and nothing says with which; it has some hundred scenes.
            new = folders.items() - self._folders.items() if (self._root / STAMPS).exists() else folders.items()
            self._folders = folders
            return {name for name, _ in new}
        self._listed_at, self._folders = None, {}
        return set()

    def _list_noted(self) -> set[str]:
        """Return the scenes of new notes, those that are worked on, and those that were when this was last asked."""
        notes, begun = frozenset(list_notes(self._root)), frozenset[str]()
        with suppress(FileNotFoundError, NotADirectoryError):
            begun = frozenset(path.name for path in (self._root / RUNNING).iterdir())
        noted = list_scenes(notes - self._notes) | begun | self._begun
        self._notes, self._begun = notes, begun
        return noted

    def _list_renewed(self) -> set[str]:
        """Return the scenes whose items were others when the table was last renewed."""
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            stamp = read_stamp(self._root / STAMPS)
            if stamp == self._table_stamp:
                return set()
            stamps = read_item_stamps(self._root)
            renewed = {scene for scene, item in stamps.items() if self._stamps.get(scene) != item}
            self._table_stamp, self._stamps = stamp, stamps
            return renewed
        self._table_stamp, self._stamps = None, {}
        return set()
