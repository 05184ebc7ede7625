"""What is seen of scenes in Prefect: a summary, a small picture, the report of a collection, an event."""

from __future__ import annotations

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.events import emit_event

from seamline.flows.collection.outcomes import Outcome
from seamline.flows.runs.observer import RunResult
from seamline.pipeline.common.classes import format_count, format_percent
from seamline.pipeline.common.layout import PREVIEW
from seamline.pipeline.results.verify import Finding

PUBLISHED_EVENT = "seamline.scene.published"
"""The event that automations can start on; its resource is ``seamline.scene.<scene id>``."""
MAP_URL_VARIABLE = "SEAMLINE_MAP_URL"
"""Where ``seamline serve`` shows the catalogue; with it artifacts lead to the map."""
PICTURE_WIDTH = 900
STATE_LABELS = {"published": "✅ published", "unchanged": "· unchanged", "in use": "⏳ in use", "failed": "❌ failed"}


def show_result(result: RunResult) -> None:
    """The artifacts of a scene that was published, and its event."""
    record, scene = result.record, result.record.scene
    create_markdown_artifact(
        markdown=format_summary(result), key=make_artifact_key("summary", scene), description=scene
    )
    preview = result.folder / PREVIEW
    if preview.exists():
        create_image_artifact(
            image_url=encode_picture(preview), key=make_artifact_key("preview", scene), description=scene
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
            "map": make_map_link(scene),
        },
    )


def show_collection(outcomes: Sequence[Outcome], known: int, waiting: Sequence[str], title: str) -> None:
    """The report of a collection as an artifact."""
    text = format_collection_report(outcomes, known, waiting, title)
    create_markdown_artifact(markdown=text, key="segment-collection", description=title)


def format_summary(result: RunResult) -> str:
    """A run as Markdown."""
    record = result.record
    pixels = f"{record.pixels_inferred / record.pixels_scene:.2f}"
    rows = [
        ("windows", f"{record.windows} of {record.plan.window}²"),
        ("network pixels per scene pixel", pixels),
        ("seconds", f"{record.seconds['total']:.1f}"),
        ("peak memory of a worker", f"{record.peak_memory_bytes / 2**20:.0f} MiB"),
        ("model", f"{_escape_cell(record.model)} ({record.model_digest[:12]})"),
        *((_escape_cell(row.name), format_percent(row.share)) for row in record.classes),
        ("results", f"`{result.url or result.folder}`"),
    ]
    link = make_map_link(record.scene)
    if link:
        rows.append(("map", f"[{link}]({link})"))
    done = "" if result.computed else "Finished before with this scene, model and plan; nothing was inferred.\n\n"
    return f"# {record.scene}\n\n{done}| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)


def format_collection_report(outcomes: Sequence[Outcome], known: int, waiting: Sequence[str], title: str) -> str:
    """A collection's run as Markdown: how many scenes came to what, then each of them, those that failed first.

    ``known`` were published before and are not among the outcomes, ``waiting`` are left for the next run.
    """
    counts = Counter[str](outcome.state for outcome in outcomes)
    counts["unchanged"] += known
    told = [f"{counts[state]} {state}" for state in STATE_LABELS if counts[state]]
    told += [f"{len(waiting)} still being copied"] if waiting else []
    lines = [f"# {title}", "", ", ".join(told) or "no scenes", ""]
    if outcomes or waiting:
        lines += ["| scene | | seconds | classes, or why not |", "|---|---|---|---|"]
    for outcome in sorted(outcomes, key=lambda o: (list(STATE_LABELS)[::-1].index(o.state), o.name)):
        shares = ", ".join(f"{_escape_cell(name)} {format_percent(share)}" for name, share in outcome.shares.items())
        link = make_map_link(outcome.scene) if outcome.scene else None
        name = f"[{_escape_cell(outcome.name)}]({link})" if link else _escape_cell(outcome.name)
        seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
        lines.append(
            f"| {name} | {STATE_LABELS[outcome.state]} | {seconds} | {_escape_cell(outcome.reason) or shares} |"
        )
    lines += [f"| {_escape_cell(name)} | still being copied | | |" for name in waiting]
    return "\n".join(lines)


def show_findings(scenes: int, findings: Sequence[Finding], out: str) -> None:
    """A look over a catalogue as an artifact."""
    create_markdown_artifact(
        markdown=format_findings_report(scenes, findings, out), key="publish-catalog", description=out
    )


def format_findings_report(scenes: int, findings: Sequence[Finding], out: str) -> str:
    """A look over a catalogue as Markdown."""
    lines = [f"# {out}", "", f"{format_count(scenes, 'scene')}, {format_count(len(findings), 'finding')}", ""]
    if findings:
        lines += ["| scene | file | what is wrong |", "|---|---|---|"]
    lines += [f"| {_escape_cell(f.scene)} | {_escape_cell(f.subject)} | {_escape_cell(f.problem)} |" for f in findings]
    return "\n".join(lines)


def encode_picture(preview: Path) -> str:
    """A preview as a ``data:`` URL, small enough for Prefect's database."""
    with Image.open(preview) as file:
        image = file.convert("RGB")
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def make_map_link(scene: str) -> str | None:
    """The scene on the map, where the environment says where the map is."""
    base = os.environ.get(MAP_URL_VARIABLE)
    return f"{base.rstrip('/')}/#scene={quote(scene, safe='')}" if base else None


def make_artifact_key(kind: str, scene: str) -> str:
    """An artifact's key, by which its versions are found: Prefect takes lower-case letters, digits and dashes."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', scene.lower()).strip('-')}"


def _escape_cell(text: str) -> str:
    """In a cell of a table: what comes from files must not end it, nor be markup."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")
