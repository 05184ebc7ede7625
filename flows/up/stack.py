"""What ``seamline up`` starts: Prefect's server, Dask, the deployments with their schedules, the map."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from seamline.flows.tracking.artifacts import MAP_URL_VARIABLE
from seamline.flows.up.supervisor import SECONDS_TO_START, Service, Supervisor, stop_process
from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import CATALOG
from seamline.pipeline.execution.cluster import WORKER_ENVIRONMENT
from seamline.pipeline.execution.predictor import CHUNKS_AT_ONCE
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.storage.atomic import atomic_write, check_writable

LOOPBACK = "127.0.0.1"
_START_TOLERANCE = 2.0
"""Seconds that two readings of when a process was started may be apart."""
STATE_FILE, INBOX, RESULTS, LOGS, PREFECT = "up.json", "inbox", "results", "logs", "prefect"


@dataclass(frozen=True)
class Stack:
    """Everything on this machine, below ``folder``: inbox, results, logs and Prefect's database.

    Ports are those of Prefect, the Dask scheduler, its dashboard and the map; ``every`` is how often, in seconds, the
    inbox is looked into.
    """

    folder: Path
    model: str
    workers: int
    every: float
    settle: float
    ports: tuple[int, int, int, int]

    @property
    def inbox(self) -> Path:
        """Where scenes are dropped."""
        return self.folder / INBOX

    @property
    def results(self) -> Path:
        """The catalogue."""
        return self.folder / RESULTS

    @property
    def urls(self) -> dict[str, str]:
        """What a person opens in the browser."""
        prefect, _, dashboard, shown = self.ports
        return {
            "map": f"http://{LOOPBACK}:{shown}",
            "prefect": f"http://{LOOPBACK}:{prefect}",
            "dask": f"http://{LOOPBACK}:{dashboard}/status",
        }

    @property
    def scheduler(self) -> str:
        """The address of Dask's scheduler."""
        return f"tcp://{LOOPBACK}:{self.ports[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Of every service: nothing leaves this machine."""
        return {
            "PREFECT_HOME": str(self.folder / PREFECT),
            "PREFECT_API_URL": f"{self.urls['prefect']}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
            "DO_NOT_TRACK": "1",
            MAP_URL_VARIABLE: self.urls["map"],
        }

    def services(self) -> list[Service]:
        """In the order in which they start."""
        python, (prefect, dask, dashboard, shown) = sys.executable, self.ports
        environment, urls = self.environment, self.urls
        scheduler = (
            python, "-m", "dask", "scheduler", "--host", LOOPBACK, "--port", str(dask),
            "--dashboard-address", f"{LOOPBACK}:{dashboard}",
        )  # fmt: skip
        workers = (
            python, "-m", "dask", "worker", self.scheduler, "--host", LOOPBACK, "--nworkers", str(self.workers),
            "--nthreads", str(CHUNKS_AT_ONCE), "--local-directory", str(self.folder / "dask"), "--no-dashboard",
        )  # fmt: skip
        return [
            Service(
                "prefect",
                (python, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(prefect)),
                environment,
                f"{urls['prefect']}/api/health",
            ),
            Service("scheduler", scheduler, environment, f"http://{LOOPBACK}:{dashboard}/health"),
            Service("workers", workers, environment | WORKER_ENVIRONMENT),
            Service(
                "map",
                (python, "-m", "seamline", "serve", str(self.results), "--port", str(shown)),
                environment,
                urls["map"],
            ),
            Service(
                "deployments",
                (python, "-m", "seamline.flows.up.deployments", str(self.folder / STATE_FILE)),
                environment,
            ),
        ]

    def write(self, process: psutil.Process | None) -> None:
        """Say below ``folder`` what runs, and under which process, for ``down`` and for the deployments."""
        who = (None, None) if process is None else (process.pid, process.create_time())
        with atomic_write(self.folder / STATE_FILE) as part:
            values = {**asdict(self), "folder": str(self.folder), "pid": who[0], "started": who[1]}
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> tuple[Stack, psutil.Process | None]:
        """What ``write`` was given, without a process that has ended since.

        Raises:
            InputError: nothing was started there.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            process = _find_process(values.pop("pid"), values.pop("started"))
            return cls(**{**values, "folder": Path(values["folder"]), "ports": tuple(values["ports"])}), process
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"--folder {path.parent}", got="nothing that was started", expected="the folder of `seamline up`",
                fix="check the path",
            ) from error  # fmt: skip


def run_stack(stack: Stack, say: Any) -> None:
    """Start all of it and keep it running until SIGINT or SIGTERM.

    Raises:
        InputError: it runs already, or the folder cannot be written to.
        RunError: a service does not come up.
    """
    prepare_folders(stack)
    supervisor = Supervisor(stack.services(), stack.folder / LOGS, say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stopping.set())
    stack.write(psutil.Process())
    try:
        supervisor.start()
        say(describe_addresses(stack))
        supervisor.watch()
    finally:
        supervisor.stop()
        stack.write(None)


def start_detached(stack: Stack, command: list[str]) -> None:
    """``up`` in a process of its own (``command``), and wait until it is ready.

    Raises:
        RunError: it does not come up.
    """
    prepare_folders(stack)
    log = stack.folder / LOGS / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    until = time.monotonic() + len(stack.services()) * SECONDS_TO_START
    while stack.urls["map"] not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > until:
            stop_process(process.pid)
            raise RunError(f"it did not come up: {log.read_text(errors='replace').strip()[-500:]}")
        time.sleep(0.2)


def stop_stack(folder: Path) -> bool:
    """Stop what ``up`` started below ``folder``; whether anything ran."""
    stack, process = Stack.read(folder / STATE_FILE)
    if process is not None:
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process.terminate()
            process.wait(120)
        stop_process(process.pid)
    stack.write(None)
    return process is not None


def _find_process(pid: int | None, started: float | None) -> psutil.Process | None:
    """The process that was started then, if it runs: numbers are given again."""
    if pid is None or started is None:
        return None
    try:
        process = psutil.Process(pid)
        # Linux counts from the machine's start, which moves a little when its clock is set.
        same = abs(process.create_time() - started) < _START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None


def prepare_folders(stack: Stack) -> None:
    """Make the folders with an empty catalogue, and refuse to start twice."""
    for path in (stack.folder, stack.inbox, stack.results):
        check_writable(path, f"--folder {stack.folder}")
        path.mkdir(parents=True, exist_ok=True)
    if not (stack.results / CATALOG).exists():
        update_catalog(stack.results)
    with suppress(InputError):
        other, process = Stack.read(stack.folder / STATE_FILE)
        if process is not None and process.pid != os.getpid():
            raise RunError(
                f"it runs already (process {process.pid}): {describe_addresses(other)}; stop it with `seamline down`"
            )


def describe_addresses(stack: Stack) -> str:
    """Where everything is."""
    urls = stack.urls
    return f"drop scenes into {stack.inbox}; map {urls['map']}, Prefect {urls['prefect']}, Dask {urls['dask']}"
