"""The table of items together with the state of the files that its rows were made of.

A large table is not made anew when items change: rows of unchanged items are kept. Which these are is told by the
stamps of the items' files, which are kept in a file beside the table. Where it is not of this table, all is made anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from seamline.pipeline.common.layout import ITEMS, STAMPS
from seamline.pipeline.stac.items import (
    build_item_table,
    encode_table,
    list_folders,
    read_table,
    read_whole_items,
    replace_rows,
)
from seamline.pipeline.stac.waiting import LARGE_TABLE
from seamline.pipeline.storage.atomic import atomic_write

FileStamp = tuple[int, int, int]
"""Time of modification in nanoseconds, inode and size of a file: changes whenever the file is rewritten."""


def read_stamp(path: Path) -> FileStamp:
    """Return the stamp of a file."""
    return _make_stamp(path.stat())


def read_item_stamps(out: Path) -> dict[str, FileStamp]:
    """Return the stamps that the items of a large catalogue had when their table was made, by their folders' names.

    Raises:
        OSError: there are none, or they cannot be read.
        ValueError, LookupError, TypeError, AttributeError: they are damaged.
    """
    return _decode_item_stamps(json.loads((out / STAMPS).read_bytes()))


def _decode_item_stamps(document: Mapping[str, Any]) -> dict[str, FileStamp]:
    return {scene: tuple(stamp) for scene, stamp in document["items"].items()}


def _make_stamp(status: os.stat_result) -> FileStamp:
    return status.st_mtime_ns, status.st_ino, status.st_size


@dataclass(frozen=True)
class StampedTable:
    """A table of items.

    Attributes:
        stamps: stamps of the items' files by the names of their folders, also of items without a row.
        table: the table; None without rows.
    """

    stamps: Mapping[str, FileStamp] = field(default_factory=dict)
    table: pa.Table | None = None

    @classmethod
    def read(cls, out: Path, without: Collection[str]) -> StampedTable:
        """Read the table of a catalogue with its stamps; an empty one if they are not those of the table.

        Args:
            out: the catalogue's folder.
            without: scenes whose rows do not count, whatever the stamps of their items.
        """
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            known = json.loads((out / STAMPS).read_bytes())
            with (out / ITEMS).open("rb") as file:  # by its path it might be another one the next time
                if tuple(known["table"]) == _make_stamp(os.fstat(file.fileno())):
                    stamps = _decode_item_stamps(known)
                    return cls({scene: stamps[scene] for scene in stamps if scene not in without}, read_table(file))
        return cls()

    def update(self, out: Path, stamps: Mapping[str, FileStamp]) -> StampedTable:
        """Return the table with the rows of items whose stamps are others now; only these items are read.

        Args:
            out: the catalogue's folder.
            stamps: stamps of all items, in order.
        """
        rows = set() if self.table is None else set(list_folders(self.table))
        # An item without a row was damaged, or could not be read for a moment.
        kept = {scene for scene, stamp in stamps.items() if scene in rows and self.stamps.get(scene) == stamp}
        items = read_whole_items(out, [scene for scene in stamps if scene not in kept])
        table = None if self.table is None else replace_rows(self.table, kept, items)
        if table is None:
            items |= read_whole_items(out, [scene for scene in stamps if scene in kept])
            table = build_item_table({scene: items[scene] for scene in stamps if scene in items}) if items else None
        return StampedTable(dict(stamps), table if table is not None and table.num_rows else None)

    def write(self, out: Path) -> None:
        """Write the table in one step, then the stamps; without rows remove it."""
        if self.table is None:
            (out / ITEMS).unlink(missing_ok=True)
            (out / STAMPS).unlink(missing_ok=True)
            return
        content = encode_table(self.table)
        with atomic_write(out / ITEMS, shared=True) as part:
            part.write_bytes(content)
            stamp = read_stamp(part)  # a file keeps it when it is renamed
        if len(content) < LARGE_TABLE:
            (out / STAMPS).unlink(missing_ok=True)
            return
        with atomic_write(out / STAMPS, shared=True) as part:
            part.write_text(json.dumps({"table": stamp, "items": self.stamps}), encoding="utf-8")
