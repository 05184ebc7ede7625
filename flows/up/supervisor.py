"""Supervise processes: start them in order, restart those that end, stop them in reverse order."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import psutil

from seamline.pipeline.common.errors import RunError

_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a process gets when its parent ends."""
SECONDS_TO_START = 240
"""How long a service may take until it is ready; Prefect's server creates its database at its first start."""
_SECONDS_TO_STOP = 20
"""How long a service may take to end; a worker may have to give up a chunk first."""
_LARGEST_LOG = 20 * 2**20
"""Bytes from which on a log is cut; with the two before it there are three times as many of a service."""
_MAX_RESTART_PAUSE = 60
"""Longest pause in seconds between two starts of a service that ends again and again."""


@dataclass(frozen=True)
class Service:
    """A program to supervise.

    Attributes:
        name: Name of the service and of its log.
        command: The program and its arguments.
        environment: Variables that are added to this process's environment.
        ready_url: URL that answers with status 200 once the service is ready; None: it is ready at once.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None


@dataclass
class _RunningService:
    """A service with its process, when that was started (monotonic clock), and how often it ended in a row."""

    service: Service
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0


class Supervisor:
    """Keeps services running; their output goes to ``logs``/<name>.log.

    ``stopping`` is set, by a signal handler for instance, to end ``watch``.
    """

    def __init__(self, services: Sequence[Service], logs: Path, say: Callable[[str], None]) -> None:
        """Prepare to run services.

        Args:
            services: In the order in which they are started.
            logs: Folder of the logs.
            say: Receives a line for each restart.
        """
        self._services, self._logs, self._say = services, logs, say
        self._running: list[_RunningService] = []
        self.stopping = Event()

    def start(self) -> None:
        """Start every service and wait until it is ready.

        Raises:
            RunError: A service does not come up. Those before it keep running until ``stop`` is called.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for service in self._services:
            running = _RunningService(service, self._spawn(service), time.monotonic())
            self._running.append(running)
            self._wait_until_ready(running)

    def watch(self) -> None:
        """Restart services that end and cut logs that have grown large, until ``stopping`` is set."""
        while not self.stopping.wait(1):
            for running in self._running:
                self._restart_if_ended(running)
            for log in self._logs.glob("*.log"):
                rotate_log(log)

    def stop(self) -> None:
        """Stop the services and their child processes, in reverse order."""
        for running in reversed(self._running):
            stop_process(running.process.pid)
            running.process.wait()
        self._running.clear()

    def _restart_if_ended(self, running: _RunningService) -> None:
        """Restart a service that ended, after a pause that doubles with each failure in a row."""
        code = running.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if now - running.started > 2 * _MAX_RESTART_PAUSE:
            running.failures = 0
        if now - running.started < min(2**running.failures, _MAX_RESTART_PAUSE):
            return
        name = running.service.name
        self._say(f"{name} ended with {code}, see {self._logs / name}.log; starting it again")
        running.failures += 1
        running.process, running.started = self._spawn(running.service), now

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        with (self._logs / f"{service.name}.log").open("ab") as log:
            return subprocess.Popen(
                service.command,
                env={**os.environ, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops the services in order
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_ready(self, running: _RunningService) -> None:
        service, until = running.service, time.monotonic() + SECONDS_TO_START
        while service.ready_url is not None and not _is_ready(service.ready_url):
            code = running.process.poll()
            if code is not None or time.monotonic() > until or self.stopping.wait(0.2):
                what = f"ended with {code}" if code is not None else "does not answer"
                raise RunError(f"{service.name} {what}; see {self._logs / service.name}.log")


def rotate_log(log: Path, largest: int = _LARGEST_LOG) -> None:
    """Move what is in a large log to ``<log>.1``, and that to ``<log>.2``, which is lost.

    Its writers keep the file open and append to it. So its content is copied, and the file cut; a line that is written
    between the two is lost.
    """
    with suppress(OSError):  # a full disk, for instance: it is tried again
        if log.stat().st_size < largest:
            return
        first = log.with_name(f"{log.name}.1")
        if first.exists():
            first.replace(log.with_name(f"{log.name}.2"))
        shutil.copyfile(log, first)
        os.truncate(log, 0)


def stop_process(pid: int) -> None:
    """Terminate a process and its descendants, and kill those that do not end in time."""
    try:
        process = psutil.Process(pid)
        descendants = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    _, left = psutil.wait_procs([process], _SECONDS_TO_STOP)
    left += [child for child in descendants if child.is_running()]
    for child in left:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    for child in psutil.wait_procs(left, 5)[1]:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed; runs in the child before exec (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
