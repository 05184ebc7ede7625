"""Time and memory of a command and of all processes that it starts."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

SAMPLE_SECONDS = 0.1
"""Time between two looks at the memory of a command's processes."""


@dataclass(frozen=True)
class Measurement:
    """One run of a command: wall seconds, peak bytes of all its processes together, and what it printed."""

    seconds: float
    peak: int
    output: str = ""


class CommandError(Exception):
    """A command failed; the text is the reason, one line."""


def run_metered(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Measurement:
    """Run a command in a folder and measure it from its start to its end.

    Args:
        command: program and arguments.
        environment: all its environment variables.
        folder: its working directory.

    Raises:
        CommandError: It failed.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = perf_counter()
        process = psutil.Popen(command, env=dict(environment), cwd=folder, stdout=output, stderr=errors)
        meter = _MemoryMeter(process)
        code = process.wait()
        seconds = perf_counter() - started
        peak = meter.stop()
        output.seek(0)
        errors.seek(0)
        if code:
            raise CommandError(f"exit code {code}: {pick_reason(errors.read())}")
        return Measurement(seconds, peak, output.read())


class _MemoryMeter:
    """Looks at the memory of a process and its descendants again and again, in a thread."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._peak, self._stopped = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the largest sum in bytes."""
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, measure_tree(self._process))


def measure_tree(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its descendants; what is mapped from files counts once."""
    private, shared = 0, [0]
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            memory = member.memory_info()
        except psutil.NoSuchProcess:
            continue
        mapped = getattr(memory, "shared", 0)  # Linux tells it
        private += memory.rss - mapped
        shared.append(mapped)
    return private + max(shared)


def pick_reason(errors: str) -> str:
    """Return the line of a program's standard error that says why it failed: the last that names an error."""
    lines = [" ".join(line.split()) for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower()]
    return (named or lines or ["no reason given"])[-1][:200]
