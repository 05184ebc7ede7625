"""Which chunks of a map are to be computed, and why, and which are taken over from the map as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seamline.pipeline.common.classes import format_count
from seamline.pipeline.geometry.map_grid import CHUNK, MapGrid, list_touched_chunks
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.mosaic.map_record import MapRecord, MapScene

_MOST_NAMES = 3
"""Scenes that a reason names."""


@dataclass(frozen=True)
class PeriodChanges:
    """What is to be done with each chunk of a period; each chunk is in one of the three.

    Attributes:
        computed: why a chunk is computed, by the chunk.
        kept: the chunk of the map as it is whose content a chunk takes over, by the chunk.
        empty: chunks that no scene touches and that the map as it is does not have.
    """

    computed: Mapping[Index, str]
    kept: Mapping[Index, Index]
    empty: frozenset[Index]


@dataclass(frozen=True)
class MapChanges:
    """The differences between a map as it is and as it should be.

    Attributes:
        periods: what is to be done, by the names of the periods.
        withdrawn: names of the periods that the map no longer has.
    """

    periods: Mapping[str, PeriodChanges]
    withdrawn: tuple[str, ...]


def find_changes(old: MapRecord | None, new: MapRecord, unusable: Mapping[str, str] | None = None) -> MapChanges:
    """Compare the scenes of two records of one definition.

    A chunk is computed if and only if the scenes that touch it, by ids and versions, are others than before. Chunks are
    the same where they hold the same pixels of the lattice, whatever their index is: a map that grows by whole chunks
    keeps them.

    Args:
        old: record of the map as it is. ``None``: there is none.
        new: record of the map as it should be.
        unusable: why nothing can be taken over of some periods of the old map, by their names.

    Returns:
        The differences; all chunks that any scene touches are computed where there is no map.

    Raises:
        ValueError: the records are of two definitions, so that nothing of the old map is in the new one.
    """
    if old is not None and old.definition.find_differences(new.definition):
        raise ValueError("the records are of maps of two definitions")
    grid = new.map_grid
    touched = _TouchedChunks(grid)
    before = {} if old is None else _match_chunks(grid, old.map_grid)
    periods, reasons = {}, unusable or {}
    for name, scenes in new.periods.items():
        if old is not None and name in old.periods and name not in reasons:
            periods[name] = _compare_scenes(touched, before, old.periods[name], scenes)
        else:
            reason = "new map" if old is None else reasons.get(name, "new period")
            periods[name] = _divide_chunks(touched, {}, dict.fromkeys(touched.find(scenes), reason))
    withdrawn = () if old is None else tuple(name for name in old.periods if name not in new.periods)
    return MapChanges(periods, withdrawn)


class _TouchedChunks:
    """The chunks of a map that scenes touch, each scene looked at once."""

    def __init__(self, grid: MapGrid) -> None:
        self.grid = grid
        self._by_scene: dict[tuple[str, str], list[Index]] = {}

    def find_of(self, scene: MapScene) -> list[Index]:
        """Return the chunks that a scene touches."""
        key = scene.id, scene.version
        if key not in self._by_scene:
            self._by_scene[key] = list_touched_chunks(self.grid, scene.grid.geobox)
        return self._by_scene[key]

    def find(self, scenes: Iterable[MapScene]) -> set[Index]:
        """Return the chunks that any of some scenes touches."""
        return {chunk for scene in scenes for chunk in self.find_of(scene)}


def _match_chunks(grid: MapGrid, other: MapGrid) -> dict[Index, Index]:
    """Return the chunks of another grid that hold the same pixels of the lattice as chunks of a grid, by the latter."""
    rows, cols = grid.top - other.top, grid.left - other.left
    size = Window(0, 0, other.height, other.width)
    matches = {}
    for chunk in grid.chunks:
        window = grid.window_of(chunk)
        twin = Index(chunk.row + rows // CHUNK, chunk.col + cols // CHUNK)
        place = Window(twin.row * CHUNK, twin.col * CHUNK, CHUNK, CHUNK).intersection(size)
        if place == window.shift(rows, cols) and place.pixel_count:
            matches[chunk] = twin
    return matches


def _compare_scenes(
    touched: _TouchedChunks, before: Mapping[Index, Index], old: Sequence[MapScene], new: Sequence[MapScene]
) -> PeriodChanges:
    """Return what is to be done with the chunks of a period that the map has already.

    Args:
        touched: the chunks that scenes touch.
        before: chunks of the map as it is, by the same chunks of the new one.
        old: scenes of the period as it is.
        new: scenes of the period as it should be.
    """
    known, wanted = ({scene.id: scene for scene in scenes} for scenes in (old, new))
    causes: dict[Index, list[str]] = defaultdict(list)
    for name in sorted({*known, *wanted}):
        first, last = known.get(name), wanted.get(name)
        if first is not None and last is not None and first.version == last.version:
            continue
        cause = (
            f"new scene {name}" if first is None else f"scene {name} " + ("withdrawn" if last is None else "replaced")
        )
        for chunk in touched.find(scene for scene in (first, last) if scene is not None):
            causes[chunk].append(cause)
    reasons = {chunk: _join_causes(texts) for chunk, texts in causes.items() if chunk in before}
    beyond = touched.find(new) - before.keys() if len(before) < len(touched.grid.chunks) else set()
    reasons |= {chunk: _join_causes(causes.get(chunk, ["the map has grown"])) for chunk in beyond}
    return _divide_chunks(touched, before, reasons)


def _divide_chunks(
    touched: _TouchedChunks, before: Mapping[Index, Index], reasons: Mapping[Index, str]
) -> PeriodChanges:
    """Return what is to be done with each chunk from the reasons to compute some of them."""
    kept = {chunk: twin for chunk, twin in before.items() if chunk not in reasons}
    chunks = touched.grid.chunks
    return PeriodChanges(
        {chunk: reasons[chunk] for chunk in chunks if chunk in reasons},
        kept,
        frozenset(chunk for chunk in chunks if chunk not in reasons and chunk not in kept),
    )


def _join_causes(causes: Sequence[str]) -> str:
    """Return several causes as one text, of which the first few are named."""
    rest = len(causes) - _MOST_NAMES
    return ", ".join(causes[:_MOST_NAMES]) + (f" and {format_count(rest, 'other scene')}" if rest > 0 else "")
