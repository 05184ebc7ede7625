"""Show on standard error how runs, simulations and trainings go on."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from typing import TYPE_CHECKING

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

from seamline.flows.maps.observer import MapObserver
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.terminal.output import OutputError
from seamline.flows.terminal.process import find_command
from seamline.flows.terminal.tables import show_result
from seamline.pipeline.common.extras import list_missing_modules
from seamline.pipeline.storage.object_store import is_object_url

if TYPE_CHECKING:
    from seamline.flows.runs.planning import Plan
    from seamline.model.training.loop import EpochReport
    from seamline.pipeline.execution.run_chunks import Totals

console = Console(stderr=True)
"""For progress and warnings; results go to standard output."""

_SECONDS_BETWEEN_LINES = 30.0
"""Pause between two lines of progress where standard error is a log."""


@contextmanager
def show_live_progress(
    shows: Callable[[RunResult], None] | None = None, *, quiet: bool = False, verbose: bool = False
) -> Iterator[RunObserver]:
    """Yield a RunObserver that shows the progress of runs, and what each of them left.

    Progress is a bar on a terminal (chunks, Mpx/s, time left), and a line now and then in a log.

    Args:
        shows: is called with what each scene's run left. Default: prints a table, or nothing if ``quiet``.
        quiet: show warnings, and no progress.
        verbose: show what is logged, too.
    """
    if verbose:
        show_logs()
    live = _LiveProgress(shows or (_ignore_result if quiet else show_result), quiet=quiet)
    try:
        yield RunObserver(ignore_line if quiet else print_line, live.start_bar, live.update_bar, live.finish)
    finally:
        live.stop_bar()


def show_logs() -> None:
    """Print on standard error what is logged from now on, also by libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr, force=True)


def ignore_line(text: str) -> None:
    """Take a line and show it to nobody."""


def _ignore_result(result: RunResult) -> None:
    """Take what a run left and show it to nobody."""


def print_line(text: str) -> None:
    """Print one line on standard error."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_warnings(plan: Plan) -> None:
    """Print what a plan warns of."""
    for warning in plan.scene.warnings:
        console.print(f"[yellow]warning[/]: {plan.scene.id}: {warning}", highlight=False, soft_wrap=True)


def print_next_step(out: str) -> None:
    """Print what to type to see the results in a folder or in object storage."""
    command = "query" if is_object_url(out) else "serve"  # each has an extra of its name
    first = f"pip install 'seamline[{command}]', then " if list_missing_modules(command) else ""
    print_line(f"to look at the results: {first}{find_command()} {command} {shlex.quote(out)}")


class _LiveProgress:
    """Shows one bar at a time, from a scene's plan until its table is printed."""

    def __init__(self, shows: Callable[[RunResult], None], *, quiet: bool) -> None:
        self._shows, self._quiet = shows, quiet
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._speed_meter = _SpeedMeter()
        self._last_line = 0.0

    def start_bar(self, plan: Plan) -> None:
        print_warnings(plan)
        if self._quiet:
            return
        self._speed_meter, self._last_line = _SpeedMeter(), time.monotonic()
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

    def update_bar(self, totals: Totals, plan: Plan) -> None:
        if self._bar is None:
            return
        speed, chunks = self._speed_meter.measure(totals), f"{totals.chunks_done}/{totals.chunks}"
        self._bar.update(self._task, completed=totals.pixels_done, chunks=chunks, speed=speed / 1e6)
        if not console.is_terminal and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            pixels_left = plan.tiling.height * plan.tiling.width - totals.pixels_done
            time_left = f", {pixels_left / speed:.0f} s left" if speed else ""
            console.print(f"{plan.scene.id}: {chunks} chunks, {speed / 1e6:.2g} Mpx/s{time_left}", highlight=False)

    def finish(self, result: RunResult) -> None:
        self.stop_bar()
        try:
            self._shows(result)
        except OutputError as error:  # the result is there, whether somebody is told or not
            print_line(f"{result.record.scene}: done; {error}")

    def stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _make_bar(*columns: ProgressColumn) -> Progress:
    """Return a progress bar that shows on a terminal only; in a log it would be repeated at each update."""
    parts = (TextColumn("{task.description}"), BarColumn(), *columns)
    return Progress(*parts, console=console, disable=not console.is_terminal)


class _SpeedMeter:
    """Measures the speed of a run, without the pixels that an earlier, interrupted run had done."""

    def __init__(self) -> None:
        self._pixels_before = 0

    def measure(self, totals: Totals) -> float:
        """Return the speed so far in pixels per second."""
        if not totals.windows:
            self._pixels_before = totals.pixels_done
        return (totals.pixels_done - self._pixels_before) / max(totals.elapsed, 1e-3)


@contextmanager
def show_map_progress(*, quiet: bool = False) -> Iterator[MapObserver]:
    """Yield a MapObserver that shows how many chunks of a map are done, and what was left out or assumed.

    Args:
        quiet: show warnings, and no progress.
    """
    bar = _make_bar(TextColumn("{task.completed}/{task.total} chunks"), TimeElapsedColumn(), TimeRemainingColumn())
    task = bar.add_task("map", total=None)

    def warn(text: str) -> None:
        console.print(f"[yellow]warning[/]: {text}", highlight=False, soft_wrap=True)

    def show(done: int, total: int) -> None:
        if not quiet:
            bar.start()
            bar.update(task, completed=done, total=total)

    try:
        yield MapObserver(say=warn, progress=show)
    finally:
        bar.stop()


@contextmanager
def show_percentage(what: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that takes the share done (0 to 1) and shows it as a bar, from its first call on."""
    bar = _make_bar(TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    task = bar.add_task(what, total=1.0)

    def report(share: float) -> None:
        bar.start()
        bar.update(task, completed=share)

    try:
        yield report
    finally:
        bar.stop()


def print_epoch(epoch: EpochReport, class_names: Sequence[str]) -> None:
    """Print a line about an epoch of a training, with the IoU of each class that has one."""
    scores = ", ".join(
        f"{name} {score:.3f}" for name, score in zip(class_names, epoch.iou, strict=False) if not isnan(score)
    )
    console.print(
        f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f}"
        + (f", IoU on the hold-out {scores}" if scores else "")
        + f", {epoch.seconds:.0f} s",
        highlight=False,
    )
