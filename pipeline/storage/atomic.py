"""Files that appear under their name only when they are whole, and places that can take them."""

from __future__ import annotations

import glob
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError

_NPZ_LOCK = RLock()

_SECONDS_PER_DAY = 24 * 60 * 60


def make_absolute(path: str | Path) -> Path:
    """The path as it means the same in every folder; ``~NAME`` is a home only where there is a user of that name."""
    with suppress(RuntimeError):  # there is none, and whoever opens the path says so
        return Path(path).expanduser().absolute()
    return Path(path).absolute()


@contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; on leaving it takes the place of ``path`` in one step.

    What was written is on the disk (fsync) before it is renamed. Where the block raises, the part is removed
    and ``path`` is untouched. A killed process leaves its part, which the next one overwrites; where several
    processes write ``path`` at once (``shared``), each has a part of its own name.
    """
    own = f".{uuid.uuid4().hex}" if shared else ""
    part = path.with_name(f".{path.name}{own}.part")
    try:
        yield part
        _fsync(part)
        part.replace(path)
        _fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The arrays of an ``.npz`` file, for one thread of the process at a time.

    numpy reads their headers as Python literals, and CPython 3.11 counts the depth of its parser for all threads
    together: with two at once, rarely, "AST constructor recursion depth mismatch".
    """
    with _NPZ_LOCK, np.load(path) as arrays:
        yield arrays


def remove_stale_parts(path: Path) -> None:
    """Remove parts of ``path``, which is there, that are a day older: whoever wrote them (``shared``) was killed.

    Both times are those of the file system's clock, which may not be this machine's.
    """
    oldest = path.stat().st_mtime - _SECONDS_PER_DAY
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(FileNotFoundError):  # another one does the same
            if part.stat().st_mtime < oldest:
                part.unlink()


def check_writable(folder: Path, what: str) -> Path:
    """See that files can be written to ``folder``, which need not be there yet; makes nothing.

    Returns:
        What is there of the folder and those above it.

    Raises:
        InputError: they cannot; ``what`` names it.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if _is_present(path))
        with tempfile.TemporaryFile(dir=there):
            return there
    except OSError as error:
        raise InputError(
            what, got=error.strerror or error, expected="a folder that can be written to", fix="choose another"
        ) from error


def _is_present(path: Path) -> bool:
    """Also of a link that leads nowhere. Raises ``OSError`` for a path below a file, and one without permission."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
