"""What is asked of CUDA, in which stream and in which order: by a stand-in for ``torch.cuda`` that writes it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seamline.model.devices import cuda_device, graphs
from seamline.model.devices.cuda_device import CudaDevice, open_device
from seamline.model.devices.graphs import GraphedNetwork, get_cuda_recorder
from seamline.model.spec.errors import ModelError


class Cuda:
    """Stands for ``torch.cuda``; ``diary`` has what was asked for."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.current = self.computing = Stream(self, "compute")
        self._names = iter(["upload", "download", "third"])

    def Stream(self) -> Stream:
        return Stream(self, next(self._names))

    def Event(self, blocking: bool) -> Event:
        assert blocking  # who waits sleeps
        return Event(self)

    def default_stream(self) -> Stream:
        return self.computing

    def current_stream(self) -> Stream:
        return self.current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def reset_peak_memory_stats(self) -> None:
        self.diary.append("reset peak")

    def empty_cache(self) -> None:
        self.diary.append("empty cache")

    def max_memory_allocated(self) -> int:
        return 42

    def is_available(self) -> bool:
        return True

    def graph_pool_handle(self) -> str:
        return "pool"

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.diary.append("replay"))

    @contextmanager
    def graph(self, graph: Any, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        self.diary.append(f"record in {stream.name} with {pool}, {capture_error_mode}")
        with self.stream(stream):
            yield
        self.diary.append("recorded")


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_event(self, event: Event) -> None:
        self.cuda.diary.append(f"{self.name} waits for {event.recorded}")

    def wait_stream(self, stream: Stream) -> None:
        self.cuda.diary.append(f"{self.name} waits for {stream.name}")


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.recorded = cuda, ""

    def record(self, stream: Stream) -> None:
        self.recorded = stream.name
        self.cuda.diary.append(f"mark {stream.name}")

    def synchronize(self) -> None:
        self.cuda.diary.append(f"thread waits for {self.recorded}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Both modules see the stand-in; tensors stay on the CPU, and pinned memory is said to be taken."""
    found = Cuda()

    def make_empty(shape: Any, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        found.diary.append(f"pinned for {found.current.name}")
        return torch.empty(shape, dtype=dtype)

    def note_stream(tensor: torch.Tensor, stream: Stream) -> None:
        found.diary.append(f"{stream.name} uses {tuple(tensor.shape)} of {found.current.name}")

    kept = {name: getattr(torch, name) for name in ("from_numpy", "equal", "device", "Size")}
    stand_in = SimpleNamespace(cuda=found, empty=make_empty, **kept)
    monkeypatch.setattr(cuda_device, "torch", stand_in)
    monkeypatch.setattr(graphs, "torch", stand_in)
    monkeypatch.setattr(torch.Tensor, "record_stream", note_stream)
    monkeypatch.setattr(CudaDevice, "torch_device", torch.device("cpu"))
    get_cuda_recorder.cache_clear()
    yield found
    get_cuda_recorder.cache_clear()


def test_copies_have_streams_of_their_own_and_nobody_waits_but_for_results(cuda: Cuda) -> None:
    device = open_device("cuda", 100)
    pixels = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    (tensor, mask), uploaded = device.upload([pixels, pixels[0] > 5])
    assert cuda.diary == [
        "reset peak",
        "pinned for upload",
        "compute uses (1, 3, 4) of upload",
        "pinned for upload",
        "compute uses (3, 4) of upload",
        "mark upload",
    ]
    np.testing.assert_array_equal(tensor.numpy(), pixels)
    assert not np.shares_memory(tensor.numpy(), pixels)
    cuda.diary.clear()
    device.hold_until(uploaded)
    enqueued = device.mark()
    download = device.download([tensor[:, :, ::2], mask])
    assert cuda.diary == [
        "compute waits for upload",
        "mark compute",
        "mark compute",
        "download waits for compute",
        "pinned for download",
        "pinned for download",
        "mark download",
    ]
    cuda.diary.clear()
    enqueued.wait()
    found = download.result()
    assert cuda.diary == ["thread waits for compute", "thread waits for download"]
    np.testing.assert_array_equal(found[0], pixels[:, :, ::2])
    np.testing.assert_array_equal(found[1], pixels[0] > 5)
    device.release_memory()
    assert cuda.diary[-1] == "empty cache" and device.peak_memory == 42
    device.budget.take(100)
    assert not device.budget._has_room(1)


def test_graphs_share_a_pool_and_other_threads_may_take_memory_meanwhile(cuda: Cuda) -> None:
    runs = []

    def double(x: torch.Tensor, halo: int) -> torch.Tensor:
        runs.append(cuda.current.name)
        return 2 * x

    network = GraphedNetwork(double, get_cuda_recorder())
    batch = torch.ones(1, 1, 8, 8)
    for _ in range(3):
        assert torch.equal(network(batch, 0), 2 * batch)
    assert cuda.diary == [
        "upload waits for compute",  # the recorder's is the first stream here
        "compute waits for upload",
        "record in upload with pool, thread_local",
        "recorded",
        "replay",
        "replay",
        "replay",
    ]
    assert runs == ["compute", "compute", "upload", "upload"]
    assert get_cuda_recorder() is get_cuda_recorder()


def test_without_a_cuda_device_it_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ModelError, match="take --device cpu"):
        open_device("cuda")
