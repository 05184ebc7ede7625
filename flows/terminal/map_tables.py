"""What a terminal shows of a map, and the same as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from seamline.pipeline.common.classes import format_count, format_percent

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from seamline.flows.maps.map_plan import MapPlan
    from seamline.flows.maps.observer import MapResult
    from seamline.pipeline.analysis.write_change import Change

_MOST_REASONS = 3
"""Reasons that the table names of a period."""


def show_map_plan(plan: MapPlan) -> None:
    """Print which chunks of a map would be computed, and why."""
    grid, console = plan.record.map_grid, Console()
    table = Table(title=f"{plan.name}: {grid.width:,} × {grid.height:,} pixels, {plan.record.definition.crs}")
    for column, justify in (("period", "left"), ("scenes", "right"), ("compute", "right"), ("keep", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("why")
    for period, changes in plan.periods.items():
        scenes = len(plan.record.periods[period])
        table.add_row(
            period, f"{scenes}", f"{len(changes.computed)}", f"{len(changes.kept)}", _list_reasons(plan, period)
        )
    for period in plan.withdrawn:
        table.add_row(period, "0", "0", "0", "no scene is left: the period goes")
    console.print(table)
    for warning in plan.warnings:
        console.print(f"[yellow]warning[/]: {warning}", highlight=False, soft_wrap=True)
    if plan.is_done:
        console.print("the map is up to date")


def _list_reasons(plan: MapPlan, period: str) -> str:
    if period in plan.rewritten:
        return "files are lost, or others are wanted: they are made of the chunks that are there"
    changes = plan.periods[period]
    counts = Counter(changes.computed.values())
    texts = [f"{reason} ({format_count(count, 'chunk')})" for reason, count in counts.most_common(_MOST_REASONS)]
    rest = len(counts) - len(texts)
    return "; ".join([*texts, *([f"{rest} more"] if rest else [])]) or "nothing has changed"


def describe_map_plan(plan: MapPlan) -> str:
    """Return the plan of a map as JSON: each chunk that would be computed, with the reason."""
    grid = plan.record.map_grid
    return _encode(
        {
            "map": plan.name,
            "folder": str(plan.storage.place),
            "crs": plan.record.definition.crs,
            "resolution": plan.record.definition.resolution,
            "shape": [grid.height, grid.width],
            "transform": list(grid.geobox.transform)[:6],
            "is_done": plan.is_done,
            "periods": {
                period: {
                    "scenes": [scene.id for scene in plan.record.periods[period]],
                    "computed": [
                        {"row": chunk.row, "col": chunk.col, "why": why} for chunk, why in changes.computed.items()
                    ],
                    "kept": len(changes.kept),
                }
                for period, changes in plan.periods.items()
            },
            "rewritten": list(plan.rewritten),
            "withdrawn": list(plan.withdrawn),
            "warnings": list(plan.warnings),
        }
    )


def show_map(result: MapResult) -> None:
    """Print what a run of a map left."""
    grid = result.record.map_grid
    table = Table(title=f"{result.folder.name}: {grid.width:,} × {grid.height:,} pixels", show_header=False)
    scenes = {scene.id for period in result.record.periods.values() for scene in period}
    rows = {
        "folder": result.url or str(result.folder),
        "periods": ", ".join(result.record.periods),
        "scenes": f"{len(scenes)}",
        "computed": format_count(result.chunks, "chunk") if result.computed else "nothing: the map is up to date",
        "left out": ", ".join(scene.id for scene in result.record.skipped),
        "time": f"{result.seconds:.1f} s",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    Console().print(table)


def describe_map(result: MapResult) -> str:
    """Return what a run of a map left as JSON: ``folder``, ``computed``, ``chunks``, ``seconds``, ``map``."""
    return _encode(
        {
            "folder": result.url or str(result.folder),
            "computed": result.computed,
            "chunks": result.chunks,
            "seconds": round(result.seconds, 3),
            "map": result.record.model_dump(mode="json"),
        }
    )


def show_change(change: Change) -> None:
    """Print how much went from each class to another one, the largest part first."""
    console, compared = Console(), sum(entry.pixels for entry in change.transitions)
    table = Table(title=f"{compared:,} of {change.pixels:,} pixels compared")
    table.add_column("change")
    for column in ("pixels", "hectares", "share"):
        table.add_column(column, justify="right")
    for entry in sorted(change.transitions, key=lambda entry: -entry.pixels):
        area = "" if entry.area_m2 is None else f"{entry.area_m2 / 10_000:,.2f}"
        name = f"{entry.before.name}, unchanged" if entry.before == entry.after else entry.name
        table.add_row(name, f"{entry.pixels:,}", area, format_percent(entry.share))
    console.print(table)
    console.print(str(change.folder), highlight=False, soft_wrap=True)


def describe_change(change: Change) -> str:
    """Return what changed as JSON: ``folder``, ``pixels`` and ``transitions``, as ``transitions.json`` has them."""
    from seamline.pipeline.analysis.write_change import describe_transitions

    rows = describe_transitions(change.transitions)
    return _encode({"folder": str(change.folder), "pixels": change.pixels, "transitions": rows})


def show_zones(table: pd.DataFrame, path: Path) -> None:
    """Print what a table of zones has."""
    counts = _count_zones(table)
    text = ", ".join(format_count(count, noun.removesuffix("s")) for noun, count in counts.items())
    Console().print(f"{path}: {text}", highlight=False, soft_wrap=True)


def describe_zones(table: pd.DataFrame, path: Path) -> str:
    """Return what a table of zones has as JSON: ``file``, and the numbers of ``zones``, ``periods`` and ``rows``."""
    return _encode({"file": str(path), **_count_zones(table)})


def _count_zones(table: pd.DataFrame) -> dict[str, int]:
    kind = str(table.columns[1])
    zones = int(table["zone"].nunique(dropna=False))
    return {"zones": zones, f"{kind}s": int(table[kind].nunique()), "rows": len(table)}


def _encode(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)
