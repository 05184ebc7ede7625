"""What the command line shows: live progress, and tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.planning import Plan
from seamline.pipeline.common.classes import format_count, format_percent
from seamline.pipeline.common.layout import ITEM, PREVIEW, RECORD, REPORT, ZARR
from seamline.pipeline.execution.run_chunks import Totals
from seamline.pipeline.publishing.publication import COG_ARRAYS
from seamline.pipeline.stac.items import UNKNOWN_TIME
from seamline.pipeline.vectors.writers import POLYGON_FILES

if TYPE_CHECKING:
    from seamline.flows.training.evaluation import Evaluation
    from seamline.model.spec.measurement import Measurement
    from seamline.model.training.loop import EpochReport as Epoch

console = Console(stderr=True)
"""Progress and warnings go to standard error, results to standard output."""

SECONDS_BETWEEN_LINES = 30.0
"""Of a log, which is read later and kept."""


@contextmanager
def show_live_progress() -> Iterator[RunObserver]:
    """A watcher that shows how a run goes on, and a table of each scene when it is finished.

    On a terminal that is a progress bar (chunks, Mpx/s, time left), in a log a line now and then.
    """
    live = _LiveProgress()
    try:
        yield RunObserver(print_line, live.planned, live.progress, live.finished)
    finally:
        live.stop()


def print_line(text: str) -> None:
    """One line on standard error, of what takes a while."""
    console.print(text, highlight=False, soft_wrap=True)


class _LiveProgress:
    """One progress bar after the other: it begins with a scene's plan and ends before its table is printed."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._pace = SpeedMeter()
        self._said = 0.0

    def planned(self, plan: Plan) -> None:
        for warning in plan.scene.warnings:
            console.print(f"[yellow]warning[/]: {plan.scene.id}: {warning}", highlight=False, soft_wrap=True)
        self._pace, self._said = SpeedMeter(), time.monotonic()
        self._bar = _make_bar(
            TextColumn("{task.fields[chunks]} chunks"),
            TextColumn("{task.fields[speed]:.2g} Mpx/s"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        tiling = plan.tiling
        self._bar.start()
        self._task = self._bar.add_task(
            plan.scene.id,
            total=tiling.height * tiling.width,
            chunks=f"0/{tiling.chunk_grid.row * tiling.chunk_grid.col}",
            speed=0.0,
        )

    def progress(self, totals: Totals, plan: Plan) -> None:
        if self._bar is None:
            return
        speed, chunks = self._pace.of(totals), f"{totals.chunks_done}/{totals.chunks}"
        self._bar.update(self._task, completed=totals.pixels_done, chunks=chunks, speed=speed / 1e6)
        if not console.is_terminal and time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            left = plan.tiling.height * plan.tiling.width - totals.pixels_done
            rest = f", {left / speed:.0f} s left" if speed else ""
            console.print(f"{plan.scene.id}: {chunks} chunks, {speed / 1e6:.2g} Mpx/s{rest}", highlight=False)

    def finished(self, result: RunResult) -> None:
        self.stop()
        show_result(result)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _make_bar(*columns: ProgressColumn) -> Progress:
    """A bar on a terminal, nothing in a log, where it would be drawn over and over."""
    parts = (TextColumn("{task.description}"), BarColumn(), *columns)
    return Progress(*parts, console=console, disable=not console.is_terminal)


class SpeedMeter:
    """Pixels a second of a run, without what an earlier try had done."""

    def __init__(self) -> None:
        self._before = 0

    def of(self, totals: Totals) -> float:
        """The speed so far."""
        if not totals.windows:
            self._before = totals.pixels_done
        return (totals.pixels_done - self._before) / max(totals.elapsed, 1e-3)


@contextmanager
def show_percentage(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar that is told a share from 0 to 1, and appears when it is told the first."""
    bar = _make_bar(TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    task = bar.add_task(what, total=1.0)

    def report(share: float) -> None:
        bar.start()
        bar.update(task, completed=share)

    try:
        yield report
    finally:
        bar.stop()


def print_epoch(progress: Epoch, names: Sequence[str]) -> None:
    """One line for each epoch of a training, with the scores of its classes."""
    told = [f"{name} {score:.3f}" for name, score in zip(names, progress.iou, strict=False) if score == score]
    scores = ", ".join(told)
    console.print(
        f"epoch {progress.epoch}/{progress.epochs}: loss {progress.loss:.4f}"
        + (f", IoU on the hold-out {scores}" if scores else "")
        + f", {progress.seconds:.0f} s",
        highlight=False,
    )


def show_result(result: RunResult) -> None:
    """The table at the end of a run."""
    record, out = result.record, Console()
    if not result.computed:
        done = f"wrote {', '.join(result.rewritten)}" if result.rewritten else "nothing to do"
        out.print(
            f"{result.url or result.folder}: finished before with this scene, model and plan; {done}", highlight=False
        )
        return
    table = _make_table(f"{record.scene} · {record.model}")
    seconds, plan = record.seconds, record.plan
    scene = record.pixels_scene
    table.add_row("windows", f"{record.windows} of {plan.window}² (halo {plan.halo}, overlap {plan.overlap})")
    table.add_row("network pixels per scene pixel", f"{record.pixels_inferred / scene:.2f}")
    table.add_row("speed", f"{scene / seconds['total'] / 1e6:.2g} Mpx/s of the scene, all included")
    stages = ("start", "run", "cog", *(["polygons"] if "polygons" in record.outputs else []), "publish")
    wall = ", ".join(f"{stage} {seconds.get(stage, 0):.1f}" for stage in stages)
    work = ", ".join(f"{stage} {seconds[stage]:.1f}" for stage in ("read", "infer", "blend", "write"))
    table.add_row("seconds", f"{seconds['total']:.1f} ({wall})")
    table.add_row(f"seconds of {record.workers} worker(s)", work)
    settings = record.settings
    table.add_row("network ran on", _format_settings(settings))
    peak, projected = record.peak_memory_bytes, record.projected_memory_bytes
    table.add_row("peak memory of a worker", f"{peak / 2**20:.0f} MiB of {projected / 2**20:.0f} MiB projected")
    for row in record.classes:
        table.add_row(f"class {row.name}", f"{format_percent(row.share)} of the valid pixels")
    for block in record.bad_blocks:
        table.add_row("[red]unreadable block[/]", block)
    out.print(table)
    if result.url:
        out.print(f"{result.url}/{ITEM}", soft_wrap=True, highlight=False)
        return
    files = {output: [f"{array}.tif"] for output, array in COG_ARRAYS.items()} | {"zarr": [ZARR]}
    files["polygons"] = [name for name in POLYGON_FILES.values() if (result.folder / name).exists()]
    for name in (*(name for output in record.outputs for name in files[output]), ITEM, PREVIEW, REPORT, RECORD):
        out.print(str(result.folder / name), soft_wrap=True, highlight=False)  # whole, to be copied


def show_tuning(found: Measurement) -> None:
    """The tables of ``seamline model tune``: the trials, then the windows with what was chosen."""
    device = found.settings.device
    trials = Table(title=f"trials on {device}", title_justify="left", highlight=False, box=None, padding=(0, 2, 0, 0))
    for name in ("engine", "prec.", "layout", "window", "b.", "t.", "Mpx/s", "as fp32", "IoU", ""):
        trials.add_column(name, justify="right", no_wrap=True)
    for trial in found.trials:
        how = trial.settings
        numbers = (str(number) for number in (trial.window, how.batch, how.threads))
        scores = f"{1e-6 / trial.seconds_per_pixel:.2f}", f"{trial.agreement:.2%}", f"{trial.mean_iou:.3f}"
        mark = "≠" if not trial.is_accurate else "*" if how == found.settings else ""
        trials.add_row(how.engine, how.precision, _format_layout(how.channels_last), *numbers, *scores, mark)
    windows = _make_table("chosen")
    windows.add_row("settings", f"{_format_settings(asdict(found.settings))}, {found.settings.threads} thread(s)")
    for edge, seconds in sorted(found.seconds.items()):
        windows.add_row(f"window {edge}", f"{1e-6 / seconds:.2f} Mpx/s of network input")
    windows.add_row("memory", f"{found.process_bytes / 2**20:.0f} MiB and {found.bytes_per_pixel:.0f} bytes a pixel")
    if found.changed:
        windows.add_row("labels that more context would change", _format_changed(found.changed, {}))
    from seamline.model.spec.measurement import MIN_LABEL_AGREEMENT, MIN_MEAN_IOU

    out = Console()
    out.print(trials)
    out.print(
        f" b. windows at once, t. threads; * chosen; ≠ under {MIN_LABEL_AGREEMENT:.1%} of the labels or a mean IoU of "
        f"{MIN_MEAN_IOU} as in fp32: not chosen by itself",
        highlight=False,
    )
    out.print(windows)


def _format_changed(changed: Mapping[int, float], costs: Mapping[int, float]) -> str:
    """Of each halo, with the network pixels per scene pixel that a plan with it takes, where that is known."""
    return "\n".join(
        f"halo {halo}: {1e3 * share:.2f} ‰" + (f" ({costs[halo]:.2f} network pixels)" if halo in costs else "")
        for halo, share in sorted(changed.items())
    )


def _format_layout(channels_last: bool) -> str:
    return "NHWC" if channels_last else "NCHW"


def _format_settings(how: Mapping[str, Any]) -> str:
    """Settings in words; of records before there were engines, too."""
    engine, layout = how.get("engine", "torch"), _format_layout(how["channels_last"])
    return f"{engine} on {how['device']}, {how['precision']}, {layout}, batch {how['batch']}"


def show_evaluation(found: Evaluation) -> None:
    """The table of ``seamline evaluate``."""
    table = Table(title=f"{found.pixels:,} pixels compared", title_justify="left", highlight=False)
    columns = ("iou", "f1", "precision", "recall", "boundary_f1")
    table.add_column("class", style="bold")
    for name in ("IoU", "F1", "precision", "recall", f"boundary F1 ({found.tolerance} px)", "of the truth"):
        table.add_column(name, justify="right")
    for row in found.classes:
        scores = (getattr(row, column) for column in columns)
        share = format_percent(row.pixels_true / found.pixels)
        table.add_row(row.name, *("–" if isnan(score) else f"{score:.3f}" for score in scores), share)
    out = Console()
    out.print(table)
    out.print(
        f"mean IoU {found.mean_iou:.3f}, overall accuracy {found.accuracy:.4f}, kappa {found.kappa:.4f}",
        highlight=False,
    )


def show_items(items: Sequence[Mapping[str, Any]]) -> None:
    """Scenes that a query found: when they were taken, and which classes cover how much of them."""
    if not items:
        print("no scenes")
        return
    title = format_count(len(items), "scene")
    table = Table(title=title, title_justify="left", highlight=False, box=None, padding=(0, 2, 0, 0))
    for heading in ("scene", "date", "classes"):
        table.add_column(heading, overflow="fold")
    for item in items:
        said = item["properties"]
        shares = sorted(said.get("seamline:classes", ()), key=lambda row: -row["share"])
        date = "" if said.get(UNKNOWN_TIME) else str(said["datetime"])[:10]
        table.add_row(item["id"], date, ", ".join(f"{row['name']} {format_percent(row['share'])}" for row in shares))
    out = Console()
    out = out if out.is_terminal else Console(width=100_000)  # what another program reads breaks no id
    out.print(table)


def show_scores(scores: Mapping[str, float]) -> None:
    """IoU of each class against the truth."""
    table = _make_table("intersection over union with the truth")
    for name, score in scores.items():
        table.add_row(name, f"{score:.3f}")
    Console().print(table)


def show_plan(plan: Plan) -> None:
    """The table of ``seamline plan``."""
    tiling, settings = plan.tiling, plan.settings
    table = _make_table(f"plan of {plan.scene.id} · {plan.model.spec.name}")
    table.add_row("scene", f"{tiling.height} × {tiling.width} pixels, {len(plan.scene.bands)} bands")
    table.add_row("window", f"{tiling.window}, stride {tiling.stride}, divisor {tiling.divisor}")
    exact = plan.model.spec.exact_halo
    proof = (
        "exact: tiling is invisible" if exact is not None and tiling.halo >= exact else "less than the network's reach"
    )
    table.add_row("halo", f"{tiling.halo} ({proof})")
    table.add_row("overlap", str(tiling.overlap))
    changed = plan.measured.changed
    if changed:
        table.add_row("labels that more context would change", _format_changed(changed, plan.costs))
    if tiling.halo in changed and (exact is None or tiling.halo < exact):
        table.add_row("of these here", f"{changed[tiling.halo] * 1e6:,.0f} of a million, before feathering")
    table.add_row("tiles", f"{tiling.tile_count} in {tiling.tile_grid.row} rows and {tiling.tile_grid.col} columns")
    rows, cols = tiling.chunk_grid
    table.add_row(
        "chunks", f"{rows * cols} of {tiling.chunk_tiles} × {tiling.chunk_tiles} tiles ({tiling.chunk_size} pixels)"
    )
    table.add_row("network pixels per scene pixel", f"{tiling.redundancy:.2f}")
    table.add_row("network runs on", f"{_format_settings(asdict(settings))}, {plan.workers} worker(s)")
    table.add_row("projected memory of a worker", f"{plan.projected_memory / 2**20:.0f} MiB")
    table.add_row("estimated time of the network", f"{plan.seconds:.1f} s")
    for warning in plan.scene.warnings:
        table.add_row("[yellow]warning[/]", warning)
    Console().print(table)


def show_model(summary: Mapping[str, Any]) -> None:
    """The table of ``seamline model inspect``."""
    table = _make_table(f"{summary['name']} {summary['version']}")
    for key, value in summary.items():
        if key == "bands":
            text = "\n".join(f"{b['name']} ({b['wavelength']} µm), mean {b['mean']}, std {b['std']}" for b in value)
        elif key == "classes":
            text = "\n".join(f"{c['label']} {c['name']}: {c['description']}".rstrip(": ") for c in value)
        elif key.startswith("iou_"):
            text = "\n".join(f"{image}: {_format_scores(scores)}" for image, scores in value.items())
        elif isinstance(value, Mapping):
            text = ", ".join(f"{name} {'any' if part is None else part}" for name, part in value.items())
        else:
            text = "\n".join(value) if isinstance(value, list) else "none" if value is None else str(value)
        if key == "receptive_radius" and value == "unbounded" and (window := summary["network"].get("window")):
            text = f"more than a window of {window} shows; treated as unbounded"
        table.add_row(key.replace("_", " "), text)
    Console().print(table)


def _format_scores(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'–' if score is None else f'{score:.2f}'}" for name, score in scores.items())


def _make_table(title: str) -> Table:
    table = Table(title=title, show_header=False, title_justify="left", highlight=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table
