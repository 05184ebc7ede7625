"""The report of a segmented scene: one HTML file that can be mailed, opened without a network and printed.

Whatever comes from files (names, descriptions, the model's README) is hostile until it is escaped: the template does it
by itself, Markdown passes no HTML, links and images on, and the page's own policy lets a browser load nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markupsafe import Markup

from seamline.pipeline.common.classes import LabelClass, format_percent
from seamline.pipeline.common.layout import REPORT
from seamline.pipeline.geometry.map_scale import MapScale, map_scale
from seamline.pipeline.products.geozarr import find_crs_code
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.storage.atomic import atomic_write

_MAX_WARNINGS = 50
"""Warnings that are listed."""
_WORKER_STAGES = ("read", "infer", "blend", "write")
_STAGES = {
    "start": "digests, workers, measuring, plan",
    "run": "chunks on the workers",
    "overviews": "of the Zarr store",
    "cog": "Cloud Optimized GeoTIFF",
    "publish": "class table, preview",
}
_FILES = {
    "segmentation.tif": "labels, Cloud Optimized GeoTIFF",
    "segmentation.zarr": "labels, Zarr",
    "probabilities.tif": "probability of each class",
    "confidence.tif": "margin between the two best classes",
    "disagreement.tif": "how far overlapping windows differed",
    "preview.png": "scene and segmentation side by side",
    "item.json": "STAC item",
    "run.json": "record of the run",
}


@dataclass(frozen=True)
class ModelCard:
    """What a report tells of a model. ``exact_halo`` is the least that hides the tiling, None if none does.

    ``readme`` is Markdown.
    """

    name: str
    version: str
    license: str
    architecture: str
    description: str = ""
    training_data: tuple[str, ...] = ()
    exact_halo: int | None = None
    readme: str = ""


def write_report(
    folder: Path, scene: Scene, classes: Sequence[LabelClass], card: ModelCard, record: Mapping[str, Any]
) -> None:
    """Write ``folder``/report.html of what was published there; it appears whole or not at all.

    ``record`` is that of ``run.json``. Write the preview before, it becomes a part of the page.
    """
    environment = Environment(
        loader=PackageLoader("seamline.pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    page = environment.get_template(REPORT).render(
        **_describe_scene(scene, record),
        **_describe_classes(classes, record),
        **_describe_plan(scene, card, record),
        **_describe_run(record),
        card=card,
        readme=_render_markdown(card.readme),
        preview=_read_data_uri(folder / "preview.png"),
        files=_list_files(folder),
        most=_MAX_WARNINGS,
    )
    with atomic_write(folder / REPORT) as part:
        part.write_text(page, encoding="utf-8")


def format_date(scene: Scene) -> str:
    """When a scene was acquired, for people; midnight sharp is a day without a time."""
    if scene.datetime is None:
        return "date unknown"
    midnight = (scene.datetime.hour, scene.datetime.minute, scene.datetime.second) == (0, 0, 0)
    return scene.datetime.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M UTC")


def format_crs(scene: Scene) -> str:
    """The CRS of a scene by its code or name, for people."""
    crs = scene.grid.crs
    return "no CRS" if crs is None else find_crs_code(scene.grid) or crs.proj.name


def format_area(square_metres: float | None) -> str:
    """An area for people, with three digits or more."""
    if square_metres is None:
        return "–"
    for size, unit in ((1e6, "km²"), (1e4, "ha")):
        if square_metres >= size:
            value = square_metres / size
            return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
    return f"{square_metres:,.0f} m²"


def _format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _format_mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _format_pixel_size(lie: MapScale) -> str:
    across, down = f"{lie.pixel_m:.3g}", f"{lie.row_m:.3g}"
    return f"{across} m" if across == down else f"{across} × {down} m"


def _describe_scene(scene: Scene, record: Mapping[str, Any]) -> dict[str, Any]:
    height, width = scene.grid.shape
    lie = map_scale(scene.grid)
    return {
        "scene": {
            "id": scene.id,
            "source": scene.source,
            "size": f"{width:,} × {height:,}",
            "pixel": None if lie is None else _format_pixel_size(lie),
            "crs": format_crs(scene),
            "bands": ", ".join(band.name for band in scene.bands),
        },
        "date": format_date(scene),
        "acquired": format_date(scene).removeprefix("date "),
        "finished": record["finished"].replace("T", " ").replace("+00:00", " UTC"),
    }


def _describe_classes(classes: Sequence[LabelClass], record: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "name": label.name,
            "description": label.description,
            "value": label.value,
            "color": label.hex,
            "share": format_percent(row["share"]),
            "width": f"{row['share'] * 100:.3f}",
            "area": format_area(row["area_m2"]),
            "pixels": f"{row['pixels']:,}",
        }
        for label, row in zip(classes, record["classes"], strict=True)
    ]
    return {"classes": rows, "has_areas": any(row["area_m2"] is not None for row in record["classes"])}


def _describe_plan(scene: Scene, card: ModelCard, record: Mapping[str, Any]) -> dict[str, Any]:
    plan, settings = record["plan"], record["settings"]
    height, width = scene.grid.shape
    support = plan["window"] - 2 * plan["halo"]
    chunk = plan["stride"] * plan["chunk_tiles"]
    many = max(height, width) > 40 * plan["stride"]  # tiles would be too small to be seen
    scale, inch = 170 / max(height, width), 170 / plan["window"]
    side, overlap = support * inch, plan["overlap"] * inch
    left, top = 10 + plan["halo"] * inch, 16 + plan["halo"] * inch
    return {
        "plan": {**plan, "support": support, "lattice": "the scene's chunks" if many else "the scene's tiles"},
        "tile": {
            key: round(value, 2)
            for key, value in {
                "left": left, "top": top, "side": side, "overlap": overlap,
                "feather": left + side - overlap, "feather_top": top + side - overlap,
            }.items()
        },
        "map": {
            key: round(value, 2)
            for key, value in {
                "left": 325 - width * scale / 2, "top": 101 - height * scale / 2, "width": width * scale,
                "height": height * scale, "stride": (chunk if many else plan["stride"]) * scale,
            }.items()
        },
        "meaning": _explain_plan(plan, card.exact_halo),
        "windows": f"{record['windows']:,}",
        "chunks": f"{record['chunks']:,}",
        "network_pixels": f"{record['pixels_inferred'] / max(1, record['pixels_scene']):.2f}",
        "engine": f"{settings['engine']} on {settings['device']}, {settings['precision']}, batch {settings['batch']}",
    }  # fmt: skip


def _explain_plan(plan: Mapping[str, int], exact_halo: int | None) -> str:
    halo, overlap = plan["halo"], plan["overlap"]
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


def _describe_run(record: Mapping[str, Any]) -> dict[str, Any]:
    seconds = record["seconds"]
    stages = {name: value for name, value in seconds.items() if name not in (*_WORKER_STAGES, "total")}
    work = {name: seconds[name] for name in _WORKER_STAGES if name in seconds}
    bad, count = len(record["bad_blocks"]), record["workers"]
    peak, device = record["peak_memory_bytes"], record["device_memory_bytes"]
    return {
        "stages": _build_bars(stages, max(seconds["total"], sum(stages.values()))),
        "work": _build_bars(work, sum(work.values())),
        "total": _format_duration(seconds["total"]),
        "workers": f"{count} worker" + ("s" if count != 1 else ""),
        "memory": f"{_format_mebibytes(peak)} at most, {_format_mebibytes(record['projected_memory_bytes'])} projected",
        "device_memory": _format_mebibytes(device) if device else "",
        "bad_blocks": f"{bad}, see the warnings" if bad else "",
        "warnings": [*record["warnings"], *(f"Bad block: {block}" for block in record["bad_blocks"])],
        "scene_digest": record["scene_digest"],
        "model_digest": record["model_digest"],
        "versions": list(record["versions"].items()),
    }


def _build_bars(seconds: Mapping[str, float], whole: float) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "what": _STAGES.get(name, ""),
            "time": _format_duration(value),
            "width": f"{100 * value / whole if whole > 0 else 0:.2f}",
        }
        for name, value in seconds.items()
    ]


def _read_data_uri(path: Path) -> str:
    """The picture itself; empty where it is not there."""
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def _list_files(folder: Path) -> list[dict[str, str]]:
    """What lies beside the report, and the item, which is written after it since it holds its checksum."""
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")} | {"item.json"}
    order = [*_FILES, *sorted(found - set(_FILES))]
    names = [name for name in order if name in found and name != REPORT]
    return [{"name": name, "href": quote(name), "what": _FILES.get(name, "")} for name in names] + [
        {"name": "catalog.json", "href": "../catalog.json", "what": "the catalogue of all scenes"}
    ]


def _render_markdown(markdown: str) -> Markup:
    """Markdown as HTML without any HTML, link or image of its own; headings two levels lower."""
    parser = MarkdownIt("js-default", {"html": False})
    parser.add_render_rule("link_open", lambda *_: "")
    parser.add_render_rule("link_close", lambda *_: "")
    parser.add_render_rule("image", lambda _, tokens, index, *__: escapeHtml(tokens[index].content))
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))
