"""CUDA graphs: a network's kernels for batches of one shape, recorded once and started together afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

log = logging.getLogger("seamline.graphs")

_Network = Callable[[Tensor, int], Tensor]


class Recording(Protocol):
    """Recorded work: ``replay`` does it again, with the same memory."""

    def replay(self) -> None:
        """Enqueue the recorded work."""
        ...


class Recorder(Protocol):
    """Records work of a device."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Recording, Tensor]:
        """Do work once, then record it; return the recording, and the tensor that each replay fills."""
        ...


class _CudaRecorder:
    """Records the work of the CUDA device. Not yet run on a GPU.

    All recordings take their memory from one pool, so that together they need as much as the largest. That is right
    because no two run at once, and because what one has filled is copied before another begins.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensor]) -> tuple[Recording, Tensor]:
        """Warm up in the stream that records, since libraries make their handles for each stream, then record."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads take memory and copy meanwhile, which "global" would take for a part of the recording.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            output = work()
        return graph, output


@cache
def get_cuda_recorder() -> Recorder:
    """Return the recorder of the process."""
    return _CudaRecorder()


@dataclass(frozen=True)
class _Graph:
    """A recorded network, with the tensors that it reads and fills."""

    recording: Recording
    input: Tensor
    output: Tensor


class GraphedNetwork:
    """A network that is recorded when a shape comes for the second time, and replayed from then on.

    It stays as it was where it cannot be recorded, where the memory for that is missing, and where the first replay
    does not give what the network gave. All three are logged.
    """

    def __init__(self, network: _Network, recorder: Recorder) -> None:
        """Record nothing yet.

        Args:
            network: maps windows (B, bands, H, W) and a halo to scores, by the same kernels for each batch of a shape.
            recorder: records it.
        """
        self._network, self._recorder = network, recorder
        self._graphs: dict[tuple[torch.Size, int], _Graph] = {}
        self._seen: set[tuple[torch.Size, int]] = set()
        self._records = True

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """Map windows (B, bands, H, W) to scores (B, outputs, H − 2·halo, W − 2·halo), which are the caller's own."""
        shape = x.shape, halo
        if shape in self._seen and shape not in self._graphs and self._records:
            graph = self._record(x, halo)
            if graph is not None:
                self._graphs[shape] = graph
        self._seen.add(shape)
        if shape not in self._graphs:
            return self._network(x, halo)
        graph = self._graphs[shape]
        graph.input.copy_(x)
        graph.recording.replay()
        return graph.output.clone()

    def drop(self) -> None:
        """Forget what is recorded, with its memory, and record nothing any more."""
        self._graphs.clear()
        self._records = False

    def _record(self, x: Tensor, halo: int) -> _Graph | None:
        """Record the network for a batch of this shape; where that fails record nothing any more."""
        kept = x.clone()
        try:
            expected = self._network(kept, halo)
            recording, output = self._recorder.record(lambda: self._network(kept, halo))
            recording.replay()
            if torch.equal(output, expected):
                return _Graph(recording, kept, output)
            log.warning("a CUDA graph gives other scores than the network: going on without")
        except RuntimeError as error:  # torch's errors of CUDA, also OutOfMemoryError
            log.warning("no CUDA graph of windows of %s: %s", tuple(x.shape), str(error).strip().split("\n")[0])
        self.drop()
        return None
