"""Processes that belong together: started in order, started again when they die, stopped in reverse order."""

from __future__ import annotations

import ctypes
import os
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
SECONDS_TO_START, SECONDS_TO_STOP = 240, 20
"""Prefect's server makes its database at its first start; a worker may have a chunk to let go of."""
MAX_RESTART_PAUSE = 60
"""Seconds between two starts of what dies again and again."""


@dataclass(frozen=True)
class Service:
    """A program: its command, what the environment says beside ours, and a URL that answers when it is ready."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None


@dataclass
class _RunningService:
    service: Service
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0


class Supervisor:
    """Keeps services running; what they print goes to ``logs``/<name>.log."""

    def __init__(self, services: Sequence[Service], logs: Path, say: Callable[[str], None]) -> None:
        self._services, self._logs, self._say = services, logs, say
        self._running: list[_RunningService] = []
        self.stopping = Event()

    def start(self) -> None:
        """Start every service and wait until it is ready.

        Raises:
            RunError: one does not come up; those before it are left running, see ``stop``.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for service in self._services:
            running = _RunningService(service, self._spawn(service), time.monotonic())
            self._running.append(running)
            self._wait_until_ready(running)

    def watch(self) -> None:
        """Start again what dies, until ``stopping`` is set."""
        while not self.stopping.wait(1):
            for running in self._running:
                self._restart_if_ended(running)

    def stop(self) -> None:
        """Stop all of it, the last to start first, with all that it started."""
        for running in reversed(self._running):
            stop_process(running.process.pid)
            running.process.wait()
        self._running.clear()

    def _restart_if_ended(self, running: _RunningService) -> None:
        code = running.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if now - running.started > 2 * MAX_RESTART_PAUSE:
            running.failures = 0
        if now - running.started < min(2**running.failures, MAX_RESTART_PAUSE):
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
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_ready(self, running: _RunningService) -> None:
        service, until = running.service, time.monotonic() + SECONDS_TO_START
        while service.ready_url is not None and not _is_ready(service.ready_url):
            code = running.process.poll()
            if code is not None or time.monotonic() > until or self.stopping.wait(0.2):
                what = f"ended with {code}" if code is not None else "does not answer"
                raise RunError(f"{service.name} {what}; see {self._logs / service.name}.log")


def stop_process(pid: int) -> None:
    """Ask a process and all below it to end, and end what does not."""
    try:
        process = psutil.Process(pid)
        below = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    _, left = psutil.wait_procs([process], SECONDS_TO_STOP)
    left += [child for child in below if child.is_running()]
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
    """In the child: a supervisor that is killed takes its services with it (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
