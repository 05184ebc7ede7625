"""A CUDA device: copies in streams of their own, through pinned memory, while it computes.

Not yet run on a GPU; ``docs/decisions/0022`` says what that leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.devices.byte_budget import ByteBudget
from seamline.model.devices.device import CpuDevice, Device, Download, Event
from seamline.model.spec.errors import ModelError


def open_device(kind: str, chunk_bytes: int = 0) -> Device:
    """Return the device of a process.

    Args:
        kind: ``"cpu"`` or ``"cuda"``.
        chunk_bytes: the most bytes that chunks may hold on a CUDA device at once, beside the network; 0 lets each
            chunk wait until those before it are done.

    Raises:
        ModelError: there is no such device.
    """
    if kind != "cuda":
        return CpuDevice()
    require_cuda()
    return CudaDevice(chunk_bytes)


def require_cuda() -> None:
    """Raise ``ModelError`` unless this process sees a CUDA device, and its torch is made for them."""
    if torch.cuda.is_available():
        return
    got = "none that torch sees" if torch.version.cuda or torch.version.hip else "a torch made for CPUs alone"
    raise ModelError(
        "--device cuda", got=got, expected="a CUDA device on every worker", fix="take --device cpu, or auto"
    )


class CudaDevice:
    """The CUDA device that the process sees.

    torch keeps pinned memory that is free again for the next copy of about its size, and waits with it for copies that
    still read it. So there is no pool of pinned blocks beside torch's; the budget bounds what is in use.
    """

    torch_device = torch.device("cuda")
    is_asynchronous = True

    def __init__(self, chunk_bytes: int) -> None:
        """Make the streams for copies, and count the peak of memory from now on."""
        torch.cuda.reset_peak_memory_stats()
        self.budget = ByteBudget(chunk_bytes)
        self._computing = torch.cuda.default_stream()
        self._uploading = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._downloading = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def peak_memory(self) -> int:
        """The most bytes that torch held on the device."""
        return torch.cuda.max_memory_allocated()

    def upload(self, arrays: Sequence[NDArray[Any]]) -> tuple[list[Tensor], Event]:
        """Copy arrays to pinned memory, begin to copy that to the device, and return the tensors there."""
        tensors = []
        with torch.cuda.stream(self._uploading):
            for array in arrays:
                pinned = torch.empty(array.shape, dtype=torch.from_numpy(array[:0]).dtype, pin_memory=True)
                np.copyto(pinned.numpy(), array)
                tensor = pinned.to(self.torch_device, non_blocking=True)
                # Its memory belongs to this stream, and must not be given away while the other one reads it.
                tensor.record_stream(self._computing)
                tensors.append(tensor)
            return tensors, _record(self._uploading)

    def hold_until(self, event: Event) -> None:
        """Let the computing stream wait for an event."""
        assert isinstance(event, _CudaEvent)
        self._computing.wait_event(event.event)

    def mark(self) -> Event:
        """Record an event in the computing stream."""
        return _record(self._computing)

    def download(self, tensors: Sequence[Tensor]) -> Download:
        """Begin to copy tensors to pinned memory."""
        whole = [tensor.contiguous() for tensor in tensors]
        self._downloading.wait_event(_record(self._computing).event)
        with torch.cuda.stream(self._downloading):
            pinned = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in whole
            ]
            return _CudaDownload(whole, pinned, _record(self._downloading))

    def release_memory(self) -> None:
        """Give the blocks that torch keeps back to the device."""
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class _CudaEvent:
    event: torch.cuda.Event

    def wait(self) -> None:
        """Sleep until the event has happened."""
        self.event.synchronize()


@dataclass(frozen=True)
class _CudaDownload:
    """Tensors that are copied to pinned memory; keeps both until they are."""

    tensors: list[Tensor]
    pinned: list[Tensor]
    done: _CudaEvent

    def result(self) -> list[NDArray[Any]]:
        """Wait for the copies and return the arrays in pinned memory."""
        self.done.wait()
        return [tensor.numpy() for tensor in self.pinned]


def _record(stream: torch.cuda.Stream) -> _CudaEvent:
    """Record an event; who waits for it sleeps instead of spinning on a core."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return _CudaEvent(event)
