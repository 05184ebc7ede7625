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
from seamline.flows.runs.segment import Result
from seamline.pipeline.common.classes import counted, percent
from seamline.pipeline.common.layout import PREVIEW
from seamline.pipeline.results.verify import Finding

PUBLISHED = "seamline.scene.published"
"""The event that automations can start on; its resource is ``seamline.scene.<scene id>``."""
MAP_URL = "SEAMLINE_MAP_URL"
"""Where ``seamline serve`` shows the catalogue; with it artifacts lead to the map."""
PICTURE_WIDTH = 900
LOOKS = {"published": "✅ published", "unchanged": "· unchanged", "in use": "⏳ in use", "failed": "❌ failed"}


def show_result(result: Result) -> None:
    """The artifacts of a scene that was published, and its event."""
    record, scene = result.record, str(result.record["scene"])
    create_markdown_artifact(markdown=summary(result), key=key("summary", scene), description=scene)
    preview = result.folder / PREVIEW
    if preview.exists():
        create_image_artifact(image_url=picture(preview), key=key("preview", scene), description=scene)
    emit_event(
        event=PUBLISHED,
        resource={"prefect.resource.id": f"seamline.scene.{scene}", "prefect.resource.name": scene},
        payload={
            "folder": result.place or str(result.folder),
            "source": record["source"],
            "model": record["model"],
            "model_digest": record["model_digest"],
            "shares": {row["name"]: row["share"] for row in record["classes"]},
            "map": map_link(scene),
        },
    )


def show_collection(outcomes: Sequence[Outcome], known: int, waiting: Sequence[str], title: str) -> None:
    """The report of a collection as an artifact."""
    text = report(outcomes, known, waiting, title)
    create_markdown_artifact(markdown=text, key="segment-collection", description=title)


def summary(result: Result) -> str:
    """A run as Markdown."""
    record = result.record
    pixels = f"{record['pixels_inferred'] / record['pixels_scene']:.2f}"
    rows = [
        ("windows", f"{record['windows']} of {record['plan']['window']}²"),
        ("network pixels per scene pixel", pixels),
        ("seconds", f"{record['seconds']['total']:.1f}"),
        ("peak memory of a worker", f"{record['peak_memory_bytes'] / 2**20:.0f} MiB"),
        ("model", f"{_cell(record['model'])} ({record['model_digest'][:12]})"),
        *((_cell(row["name"]), percent(row["share"])) for row in record["classes"]),
        ("results", f"`{result.place or result.folder}`"),
    ]
    link = map_link(record["scene"])
    if link:
        rows.append(("map", f"[{link}]({link})"))
    done = "" if result.computed else "Finished before with this scene, model and plan; nothing was inferred.\n\n"
    return f"# {record['scene']}\n\n{done}| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows)


def report(outcomes: Sequence[Outcome], known: int, waiting: Sequence[str], title: str) -> str:
    """A collection's run as Markdown: how many scenes came to what, then each of them, those that failed first.

    ``known`` were published before and are not among the outcomes, ``waiting`` are left for the next run.
    """
    counts = Counter[str](outcome.state for outcome in outcomes)
    counts["unchanged"] += known
    told = [f"{counts[state]} {state}" for state in LOOKS if counts[state]]
    told += [f"{len(waiting)} still being copied"] if waiting else []
    lines = [f"# {title}", "", ", ".join(told) or "no scenes", ""]
    if outcomes or waiting:
        lines += ["| scene | | seconds | classes, or why not |", "|---|---|---|---|"]
    for outcome in sorted(outcomes, key=lambda o: (list(LOOKS)[::-1].index(o.state), o.name)):
        shares = ", ".join(f"{_cell(name)} {percent(share)}" for name, share in outcome.shares.items())
        link = map_link(outcome.scene) if outcome.scene else None
        name = f"[{_cell(outcome.name)}]({link})" if link else _cell(outcome.name)
        seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
        lines.append(f"| {name} | {LOOKS[outcome.state]} | {seconds} | {_cell(outcome.reason) or shares} |")
    lines += [f"| {_cell(name)} | still being copied | | |" for name in waiting]
    return "\n".join(lines)


def show_findings(scenes: int, findings: Sequence[Finding], out: str) -> None:
    """A look over a catalogue as an artifact."""
    create_markdown_artifact(markdown=findings_report(scenes, findings, out), key="publish-catalog", description=out)


def findings_report(scenes: int, findings: Sequence[Finding], out: str) -> str:
    """A look over a catalogue as Markdown."""
    lines = [f"# {out}", "", f"{counted(scenes, 'scene')}, {counted(len(findings), 'finding')}", ""]
    if findings:
        lines += ["| scene | file | what is wrong |", "|---|---|---|"]
    lines += [f"| {_cell(f.scene)} | {_cell(f.subject)} | {_cell(f.problem)} |" for f in findings]
    return "\n".join(lines)


def picture(preview: Path) -> str:
    """A preview as a ``data:`` URL, small enough for Prefect's database."""
    with Image.open(preview) as file:
        image = file.convert("RGB")
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def map_link(scene: str) -> str | None:
    """The scene on the map, where the environment says where the map is."""
    base = os.environ.get(MAP_URL)
    return f"{base.rstrip('/')}/#scene={quote(scene, safe='')}" if base else None


def key(kind: str, scene: str) -> str:
    """An artifact's key, by which its versions are found: Prefect takes lower-case letters, digits and dashes."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', scene.lower()).strip('-')}"


def _cell(text: str) -> str:
    """In a cell of a table: what comes from files must not end it, nor be markup."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")
