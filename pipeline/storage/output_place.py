"""Places on disk where results must not be written, since they belong to other results."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG, ITEM, MAP_RECORD, RECORD

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
