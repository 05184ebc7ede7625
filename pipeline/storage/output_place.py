"""Places on disk where results must not be written, since they belong to other results, or cannot be."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import CATALOG, ITEM, MAP_RECORD, RECORD

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a disk, or of the user's part of it, that is full, or that may not be written to."""
_STORE_METADATA = ("zarr.json", ".zgroup", ".zarray")


def refuse_inside_results(path: Path, what: str) -> None:
    """Refuse a place that is, or lies in, a Zarr store, the result of a scene or of a period, or a map.

    Args:
        path: the place.
        what: the option that names it, for the message.

    Raises:
        InputError: it is one.
    """
    place = path.resolve()
    for folder in (place, *place.parents):
        kind = _find_kind(folder)
        if kind:
            raise InputError(
                what,
                got=f"{kind} {folder}" if folder == place else f"a place in {kind} {folder}",
                expected="a folder of its own",
                fix="choose another",
            )


@contextmanager
def name_disk_errors(what: str) -> Iterator[None]:
    """Turn the error of a disk that is full or may not be written to into a line that says how to go on.

    Args:
        what: what is written, at the beginning of the line.

    Raises:
        RunError: there was such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        place = f" ({error.filename})" if error.filename else ""
        message = (
            f"{what}: {error.strerror or error}{place}; what was done is kept, make room or allow to write, and run the"
        )
        raise RunError(f"{message} same command again") from error


def _find_kind(folder: Path) -> str:
    """Return what a folder is that belongs to results; an empty text if it does not."""
    with suppress(OSError):  # such as a name that is too long
        if any((folder / name).is_file() for name in _STORE_METADATA):
            return "the Zarr store"
        if (folder / ITEM).is_file() and (folder / RECORD).is_file():
            return "the result"
        if (folder / MAP_RECORD).is_file() and (folder / CATALOG).is_file():
            return "the map"
    return ""
