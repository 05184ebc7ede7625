"""The services of ``seamline up`` (Prefect, Dask, deployments, map), and how they are started and stopped."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from seamline.flows.tracking.variables import HEARTBEAT_SECONDS, HEARTBEAT_VARIABLE, MAP_URL_VARIABLE
from seamline.flows.up.leftovers import FOLDER_VARIABLE, count_processes, end_left, guard
from seamline.flows.up.supervisor import SECONDS_TO_START, Service, Supervisor, stop_process
from seamline.pipeline.cluster import devices
from seamline.pipeline.cluster.connect import WORKER_ENVIRONMENT
from seamline.pipeline.cluster.machine import share_memory
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import CATALOG
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.storage.atomic import atomic_write, check_writable

_LOOPBACK = "127.0.0.1"
_SERVICES_MEMORY = 3 * 2**29
"""Bytes that Prefect, the scheduler, the map and flow runs need beside the workers."""
_SECONDS_PER_DAY = 86_400
_FREQUENT_EVENTS = (
    "flow-run.heartbeat",
    *(f"{kind}-run.{state}" for kind in ("flow", "task") for state in ("Pending", "Running", "Completed")),
    *(f"flow-run.{state}" for state in ("Scheduled", "Late", "Submitting", "Cancelled")),
)
"""Events of each look into the inbox; Prefect's database keeps them for a day."""
_START_TOLERANCE = 2.0
"""Seconds by which two readings of a process's start may differ."""
STATE_FILE, INBOX, RESULTS, LOGS, PREFECT, TEMPORARY = "up.json", "inbox", "results", "logs", "prefect", "tmp"
_DASK, _CACHE = "dask", "cache"
"""Names in the stack's folder."""
LAST_DEPLOYMENT = "check"
"""Name of the deployment that is registered last; it belongs to the flow ``publish-catalog``."""


@dataclass(frozen=True)
class Stack:
    """Settings of everything that ``seamline up`` runs on one machine.

    Attributes:
        folder: Absolute folder of inbox, results, logs and Prefect's database.
        model: Name of an embedded model, or a model folder.
        workers: Number of worker processes.
        every: Seconds between two looks into the inbox.
        settle: Seconds without a change after which a file in the inbox is complete.
        ports: Of Prefect, the Dask scheduler, its dashboard and the map.
        allow: Folders, hosts and buckets that scenes in the inbox may name.
        threads: Dask threads of each worker process, the most chunks that it holds.
        options: Fields of ``SegmentOptions`` for all scenes, as JSON has them.
        keep_days: Days for which Prefect's database keeps a run that has ended.
    """

    folder: Path
    model: str
    workers: int
    every: float
    settle: float
    ports: tuple[int, int, int, int]
    allow: tuple[str, ...] = ()
    threads: int = CHUNKS_AT_ONCE
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_days: int = 30

    @property
    def inbox(self) -> Path:
        """Folder into which users drop scenes."""
        return self.folder / INBOX

    @property
    def results(self) -> Path:
        """Folder of the catalogue."""
        return self.folder / RESULTS

    @property
    def urls(self) -> dict[str, str]:
        """Addresses of the pages of map, Prefect and, if the package is there that draws it, Dask."""
        prefect, _, _, map_port = self.ports
        urls = {"map": f"http://{_LOOPBACK}:{map_port}", "prefect": f"http://{_LOOPBACK}:{prefect}"}
        return urls | ({"dask": f"{self.scheduler_url}/status"} if find_spec("bokeh") else {})

    @property
    def scheduler_url(self) -> str:
        """Address at which Dask's scheduler answers questions about itself."""
        return f"http://{_LOOPBACK}:{self.ports[2]}"

    @property
    def scheduler(self) -> str:
        """Address of Dask's scheduler."""
        return f"tcp://{_LOOPBACK}:{self.ports[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every service.

        They switch off what would contact other machines, and keep below the folder what libraries would write to the
        home and the temporary folder of the user.
        """
        caches = {"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torchinductor"}
        return {
            **{name: os.environ.get(name) or str(self.folder / _CACHE / cache) for name, cache in caches.items()},
            "DASK_TEMPORARY_DIRECTORY": str(self.folder / _DASK),
            "PREFECT_HOME": str(self.folder / PREFECT),
            "PREFECT_API_URL": f"{self.urls['prefect']}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
            "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(self.keep_days * _SECONDS_PER_DAY),
            "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": json.dumps(
                {f"prefect.{event}": _SECONDS_PER_DAY for event in _FREQUENT_EVENTS}
            ),
            HEARTBEAT_VARIABLE: str(HEARTBEAT_SECONDS),
            MAP_URL_VARIABLE: self.urls["map"],
            FOLDER_VARIABLE: str(self.folder),
        }

    @property
    def _last_deployment_url(self) -> str:
        """Address that answers once Prefect knows all deployments; they are registered in order."""
        return f"{self.urls['prefect']}/api/deployments/name/publish-catalog/{LAST_DEPLOYMENT}"

    def list_services(self) -> list[Service]:
        """Return the services in the order in which they start."""
        prefect, dask, dashboard, map_port = self.ports
        environment = self.environment
        prefect_command = build_command(["prefect", "server", "start"], {"--host": _LOOPBACK, "--port": prefect})
        scheduler_command = build_command(
            ["dask", "scheduler"],
            {"--host": _LOOPBACK, "--port": dask, "--dashboard-address": f"{_LOOPBACK}:{dashboard}"},
        )
        workers_command = build_command(
            ["dask", "worker", self.scheduler, "--no-dashboard"],
            {
                "--host": _LOOPBACK,
                "--dashboard-address": f"{_LOOPBACK}:0",  # without a page it answers, too, and by default everybody
                "--name": "seamline",  # Dask adds a number for each
                "--preload": devices.__name__,
                "--nworkers": self.workers,
                "--nthreads": self.threads,
                "--memory-limit": share_memory(self.workers, _SERVICES_MEMORY),
                "--local-directory": self.folder / _DASK,
            },
        )
        map_command = build_command(["seamline", "serve", self.results], {"--port": map_port})
        deployments_command = build_command(["seamline.flows.up.deployments", self.folder / STATE_FILE])
        return [
            Service("prefect", prefect_command, environment, f"{self.urls['prefect']}/api/health"),
            Service("scheduler", scheduler_command, environment, f"{self.scheduler_url}/health"),
            Service("workers", workers_command, environment | WORKER_ENVIRONMENT),
            Service("map", map_command, environment, self.urls["map"]),
            Service("deployments", deployments_command, environment, self._last_deployment_url),
        ]

    def write(self, process: psutil.Process | None) -> None:
        """Write the state file, which ``seamline down`` and the deployments read.

        ``process`` is the supervisor's, or None where nothing runs.
        """
        pid, started = (None, None) if process is None else (process.pid, process.create_time())
        values = {**asdict(self), "folder": str(self.folder), "pid": pid, "started": started}
        with atomic_write(self.folder / STATE_FILE) as part:
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> tuple[Stack, psutil.Process | None]:
        """Read a state file: the stack, and the supervisor's process if it still runs.

        Raises:
            InputError: There is no valid state file.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            process = _find_process(values.pop("pid"), values.pop("started"))
            prefect, dask, dashboard, map_port = values["ports"]
            values |= {"folder": Path(values["folder"]), "ports": (prefect, dask, dashboard, map_port)}
            return cls(**{**values, "allow": tuple(values.get("allow", ()))}), process
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"--folder {path.parent}",
                got="nothing that was started",
                expected="the folder of `seamline up`",
                fix="check the path",
            ) from error


def build_command(words: Sequence[object], options: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Return the command that runs a module of this Python.

    Args:
        words: The module, and its arguments that are no options with a value.
        options: Options with their values; they come last.

    Returns:
        The words of the command, the interpreter first.
    """
    option_words = [word for option in (options or {}).items() for word in option]
    return (sys.executable, "-m", *map(str, words), *map(str, option_words))


def run_stack(stack: Stack, say: Callable[[str], None]) -> None:
    """Start all services and keep them running until SIGINT or SIGTERM.

    Args:
        stack: What to run.
        say: Receives the addresses once everything runs, and a line for each restart.

    Raises:
        InputError: The folder cannot be written to.
        RunError: The stack runs already, or a service does not come up.
    """
    _prepare_folders(stack)
    supervisor = Supervisor(stack.list_services(), stack.folder / LOGS, say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stopping.set())
    stack.write(psutil.Process())
    try:
        with guard(stack.folder):
            _run_services(stack, supervisor, say)
    finally:
        stack.write(None)


def _run_services(stack: Stack, supervisor: Supervisor, say: Callable[[str], None]) -> None:
    try:
        supervisor.start()
        say(describe_addresses(stack))
        supervisor.watch()
    finally:
        supervisor.stop()


def start_detached(stack: Stack, command: Sequence[str]) -> None:
    """Run ``command``, which calls ``run_stack``, in a process of its own and wait until all services are ready.

    Raises:
        InputError: The folder cannot be written to.
        RunError: The stack runs already, or a service does not come up.
    """
    _prepare_folders(stack)
    log = stack.folder / LOGS / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with log.open("ab") as file:  # to append, so that the log can be cut
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + len(stack.list_services()) * SECONDS_TO_START
    while stack.urls["map"] not in log.read_text(errors="replace"):  # run_stack prints the addresses when it is ready
        if process.poll() is not None or time.monotonic() > deadline:
            stop_process(process.pid)
            raise RunError(f"it did not come up: {log.read_text(errors='replace').strip()[-500:]}")
        time.sleep(0.2)


def stop_stack(folder: Path) -> tuple[bool, int]:
    """Stop the services that were started in ``folder``.

    Returns:
        Whether their supervisor ran, and how many processes were left of one that was killed.
    """
    stack, process = Stack.read(folder / STATE_FILE)
    if process is not None:
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process.terminate()
            process.wait(120)
        stop_process(process.pid)
    left = end_left(stack.folder)
    stack.write(None)
    return process is not None, left


def _find_process(pid: int | None, started: float | None) -> psutil.Process | None:
    """Return the process with this id if it was started at that time (Unix time); ids are reused."""
    if pid is None or started is None:
        return None
    try:
        process = psutil.Process(pid)
        # Linux counts from the boot, whose time moves a little when the clock is set.
        is_same = abs(process.create_time() - started) < _START_TOLERANCE
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _prepare_folders(stack: Stack) -> None:
    """Create the folders and an empty catalogue, and refuse to start twice.

    Raises:
        InputError: A folder cannot be written to.
        RunError: The stack runs already.
    """
    for path in (stack.folder, stack.inbox, stack.results):
        check_writable(path, f"--folder {stack.folder}")
        path.mkdir(parents=True, exist_ok=True)
    if not (stack.results / CATALOG).exists():
        update_catalog(stack.results)
    _refuse_second_start(stack.folder)


def take_over(folder: Path, say: Callable[[str], None]) -> None:
    """Refuse to start in a folder whose stack runs, and end what is left of one whose supervisor was killed.

    Args:
        folder: Folder of the stack.
        say: Receives a line if something was left.

    Raises:
        RunError: It runs already.
    """
    _refuse_second_start(folder)
    with suppress(InputError):
        stack, _ = Stack.read(folder / STATE_FILE)
        if left := end_left(stack.folder):
            say(describe_left(left))


def describe_left(count: int) -> str:
    """Return one line that says how many processes were left of a stack whose supervisor was killed."""
    return f"ended {count_processes(count)} that a killed `seamline up` had left"


def _refuse_second_start(folder: Path) -> None:
    """Refuse to start in a folder whose stack runs.

    Raises:
        RunError: It runs already.
    """
    with suppress(InputError):
        other, process = Stack.read(folder / STATE_FILE)
        if process is not None and process.pid != os.getpid():
            raise RunError(
                f"it runs already (process {process.pid}): {describe_addresses(other)}; "
                f"stop it with `seamline down --folder {shlex.quote(str(folder))}`"
            )


def describe_addresses(stack: Stack) -> str:
    """Return one line with the inbox and the addresses of all pages."""
    names = {"map": "map", "prefect": "Prefect", "dask": "Dask"}
    return f"drop scenes into {stack.inbox}; " + ", ".join(f"{names[name]} {url}" for name, url in stack.urls.items())
