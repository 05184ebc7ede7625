"""What the pipeline needs of a network, as two protocols, and the Dask plugin that holds a network on each worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import BoundedSemaphore
from typing import Any, Protocol, TypeVar

import numpy as np
from distributed import Client, Scheduler, Worker, WorkerPlugin
from numpy.typing import NDArray

from seamline.pipeline.common.memory import reset_peak_memory
from seamline.pipeline.geometry.votes import Array

T = TypeVar("T")

CHUNKS_AT_ONCE = 3
"""Chunks that one worker process has in hand: one is read, one inferred, one written."""

PLUGIN_PREFIX = "seamline"
"""First part of the names of our plugins; then comes the id of the client that they work for."""


class Predictor(Protocol):
    """A network that is loaded in this process and knows the halo that it throws away."""

    def predict(self, pixels: Sequence[NDArray[Any]], valid: Sequence[NDArray[np.bool_]]) -> Iterator[Array]:
        """Scores (classes, S, S) for each window, S = window − 2·halo, where they were computed.

        Scores order the classes of a pixel as their probabilities do; ``probabilities`` makes these of them.

        Args:
            pixels: of each window (bands, window, window), the scene's digital numbers.
            valid: of each window (window, window), True = data.
        """
        ...

    def probabilities(self, scores: Array) -> Array:
        """Probabilities (classes, S, S) in [0, 1] of the scores of one window, in the same place."""
        ...

    def to_host(self, array: Array) -> NDArray[Any]:
        """The same values as a numpy array."""
        ...

    @property
    def device_memory(self) -> int:
        """Bytes taken on a device of its own at most; 0 where the memory is the process's."""
        ...


class PredictorLoader(Protocol):
    """Loads a predictor on a worker. Picklable and small: paths and digests, never weights."""

    def __call__(self) -> Predictor:
        """Load it; called once in a process."""
        ...


class PredictorPlugin(WorkerPlugin):  # type: ignore[misc]
    """Gives each worker process, also one that joins or restarts later, one predictor, loaded once.

    The predictor computes in one thread of its own: libraries keep a pool of threads and freed memory for each thread
    that calls them. Thread and predictor go when Dask has let go of the plugin and the last chunk has ended: nothing is
    torn down under a chunk that nobody waits for any more. ``chunk_slots`` bounds the chunks, and so the memory, of the
    process however many threads its worker has.
    """

    idempotent = True

    def __init__(self, loader: PredictorLoader, client: str) -> None:
        # One of its own for each run: runs share workers, and the first to end must not take it from the others.
        self.name = f"{PLUGIN_PREFIX}/{client}/{uuid.uuid4().hex[:8]}"
        self._loader = loader

    def setup(self, worker: Worker) -> None:
        """Load the predictor; called by Dask on the worker."""
        self._device = ThreadPoolExecutor(1, "device")
        self.predictor: Predictor = self.run_on_device(self._loader)
        self.chunk_slots = BoundedSemaphore(CHUNKS_AT_ONCE)
        reset_peak_memory()

    def run_on_device(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the thread of the predictor, after what others gave it before."""
        return self._device.submit(work).result()


def forget_dead_clients(client: Client) -> None:
    """Take from the workers what clients that were killed have left there: their predictors, and their memory."""
    for name in client.run_on_scheduler(_list_plugins_of_dead_clients):
        with suppress(ValueError):  # another client was quicker
            client.unregister_worker_plugin(name)


def _list_plugins_of_dead_clients(dask_scheduler: Scheduler) -> list[str]:
    mine = (name for name in dask_scheduler.worker_plugins if str(name).startswith(f"{PLUGIN_PREFIX}/"))
    return [name for name in mine if name.split("/")[1] not in dask_scheduler.clients]
