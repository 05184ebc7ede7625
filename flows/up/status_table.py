"""Print what ``seamline up`` is doing as plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from dask.utils import format_bytes
from rich.console import Console
from rich.table import Table

from seamline.flows.up.leftovers import count_processes
from seamline.flows.up.status import Queue, Status
from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import to_plain_line

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
"""Length in seconds and name of the units of time; at least two of one are told in it."""
_MOST_FAILURES = 10
"""Failures that the table names; ``--json`` has all."""


def show_status(status: Status) -> None:
    """Print a status as a table without lines: a name, and what there is of it."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), highlight=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _list_rows(status):
        table.add_row(name, value)
    Console().print(table, markup=False)


def _list_rows(status: Status) -> Iterator[tuple[str, str]]:
    yield "folder", status.folder + _describe_absence(status)
    for number, (name, url) in enumerate(status.urls.items()):
        yield ("" if number else "pages"), f"{name} {url}"
    for service in status.services:
        pid = "" if service.pid is None else f", process {service.pid}"
        log = "" if service.state == "runs" else f"; see logs/{service.name}.log"
        yield service.name, f"{service.state}{pid}{log}"
    if status.runs:
        yield from _list_queue(status.queue)
    yield "scenes", f"{status.scenes} published" + _list_names(", at work on ", status.working)
    for scene in status.last_scenes:
        yield "", f"{scene['scene']}, {_format_age(scene['published'])}"
    for number, failure in enumerate(status.failures[:_MOST_FAILURES]):
        yield ("" if number else "failed"), to_plain_line(f"{failure['source']}: {failure['reason']}", 300)
    if (more := len(status.failures) - _MOST_FAILURES) > 0:
        yield "", f"{more} more, see --json"
    disk = status.disk
    few = ": little is left" if disk["is_low"] else ""
    sizes = f"Prefect's database {format_bytes(disk['prefect_bytes'])}, logs {format_bytes(disk['logs_bytes'])}"
    yield "disk", f"{format_bytes(disk['free_bytes'])} of {format_bytes(disk['total_bytes'])} free{few}; {sizes}"


def _describe_absence(status: Status) -> str:
    if status.runs:
        return ""
    if status.left:
        left = count_processes(len(status.left))
        return f": {left} left of a killed `seamline up`; `seamline down` ends what is left"
    return ": nothing runs here; `seamline up` starts it"


def _list_queue(queue: Queue | None) -> Iterator[tuple[str, str]]:
    if queue is None:
        yield "queue", "Prefect does not answer"
        return
    yield "queue", ", ".join(f"{run['run']} ({run['state']})" for run in queue.running) or "no run is at work"
    if queue.last_look is not None:
        look = queue.last_look
        message = "" if look["state"] == "Completed" else to_plain_line(f": {look['message']}", 300)
        yield "last look", f"{look['state']}, {_format_age(look['ended'])}{message}"
    yield "next look", _format_due(queue.next_look)
    yield "last day", f"{format_count(queue.failed_today, 'run')} failed"


def _format_due(time: str | None) -> str:
    """Return in how long the next look is, or for how long it has been due: those that were missed begin at once."""
    if time is None:
        return "none is scheduled yet; if it stays so, the schedule is paused"
    said = _format_age(time)
    return f"due since {said.removesuffix(' ago')}" if said.endswith(" ago") else said


def _list_names(text: str, names: tuple[str, ...]) -> str:
    return text + ", ".join(names) if names else ""


def _format_age(time: str) -> str:
    """Return how long ago a time is, or in how long it will be."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    length, unit = next((unit for unit in _UNITS if abs(seconds) >= 2 * unit[0]), _UNITS[-1])
    number = f"{abs(seconds) / length:.0f} {unit}"
    return f"in {number}" if seconds < 0 else f"{number} ago"
