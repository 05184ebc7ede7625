"""Dask tasks that work on chunks of one run: what runs on a worker, and the client's pool of running tasks.

The client waits for nothing without an end. A task that ended may have lost its result, because its worker died before
the result was fetched; a client that another thread closed answers nobody. Dask waits for both for ever. So results are
fetched with a timeout, and while no task ends the pool looks whether there are workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker, Reschedule, get_worker

from seamline.pipeline.cluster.losses import (
    ADVICE_ON_MEMORY,
    WORKER_CHECK_INTERVAL,
    WorkersDiedError,
    WorkerWatch,
    describe_memory_kills,
    raise_if_cluster_lost,
)
from seamline.pipeline.cluster.workers import chunk_capacity
from seamline.pipeline.common.errors import BadBlockError, ChunkError, RunError, SeamlineError
from seamline.pipeline.execution import metrics
from seamline.pipeline.execution.chunk_blending import write_chunk
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_inference import ChunkCancelledError, infer_chunk
from seamline.pipeline.execution.predictor import PredictorPlugin
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index

T = TypeVar("T")
log = logging.getLogger("seamline.run")


def infer_task(context: ChunkContext, chunk: Index, plugin_name: str) -> Report:
    """Infer a chunk with the predictor that the plugin of this run loaded; runs on a worker.

    Args:
        context: the run.
        chunk: the chunk to infer.
        plugin_name: name of the worker plugin that holds the predictor.

    Returns:
        What the chunk took.

    Raises:
        Reschedule: the task was cancelled; Dask then forgets it.
        SeamlineError: the chunk failed; names scene, chunk and source.
    """
    plugin: PredictorPlugin | None = get_worker().plugins.get(plugin_name)
    if plugin is None:  # the client removed it before it left; Dask forgets the task in a moment
        raise Reschedule
    is_cancelled = _watch_cancellation()

    def work() -> Report:
        with plugin.chunk_slots:
            report = infer_chunk(context, chunk, plugin.predictor, plugin.run_on_device, is_cancelled)
        metrics.count_chunk("inferred", report)
        return report

    return _with_place_in_errors(context, chunk, work)


def write_task(context: ChunkContext, chunk: Index) -> Report:
    """Blend and write a chunk; runs on a worker. Raises ``SeamlineError`` that names scene, chunk and source."""

    def work() -> Report:
        report = write_chunk(context, chunk)
        metrics.count_chunk("written", report)
        return report

    return _with_place_in_errors(context, chunk, work)


def apply_task(context: ChunkContext, chunk: Index, function: Callable[[Index], T]) -> T:
    """Apply a function to a chunk; runs on a worker.

    Args:
        context: the run.
        chunk: the chunk.
        function: what to apply to it.

    Returns:
        What the function returns.

    Raises:
        SeamlineError: the function failed; names scene, chunk and source.
    """
    return _with_place_in_errors(context, chunk, lambda: function(chunk))


def _watch_cancellation() -> Callable[[], bool]:
    """Return a function that tells whether the task that calls this was cancelled or its client is dead.

    Dask does not stop a task that runs; it only notes that the result is not wanted any more.
    """
    worker = get_worker()
    key, tasks = worker.get_current_task(), worker.state.tasks

    def is_cancelled() -> bool:
        task = tasks.get(key)
        return task is None or task.state in ("cancelled", "resumed")

    return is_cancelled


def _with_place_in_errors(context: ChunkContext, chunk: Index, work: Callable[[], T]) -> T:
    """Return ``work()``; every error on a worker says which scene, chunk and source it belongs to."""
    where = f"scene {context.scene.id}, chunk {tuple(chunk)} of {context.scene.source}"
    failure: SeamlineError
    try:
        return work()
    except BadBlockError as error:
        failure = BadBlockError(f"{where}: {error}")
    except RunError as error:
        failure = error
    except ChunkCancelledError:
        raise Reschedule from None  # Dask forgets the task
    except Exception as error:
        if not isinstance(error, OSError):  # such as a full disk, of which the message says all
            log.exception("%s", where)
        failure = ChunkError(f"{where}: {type(error).__name__}: {error}")
    metrics.count_failure()
    # Outside of the handlers: a cause that cannot be pickled, such as rasterio's, would cost the client the message.
    raise failure


@dataclass(eq=False)
class ChunkTask:
    """A task on a chunk that the client waits for. ``outcome`` is its result or its error once it has ended."""

    chunk: Index
    infers: bool = False
    ended: bool = False
    outcome: Any = None

    def result(self) -> Any:
        """Return the result of a task that has ended, or raise its error."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class ChunkTaskPool:
    """The running tasks of a run. A context: leaving it cancels the tasks that still run.

    Every method raises ``RunError`` when the cluster is lost.
    """

    def __init__(self, client: Client, context: ChunkContext) -> None:
        self._client, self._context = client, context
        self._what = f"scene {context.scene.id}"
        self._running: dict[Future, ChunkTask] = {}
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._workers = WorkerWatch(client, self._what)

    def __enter__(self) -> ChunkTaskPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running and self._client.status == "running":
            self._client.cancel(list(self._running), force=True)

    def __len__(self) -> int:
        return len(self._running)

    @property
    def inferring(self) -> int:
        """Number of running tasks that infer a chunk."""
        return sum(task.infers for task in self._running.values())

    def capacity(self) -> int:
        """Return how many chunks the workers there are now can hold at once; 0 while there are none."""
        with raise_if_cluster_lost(self._client, self._what):
            return chunk_capacity(self._client)

    def submit(
        self, function: Callable[..., Any], chunk: Index, *arguments: Any, priority: int = 0, infers: bool = False
    ) -> ChunkTask:
        """Submit ``function(context, chunk, *arguments)``.

        Args:
            function: one of the task functions of this module.
            chunk: the chunk to work on.
            *arguments: what the function takes besides.
            priority: Dask's priority; higher runs first.
            infers: whether the task occupies a place among those that infer.

        Returns:
            The task, which has not ended.
        """
        with raise_if_cluster_lost(self._client, self._what):
            future = self._client.submit(function, self._context, chunk, *arguments, pure=False, priority=priority)
            task = ChunkTask(chunk, infers)
            self._await(future, task)
        return task

    def wait_next(self) -> ChunkTask:
        """Return the next task that ends, with its outcome.

        Not ``distributed.wait``: it wants its client to be Dask's current one. Two threads that set that at once may
        leave Dask with a scheduler that is gone, for everything that the process computes afterwards.

        Raises:
            RunError: the cluster is lost, or a chunk killed its workers again and again.
        """
        with raise_if_cluster_lost(self._client, self._what):
            while True:
                future = self._next_future()
                task = self._running.pop(future)
                try:
                    task.outcome = self._fetch(future, task.chunk)
                except TimeoutError:  # its worker died with the result; Dask runs the task again on another worker
                    self._await(future, task)
                    self._workers.check()
                    continue
                except (BadBlockError, ChunkError) as error:
                    task.outcome = error
                task.ended = True
                self._workers.mark_alive()
                future.release()
                return task

    def _await(self, future: Future, task: ChunkTask) -> None:
        self._running[future] = task
        future.add_done_callback(self._ended.put)

    def _next_future(self) -> Future:
        while True:
            with suppress(Empty):
                return self._ended.get(timeout=WORKER_CHECK_INTERVAL)
            self._workers.check()

    def _fetch(self, future: Future, chunk: Index) -> Any:
        """Return what a task returned. Raises ``TimeoutError`` if no worker has it any more."""
        try:
            return future.result(timeout=WORKER_CHECK_INTERVAL)
        except KilledWorker as error:
            raise WorkersDiedError(
                f"{self._what}, chunk {tuple(chunk)}: {error.allowed_failures + 1} workers died on it"
                f"{describe_memory_kills(self._client)}; {ADVICE_ON_MEMORY}"
            ) from error
