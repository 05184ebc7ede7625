"""The report of a segmented scene: one HTML file that can be mailed, opened without a network and printed.

Text from files (names, descriptions, the model's README) is hostile until it is escaped. The template escapes it,
Markdown passes on no HTML, links and images, and the page's content security policy lets a browser load nothing.
"""

from __future__ import annotations

import importlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from seamline.pipeline.common.classes import LabelClass, format_percent
from seamline.pipeline.common.layout import CATALOG, COG, ITEM, PREVIEW, RECORD, REPORT, ZARR
from seamline.pipeline.geometry.map_scale import map_scale
from seamline.pipeline.products.run_record import RunRecord, TilingRecord
from seamline.pipeline.report.formatting import (
    format_area,
    format_crs,
    format_date,
    format_duration,
    format_mebibytes,
    format_pixel_size,
)
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.storage.atomic import atomic_write

MAX_WARNINGS = 50
"""Warnings that are listed at most."""
_WORKER_STAGES = ("read", "infer", "blend", "write")
"""Stages whose seconds are summed over the workers; the others are stages of the run."""
_STAGES = {
    "start": "digests, workers, measuring, plan",
    "run": "chunks on the workers",
    "overviews": "of the Zarr store",
    "cog": "Cloud Optimized GeoTIFF",
    "publish": "class table, preview",
}
_FILES = {
    COG: "labels, Cloud Optimized GeoTIFF",
    ZARR: "labels, Zarr",
    "probabilities.tif": "probability of each class",
    "confidence.tif": "margin between the two best classes",
    "disagreement.tif": "how far overlapping windows differed",
    "agreement.tif": "share of the observations that have the label of the map",
    "observations.tif": "number of valid observations",
    "last_date.tif": "day of the last valid observation",
    PREVIEW: "scene and segmentation side by side",
    ITEM: "STAC item",
    RECORD: "record of the run",
}
_DRAWN_TILES = 40
"""Tiles along the longer side of a scene up to which the drawing of its lattice shows tiles, not chunks."""
_DRAWING = 170
"""Edge of the drawings of a window and of the scene, in units of the SVG."""


@dataclass(frozen=True)
class ModelCard:
    """What a report says of a model.

    Attributes:
        name: its name.
        version: its version.
        license: its licence.
        architecture: its network.
        description: what it does.
        limits: what it is good for and what not, in one line.
        training_data: data sets from which it was trained.
        exact_halo: smallest halo in pixels that hides the tiling. ``None``: no halo does.
        readme: Markdown.
    """

    name: str
    version: str
    license: str
    architecture: str
    description: str = ""
    limits: str = ""
    training_data: tuple[str, ...] = ()
    exact_halo: int | None = None
    readme: str = ""


def write_report(folder: Path, scene: Scene, classes: Sequence[LabelClass], card: ModelCard, record: RunRecord) -> None:
    """Write ``report.html`` of a scene's folder; it appears whole or not at all.

    Args:
        folder: the scene's folder. Write the preview before, since it becomes a part of the page.
        scene: the scene.
        classes: classes of the labels.
        card: the model.
        record: the record of the run, as in ``run.json``.
    """
    page = load_report_template().render(
        **_describe_scene(scene, record),
        **describe_classes(classes, record),
        **_describe_plan(scene, card, record),
        **_describe_run(record),
        card=card,
        readme=_render_markdown(card.readme),
        preview=read_data_uri(folder / PREVIEW),
        files=list_files(folder),
        most=MAX_WARNINGS,
    )
    with atomic_write(folder / REPORT) as part:
        part.write_text(page, encoding="utf-8")


def _describe_scene(scene: Scene, record: RunRecord) -> dict[str, Any]:
    height, width = scene.grid.shape
    scale = map_scale(scene.grid)
    return {
        "scene": {
            "id": scene.id,
            "source": scene.source,
            "size": f"{width:,} × {height:,}",
            "pixel": None if scale is None else format_pixel_size(scale),
            "crs": format_crs(scene),
            "bands": _describe_bands(scene),
            "nodata": _describe_nodata(scene),
            "radiometry": record.radiometry,
        },
        "date": format_date(scene),
        "has_aoi": scene.aoi is not None,
        "acquired": format_date(scene).removeprefix("date "),
        "finished": record.finished.replace("T", " ").replace("+00:00", " UTC"),
    }


def _describe_bands(scene: Scene) -> str:
    """Return for each input of the network the band of the file that it is read from."""
    is_one_file = len({band.path for band in scene.bands}) == 1
    places = [
        f"band {band.index}" if is_one_file else f"{band.path.rstrip('/').rpartition('/')[2]}, band {band.index}"
        for band in scene.bands
    ]
    return "; ".join(f"{band.name}: {place}" for band, place in zip(scene.bands, places, strict=True))


def _describe_nodata(scene: Scene) -> str:
    """Return the numbers that mean no data."""
    numbers = {band.name: "none" if band.nodata is None else f"{band.nodata:g}" for band in scene.bands}
    if len(set(numbers.values())) == 1:
        return next(iter(numbers.values()))
    return "; ".join(f"{name}: {number}" for name, number in numbers.items())


def describe_classes(classes: Sequence[LabelClass], record: RunRecord) -> dict[str, Any]:
    """Return what the template of the class table takes.

    Args:
        classes: classes of the labels.
        record: has a row for each class, in the same order.
    """
    rows = [
        {
            "name": label.name,
            "description": label.description,
            "value": label.value,
            "color": label.hex,
            "share": format_percent(row.share),
            "width": f"{row.share * 100:.3f}",
            "area": format_area(row.area_m2),
            "pixels": f"{row.pixels:,}",
        }
        for label, row in zip(classes, record.classes, strict=True)
    ]
    return {"classes": rows, "has_areas": any(row.area_m2 is not None for row in record.classes)}


def _describe_plan(scene: Scene, card: ModelCard, record: RunRecord) -> dict[str, Any]:
    plan, settings = record.plan, record.settings
    height, width = scene.grid.shape
    draws_chunks = max(height, width) > _DRAWN_TILES * plan.stride
    step = plan.stride * plan.chunk_tiles if draws_chunks else plan.stride
    return {
        "plan": {
            **plan.model_dump(),
            "support": plan.window - 2 * plan.halo,
            "lattice": "the scene's chunks" if draws_chunks else "the scene's tiles",
        },
        "tile": _lay_out_tile(plan),
        "map": _lay_out_map(height, width, step),
        "meaning": _explain_plan(plan, card.exact_halo),
        "windows": f"{record.windows:,}",
        "chunks": f"{record.chunks:,}",
        "network_pixels": f"{record.pixels_inferred / max(1, record.pixels_scene):.2f}",
        "engine": f"{settings['engine']} on {settings['device']}, {settings['precision']}, batch {settings['batch']}",
    }


def _lay_out_tile(plan: TilingRecord) -> dict[str, float]:
    """Return the places in the drawing of one window: its support and the overlap with its neighbours."""
    scale = _DRAWING / plan.window
    halo, overlap = plan.halo * scale, plan.overlap * scale
    side = (plan.window - 2 * plan.halo) * scale
    left, top = 10 + halo, 16 + halo
    places = {
        "left": left,
        "top": top,
        "side": side,
        "overlap": overlap,
        "feather": left + side - overlap,
        "feather_top": top + side - overlap,
    }
    return {key: round(value, 2) for key, value in places.items()}


def _lay_out_map(height: int, width: int, step: int) -> dict[str, float]:
    """Return the places in the drawing of the scene and of its lattice, whose lines are ``step`` pixels apart."""
    scale = _DRAWING / max(height, width)
    places = {
        "left": 325 - width * scale / 2,
        "top": 101 - height * scale / 2,
        "width": width * scale,
        "height": height * scale,
        "stride": step * scale,
    }
    return {key: round(value, 2) for key, value in places.items()}


def _explain_plan(plan: TilingRecord, exact_halo: int | None) -> str:
    """Return in words whether the tiling can change labels."""
    halo, overlap = plan.halo, plan.overlap
    feathered = f"Feathered: neighbouring tiles are blended over {overlap} pixels"
    if exact_halo is not None and halo >= exact_halo:
        exact = (
            f"Exact: the halo of {halo} pixels covers all that the network sees around a pixel, so that the labels are "
            "those of one pass over the whole scene, and no tile can be seen in them."
        )
        return f"{exact} {feathered} in addition." if overlap else exact
    sees = "without a bound" if exact_halo is None else f"{exact_halo} pixels far"
    if overlap:
        return (
            f"{feathered}. The network sees {sees}, the halo is {halo} pixels: "
            "near tile borders labels may differ a little from those of one pass."
        )
    return (
        f"Neither exact nor feathered: the network sees {sees}, the halo is {halo} pixels, and tiles are not blended. "
        "Labels may change at tile borders."
    )


def _describe_run(record: RunRecord) -> dict[str, Any]:
    seconds = record.seconds
    stages = {name: value for name, value in seconds.items() if name not in (*_WORKER_STAGES, "total")}
    work = {name: seconds[name] for name in _WORKER_STAGES if name in seconds}
    bad, count = len(record.bad_blocks), record.workers
    peak, device = record.peak_memory_bytes, record.device_memory_bytes
    projected = record.projected_memory_bytes
    return {
        "stages": build_bars(stages, max(seconds["total"], sum(stages.values()))),
        "work": build_bars(work, sum(work.values())),
        "total": format_duration(seconds["total"]),
        "workers": f"{count} worker" + ("s" if count != 1 else ""),
        "memory": f"{format_mebibytes(peak)} at most, {format_mebibytes(projected)} projected",
        "device_memory": format_mebibytes(device) if device else "",
        "bad_blocks": f"{bad}, see the warnings" if bad else "",
        "warnings": [*record.warnings, *(f"Bad block: {block}" for block in record.bad_blocks)],
        "digest_of": "Scene",
        "scene_digest": record.scene_digest,
        "model_digest": record.model_digest,
        "versions": list(record.versions.items()),
    }


def build_bars(seconds: Mapping[str, float], whole: float) -> list[dict[str, str]]:
    """Return the bars of a chart of durations, their widths in per cent of ``whole``."""
    return [
        {
            "name": name,
            "what": _STAGES.get(name, ""),
            "time": format_duration(value),
            "width": f"{100 * value / whole if whole > 0 else 0:.2f}",
        }
        for name, value in seconds.items()
    ]


def read_data_uri(path: Path) -> str:
    """Return a PNG as a data URI; empty if there is none."""
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def list_files(folder: Path) -> list[dict[str, str]]:
    """Return the files beside the report, and the catalogue.

    Item and record are listed although they are written after the report: the item holds its checksum.
    """
    existing = {path.name for path in folder.iterdir() if not path.name.startswith(".")} | {ITEM, RECORD}
    order = [*_FILES, *sorted(existing - set(_FILES))]
    names = [name for name in order if name in existing and name != REPORT]
    files = [{"name": name, "href": quote(name), "what": _FILES.get(name, "")} for name in names]
    return [*files, {"name": CATALOG, "href": f"../{CATALOG}", "what": "the catalogue of all scenes"}]


@cache
def load_report_template(name: str = REPORT) -> Template:
    """Return the template of a report, with what is needed to fill it; later calls return it at once."""
    importlib.import_module("markdown_it")
    environment = Environment(
        loader=PackageLoader("seamline.pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _render_markdown(markdown: str) -> Markup:
    """Return Markdown as HTML without any HTML, links or images of its own; headings are two levels lower."""
    from markdown_it import MarkdownIt  # takes a while to import, and a client needs it at the end only
    from markdown_it.common.utils import escapeHtml

    parser = MarkdownIt("js-default", {"html": False})
    parser.add_render_rule("link_open", lambda *_: "")
    parser.add_render_rule("link_close", lambda *_: "")
    parser.add_render_rule("image", lambda _, tokens, index, *__: escapeHtml(tokens[index].content))
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))
