"""Give each worker process a CUDA device of its own.

CUDA lets a process use one part of a divided GPU (MIG) at most, and torch takes the first device that it sees. So each
worker sees one device alone. Dask runs this module in its workers as a preload: ``dask worker --preload
seamline.pipeline.cluster.devices --name NAME --nworkers N``. As a program it prints the devices, a line for each, and
beside each the Dask threads that its worker should have where each device has one.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from distributed import Worker

from seamline.pipeline.cluster.machine import CORES
from seamline.pipeline.cluster.workers import choose_device_threads

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_TIMEOUT = 30
"""Seconds for the driver to list its devices; the first call after a start of the machine takes some."""
_GPU = re.compile(r"^GPU \d+: .*\(UUID: (GPU-[\w-]+)\)")
_PART = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)\s]+)\)")


def list_devices(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the CUDA devices that processes here may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        environment: Variables of the process. Where they choose devices already, these are returned.

    Returns:
        Parts of GPUs that are divided, and GPUs that are not, by their UUIDs; none without a driver of NVIDIA.
    """
    chosen = environment.get(_VARIABLE)
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        # CUDA ignores what follows a name that is none.
        end = next((at for at, name in enumerate(names) if not name or name.startswith("-")), len(names))
        return names[:end]
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return _parse_list(answer.stdout)


def _parse_list(text: str) -> list[str]:
    """Return the devices in an answer of ``nvidia-smi -L``."""
    devices: list[list[str]] = []
    for line in text.splitlines():
        if (gpu := _GPU.match(line)) is not None:
            devices.append([gpu[1]])
        elif (part := _PART.match(line)) is not None and devices:
            devices[-1].append(part[1])
    return [name for gpu, *parts in devices for name in (parts or [gpu])]


def dask_setup(worker: Worker) -> None:
    """Let a worker see one device, chosen by the number at the end of its name; Dask calls this before it works."""
    devices = list_devices()
    number = re.search(r"\d+$", str(worker.name))
    if len(devices) > 1 and number is not None:
        os.environ[_VARIABLE] = devices[int(number[0]) % len(devices)]


if __name__ == "__main__":
    found = list_devices()
    for device in found:
        print(device, choose_device_threads(CORES // len(found)))
