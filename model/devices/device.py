"""How the runtime uses a device, and the CPU as one.

A device works on three things beside each other: copies to it, computing, and copies from it. What is enqueued of one
kind is done in order. Nothing here waits for the device but ``Event.wait`` and ``Download.result``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.devices.byte_budget import ByteBudget


class Event(Protocol):
    """A moment in the work of a device."""

    def wait(self) -> None:
        """Wait until the device has done what was enqueued before this moment."""
        ...


class Download(Protocol):
    """Arrays on their way back from a device."""

    def result(self) -> list[NDArray[Any]]:
        """Wait for the arrays and return them."""
        ...


class Device(Protocol):
    """A device that computes what it is given, in order, while the threads of the process do something else."""

    @property
    def torch_device(self) -> torch.device:
        """The device by its name in torch."""
        ...

    @property
    def is_asynchronous(self) -> bool:
        """Whether work is only enqueued. Then a batch has one size, and no value of it is looked at on the way."""
        ...

    @property
    def budget(self) -> ByteBudget:
        """Bounds what chunks hold on the device."""
        ...

    @property
    def peak_memory(self) -> int:
        """The most bytes that were taken on a device with its own memory; 0 on a CPU."""
        ...

    def upload(self, arrays: Sequence[NDArray[Any]]) -> tuple[list[Tensor], Event]:
        """Begin to copy arrays to the device; called from any thread.

        Returns:
            The tensors, and when they are there.
        """
        ...

    def hold_until(self, event: Event) -> None:
        """Let the device compute what is enqueued from now on only after an event."""
        ...

    def mark(self) -> Event:
        """Return the moment when all is computed that was enqueued until now."""
        ...

    def download(self, tensors: Sequence[Tensor]) -> Download:
        """Begin to copy tensors back, as soon as all is computed that was enqueued until now."""
        ...

    def release_memory(self) -> None:
        """Give memory that is kept for later back to the device."""
        ...


@dataclass(frozen=True)
class _Done:
    """An event that has happened, and the arrays that are there."""

    arrays: tuple[NDArray[Any], ...] = ()

    def wait(self) -> None:
        """Return at once."""

    def result(self) -> list[NDArray[Any]]:
        """Return the arrays."""
        return list(self.arrays)


class CpuDevice:
    """The CPU: everything is computed when it is called, arrays and tensors share their memory."""

    torch_device = torch.device("cpu")
    is_asynchronous = False
    peak_memory = 0

    def __init__(self) -> None:
        self.budget = ByteBudget()

    def upload(self, arrays: Sequence[NDArray[Any]]) -> tuple[list[Tensor], Event]:
        """Return the arrays as tensors; nothing is copied."""
        return [torch.from_numpy(array) for array in arrays], _Done()

    def hold_until(self, event: Event) -> None:
        """Return at once: what is computed here has been computed."""

    def mark(self) -> Event:
        """Return an event that has happened."""
        return _Done()

    def download(self, tensors: Sequence[Tensor]) -> Download:
        """Return the tensors as arrays; nothing is copied."""
        return _Done(tuple(tensor.numpy() for tensor in tensors))

    def release_memory(self) -> None:
        """Return at once: the memory of the process is kept for the next window."""
