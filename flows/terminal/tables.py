"""Print results of commands as tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seamline.pipeline.common.classes import format_count, format_percent
from seamline.pipeline.common.errors import to_plain_line
from seamline.pipeline.common.layout import ITEM, POLYGON_FILES, PREVIEW, RECORD, REPORT, ZARR

if TYPE_CHECKING:
    from seamline.flows.runs.observer import RunResult
    from seamline.flows.runs.planning import Plan
    from seamline.flows.settings.checks import Check
    from seamline.flows.training.evaluation import Evaluation
    from seamline.model.spec.measurement import Measurement
    from seamline.pipeline.products.run_record import RunRecord
# Functions import what else they need: all commands import this module, and most of them only answer a question.


def show_result(result: RunResult) -> None:
    """Print what a run did, and where its files are."""
    from seamline.pipeline.publishing.result_files import COG_ARRAYS

    out = Console()
    if not result.computed:
        done = f"wrote {', '.join(result.rewritten)}" if result.rewritten else "nothing to do"
        out.print(
            f"{result.url or result.folder}: finished before with this scene and model; {done}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return
    out.print(_make_run_table(result.record))
    # Unwrapped, so that the paths can be copied.
    if result.url:
        out.print(f"{result.url}/{ITEM}", soft_wrap=True, highlight=False)
        return
    files = {output: [f"{array}.tif"] for output, array in COG_ARRAYS.items()} | {"zarr": [ZARR]}
    files["polygons"] = [name for name in POLYGON_FILES.values() if (result.folder / name).exists()]
    outputs = [name for output in result.record.outputs for name in files[output]]
    for name in (*outputs, ITEM, PREVIEW, REPORT, RECORD):
        out.print(str(result.folder / name), soft_wrap=True, highlight=False)


def _make_run_table(record: RunRecord) -> Table:
    table = _make_table(f"{record.scene} · {record.model}")
    seconds, plan, scene_pixels = record.seconds, record.plan, record.pixels_scene
    table.add_row("windows", f"{record.windows} of {plan.window}² (halo {plan.halo}, overlap {plan.overlap})")
    table.add_row("network pixels per scene pixel", f"{record.pixels_inferred / scene_pixels:.2f}")
    table.add_row("speed", f"{scene_pixels / seconds['total'] / 1e6:.2g} Mpx/s of the scene, all included")
    stages = ("start", "run", "cog", *(["polygons"] if "polygons" in record.outputs else []), "publish")
    wall_times = ", ".join(f"{stage} {seconds.get(stage, 0):.1f}" for stage in stages)
    worker_times = ", ".join(f"{stage} {seconds[stage]:.1f}" for stage in ("read", "infer", "blend", "write"))
    table.add_row("seconds", f"{seconds['total']:.1f} ({wall_times})")
    table.add_row(f"seconds of {record.workers} worker(s)", worker_times)
    table.add_row("network ran on", _format_settings(record.settings))
    peak, projected = record.peak_memory_bytes, record.projected_memory_bytes
    table.add_row("peak memory of a worker", f"{peak / 2**20:.0f} MiB of {projected / 2**20:.0f} MiB projected")
    for row in record.classes:
        table.add_row(f"class {row.name}", f"{format_percent(row.share)} of the valid pixels")
    for block in record.bad_blocks:
        table.add_row("[red]unreadable block[/]", block)
    return table


def show_tuning(measurement: Measurement) -> None:
    """Print the tables of ``seamline model tune``: the trials, then the settings chosen."""
    from seamline.model.spec.measurement import MIN_LABEL_AGREEMENT, MIN_MEAN_IOU

    out = Console()
    out.print(_make_trials_table(measurement))
    out.print(
        f" b. windows at once, t. threads; * chosen; ≠ under {MIN_LABEL_AGREEMENT:.1%} of the labels or a mean IoU of "
        f"{MIN_MEAN_IOU} as in fp32: not chosen by itself",
        highlight=False,
    )
    out.print(_make_chosen_table(measurement))


def _make_trials_table(measurement: Measurement) -> Table:
    table = _make_plain_table(f"trials on {measurement.settings.device}")
    for heading in ("engine", "prec.", "layout", "window", "b.", "t.", "Mpx/s", "as fp32", "IoU", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in measurement.trials:
        settings = trial.settings
        table.add_row(
            settings.engine,
            settings.precision,
            _format_layout(settings.channels_last),
            str(trial.window),
            str(settings.batch),
            str(settings.threads),
            f"{1e-6 / trial.seconds_per_pixel:.2f}",
            f"{trial.agreement:.2%}",
            f"{trial.mean_iou:.3f}",
            "≠" if not trial.is_accurate else "*" if settings == measurement.settings else "",
        )
    return table


def _make_chosen_table(measurement: Measurement) -> Table:
    table = _make_table("chosen")
    settings = measurement.settings
    table.add_row("settings", f"{_format_settings(asdict(settings))}, {settings.threads} thread(s)")
    for edge, seconds in sorted(measurement.seconds.items()):
        table.add_row(f"window {edge}", f"{1e-6 / seconds:.2f} Mpx/s of network input")
    process, pixel = measurement.process_bytes / 2**20, measurement.bytes_per_pixel
    table.add_row("memory", f"{process:.0f} MiB and {pixel:.0f} bytes a pixel")
    if measurement.changed:
        table.add_row("labels that more context would change", _format_changed(measurement.changed, {}))
    return table


def _format_changed(changed: Mapping[int, float], redundancy_by_halo: Mapping[int, float]) -> str:
    """Return a line for each halo.

    Args:
        changed: Share of the labels that more context would change, by halo.
        redundancy_by_halo: Network pixels per scene pixel of a plan with the halo, where known.
    """
    return "\n".join(
        f"halo {halo}: {1e3 * share:.2f} ‰" + _format_redundancy(redundancy_by_halo.get(halo))
        for halo, share in sorted(changed.items())
    )


def _format_redundancy(redundancy: float | None) -> str:
    return "" if redundancy is None else f" ({redundancy:.2f} network pixels)"


def _format_layout(channels_last: bool) -> str:
    return "NHWC" if channels_last else "NCHW"


def _format_settings(settings: Mapping[str, Any]) -> str:
    """Return engine settings as text; old records have no engine, since torch was the only one."""
    engine, layout = settings.get("engine", "torch"), _format_layout(settings["channels_last"])
    return f"{engine} on {settings['device']}, {settings['precision']}, {layout}, batch {settings['batch']}"


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the table of ``seamline evaluate``."""
    table = Table(title=f"{evaluation.pixels:,} pixels compared", title_justify="left", highlight=False)
    columns = ("iou", "f1", "precision", "recall", "boundary_f1")
    table.add_column("class", style="bold")
    for heading in ("IoU", "F1", "precision", "recall", f"boundary F1 ({evaluation.tolerance} px)", "of the truth"):
        table.add_column(heading, justify="right")
    for row in evaluation.classes:
        scores = (getattr(row, column) for column in columns)
        share = format_percent(row.pixels_true / evaluation.pixels)
        table.add_row(row.name, *("–" if isnan(score) else f"{score:.3f}" for score in scores), share)
    out = Console()
    out.print(table)
    absent = [row.name for row in evaluation.absent]
    if absent:
        out.print(f"not in the truth, and so not in the mean: {', '.join(absent)}", highlight=False, markup=False)
    out.print(
        f"mean IoU {evaluation.mean_iou:.3f}, overall accuracy {evaluation.accuracy:.4f}, kappa {evaluation.kappa:.4f}",
        highlight=False,
    )


def show_items(items: Sequence[Mapping[str, Any]]) -> None:
    """Print the scenes that a query found, with their dates and the shares of their classes."""
    if not items:
        print("no scenes")
        return
    table = _make_plain_table(format_count(len(items), "scene"))
    for heading in ("scene", "date", "classes"):
        table.add_column(heading, overflow="fold")
    for item in items:
        properties = item["properties"]
        rows = sorted(_list_shares(properties), key=lambda row: -row[1])
        shares = ", ".join(f"{name} {format_percent(share)}" for name, share in rows)
        table.add_row(*(Text(to_plain_line(text)) for text in (str(item["id"]), _format_days(properties), shares)))
    out = Console()
    if not out.is_terminal:
        out = Console(width=100_000)  # unwrapped, so that other programs find ids in one piece
    out.print(table)


def _format_days(properties: Mapping[str, Any]) -> str:
    """Return the day on which a scene was taken, or the first and the last; nothing where that is unknown."""
    from seamline.pipeline.stac.items import UNKNOWN_TIME

    if properties.get(UNKNOWN_TIME):
        return ""
    names = ("datetime",) if properties.get("datetime") else ("start_datetime", "end_datetime")
    return " to ".join(dict.fromkeys(str(properties.get(name) or "")[:10] for name in names))


def _list_shares(properties: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return name and share of each class of an item; nothing where the item says it otherwise than a run writes it."""
    try:
        return [(str(row["name"]), float(row["share"])) for row in properties["seamline:classes"]]
    except (LookupError, TypeError, ValueError, OverflowError):
        return []


def show_scores(scores: Mapping[str, float]) -> None:
    """Print the IoU of each class with the truth."""
    table = _make_table("intersection over union with the truth")
    for name, score in scores.items():
        table.add_row(name, f"{score:.3f}")
    Console().print(table)


def show_plan(plan: Plan) -> None:
    """Print the table of ``seamline plan``."""
    tiling, exact_halo = plan.tiling, plan.model.spec.exact_halo
    is_exact = exact_halo is not None and tiling.halo >= exact_halo
    table = _make_table(f"plan of {plan.scene.id} · {plan.model.spec.name}")
    table.add_row("scene", f"{tiling.height} × {tiling.width} pixels, {len(plan.scene.bands)} bands")
    table.add_row("window", f"{tiling.window}, stride {tiling.stride}, divisor {tiling.divisor}")
    proof = "exact: tiling is invisible" if is_exact else "less than the network's reach"
    table.add_row("halo", f"{tiling.halo} ({proof})")
    table.add_row("overlap", str(tiling.overlap))
    changed = plan.measured.changed
    if changed:
        table.add_row("labels that more context would change", _format_changed(changed, plan.redundancy_by_halo))
    if tiling.halo in changed and not is_exact:
        table.add_row("of these here", f"{changed[tiling.halo] * 1e6:,.0f} of a million, before feathering")
    table.add_row("tiles", f"{tiling.tile_count} in {tiling.tile_grid.row} rows and {tiling.tile_grid.col} columns")
    rows, cols = tiling.chunk_grid
    table.add_row(
        "chunks", f"{rows * cols} of {tiling.chunk_tiles} × {tiling.chunk_tiles} tiles ({tiling.chunk_size} pixels)"
    )
    table.add_row("network pixels per scene pixel", f"{tiling.redundancy:.2f}")
    table.add_row("network runs on", f"{_format_settings(asdict(plan.settings))}, {plan.workers} worker(s)")
    table.add_row("projected memory of a worker", f"{plan.projected_memory / 2**20:.0f} MiB")
    table.add_row("estimated time of the network", f"{plan.seconds:.1f} s")
    for warning in plan.scene.warnings:
        table.add_row("[yellow]warning[/]", warning)
    Console().print(table)


def show_checks(checks: Sequence[Check]) -> None:
    """Print the table of ``seamline doctor``: what was looked at, how it ended, what was found, how to fix it."""
    from seamline.flows.settings.checks import State

    styles = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}
    table = Table(title="can Seamline run here?", show_header=False, title_justify="left", highlight=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        text = Text(check.found)
        if check.fix:
            text.append(f"\n→ {check.fix}", style="italic")
        table.add_row(Text(check.name), Text(check.state, style=styles[check.state]), text)
    out = Console()
    out.print(table)
    failed, warned = (sum(check.state is state for check in checks) for state in (State.FAILED, State.WARNING))
    summary = f"{failed} failed, {format_count(warned, 'warning')}"
    out.print(f"{format_count(len(checks), 'check')}: {summary}", highlight=False)


_EXPLANATIONS = {
    "bands": "The network sees (value − mean) / std of each band.",
    "divisor": "Pixels. Window, halo and stride are multiples of it, since the network pools on this lattice.",
    "receptive_radius": "Pixels. What lies farther from a pixel does not change its label: the next multiple of the "
    "divisor is the halo with which no tile border can be seen. Unbounded: no halo is exact, so tiles are feathered.",
    "activation": "What makes probabilities of the network's scores.",
    "quantity": "What the values of the bands are.",
    "fill": "What the network sees in place of pixels without data.",
    "assumed_nodata": "Number that means no data in files that declare none.",
    "network": "Depth: how often it halves. base_width: channels at full resolution.",
    "digest": "SHA-256 of model.json, by which results and runs name the model.",
    "iou_held_out": "Intersection over union, 1 at best, on all pixels of images that it did not learn from.",
    "iou_in_training": "Intersection over union, 1 at best, on a sample of images that it learned from: better than on "
    "others. –: a class is neither in the labels nor predicted. 0.00 is also one that is predicted and not in the "
    "labels, as where weak labels lack it.",
}
"""What the fields of a model's summary mean."""


def show_model(summary: Mapping[str, Any]) -> None:
    """Print the table of ``seamline model inspect``."""
    table = _make_table(f"{summary['name']} {summary['version']}")
    for key, value in summary.items():
        text = _format_field(key, value)
        if key == "receptive_radius" and value == "unbounded" and (window := summary["network"].get("window")):
            text = f"more than a window of {window} shows; treated as unbounded"
        explained = Text(text)
        if key in _EXPLANATIONS:
            explained.append(f"\n{_EXPLANATIONS[key]}", style="italic")
        table.add_row(key.replace("_", " "), explained)
    Console().print(table)


def _format_field(key: str, value: Any) -> str:
    """Return a field of a model's summary as text of one or more lines."""
    if key == "bands":
        return "\n".join(f"{b['name']} ({b['wavelength']} µm), mean {b['mean']}, std {b['std']}" for b in value)
    if key == "classes":
        return "\n".join(f"{c['label']} {c['name']}: {c['description']}".rstrip(": ") for c in value)
    if key.startswith("iou_"):
        return "\n".join(f"{image}: {_format_scores(scores)}" for image, scores in value.items())
    if key == "unseen":
        return "not stated" if value is None else ", ".join(value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {'any' if part is None else part}" for name, part in value.items())
    if isinstance(value, list):
        return "\n".join(value)
    return "none" if value is None else str(value)


def _format_scores(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'–' if score is None else f'{score:.2f}'}" for name, score in scores.items())


def _make_table(title: str) -> Table:
    """Return a table of two columns, names and values."""
    table = Table(title=title, show_header=False, title_justify="left", highlight=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _make_plain_table(title: str) -> Table:
    """Return a table without lines."""
    return Table(title=title, title_justify="left", highlight=False, box=None, padding=(0, 2, 0, 0))
