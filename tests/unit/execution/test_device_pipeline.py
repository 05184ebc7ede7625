"""Chunks on a device with latency and bandwidth set by hand: it never waits, and gives the labels of a CPU.

The clock is virtual (``tests/support/virtual_time.py``): times are exact, and no test waits for one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seamline.flows.runs.scene_job import open_input
from seamline.flows.settings.model_folder import Model, get_radiometry, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.model.devices.byte_budget import ByteBudget
from seamline.model.devices.device import Device
from seamline.model.devices.graphs import GraphedNetwork
from seamline.model.engines.runtime import Runtime
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.errors import ModelError
from seamline.pipeline.execution import chunk_inference
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_inference import ChunkCancelledError, infer_chunk
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.products.layers import SCENE_LAYERS
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, open_store_raster
from seamline.pipeline.scenes.scene import Scene, read_block
from tests.support.fake_device import FakeDevice, Speeds
from tests.support.small_models import make_random_network, save_model
from tests.support.small_rasters import make_noise, write_geotiff
from tests.support.virtual_time import VirtualCondition, VirtualTime

HEIGHT, WIDTH = 320, 500
"""Of the scene: 5 × 8 chunks of 64², the last column of them narrower. Two have no data."""
THREADS = 6
"""Chunks that are in hand at once."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, make_random_network(depth=1, base_width=2))
    return open_model(folder)


@pytest.fixture(scope="module")
def scene(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    pixels = make_noise(2, HEIGHT, WIDTH)
    pixels[:, 70:200, 100:260] = 0
    source = write_geotiff(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, names=("b0", "b1"), nodata=0)
    return open_input(source, model, SegmentOptions())


class InferenceThread:
    """Stands for the thread that runs the network: one callable after the other, in the order in which they came."""

    def __init__(self, time: VirtualTime) -> None:
        self._time, self._queue = time, deque[object]()

    def __call__(self, work: Callable[[], Any]) -> Any:
        ticket = object()
        self._queue.append(ticket)
        self._time.wait_for(lambda: self._queue[0] is ticket)
        try:
            return work()
        finally:
            self._queue.popleft()


@dataclass
class Run:
    """All chunks of a scene, by threads that take turns on a virtual clock."""

    model: Model
    scene: Scene
    folder: Path
    overlap: int = 0
    layers: tuple[str, ...] = ()
    batch: int = 2
    precision: str = "fp32"

    def __post_init__(self) -> None:
        halo = self.model.spec.exact_halo
        self.tiling = Tiling(*self.scene.grid.shape, 32 + 2 * halo + self.overlap, halo, self.overlap, 2, 2)
        self.folder.mkdir()
        directory = RunDirectory(self.folder).create_new_start()
        layout = ZarrLayout(self.tiling.store_chunk_size)
        create_store(directory.store, self.scene.grid, self.model.classes, layout, title="x", layers=self.layers)
        self.context = ChunkContext(self.scene, self.tiling, 3, directory, layers=self.layers)
        self.chunks = list(self.tiling.chunks())

    def load(self, device: Device | None = None) -> Runtime:
        settings = EngineSettings(batch=self.batch, precision=self.precision)
        radiometry = get_radiometry(self.scene)
        return Runtime(self.model.spec, self.model.folder, settings, radiometry, self.tiling.halo, device)

    def infer_on_cpu(self) -> Run:
        runtime = self.load()
        for chunk in self.chunks:
            infer_chunk(self.context, chunk, runtime, lambda work: work())
        return self

    def infer(
        self,
        time: VirtualTime,
        runtime: Runtime,
        monkeypatch: pytest.MonkeyPatch,
        source: float = 0.0,
        disk: float = 0.0,
        catch: tuple[type[Exception], ...] = (),
    ) -> dict[Index, Exception]:
        """Infer all chunks; reading takes the source and writing the disk for so many seconds. Return caught errors."""
        errors: dict[Index, Exception] = {}
        thread, waiting = InferenceThread(time), deque(self.chunks)
        read, write = chunk_inference.read_block, chunk_inference.write_rasters

        def read_slowly(*arguments: Any) -> Any:
            time.use("source", source)
            return read(*arguments)

        def write_slowly(*arguments: Any) -> Any:
            time.use("disk", disk)
            return write(*arguments)

        def work() -> None:
            while waiting:
                chunk = waiting.popleft()
                try:
                    infer_chunk(self.context, chunk, runtime, thread)
                except catch as error:
                    errors[chunk] = error

        with monkeypatch.context() as patch:
            patch.setattr(chunk_inference, "read_block", read_slowly)
            patch.setattr(chunk_inference, "write_rasters", write_slowly)
            time.run(*[work] * THREADS)
        return errors

    def read_rasters(self) -> dict[str, NDArray[np.uint8]]:
        store = self.context.directory.store
        return {"labels": open_labels(store)[:], **{name: open_store_raster(store, name)[:] for name in self.layers}}

    def assert_like(self, other: Run) -> None:
        """Assert that labels, layers and votes are bit for bit those of another run."""
        for name, raster in self.read_rasters().items():
            np.testing.assert_array_equal(raster, other.read_rasters()[name], name)
        for chunk in self.chunks if self.overlap else ():
            mine, others = (run.context.directory.load_votes(chunk) for run in (self, other))
            for one, same in zip(_list_arrays(mine), _list_arrays(others), strict=True):
                np.testing.assert_array_equal(one, same)

    @property
    def block_bytes(self) -> int:
        """Bytes of a chunk's pixels and masks on the device."""
        edge = self.tiling.read_window_of(Index(0, 0)).height
        return edge**2 * (len(self.scene.bands) * np.dtype(self.scene.dtype).itemsize + 2)


def _list_arrays(votes: Any) -> list[NDArray[Any]]:
    return [*votes.rasters.values(), votes.above, votes.left, *votes.strips.values()]


STAGES = ("source", "upload", "batch", "download", "disk")


@pytest.mark.parametrize("slowest", STAGES)
def test_a_run_takes_as_long_as_its_slowest_stage(
    model: Model, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowest: str
) -> None:
    """Seconds a chunk: 1 for the slowest stage, 0.4 for each other; enqueuing takes a third of computing."""
    seconds = {stage: 1.0 if stage == slowest else 0.4 for stage in STAGES}
    run, time = Run(model, scene, tmp_path / "run"), VirtualTime()
    speeds = Speeds(
        upload=seconds["upload"] / run.block_bytes,
        download=seconds["download"] / 64**2,
        batch=seconds["batch"] / 2,
        enqueue=seconds["batch"] / 6,
    )
    device = FakeDevice(time, speeds)
    run.infer(time, run.load(device), monkeypatch, seconds["source"], seconds["disk"])
    assert (len(run.chunks), len(device.downloads)) == (40, 38)
    windows = [report.windows for report in run.context.directory.read_inferred().values()]
    assert len(device.batches) == sum(math.ceil(count / 2) for count in windows)
    busy = {"source": 40.0, "disk": 40.0, "upload": 38.0, "batch": 0.5 * len(device.batches), "download": 37.0}
    assert busy[slowest] <= time.now <= 1.15 * busy[slowest]
    run.assert_like(Run(model, scene, tmp_path / "cpu").infer_on_cpu())


@pytest.mark.parametrize(("overlap", "layers"), [(0, ()), (0, ("probabilities", "confidence")), (8, SCENE_LAYERS)])
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_labels_layers_and_votes_are_those_of_a_cpu(
    model: Model,
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overlap: int,
    layers: tuple[str, ...],
    precision: str,
) -> None:
    """Batches are filled up, chunks overtake each other, and what comes back is not looked at before it is there."""
    options = {"overlap": overlap, "layers": layers, "precision": precision, "batch": 3}
    run, time = Run(model, scene, tmp_path / "run", **options), VirtualTime()
    runtime, sizes = run.load(FakeDevice(time, Speeds(1e-5, 1e-4, 0.5, 0.01, 0.3))), set[torch.Size]()
    network = runtime._network
    runtime._network = lambda x, halo: (sizes.add(x.shape), network(x, halo))[1]
    run.infer(time, runtime, monkeypatch, 0.1, 0.2)
    assert sizes == {(3, 2, run.tiling.window, run.tiling.window)}
    run.assert_like(Run(model, scene, tmp_path / "cpu", **options).infer_on_cpu())
    if not overlap:
        valid = read_block(scene, run.tiling.scene_window).valid
        np.testing.assert_array_equal(run.read_rasters()["labels"] != 255, valid)


def test_chunks_hold_no_more_memory_of_the_device_than_there_is(
    model: Model, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk holds its block and its labels there."""
    sizes = Run(model, scene, tmp_path / "run").block_bytes, 64**2
    limits = {"one": sum(sizes), "almost two": 2 * sizes[0] + sizes[1], "two": 2 * sum(sizes), "any": None}
    most: dict[str, float] = {}
    for name, limit in limits.items():
        time, run = VirtualTime(), Run(model, scene, tmp_path / name)
        device = FakeDevice(time, Speeds(batch=1.0), limit)
        run.infer(time, run.load(device), monkeypatch, disk=0.5)
        assert device.uploaded == 0
        most[name] = device.most_uploaded / sizes[0]
    assert most == {"one": 1, "almost two": 1, "two": 2, "any": THREADS}


def test_one_chunk_gets_what_it_needs_however_little_there_is() -> None:
    time = VirtualTime()
    budget = ByteBudget(10, VirtualCondition(time))
    taken: list[tuple[int, float]] = []

    def hold(count: int, begin: float) -> None:
        time.sleep(begin)
        budget.take(count)
        taken.append((count, time.now))
        time.sleep(5)
        budget.give_back(count)

    time.run(*(partial(hold, *one) for one in ((1000, 0), (4, 1), (6, 2), (1, 6))))
    assert taken == [(1000, 0), (4, 5), (6, 5), (1, 10)]


def test_a_cancelled_chunk_leaves_the_device_within_a_batch(model: Model, scene: Scene, tmp_path: Path) -> None:
    """One batch is computed and one follows it; what was enqueued later would only be thrown away."""
    run, time = Run(model, scene, tmp_path / "run", batch=1), VirtualTime()
    run.context = replace(run.context, tiling=replace(run.tiling, chunk_tiles=10))
    device, stops = FakeDevice(time, Speeds(batch=1.0, enqueue=0.1)), 7.5
    runtime = run.load(device)

    def work() -> None:
        with pytest.raises(ChunkCancelledError):
            infer_chunk(run.context, Index(0, 0), runtime, InferenceThread(time), lambda: time.now > stops)

    time.run(work)
    assert stops < time.now <= stops + 1.0 + 0.1
    assert max(device.batches) <= stops + 2.0 + 0.1
    assert device.uploaded == 0 and not device.downloads


def test_out_of_memory_halves_the_batch_drops_the_graphs_and_changes_no_label(
    model: Model, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, time = Run(model, scene, tmp_path / "run", batch=4, precision="fp64"), VirtualTime()
    device = FakeDevice(time, Speeds(batch=1.0))
    runtime = run.load(device)
    network, sizes = runtime._network, list[int]()

    def run_out(x: torch.Tensor, halo: int) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 1 and len(sizes) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return network(x, halo)

    runtime._network = graphed = GraphedNetwork(run_out, _Replaying())
    run.infer(time, runtime, monkeypatch)
    assert sizes[:9] == [4, 4, 4, 4, 4, 4, 2, 1, 1] and set(sizes[7:]) == {1}
    assert device.releases == 2 and not graphed._graphs
    run.assert_like(Run(model, scene, tmp_path / "cpu", batch=1, precision="fp64").infer_on_cpu())


class _Replaying:
    """Records work by keeping it."""

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Any, torch.Tensor]:
        output = work()

        class Recording:
            def replay(self) -> None:
                output.copy_(work())

        return Recording(), output


def test_scores_that_are_no_numbers_fail_their_chunk_and_are_looked_for_once_a_chunk(
    model: Model, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One window of the second chunk in hand has them; neither the chunk before nor the one after is touched."""
    run, time = Run(model, scene, tmp_path / "run", batch=1), VirtualTime()
    device = FakeDevice(time, Speeds(batch=1.0))
    runtime = run.load(device)
    network, windows = runtime._network, list[int]()

    def spoil(x: torch.Tensor, halo: int) -> torch.Tensor:
        windows.append(0)
        scores = network(x, halo)
        return scores * torch.nan if len(windows) == 6 else scores

    runtime._network = spoil
    errors = run.infer(time, runtime, monkeypatch, catch=(ModelError,))
    assert list(errors) == [Index(0, 1)] and "got scores that are no numbers, in fp32" in str(errors[0, 1])
    flags = [[tensor for tensor in tensors if tensor.dtype == torch.bool] for tensors in device.downloads]
    assert [len(one) for one in flags] == [1] * 38
    assert [bool(one[0]) for one in flags] == [number != 1 for number in range(38)]
    labels, expected = (
        one.read_rasters()["labels"] for one in (run, Run(model, scene, tmp_path / "cpu").infer_on_cpu())
    )
    assert (labels[:64, 64:128] == 255).all() and (expected[:64, 64:128] != 255).any()
    np.testing.assert_array_equal(
        np.delete(labels[:64], slice(64, 128), 1), np.delete(expected[:64], slice(64, 128), 1)
    )


class _MetaDevice:
    """A device whose tensors have no values, so that whoever looks at one fails, and whose downloads never end."""

    torch_device = torch.device("meta")
    is_asynchronous = True
    peak_memory = 0

    def __init__(self) -> None:
        self.budget = ByteBudget()
        self.is_copying = False

    def upload(self, arrays: Sequence[NDArray]) -> tuple[list[torch.Tensor], None]:
        self.is_copying = True
        tensors = [torch.from_numpy(array).to("meta") for array in arrays]
        self.is_copying = False
        return tensors, None

    def hold_until(self, event: None) -> None:
        pass

    def mark(self) -> _MetaDevice:
        return self

    def wait(self) -> None:
        pass

    def download(self, tensors: Sequence[torch.Tensor]) -> _MetaDevice:
        assert all(tensor.device.type == "meta" for tensor in tensors)
        return self

    def result(self) -> list[NDArray]:
        raise _EnqueuedError

    def release_memory(self) -> None:
        pass


class _EnqueuedError(Exception):
    """Everything is enqueued."""


class _NoCopies(TorchDispatchMode):
    """Refuses operations that take tensors in the memory of the process to the device, for which CUDA would wait."""

    def __init__(self, device: _MetaDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self._device.is_copying:
            for tensor in _iter_tensors([*args, *(kwargs or {}).values(), result]):
                assert tensor.device.type == "meta", function
        return result


class _NoConstants(TorchFunctionMode):
    """Refuses tensors that are made of numbers, which CUDA would copy, too."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.asarray, torch.as_tensor, torch.tensor):
            assert isinstance(args[0], torch.Tensor), function
        return function(*args, **(kwargs or {}))


def _iter_tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _iter_tensors(value)


@pytest.mark.parametrize(("overlap", "layers"), [(0, ()), (0, SCENE_LAYERS), (8, ()), (8, SCENE_LAYERS)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_nothing_looks_at_a_value_or_copies_to_the_device_while_a_chunk_is_enqueued(
    model: Model, scene: Scene, tmp_path: Path, overlap: int, layers: tuple[str, ...], activation: str
) -> None:
    run, device = Run(model, scene, tmp_path / "run", overlap, layers), _MetaDevice()
    runtime = run.load(device)
    runtime._activation = activation

    def network(x: torch.Tensor, halo: int) -> torch.Tensor:
        return torch.empty((len(x), 3, x.shape[2] - 2 * halo, x.shape[3] - 2 * halo), device=x.device)

    def enqueue(work: Callable[[], Any]) -> Any:
        with _NoCopies(device), _NoConstants():
            return work()

    runtime._network = network
    with pytest.raises(_EnqueuedError):
        infer_chunk(run.context, Index(1, 1), runtime, enqueue)
