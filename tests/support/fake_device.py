"""A device with latency and bandwidth set by hand. It computes on the CPU at once; only its clock says when."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.devices.byte_budget import ByteBudget
from tests.support.virtual_time import VirtualCondition, VirtualTime


@dataclass(frozen=True)
class Speeds:
    """What a fake device takes of time.

    Attributes:
        upload: seconds a byte.
        download: seconds a byte.
        batch: seconds of a batch of windows.
        enqueue: seconds of the inference thread for a batch.
        latency: seconds before each copy.
    """

    upload: float = 0.0
    download: float = 0.0
    batch: float = 0.0
    enqueue: float = 0.0
    latency: float = 0.0


@dataclass(frozen=True)
class FakeEvent:
    """A moment of a fake device, with the arrays that are there then."""

    time: VirtualTime
    at: float
    tensors: tuple[Tensor, ...] = ()

    def wait(self) -> None:
        self.time.sleep_until(self.at)

    def result(self) -> list[NDArray]:
        self.wait()
        return [tensor.numpy().copy() for tensor in self.tensors]


class FakeDevice:
    """A device of the runtime that works on copies to it, batches and copies from it beside each other.

    Attributes:
        batches: moments at which batches are done.
        downloads: what was copied back.
        most_uploaded: most bytes of uploaded arrays that lived at once.
    """

    torch_device = torch.device("cpu")
    is_asynchronous = True
    peak_memory = 0

    def __init__(self, time: VirtualTime, speeds: Speeds, limit: int | None = None) -> None:
        self.budget = ByteBudget(limit, VirtualCondition(time))
        self.batches: list[float] = []
        self.downloads: list[list[Tensor]] = []
        self.uploaded = self.most_uploaded = self.releases = 0
        self._time, self._speeds = time, speeds
        self._free = {"upload": 0.0, "compute": 0.0, "download": 0.0}

    def _enqueue(self, stream: str, seconds: float, after: float = 0.0) -> float:
        self._free[stream] = max(self._free[stream], self._time.now, after) + seconds
        return self._free[stream]

    def upload(self, arrays: Sequence[NDArray]) -> tuple[list[Tensor], FakeEvent]:
        tensors = [torch.from_numpy(np.array(array)) for array in arrays]
        for tensor in tensors:
            self.uploaded += tensor.nbytes
            weakref.finalize(tensor, self._forget, tensor.nbytes)
        self.most_uploaded = max(self.most_uploaded, self.uploaded)
        seconds = self._speeds.latency + self._speeds.upload * sum(tensor.nbytes for tensor in tensors)
        return tensors, FakeEvent(self._time, self._enqueue("upload", seconds))

    def _forget(self, count: int) -> None:
        self.uploaded -= count

    def hold_until(self, event: FakeEvent) -> None:
        self._free["compute"] = max(self._free["compute"], event.at)

    def mark(self) -> FakeEvent:
        """Every mark follows a batch."""
        self._time.sleep(self._speeds.enqueue)
        self.batches.append(self._enqueue("compute", self._speeds.batch))
        return FakeEvent(self._time, self.batches[-1])

    def download(self, tensors: Sequence[Tensor]) -> FakeEvent:
        self.downloads.append(list(tensors))
        seconds = self._speeds.latency + self._speeds.download * sum(tensor.nbytes for tensor in tensors)
        return FakeEvent(self._time, self._enqueue("download", seconds, self._free["compute"]), tuple(tensors))

    def release_memory(self) -> None:
        self.releases += 1
