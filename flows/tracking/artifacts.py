"""Create Prefect artifacts and events: summaries and previews of scenes, reports of collections and catalogues."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events import emit_event

from seamline.flows.collection.outcomes import Outcome
from seamline.flows.maps.observer import MapResult
from seamline.flows.runs.observer import RunResult
from seamline.flows.settings.folders import is_disk_low
from seamline.flows.tracking.idle_runs import tag_idle_run
from seamline.flows.tracking.variables import MAP_URL_VARIABLE
from seamline.pipeline.common.classes import format_count, format_percent
from seamline.pipeline.common.layout import PREVIEW
from seamline.pipeline.results.verify import Finding

PUBLISHED_EVENT = "seamline.scene.published"
"""Name of the event of a published scene, which automations may react to.

Its resource is ``seamline.scene.<scene id>``.
"""
DISK_EVENT = "seamline.disk.low"
"""Name of the event of a disk with little space left. Its resource is ``seamline.disk``."""
_PICTURE_WIDTH = 480
"""Longest side of a preview in pixels: some 100 kB of Prefect's database, which keeps the latest artifact twice."""
_COLLECTION_KEY = "segment-collection"
_MOST_ROWS = 1000
"""Rows of the report of a collection."""
_STATE_LABELS = {
    "published": "✅ published",
    "unchanged": "· unchanged",
    "in use": "⏳ in use",
    "set aside": "⚠️ set aside",
    "failed": "❌ failed",
}


def create_scene_artifacts(result: RunResult, with_picture: bool = True) -> None:
    """Create the artifacts of a published scene and emit its event.

    Args:
        result: What the scene's run left.
        with_picture: Whether Prefect's database keeps a preview; where there is a map, the artifact links to the map's.
    """
    record, scene = result.record, result.record.scene
    create_markdown_artifact(
        markdown=_format_summary(result), key=make_artifact_key("summary", scene), description=scene
    )
    preview = result.folder / PREVIEW
    url = _make_map_url(f"scenes/{quote(scene, safe='')}/preview.png")
    if preview.exists() and (url or with_picture):
        create_image_artifact(
            image_url=url or _encode_picture(preview), key=make_artifact_key("preview", scene), description=scene
        )
    emit_event(
        event=PUBLISHED_EVENT,
        resource={"prefect.resource.id": f"seamline.scene.{scene}", "prefect.resource.name": scene},
        payload={
            "folder": result.url or str(result.folder),
            "source": record.source,
            "model": record.model,
            "model_digest": record.model_digest,
            "shares": {row.name: row.share for row in record.classes},
            "map": _make_map_link(scene),
        },
    )


def report_disk(folder: Path) -> bool:
    """Emit an event if little is left of the disk that a folder is on; return whether it is so."""
    usage = shutil.disk_usage(folder)
    is_low = is_disk_low(usage.total, usage.free)
    if is_low:
        emit_event(
            event=DISK_EVENT,
            resource={"prefect.resource.id": "seamline.disk", "prefect.resource.name": str(folder)},
            payload={"folder": str(folder), "free_bytes": usage.free, "total_bytes": usage.total},
        )
    return is_low


def show_collection(outcomes: Sequence[Outcome], known: int, waiting: Sequence[str], title: str) -> None:
    """Create the artifact that reports a run of a collection.

    A run that found nothing new is idle. It gets a tag, and no report if that would say what the last one says.

    Args:
        outcomes: What became of each scene of this run.
        known: Number of scenes that an earlier run published.
        waiting: Names of files that are still being copied.
        title: Heading of the report.
    """
    text = _format_collection_report(outcomes, known, waiting, title)
    if not waiting and all(outcome.state == "set aside" for outcome in outcomes):
        tag_idle_run()
        if _read_latest(_COLLECTION_KEY) == text:
            return
    create_markdown_artifact(markdown=text, key=_COLLECTION_KEY, description=title)


def _read_latest(key: str) -> str | None:
    """Return the text of the latest artifact with a key; None if there is none."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.UPDATED_DESC, limit=1
        )
    return str(found[0].data) if found else None


def show_map(result: MapResult) -> None:
    """Create the artifact that reports a run of a map: its periods, scenes, and what was left out."""
    rows = [f"| {name} | {len(scenes):,} |" for name, scenes in result.record.periods.items()]
    left_out = [
        f"- left out: {_escape_cell(scene.id)}: {_escape_cell(scene.reason)}" for scene in result.record.skipped
    ]
    done = format_count(result.chunks, "chunk") + " computed" if result.computed else "up to date"
    lines = [f"# {result.folder.name}", f"{done}, {result.seconds:.0f} s", "| period | scenes |", "|---|---|", *rows]
    create_markdown_artifact(
        markdown="\n".join([lines[0], "", lines[1], "", *lines[2:], "", *left_out]),
        key=make_artifact_key("map", result.folder.name),
        description=result.folder.name,
    )


def _format_summary(result: RunResult) -> str:
    """Return the summary of a scene's run as Markdown."""
    record = result.record
    redundancy = f"{record.pixels_inferred / record.pixels_scene:.2f}"
    rows = [
        ("windows", f"{record.windows} of {record.plan.window}²"),
        ("network pixels per scene pixel", redundancy),
        ("seconds", f"{record.seconds['total']:.1f}"),
        ("peak memory of a worker", f"{record.peak_memory_bytes / 2**20:.0f} MiB"),
        ("model", f"{_escape_cell(record.model)} ({record.model_digest[:12]})"),
        *((_escape_cell(row.name), format_percent(row.share)) for row in record.classes),
        ("results", f"`{result.url or result.folder}`"),
    ]
    link = _make_map_link(record.scene)
    if link:
        rows.append(("map", f"[{link}]({link})"))
    note = "" if result.computed else "Finished before with this scene, model and plan; nothing was inferred.\n\n"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {record.scene}\n\n{note}| | |\n|---|---|\n{table}"


def _format_collection_report(outcomes: Sequence[Outcome], known: int, waiting: Sequence[str], title: str) -> str:
    """Return the report of a collection's run as Markdown: counts, then a row for each scene, failed ones first.

    Args:
        outcomes: What became of each scene of this run.
        known: Number of scenes that an earlier run published; they are not among the outcomes.
        waiting: Names of files that are still being copied and are left for the next run.
        title: Heading of the report.

    Returns:
        The Markdown text.
    """
    counts = Counter[str](outcome.state for outcome in outcomes)
    counts["unchanged"] += known
    totals = [f"{counts[state]} {state}" for state in _STATE_LABELS if counts[state]]
    if waiting:
        totals.append(f"{len(waiting)} still being copied")
    lines = [f"# {title}", "", ", ".join(totals) or "no scenes", ""]
    if outcomes or waiting:
        lines += ["| scene | | seconds | classes, or why not |", "|---|---|---|---|"]
    order = list(reversed(_STATE_LABELS))
    for outcome in sorted(outcomes, key=lambda outcome: (order.index(outcome.state), outcome.name)):
        shares = ", ".join(f"{_escape_cell(name)} {format_percent(share)}" for name, share in outcome.shares.items())
        link = _make_map_link(outcome.scene) if outcome.scene else None
        name = f"[{_escape_cell(outcome.name)}]({link})" if link else _escape_cell(outcome.name)
        seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
        lines.append(
            f"| {name} | {_STATE_LABELS[outcome.state]} | {seconds} | {_escape_cell(outcome.reason) or shares} |"
        )
    lines += [f"| {_escape_cell(name)} | still being copied | | |" for name in waiting]
    if (more := len(outcomes) + len(waiting) - _MOST_ROWS) > 0:
        lines = [*lines[:-more], f"| {more} more, see the log | | | |"]
    return "\n".join(lines)


def show_findings(scenes: int, findings: Sequence[Finding], out: str) -> None:
    """Create the artifact that reports a check of a catalogue.

    Args:
        scenes: Number of scenes in the catalogue.
        findings: What is wrong.
        out: The catalogue, as a heading.
    """
    create_markdown_artifact(
        markdown=_format_findings_report(scenes, findings, out), key="publish-catalog", description=out
    )


def _format_findings_report(scenes: int, findings: Sequence[Finding], out: str) -> str:
    """Return the report of a check of a catalogue as Markdown.

    Args:
        scenes: Number of scenes in the catalogue.
        findings: What is wrong.
        out: The catalogue, as a heading.

    Returns:
        The Markdown text.
    """
    lines = [f"# {out}", "", f"{format_count(scenes, 'scene')}, {format_count(len(findings), 'finding')}", ""]
    if findings:
        lines += ["| scene | file | what is wrong |", "|---|---|---|"]
    lines += [f"| {_escape_cell(f.scene)} | {_escape_cell(f.subject)} | {_escape_cell(f.problem)} |" for f in findings]
    return "\n".join(lines)


def _encode_picture(preview: Path) -> str:
    """Return a preview as a ``data:`` URL, reduced to a size that suits Prefect's database."""
    with Image.open(preview) as file:
        image = file.convert("RGB")
    image.thumbnail((_PICTURE_WIDTH, _PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _make_map_link(scene: str) -> str | None:
    """Return the address of a scene on the map, or None where ``MAP_URL_VARIABLE`` is not set."""
    return _make_map_url(f"#scene={quote(scene, safe='')}")


def _make_map_url(path: str) -> str | None:
    base = os.environ.get(MAP_URL_VARIABLE)
    return f"{base.rstrip('/')}/{path}" if base else None


def make_artifact_key(kind: str, scene: str) -> str:
    """Return the key of a scene's artifact, in the characters that Prefect allows: a-z, 0-9 and dashes."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', scene.lower()).strip('-')}"


def _escape_cell(text: str) -> str:
    """Return text for a cell of a Markdown table; text from files must neither end the cell nor be markup."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")
