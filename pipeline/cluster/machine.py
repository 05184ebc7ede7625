"""What this machine computes with, and what its processes may take of cores and memory by their control groups."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dask.system import CPU_COUNT
from dask.utils import format_bytes
from distributed.system import MEMORY_LIMIT

from seamline.pipeline.common.errors import InputError

CORES: int = CPU_COUNT
"""Cores that this process may use, by its affinity and by control groups."""

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
"""Exists where a driver for GPUs of NVIDIA is loaded."""

_LEAST_WORKER_MEMORY = 2**29
"""Bytes below which a worker could not load a network."""

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_PROCESSORS = Path("/proc/cpuinfo")


def read_processor_name() -> str:
    """Return what the kernel calls this machine's processors; their architecture where it does not say."""
    with suppress(OSError):
        for line in _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.machine()


def get_memory_limit() -> int:
    """Return the bytes that the processes of this control group may hold together.

    Dask reads only the limit at the root of the control groups, which is the right one in a container. In a unit of
    systemd or a job of SLURM the limit is set on a group below it, which this function reads, too.
    """
    total: int = MEMORY_LIMIT
    return min([total, *_read_group_limits(_OWN_GROUPS, _CONTROL_GROUPS)])


def share_memory(workers: int, reserved: int) -> int:
    """Return the bytes that each of several local workers may take.

    Args:
        workers: number of worker processes.
        reserved: bytes that other processes of this machine need.

    Raises:
        InputError: a worker could not even load a small network.
    """
    total = get_memory_limit()
    share = max((total - reserved) // workers, 0)
    if share < _LEAST_WORKER_MEMORY:
        raise InputError(
            f"--workers {workers}",
            got=f"{format_bytes(share)} for each worker: {format_bytes(total)} of memory may be used here",
            expected=f"at least {format_bytes(_LEAST_WORKER_MEMORY)}",
            fix="start fewer workers, or raise the memory limit of this container, unit or job",
        )
    return share


def _read_group_limits(own_groups: Path, root: Path) -> Iterator[int]:
    """Yield the memory limits in bytes of the groups of this process and of all groups above them.

    Args:
        own_groups: file with a line ``number:controllers:path`` for each hierarchy that the process is in.
        root: folder in which the hierarchies are mounted.
    """
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            with suppress(OSError, ValueError):  # "max", or a group that is mounted elsewhere
                yield int((folder / name).read_text(encoding="ascii"))
