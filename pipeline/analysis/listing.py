"""Which results a folder has: the periods of a map, or the scenes of a catalogue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, MAP_RECORD
from seamline.pipeline.results.map_copies import MAP_PROPERTY, PERIOD_PROPERTY
from seamline.pipeline.results.open import PublishedResult, require_catalog
from seamline.pipeline.results.stored_results import Results, find_any_result

_MOST_NAMES = 12
"""Results that a message names."""
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class NamedResult:
    """A result and what it is called: the name of its period if it is of a map, otherwise the id of its scene."""

    name: str
    published: PublishedResult


def is_map(folder: Results) -> bool:
    """Return whether results are those of a map."""
    return (folder / MAP_RECORD).is_file() if isinstance(folder, Path) else folder.versions is not None


def list_results(folder: Results) -> tuple[NamedResult, ...]:
    """Return the results of a map or of a catalogue in order of time, those of unknown time last.

    The maps that a catalogue of scenes lists are not among its scenes.

    Raises:
        InputError: The folder is neither, has no results, or one of them is damaged.
    """
    entries, of_map = _read_entries(folder), is_map(folder)
    scenes = [scene for scene, entry in entries.items() if of_map or not entry.is_of_map]
    results = [_find(folder, scene, entries[scene]) for scene in scenes]
    if not results:
        raise InputError(f"results {folder}", got="no scenes in it", expected="at least one", fix="check the path")
    return tuple(sorted(results, key=_sort_key))


def find_named_result(folder: Results, name: str) -> NamedResult:
    """Return the result of a period of a map by the period's name, or of a scene or period by its id.

    Args:
        folder: A map or a catalogue.
        name: The name. Empty: the only result that the folder has.

    Raises:
        InputError: There is no such result, or it is damaged; or there are several and no name.
    """
    entries = _read_entries(folder)
    found = [scene for scene, entry in entries.items() if name in (scene, entry.period) or not name]
    if len(found) != 1:
        what, names = f"{'map' if is_map(folder) else 'results'} {folder}", [entry.period for entry in entries.values()]
        got = f"{name!r}, which is not in it" if name else f"{len(names)} results and no name"
        raise InputError(what, got=got, expected=_name_some(names), fix="name one by --from and --to")
    return _find(folder, found[0], entries[found[0]])


@dataclass(frozen=True)
class _Entry:
    """What an item says of its result: the name of its period, or its id; and whether it is of a map."""

    period: str
    is_of_map: bool


def _read_entries(folder: Results) -> dict[str, _Entry]:
    """Return what the items of a folder say, by their ids; a damaged one is a scene, and refused when it is opened."""
    entries, of_map = {}, is_map(folder)
    for scene, properties in _read_properties(folder).items():
        period = properties.get(PERIOD_PROPERTY) if of_map else None
        entries[scene] = _Entry(period if isinstance(period, str) else scene, MAP_PROPERTY in properties)
    return entries


def _read_properties(folder: Results) -> dict[str, Mapping[str, Any]]:
    """Return the properties of the items of a folder, by their ids in order; none of a damaged one."""
    if not isinstance(folder, Path):
        return {scene: item.get("properties", {}) for scene, item in folder.read_items().items()}
    require_catalog(folder)
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob(f"*/{ITEM}")):
        found[path.parent.name] = {}
        with suppress(OSError, ValueError, LookupError, TypeError):
            found[path.parent.name] = dict(json.loads(path.read_bytes())["properties"])
    return found


def _find(folder: Results, scene: str, entry: _Entry) -> NamedResult:
    return NamedResult(entry.period, find_any_result(folder, scene))


def _sort_key(result: NamedResult) -> tuple[datetime, str]:
    span = result.published.item.properties.acquired
    return (_LAST if span is None else span.start), result.name


def _name_some(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return "one of " + ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "") if names else "some"
