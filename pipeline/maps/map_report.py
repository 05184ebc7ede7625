"""The report of a period of a map: one HTML file, as that of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass, format_count
from seamline.pipeline.common.layout import PREVIEW, REPORT
from seamline.pipeline.geometry.map_scale import map_scale
from seamline.pipeline.mosaic.map_record import MapDefinition, MapScene, SkippedScene
from seamline.pipeline.products.geozarr import find_crs_code
from seamline.pipeline.products.run_record import RunRecord
from seamline.pipeline.report.formatting import format_duration, format_mebibytes, format_pixel_size
from seamline.pipeline.report.report import (
    MAX_WARNINGS,
    build_bars,
    describe_classes,
    list_files,
    load_report_template,
    read_data_uri,
)
from seamline.pipeline.stac.scene_item import ModelReference
from seamline.pipeline.storage.atomic import atomic_write

_TEMPLATE = "map.html"
_MOST_SCENES = 200
"""Scenes that are listed at most."""


def write_map_report(
    folder: Path,
    grid: GeoBox,
    definition: MapDefinition,
    scenes: Sequence[MapScene],
    skipped: Sequence[SkippedScene],
    classes: Sequence[LabelClass],
    model: ModelReference,
    record: RunRecord,
    time: str,
) -> None:
    """Write ``report.html`` of a period's folder; it appears whole or not at all.

    Args:
        folder: the period's folder. Write the preview before, since it becomes a part of the page.
        grid: grid of the map.
        definition: what the map is.
        scenes: the scenes of the period.
        skipped: scenes that could not be read.
        classes: classes of the labels.
        model: the model that segmented the scenes.
        record: the record of the period, as in ``run.json``.
        time: when the scenes were taken, for people.
    """
    height, width = grid.shape
    seconds = {name: value for name, value in record.seconds.items() if name != "total"}
    page = load_report_template(_TEMPLATE).render(
        map={
            "id": record.scene,
            "time": time,
            "size": f"{width:,} × {height:,}",
            "crs": find_crs_code(grid) or grid.crs.proj.name,
            "model": model.name,
            "limits": model.limits,
        },
        **describe_classes(classes, record),
        has_aoi=definition.aoi is not None,
        rules=_list_rules(grid, definition, scenes, record),
        scenes=[_describe_scene(scene) for scene in scenes],
        most_scenes=_MOST_SCENES,
        warnings=[*record.warnings, *(f"left out: {scene.id}: {scene.reason}" for scene in skipped)],
        most=MAX_WARNINGS,
        stages=build_bars(seconds, max(sum(seconds.values()), 1e-9)),
        total=format_duration(record.seconds["total"]),
        memory=format_mebibytes(record.peak_memory_bytes),
        digest_of="Scenes",
        scene_digest=record.scene_digest,
        model_digest=record.model_digest,
        versions=list(record.versions.items()),
        preview=read_data_uri(folder / PREVIEW),
        files=list_files(folder),
    )
    with atomic_write(folder / REPORT) as part:
        part.write_text(page, encoding="utf-8")


def _list_rules(
    grid: GeoBox, definition: MapDefinition, scenes: Sequence[MapScene], record: RunRecord
) -> list[tuple[str, str]]:
    """Return names and values of what decides the map."""
    scale = map_scale(grid)
    unit = "" if scale is None else f", {format_pixel_size(scale)} in the middle"
    rules = [
        ("Scenes", f"{format_count(len(scenes), 'scene')} of {record.source}"),
        ("Pixel", f"{definition.resolution:g} units of the CRS{unit}"),
        ("Classes that hide the ground", ", ".join(definition.unseen) or "none"),
        ("Period", definition.period),
    ]
    if definition.where:
        rules.append(("Scenes for which", definition.where))
    return rules


def _describe_scene(scene: MapScene) -> dict[str, Any]:
    span = scene.time_span
    return {"id": scene.id, "time": "unknown" if span is None else str(span), "votes": scene.votes}
