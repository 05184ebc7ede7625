"""The interface of a network to the pipeline, and the Dask plugin that holds a loaded network on each worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np
from distributed import Client, Scheduler, Worker, WorkerPlugin
from numpy.typing import NDArray

from seamline.pipeline.cluster.inference_thread import InferenceThread
from seamline.pipeline.cluster.plugins import remove_plugin
from seamline.pipeline.common.memory import reset_peak_memory
from seamline.pipeline.execution import metrics
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.geometry.votes import Array

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

PLUGIN_PREFIX = "seamline"
"""First part of the names of our plugins. The second part is the id of the client that they work for."""


class DeviceBlock(Protocol):
    """The pixels of a chunk on the device. A context: leaving it gives their memory back."""

    @property
    def label_mask(self) -> Array:
        """True where a pixel gets a label, (height, width), on the device."""
        ...

    def __enter__(self) -> DeviceBlock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Fetched(Protocol[K]):
    """Arrays on their way back from the device."""

    def result(self) -> dict[K, NDArray[Any]]:
        """Wait for the arrays and return them by name; raise an error if scores of the chunk were no numbers."""
        ...


class Predictor(Protocol):
    """A network that is loaded in this process. It removes the halo from its predictions.

    ``load`` is called by the thread of a chunk; it copies while the network computes other chunks. Everything else is
    called on the inference thread, and may only enqueue what the device will do. ``Fetched.result`` waits for it.
    """

    def load(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], label_mask: NDArray[np.bool_], result_bytes: int
    ) -> DeviceBlock:
        """Begin to copy the pixels of a chunk to the device; wait while other chunks take up its memory.

        Args:
            pixels: digital numbers (bands, height, width).
            valid: True where there is data (height, width).
            label_mask: True where a pixel gets a label (height, width).
            result_bytes: bytes that what is made of the scores takes on the device.
        """
        ...

    def infer(self, block: Any, places: Sequence[tuple[slice, slice]]) -> Iterator[Array]:
        """Yield the scores of each window, (classes, S, S) with S = window − 2·halo, on the device.

        Scores order the classes of a pixel as their probabilities do. ``probabilities`` converts them.

        Args:
            block: from ``load``.
            places: rows and columns of each window in the block.
        """
        ...

    def probabilities(self, scores: Array) -> Array:
        """Return probabilities in [0, 1] for the scores of one window, (classes, S, S), on the same device."""
        ...

    def upload(self, array: NDArray[Any]) -> Array:
        """Return a small array on the device."""
        ...

    def fetch(self, block: Any, arrays: Mapping[K, Array]) -> Fetched[K]:
        """Begin to copy arrays back that were made of a block's scores, with whether these were numbers."""
        ...

    @property
    def device_memory(self) -> int:
        """The most bytes that were taken on a device with its own memory; 0 on a CPU."""
        ...


class PredictorLoader(Protocol):
    """Loads a predictor on a worker. Picklable and small: paths and digests, never weights."""

    def __call__(self) -> Predictor:
        """Load the predictor; called once in a process."""
        ...


class PredictorPlugin(WorkerPlugin):  # type: ignore[misc]
    """Loads one predictor in each worker process, also in one that joins or restarts later, and holds its run there.

    So tasks need not carry the run, which may have an area of interest of megabytes.

    The predictor computes in the inference thread. There is no ``teardown``: a cancelled chunk may still use the
    predictor. Thread and predictor are freed when Dask has dropped the plugin and the last chunk has ended.

    Attributes:
        name: identifies the plugin on the workers.
        context: the run.
        predictor: the loaded network; set on the worker.
        chunk_slots: bounds the chunks, and so the memory, of the process however many threads its worker has.
        blocks: decoded blocks of the scene that other chunks of the run need, too; set on the worker.
    """

    idempotent = True

    def __init__(self, loader: PredictorLoader, context: ChunkContext, client: str) -> None:
        # Unique for each run: runs share workers, and the first that ends must not remove the plugin of the others.
        self.name = f"{PLUGIN_PREFIX}/{client}/{uuid.uuid4().hex[:8]}"
        self.context = context
        self._loader = loader

    def setup(self, worker: Worker) -> None:
        """Load the predictor; called by Dask on the worker."""
        metrics.show_memory_limit(worker)
        self._thread = InferenceThread()
        self.predictor: Predictor = self.run_on_device(self._loader)
        self.chunk_slots = BoundedSemaphore(self.context.reading.chunks_at_once)
        self.blocks = self.context.reading.make_cache(self.context.tiling)
        reset_peak_memory()

    def run_on_device(self, work: Callable[[], T]) -> T:
        """Run a callable on the inference thread, after those submitted before it, and return its result."""
        return self._thread.run(work)


def forget_dead_clients(client: Client) -> None:
    """Remove the predictors of killed clients from the workers, which frees their memory."""
    for name in client.run_on_scheduler(_list_plugins_of_dead_clients):
        remove_plugin(client, name)


def _list_plugins_of_dead_clients(dask_scheduler: Scheduler) -> list[str]:
    mine = (name for name in dask_scheduler.worker_plugins if str(name).startswith(f"{PLUGIN_PREFIX}/"))
    return [name for name in mine if name.split("/")[1] not in dask_scheduler.clients]
