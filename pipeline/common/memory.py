"""The most memory that this process held, as the kernel counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil


def reset_peak_memory() -> None:
    """Let ``read_peak_memory`` count from now on, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def read_peak_memory() -> int:
    """The most bytes that this process held in memory since its start or the last reset; elsewhere, those it holds."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
