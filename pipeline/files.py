"""Files that appear under their name only when they are whole, and places that can take them."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import InputError

__all__ = ["check_writable", "remove_old_parts", "replacing"]

_FORGOTTEN = 3600
"""Seconds after which a part of a shared file is nobody's."""


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
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


def remove_old_parts(folder: Path) -> None:
    """Remove the parts of shared files that nobody has written to for an hour: those of killed processes."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - part.stat().st_mtime > _FORGOTTEN:
                part.unlink()


def check_writable(folder: Path, what: str) -> None:
    """Make ``folder`` and see that files can be written there; ``what`` names it in the ``InputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            what, got=error.strerror or error, expected="a folder that can be written to", fix="choose another"
        ) from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
