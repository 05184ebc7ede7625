"""Which published scenes a map is made of; what cannot be fused is refused before any work."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from seamline.pipeline.common.classes import LabelClass, format_count
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.mosaic.map_record import MapScene, SkippedScene
from seamline.pipeline.mosaic.periods import ALL, Period, PeriodRule
from seamline.pipeline.mosaic.published_scenes import PublishedScene, SceneTable
from seamline.pipeline.mosaic.scene_files import CheckedScenes, check_scenes, has_probabilities
from seamline.pipeline.mosaic.unseen_classes import choose_unseen
from seamline.pipeline.stac.footprint import compute_footprint
from seamline.pipeline.stac.items import ItemDict, read_whole_items
from seamline.pipeline.storage.object_store import ObjectFolder

OnBadScene = Literal["fail", "skip"]
"""What to do about a scene whose files are gone or damaged."""

_MOST_NAMES = 5
"""Scenes that a message names."""
_OUTLINE_PIXELS = 1024
"""Pixels along an area, of the grid on which its outline is found."""
_MARGIN = 0.002
"""Margin around an area in shares of its size. Outlines of area and scenes are approximated by chords."""


@dataclass(frozen=True)
class SceneChoice:
    """Which scenes of a catalogue a map is made of.

    Attributes:
        period: rule by which scenes are put into periods.
        crs: CRS of the map.
        area: where the map is, in its CRS; None where the scenes decide.
        where: SQL expression that scenes fulfil, or an empty text.
        model: name of the model that segmented the scenes; empty for any one.
        unseen: names of the classes that say that the ground was not seen. ``None``: the model's document names them.
        labels_allowed: whether scenes without probabilities vote with their labels.
        on_bad_scene: what to do about a scene whose files are gone or damaged.
        damaged: why scenes cannot be read that look whole, by their ids, as a run has found out.
    """

    period: PeriodRule
    crs: CRS
    area: shapely.Polygon | shapely.MultiPolygon | None = None
    where: str = ""
    model: str = ""
    unseen: tuple[str, ...] | None = None
    labels_allowed: bool = False
    on_bad_scene: OnBadScene = "fail"
    damaged: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.area is not None and not self.area.area > 0:
            raise ValueError("an area of interest is larger than nothing")


@dataclass(frozen=True)
class Selection:
    """The scenes of a map.

    Attributes:
        periods: the scenes of each period in order of their ids, by the names of the periods in order of time.
        model: name of the model that segmented all of them.
        model_digest: SHA-256 of the model.
        classes: classes of their labels.
        unseen: names of the classes that say that the ground was not seen, in the order of the classes.
        skipped: scenes whose files are gone or damaged.
        warnings: what was left out or assumed, a line each.
    """

    periods: Mapping[str, tuple[MapScene, ...]]
    model: str
    model_digest: str
    classes: tuple[LabelClass, ...]
    unseen: tuple[str, ...]
    skipped: tuple[SkippedScene, ...]
    warnings: tuple[str, ...]


def select_scenes(catalogue: Path | ObjectFolder, choice: SceneChoice) -> Selection:
    """Select the scenes of a map among the published ones of a catalogue.

    The table of items is read, and of the selected scenes sizes of files and one document of the model; no pixel.

    Args:
        catalogue: the folder of the catalogue, local or in object storage.
        choice: which scenes are wanted.

    Raises:
        InputError: there are no such scenes, they are of several models, or one of them cannot be used.
    """
    catalogue = catalogue.absolute() if isinstance(catalogue, Path) else catalogue
    found = _find_scenes(catalogue, choice)
    if stale := _list_stale(catalogue, found):
        found = _find_scenes(catalogue, choice, stale)
    whole = tuple(scene for scene in found.checked.whole if scene.id not in choice.damaged)
    damaged = {
        **found.damaged,
        **{scene.id: choice.damaged[scene.id] for scene in found.checked.whole if scene.id in choice.damaged},
    }
    withdrawn = found.checked.withdrawn
    if damaged and choice.on_bad_scene == "fail":
        raise _bad_scene_error(damaged)
    if not whole:
        raise _bad_scene_error(damaged or dict.fromkeys(withdrawn, "its item is gone"))
    gone = f"left out: {format_count(len(withdrawn), 'scene')} whose item is gone, though the table lists it"
    unseen, hints = choose_unseen(catalogue, found.scenes, found.model_digest, found.classes, choice.unseen)
    return Selection(
        periods=_group_by_period(whole, found.periods),
        model=found.model,
        model_digest=found.model_digest,
        classes=found.classes,
        unseen=unseen,
        skipped=tuple(SkippedScene(id=name, reason=reason) for name, reason in sorted(damaged.items())),
        warnings=(*found.warnings, *([f"{gone}: {_join(withdrawn)}"] if withdrawn else ()), *hints),
    )


@dataclass(frozen=True)
class _FoundScenes:
    """The scenes of a map before anything is decided about bad ones.

    Attributes:
        scenes: scenes whose rows could be read.
        periods: the period of each scene, by its id.
        model: name of the model of all of them.
        model_digest: SHA-256 of the model.
        classes: classes of their labels.
        checked: what was found of their files.
        damaged: why scenes cannot be used, by their ids.
        warnings: what was left out.
    """

    scenes: Sequence[PublishedScene]
    periods: Mapping[str, Period]
    model: str
    model_digest: str
    classes: tuple[LabelClass, ...]
    checked: CheckedScenes
    damaged: Mapping[str, str]
    warnings: Sequence[str]


def _find_scenes(catalogue: Path | ObjectFolder, choice: SceneChoice, stale: Collection[str] = ()) -> _FoundScenes:
    """Find the scenes of a choice, and look for their files.

    Args:
        catalogue: the folder of the catalogue.
        choice: which scenes are wanted.
        stale: scenes whose items count in place of their rows.
    """
    everything, table = SceneTable.read(catalogue, choice.where, stale)
    _refuse_none(table, everything, "--where", choice.where)
    table = _select_by_area(_select_by_model(table, choice.model), choice)
    table, periods, warnings = _select_by_period(table, choice.period)
    digest, model = _find_model(table)
    scenes, damaged = table.read_scenes()
    classes = _find_classes(scenes)
    if not choice.labels_allowed:
        _refuse_without_probabilities(scenes)
    checked = check_scenes(catalogue, scenes)
    return _FoundScenes(scenes, periods, model, digest, classes, checked, {**damaged, **checked.damaged}, warnings)


def _list_stale(catalogue: Path | ObjectFolder, found: _FoundScenes) -> list[str]:
    """Return the scenes that were published again and whose rows are still those of before."""
    rows = {scene.id: scene.version for scene in found.scenes if scene.id in found.damaged}
    items = read_whole_items(catalogue, rows)
    return [name for name, item in items.items() if _get_version(item) not in (None, rows[name])]


def _get_version(item: ItemDict) -> str | None:
    with suppress(LookupError, TypeError):
        return str(item["assets"]["run"]["file:checksum"])
    return None


def _select_by_model(table: SceneTable, model: str) -> SceneTable:
    if not model:
        return table
    names = table.read_column("model")
    found = table.take([name == model for name in names])
    if not found.scenes:
        raise InputError(
            "--model",
            got=f"{model}, which segmented none of {format_count(len(names), 'scene')}",
            expected="the name of a model that did: " + _join_counts(Counter(map(str, names))),
            fix="correct it, or leave it out",
        )
    return found


def _select_by_area(table: SceneTable, choice: SceneChoice) -> SceneTable:
    """Return the scenes whose outlines meet the area; scenes without an outline do not."""
    if choice.area is None:
        return table
    outlines = table.read_outlines()
    area = _compute_area_outline(choice.area, choice.crs)
    left, bottom, right, top = shapely.bounds(outlines).T
    west, south, east, north = area.bounds
    near = (left <= east) & (right >= west) & (bottom <= north) & (top >= south)  # false for the bounds of nothing
    near[near] = shapely.intersects(outlines[near], area)
    found = table.take(near)
    _refuse_none(found, table, "area of the map", f"within ({west:.6g}, {south:.6g}) to ({east:.6g}, {north:.6g})")
    return found


def _compute_area_outline(area: shapely.Polygon | shapely.MultiPolygon, crs: CRS) -> BaseGeometry:
    """Return the outline of an area in degrees with a margin, in which all of the area lies for certain.

    Raises:
        InputError: nothing of the area is on Earth.
    """
    left, bottom, right, top = area.bounds
    step = max(right - left, top - bottom) / _OUTLINE_PIXELS
    shape = [max(1, int(np.ceil(length / step))) for length in (top - bottom, right - left)]
    transform = Affine(step, 0, left, 0, -step, top)
    a, b, c, d, e, f = (~transform)[:6]
    outline = compute_footprint(
        GeoBox(shape, transform, crs), shapely.affinity.affine_transform(area, (a, b, d, e, c, f))
    )
    if outline is None:
        raise InputError(
            "area of the map",
            got=f"({left:.6g}, {bottom:.6g}) to ({right:.6g}, {top:.6g}), of which nothing is on Earth",
            expected=f"coordinates in the CRS of the map, x before y, in {crs.units[0]}",
            fix="correct --bounds, --aoi or --crs",
        )
    parts = shapely.bounds(shapely.get_parts(outline))  # one on each side of the antimeridian
    return outline.buffer(_MARGIN * float((parts[:, 2:] - parts[:, :2]).max()))


def _select_by_period(table: SceneTable, rule: PeriodRule) -> tuple[SceneTable, dict[str, Period], list[str]]:
    """Return the scenes that are of any period, their periods by their ids, and warnings."""
    spans = dict(zip(table.scenes, table.read_times(), strict=True))
    assigned = {scene: rule.assign(span) for scene, span in spans.items()}
    periods = {scene: period for scene, period in assigned.items() if period is not None}
    undated = [scene for scene, span in spans.items() if span is None and scene not in periods]
    if not periods:
        times = _describe_times(spans.values())
        raise InputError(
            f"--period {rule.text}",
            got=f"none of {format_count(len(spans), 'scene')}, {times}",
            expected="a period in which a scene was taken",
            fix="correct --period" + (", or give --period all" if undated else ""),
        )
    warnings = []
    if undated:
        count = format_count(len(undated), "scene")
        warnings.append(f"left out: {count} of unknown time; --period all takes them in: {_join(undated)}")
    wide = [scene for scene, period in periods.items() if _is_wider(spans[scene], period)]
    if wide:
        count = format_count(len(wide), "scene")
        warnings.append(f"{count} taken over a longer time than the period of its middle: {_join(wide)}")
    return table.take([scene in periods for scene in table.scenes]), periods, warnings


def _is_wider(span: TimeSpan | None, period: Period) -> bool:
    return span is not None and period != ALL and not (period.includes(span.start) and period.includes(span.end))


def _find_model(table: SceneTable) -> tuple[str, str]:
    """Return digest and name of the model of all scenes.

    Raises:
        InputError: there are several, or nobody knows.
    """
    models = Counter(zip(table.read_column("model_digest"), table.read_column("model"), strict=True))
    if len(models) == 1 and all(next(iter(models))):
        digest, model = next(iter(models))
        return str(digest), str(model)
    counts = {f"{model} ({str(digest)[:12]}…)": count for (digest, model), count in models.items()}
    names = {model for _, model in models}
    most, _ = models.most_common(1)[0]
    expression = f"--where \"model_digest = '{most[0]}'\""
    raise InputError(
        "scenes of the map",
        got=f"scenes of {format_count(len(models), 'model')}: {_join_counts(counts)}",
        expected="all segmented by the same model",
        fix=f"choose with {'--model NAME' if len(names) == len(models) else expression}, or segment them anew",
    )


def _find_classes(scenes: Sequence[PublishedScene]) -> tuple[LabelClass, ...]:
    """Return the classes of all scenes, which are compared by label, name and colour.

    Raises:
        InputError: they differ.
    """
    kinds: dict[tuple[tuple[int, str, str], ...], list[PublishedScene]] = defaultdict(list)
    for scene in scenes:
        kinds[tuple((entry.value, entry.name, entry.hex) for entry in scene.item.label_classes)].append(scene)
    if len(kinds) > 1:
        counts = {
            " ".join(f"{value}={name}" for value, name, _ in kind) + f" ({found[0].id}, …)": len(found)
            for kind, found in kinds.items()
        }
        raise InputError(
            "scenes of the map",
            got=f"scenes of {len(kinds)} tables of classes: {_join_counts(counts)}",
            expected="the same classes in all scenes",
            fix="choose some with --where, or segment them anew",
        )
    return scenes[0].item.label_classes if scenes else ()


def _refuse_without_probabilities(scenes: Sequence[PublishedScene]) -> None:
    missing = [scene.id for scene in scenes if not has_probabilities(scene)]
    if missing:
        raise InputError(
            "scenes of the map",
            got=f"{format_count(len(missing), 'scene')} without probabilities: {_join(missing)}",
            expected="probabilities, by which scenes vote",
            fix="segment them with --outputs cog,zarr,probabilities, or give --labels to let labels vote",
        )


def _refuse_none(found: SceneTable, among: SceneTable, what: str, got: str) -> None:
    """Refuse a choice that leaves no scene, and say what there is."""
    if found.scenes:
        return
    count, times = len(among.scenes), _describe_times(among.read_times())
    if not count:
        raise InputError(
            f"results {among.catalogue}",
            got="no scenes",
            expected="published scenes",
            fix="segment some with `seamline segment`, with probabilities among --outputs",
        )
    raise InputError(
        what,
        got=f"{got}: none of {format_count(count, 'scene')}, {times}",
        expected="a scene at least",
        fix="correct it; `seamline query` tells which scenes there are",
    )


def _bad_scene_error(reasons: Mapping[str, str]) -> InputError:
    named = ", ".join(f"{scene} ({reasons[scene]})" for scene in sorted(reasons)[:_MOST_NAMES])
    return InputError(
        "scenes of the map",
        got=f"{format_count(len(reasons), 'scene')} that cannot be read: {named}{_count_rest(reasons)}",
        expected="files as they were published",
        fix="`seamline verify` tells more; segment them again, or leave them out with --on-bad-scene skip",
    )


def _group_by_period(scenes: Iterable[MapScene], periods: Mapping[str, Period]) -> dict[str, tuple[MapScene, ...]]:
    """Return the scenes of each period in order of their ids, the periods in order of time."""
    groups: dict[Period, list[MapScene]] = defaultdict(list)
    for scene in scenes:
        groups[periods[scene.id]].append(scene)
    ordered = sorted(groups, key=lambda period: (period.start is not None, period.start, period.name))
    return {period.name: tuple(sorted(groups[period], key=lambda scene: scene.id)) for period in ordered}


def _describe_times(spans: Iterable[TimeSpan | None]) -> str:
    """Return in words when scenes were taken."""
    found = list(spans)
    known = [span for span in found if span is not None]
    if not known:
        return "all of unknown time"
    first, last = min(span.start for span in known), max(span.end for span in known)
    undated = len(found) - len(known)
    days = " to ".join(dict.fromkeys(moment.date().isoformat() for moment in (first, last)))
    return f"taken {days}" + (f", {undated} of unknown time" if undated else "")


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + _count_rest(names)


def _join_counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(f"{counts[name]} of {name}" for name in ordered[:_MOST_NAMES]) + _count_rest(ordered)


def _count_rest(things: Sequence[str] | Mapping[str, object]) -> str:
    return f" and {len(things) - _MOST_NAMES} more" if len(things) > _MOST_NAMES else ""
