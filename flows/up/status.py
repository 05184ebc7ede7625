"""What ``seamline up`` is doing: its services, what they work on, the last scenes, what failed, and the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

from seamline.flows.collection.ledger import read_reasons
from seamline.flows.settings.folders import is_disk_low
from seamline.flows.up.leftovers import list_left
from seamline.flows.up.stack import LOGS, PREFECT, STATE_FILE, Stack
from seamline.flows.up.supervisor import Service
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, RUNNING

_NOTHING_RUNS = 3
"""Exit code where nothing runs, as that of ``systemctl status``."""
_SECONDS_TO_ANSWER = 5
_LAST_SCENES = 5
_MOST_DUE = 20
"""Scheduled runs that are asked for; those that begin already are among them."""
_WORDS_OF_A_SERVICE = 4
"""Words of a command that tell the services from each other; the first is the interpreter."""


@dataclass(frozen=True)
class ServiceStatus:
    """A service of a stack.

    Attributes:
        name: Its name, also that of its log.
        state: "runs", "does not answer" although its process is there, or "is down".
        pid: Id of its process; None where there is none.
    """

    name: str
    state: str
    pid: int | None


@dataclass(frozen=True)
class Queue:
    """What Prefect's server knows of flow runs.

    Attributes:
        running: Flow, name and state of each run that is at work.
        next_look: When the inbox is looked into next, ISO 8601; in the past for a look that was missed and is due.
        last_look: State and message of the last look that ended.
        failed_today: Runs that failed or crashed in the last 24 hours.
    """

    running: tuple[Mapping[str, str], ...]
    next_look: str | None
    last_look: Mapping[str, str] | None
    failed_today: int


@dataclass(frozen=True)
class Status:
    """State of a stack; the fields are those of ``seamline status --json``.

    Attributes:
        folder: Folder of the stack.
        runs: Whether its supervisor runs.
        left: Ids of processes that a killed supervisor has left; none where it runs.
        services: Its services; none where it does not run.
        urls: Addresses of its pages.
        queue: What Prefect knows; None where it does not answer.
        working: Ids of the scenes that are worked on, or wait to be gone on with.
        scenes: Number of scenes in the catalogue.
        last_scenes: Id and time of publication of the last of them.
        failures: Source and reason of what could not be segmented at the last try.
        disk: Bytes of the disk, of Prefect's database and of the logs, and whether little is free.
    """

    folder: str
    runs: bool
    left: tuple[int, ...]
    services: tuple[ServiceStatus, ...]
    urls: Mapping[str, str]
    queue: Queue | None
    working: tuple[str, ...]
    scenes: int
    last_scenes: tuple[Mapping[str, str], ...]
    failures: tuple[Mapping[str, str], ...]
    disk: Mapping[str, int | bool]

    @property
    def exit_code(self) -> int:
        """0 where all services run, 1 where one does not, ``_NOTHING_RUNS`` where nothing was started."""
        if not self.runs:
            return _NOTHING_RUNS
        return 0 if all(service.state == "runs" for service in self.services) else 1

    def to_document(self) -> dict[str, Any]:
        """Return the status as JSON holds it."""
        return asdict(self)


def read_status(folder: Path) -> Status:
    """Look at what was started in a folder, which may be nothing."""
    try:
        stack, supervisor = Stack.read(folder / STATE_FILE)
    except InputError:
        stack, supervisor = None, None
    results = folder / "results" if stack is None else stack.results
    published = _list_published(results)
    is_running = stack is not None and supervisor is not None
    return Status(
        folder=str(folder),
        runs=is_running,
        left=() if stack is None or is_running else tuple(process.pid for process in list_left(stack.folder)),
        services=tuple(_list_services(stack, supervisor)) if stack and supervisor else (),
        urls=stack.urls if stack and is_running else {},
        queue=_ask_prefect(f"{stack.urls['prefect']}/api") if stack and is_running else None,
        working=tuple(sorted(path.name for path in _list_folder(results / RUNNING))),
        scenes=len(published),
        last_scenes=tuple(
            {"scene": scene, "published": _format_time(when)} for when, scene in published[:_LAST_SCENES]
        ),
        failures=tuple(
            {"source": source, "reason": reason} for source, reason in sorted(read_reasons(results).items())
        ),
        disk=_measure_disk(folder),
    )


def _list_services(stack: Stack, supervisor: psutil.Process) -> list[ServiceStatus]:
    commands: dict[tuple[str, ...], int] = {}
    for process in _list_children(supervisor):
        try:
            commands[_shorten(process.cmdline())] = process.pid
        except psutil.Error:
            continue
    services = stack.list_services()
    return [_judge(service, commands.get(_shorten(service.command)), stack) for service in services]


def _list_children(supervisor: psutil.Process) -> list[psutil.Process]:
    try:
        return list(supervisor.children())
    except psutil.Error:
        return []


def _shorten(command: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(command[1:_WORDS_OF_A_SERVICE])


def _judge(service: Service, pid: int | None, stack: Stack) -> ServiceStatus:
    """Return the state of a service; the workers answer to the scheduler."""
    if pid is None:
        return ServiceStatus(service.name, "is down", None)
    url = service.ready_url or f"{stack.scheduler_url}/json/counts.json"
    answer = _get(url)
    is_well = answer is not None and (service.ready_url is not None or int(answer.json().get("workers", 0)) > 0)
    return ServiceStatus(service.name, "runs" if is_well else "does not answer", pid)


def _get(url: str) -> httpx.Response | None:
    """Return what is answered with status 200; None for anything else."""
    try:
        answer = httpx.get(url, timeout=_SECONDS_TO_ANSWER)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == 200 else None


def _ask_prefect(api: str) -> Queue | None:
    """Ask Prefect's server for the runs at work, the next and the last look; None if it does not answer."""

    def ask(path: str, states: list[str], **others: Any) -> Any:
        runs = {"state": {"type": {"any_": states}}} | others.pop("runs", {})
        answer = client.post(f"{api}/flow_runs/{path}", json={"flow_runs": runs, **others})
        return answer.raise_for_status().json()

    inbox = {"deployments": {"name": {"any_": ["inbox"]}}}
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    ended = ["COMPLETED", "FAILED", "CRASHED"]
    try:
        with httpx.Client(timeout=_SECONDS_TO_ANSWER) as client:
            running = ask("filter", ["RUNNING", "PENDING", "CANCELLING"], limit=20)
            due = ask("filter", ["SCHEDULED", "PENDING"], sort="EXPECTED_START_TIME_ASC", limit=_MOST_DUE, **inbox)
            last = ask("filter", ended, sort="END_TIME_DESC", limit=1, **inbox)
            failed = ask("count", ["FAILED", "CRASHED"], runs={"end_time": {"after_": since}})
    except (httpx.HTTPError, ValueError):
        return None
    return Queue(
        running=tuple({"run": run["name"], "state": str(run["state_name"])} for run in running),
        next_look=_find_next(due),
        last_look={
            "state": str(last[0]["state_name"]),
            "ended": str(last[0]["end_time"]),
            "message": str((last[0]["state"] or {}).get("message") or ""),
        }
        if last
        else None,
        failed_today=int(failed),
    )


def _find_next(due: Sequence[Mapping[str, Any]]) -> str | None:
    """Return when the first of some runs, in order, begins: a run that is Pending may do so in seconds, or already."""
    now = datetime.now(UTC)
    for run in due:
        time = str(run["expected_start_time"])
        if run["state_type"] != "PENDING" or datetime.fromisoformat(time) > now:
            return time
    return None


def _list_published(results: Path) -> list[tuple[float, str]]:
    """Return time and id of each scene of a catalogue, the last one first."""
    found: list[tuple[float, str]] = []
    for folder in _list_folder(results):
        try:
            found.append(((folder / ITEM).stat().st_mtime, folder.name))
        except OSError:
            continue
    return sorted(found, reverse=True)


def _measure_disk(folder: Path) -> dict[str, int | bool]:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return {
        "total_bytes": usage.total,
        "free_bytes": usage.free,
        "is_low": is_disk_low(usage.total, usage.free),
        "prefect_bytes": _sum_sizes(folder / PREFECT),
        "logs_bytes": _sum_sizes(folder / LOGS),
    }


def _sum_sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _list_folder(folder) if path.is_file())


def _list_folder(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing of one that is not there or cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
