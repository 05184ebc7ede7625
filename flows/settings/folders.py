"""Folders that Seamline writes to: where its cache is, and what a machine says of a folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import check_writable

_LOW_SHARE, _LOW_BYTES = 0.1, 50 * 2**30


def get_cache_folder() -> Path:
    """Return the folder for what is kept between runs: ``$XDG_CACHE_HOME/seamline``, or ``~/.cache/seamline``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seamline"


@dataclass(frozen=True)
class FolderFacts:
    """What a machine says of a folder.

    Attributes:
        path: The folder.
        exists: Whether it is there. Where it is not, the rest is said of the nearest folder above it.
        free_bytes: Space that is free on its disk.
        problem: Why no file can be written to it; empty if one can.
    """

    path: Path
    exists: bool
    free_bytes: int
    problem: str


def inspect_folder(path: Path) -> FolderFacts:
    """Return what this machine says of a folder; nothing is left behind."""
    existing = next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
    try:
        check_writable(path, str(path))
        problem = ""
    except InputError as error:
        problem = str(error.got)
    return FolderFacts(path, path.is_dir(), shutil.disk_usage(existing).free, problem)


def is_disk_low(total: int, free: int) -> bool:
    """Return whether less than a tenth of a disk is free, and less than 50 GiB; both in bytes."""
    return free < min(total * _LOW_SHARE, _LOW_BYTES)
