"""Dask tasks that work on chunks of one run: what runs on a worker, and the client's pool of running tasks.

The client waits for nothing without an end. A task that ended may have lost its result, because its worker died before
the result was fetched; a client that another thread closed answers nobody. Dask waits for both for ever. So results are
fetched with a timeout, and while no task ends the pool looks whether there are workers.

What the client asks of the scheduler does not grow with the number of workers: tasks are submitted and results fetched
many at a time, tasks carry no more than their chunk, and the number of places is asked for every other second.
"""

from __future__ import annotations

import errno
import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from distributed import Client, Future, KilledWorker, Reschedule, get_worker

from seamline.pipeline.cluster.losses import (
    ADVICE_ON_MEMORY,
    WORKER_CHECK_INTERVAL,
    WorkersDiedError,
    WorkerWatch,
    describe_memory_kills,
    raise_if_cluster_lost,
)
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE, Capacity, ask_capacity
from seamline.pipeline.common.errors import BadBlockError, ChunkError, RunError, SeamlineError
from seamline.pipeline.execution import metrics
from seamline.pipeline.execution.chunk_blending import write_chunk
from seamline.pipeline.execution.chunk_inference import ChunkCancelledError, infer_chunk
from seamline.pipeline.execution.predictor import PredictorPlugin
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.scenes.scene import Scene

T = TypeVar("T")
log = logging.getLogger("seamline.run")


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of the user's part of it, that is full."""
_ADVICE_ON_FULL_DISK = "; what was done is kept, make room and run the same command again"
_ADVICE_ON_DISK = "; what was inferred is kept, make room and run the same command again"

_CAPACITY_INTERVAL = 2.0
"""Seconds after which the scheduler is asked again how many chunks its workers take."""


class ChunkOrigin(NamedTuple):
    """What errors say of where a chunk comes from: "scene a" or "map b", and its source."""

    name: str
    source: str

    @classmethod
    def of(cls, scene: Scene) -> ChunkOrigin:
        """Return the origin of the chunks of a scene."""
        return cls(f"scene {scene.id}", scene.source)


def infer_task(chunk: Index, plugin_name: str) -> Report:
    """Infer a chunk with the predictor that the plugin of this run loaded; runs on a worker.

    Args:
        chunk: the chunk to infer.
        plugin_name: name of the worker plugin that holds run and predictor.

    Returns:
        What the chunk took.

    Raises:
        Reschedule: the task was cancelled; Dask then forgets it.
        SeamlineError: the chunk failed; names scene, chunk and source.
    """
    plugin = _find_plugin(plugin_name)
    is_cancelled = _watch_cancellation()

    def work() -> Report:
        with plugin.chunk_slots:
            report = infer_chunk(
                plugin.context, chunk, plugin.predictor, plugin.run_on_device, is_cancelled, plugin.blocks
            )
        metrics.count_chunk("inferred", report)
        return report

    return _with_origin_in_errors(ChunkOrigin.of(plugin.context.scene), chunk, work, _ADVICE_ON_DISK)


def write_task(chunk: Index, plugin_name: str) -> Report:
    """Blend and write a chunk; runs on a worker.

    Args:
        chunk: the chunk to write.
        plugin_name: name of the worker plugin that holds the run.

    Returns:
        What the step took.

    Raises:
        Reschedule: the run is over; Dask then forgets the task.
        SeamlineError: the chunk failed; names scene, chunk and source.
    """
    plugin = _find_plugin(plugin_name)
    context = plugin.context

    def work() -> Report:
        with plugin.chunk_slots:
            report = write_chunk(context, chunk)
        metrics.count_chunk("written", report)
        return report

    return _with_origin_in_errors(ChunkOrigin.of(context.scene), chunk, work, _ADVICE_ON_DISK)


def apply_task(chunk: Index, origin: ChunkOrigin, function: Callable[[Index], T]) -> T:
    """Apply a function to a chunk; runs on a worker.

    Args:
        chunk: the chunk.
        origin: where it comes from.
        function: what to apply to it.

    Returns:
        What the function returns.

    Raises:
        SeamlineError: the function failed; names scene, chunk and source.
    """
    return _with_origin_in_errors(origin, chunk, lambda: function(chunk), _ADVICE_ON_FULL_DISK)


def call_task(_: None, origin: ChunkOrigin, function: Callable[[], T]) -> T:
    """Call a function that works on no chunk; runs on a worker.

    Args:
        _: no chunk.
        origin: the scene or map that the work is for.
        function: what to call.

    Returns:
        What the function returns.

    Raises:
        SeamlineError: the function failed; names scene and source.
    """
    return _with_origin_in_errors(origin, None, function, _ADVICE_ON_FULL_DISK)


def _find_plugin(name: str) -> PredictorPlugin:
    """Return the plugin of a run on this worker, which Dask gives to a worker before any task.

    Raises:
        Reschedule: the client removed it before it left; Dask forgets the task in a moment.
    """
    plugin: PredictorPlugin | None = get_worker().plugins.get(name)
    if plugin is None:
        raise Reschedule
    return plugin


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


def _with_origin_in_errors(
    origin: ChunkOrigin, chunk: Index | None, work: Callable[[], T], advice_on_disk: str = ""
) -> T:
    """Return ``work()``; every error on a worker says which scene, chunk (if any) and source it belongs to."""
    where = f"{_describe_place(origin.name, chunk)} of {origin.source}"
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
        if not isinstance(error, OSError | SeamlineError):  # such as a full disk, of which the message says all
            log.exception("%s", where)
        is_full = isinstance(error, OSError) and error.errno in _FULL
        failure = ChunkError(f"{where}: {type(error).__name__}: {error}{advice_on_disk if is_full else ''}")
    metrics.count_failure()
    # Outside of the handlers: a cause that cannot be pickled, such as rasterio's, would cost the client the message.
    raise failure


def _describe_place(what: str, chunk: Index | None) -> str:
    return what if chunk is None else f"{what}, chunk {tuple(chunk)}"


@dataclass(eq=False)
class ChunkTask:
    """A task on a chunk that the client waits for.

    Attributes:
        chunk: the chunk; None for work on none.
        function: the task function of this module that works on it.
        ended: whether it has ended.
        outcome: its result or its error, once it has ended.
    """

    chunk: Index | None
    function: Callable[..., Any]
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

    def __init__(self, client: Client, what: str, chunks_at_once: int = CHUNKS_AT_ONCE) -> None:
        """Begin without tasks.

        Args:
            client: client of the cluster that works.
            what: "scene a" or "map b", for messages.
            chunks_at_once: chunks that a worker process holds at once.
        """
        self._client, self._what, self._chunks_at_once = client, what, chunks_at_once
        self._running: dict[Future, ChunkTask] = {}
        self._counts: Counter[Callable[..., Any]] = Counter()
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._workers = WorkerWatch(client, self._what)
        self._capacity, self._asked_at = Capacity(0, 1), -math.inf
        # Dask keeps tasks at the scheduler, instead of a worker, if many have the first part of their key in common.
        self._group = uuid.uuid4().hex
        self._submitted = 0

    def __enter__(self) -> ChunkTaskPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running and self._client.status == "running":
            self._client.cancel(list(self._running), force=True)

    def __len__(self) -> int:
        return len(self._running)

    def count_running(self, function: Callable[..., Any]) -> int:
        """Return the number of running tasks of a task function."""
        return self._counts[function]

    def capacity(self) -> Capacity:
        """Return how many chunks the cluster takes, as of the last seconds: workers come and go."""
        if time.monotonic() - self._asked_at > _CAPACITY_INTERVAL:
            with raise_if_cluster_lost(self._client, self._what):
                self._capacity = ask_capacity(self._client, self._chunks_at_once)
            self._asked_at = time.monotonic()
        return self._capacity

    def submit(
        self,
        function: Callable[..., Any],
        chunks: Sequence[Index | None],
        constants: Mapping[str, object],
        *,
        priority: int = 0,
    ) -> list[ChunkTask]:
        """Submit ``function(chunk, **constants)`` for chunks, in one message.

        Args:
            function: one of the task functions of this module.
            chunks: the chunks to work on, None for no chunk; those that come first are begun first.
            constants: what the function takes besides, by name; the same for all chunks.
            priority: Dask's priority; higher runs first.

        Returns:
            The tasks, which have not ended, in the order of the chunks.
        """
        if not chunks:
            return []
        group, first = f"{function.__name__}-{self._group}", self._submitted
        keys = [(group, first + number) for number in range(len(chunks))]
        self._submitted += len(chunks)
        tasks = [ChunkTask(chunk, function) for chunk in chunks]
        with raise_if_cluster_lost(self._client, self._what):
            futures = self._client.map(function, chunks, key=keys, pure=False, priority=priority, **constants)
            for future, task in zip(futures, tasks, strict=True):
                self._await(future, task)
        self._counts[function] += len(tasks)
        return tasks

    def wait_for_some(self) -> list[ChunkTask]:
        """Return the tasks that have ended, with their outcomes, as soon as there is at least one.

        Not ``distributed.wait``: it wants its client to be Dask's current one. Two threads that set that at once may
        leave Dask with a scheduler that is gone, for everything that the process computes afterwards.

        Raises:
            RunError: the cluster is lost, or a chunk killed its workers again and again.
        """
        with raise_if_cluster_lost(self._client, self._what):
            while True:
                ended = self._next_ended()
                try:
                    outcomes = self._fetch(ended)
                except (TimeoutError, KilledWorker, BadBlockError, ChunkError):
                    # A worker died with a result. Dask runs its task again, which has perhaps failed meanwhile.
                    self._await_again(ended)
                    continue
                self._workers.mark_alive()
                for future, task in ended.items():
                    task.outcome, task.ended = outcomes[future], True
                    self._counts[task.function] -= 1
                    future.release()
                return list(ended.values())

    def _await(self, future: Future, task: ChunkTask) -> None:
        self._running[future] = task
        future.add_done_callback(self._ended.put)

    def _await_again(self, lost: dict[Future, ChunkTask]) -> None:
        for future, task in lost.items():
            self._await(future, task)
        self._workers.check()

    def _next_ended(self) -> dict[Future, ChunkTask]:
        """Return all tasks that have ended, at least one; wait again for those whose results are lost."""
        while True:
            futures: list[Future] = []
            with suppress(Empty):
                futures.append(self._ended.get(timeout=WORKER_CHECK_INTERVAL))
                while True:
                    futures.append(self._ended.get_nowait())
            if not futures:
                self._workers.check()
            ended = {future: self._running.pop(future) for future in futures}
            lost = {future: task for future, task in ended.items() if future.status in ("pending", "lost")}
            if lost:
                self._await_again(lost)
            if ended.keys() - lost.keys():
                return {future: task for future, task in ended.items() if future not in lost}

    def _fetch(self, ended: dict[Future, ChunkTask]) -> dict[Future, Any]:
        """Return what tasks returned, or the errors of their chunks, in one request.

        Raises:
            TimeoutError: no worker has one of the results any more.
            RunError: a task failed for another reason than its chunk.
        """
        failed = {future: self._get_error(future, task) for future, task in ended.items() if future.status == "error"}
        others = [future for future in ended if future not in failed]

        async def gather() -> list[Any]:  # ``Client.gather`` by itself would wait without an end
            return list(await self._client.gather(others, asynchronous=True))

        results = self._client.sync(gather, callback_timeout=WORKER_CHECK_INTERVAL)
        return failed | dict(zip(others, results, strict=True))

    def _get_error(self, future: Future, task: ChunkTask) -> Exception:
        """Return the error of a bad chunk; raise any other."""
        error = future.exception(timeout=WORKER_CHECK_INTERVAL)
        if isinstance(error, (BadBlockError, ChunkError)):
            return error
        if isinstance(error, KilledWorker):
            raise WorkersDiedError(
                f"{_describe_place(self._what, task.chunk)}: {error.allowed_failures + 1} workers died on it"
                f"{describe_memory_kills(self._client)}; {ADVICE_ON_MEMORY}"
            ) from error
        raise error
