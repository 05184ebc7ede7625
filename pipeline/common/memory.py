"""Peak memory of this process, as the kernel counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil


def reset_peak_memory() -> None:
    """Restart the measurement of ``read_peak_memory``, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def read_peak_memory() -> int:
    """Return the most bytes that this process has held in memory since its start or the last reset.

    Systems other than Linux do not tell the peak: there the bytes that are held now are returned.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return int(psutil.Process().memory_info().rss)
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
