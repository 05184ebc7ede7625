"""Drive a run: keep the workers busy with a bounded number of chunks, and know what is done.

The graph is never built whole: a chunk is submitted when another one ends. Dask does not queue what it is given
beyond the workers' threads evenly, and tasks that ask for resources not at all, so the bound is ours: as many chunks
as the workers have hands, and one more, so that none waits for the client.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker, Reschedule, get_worker

from seamline.pipeline.common.errors import BadBlockError, ChunkError, RunError, SeamlineError
from seamline.pipeline.execution import metrics
from seamline.pipeline.execution.chunk import AbandonedError, Job, infer_chunk, write_chunk
from seamline.pipeline.execution.chunk_queue import Frontier
from seamline.pipeline.execution.cluster import (
    LOOK_FOR_WORKERS,
    WAIT_FOR_WORKERS,
    PredictorPlugin,
    check_open,
    forget_dead,
    gone,
    hands_of,
    told_if_lost,
)
from seamline.pipeline.execution.predictor import PredictorLoader
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index, MapChunks

T = TypeVar("T")
log = logging.getLogger("seamline.run")


@dataclass
class Totals:
    """What a run has done so far. Stage seconds are summed over workers; bytes are the most of any worker."""

    chunks: int
    chunks_done: int = 0
    windows: int = 0
    pixels_inferred: int = 0
    pixels_done: int = 0
    peak_memory: int = 0
    device_memory: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    bad_blocks: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self.started

    def add(self, report: Report) -> None:
        """Count what a worker reports."""
        self.windows += report.windows
        self.pixels_inferred += report.pixels_inferred
        self.peak_memory = max(self.peak_memory, report.peak_memory)
        self.device_memory = max(self.device_memory, report.device_memory)
        self.bad_blocks = sorted({*self.bad_blocks, *report.bad_blocks})
        for stage, seconds in report.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def run_chunks(
    client: Client, job: Job, loader: PredictorLoader, progress: Callable[[Totals], None] = lambda totals: None
) -> Totals:
    """Infer and write every chunk of a job that is not written yet.

    A chunk with an unreadable block does not stop the others.

    Raises:
        BadBlockError: after everything else is done, for all chunks with an unreadable block.
        ChunkError: a chunk failed for another reason; names scene, chunk and source.
        RunError: the cluster is gone, or a chunk killed its worker again and again.
    """
    directory, tiling = job.directory, job.tiling
    inferred = directory.inferred()
    written = directory.written() if tiling.overlap else inferred
    frontier = Frontier(tiling, inferred, written)
    totals = Totals(tiling.chunk_grid.row * tiling.chunk_grid.col, chunks_done=frontier.done)
    for report in inferred.values():  # of earlier tries; what they took and where they failed is the scene's
        totals.bad_blocks = sorted({*totals.bad_blocks, *report.bad_blocks})
        totals.peak_memory = max(totals.peak_memory, report.peak_memory)
        totals.device_memory = max(totals.device_memory, report.device_memory)
    totals.pixels_done = sum(tiling.pixels_of(chunk).pixels for chunk in written)
    progress(totals)
    plugin = PredictorPlugin(loader, client.id)
    with told_if_lost(client, _what(job)):
        try:
            forget_dead(client)
            client.register_plugin(plugin)
            unreadable = _Loop(client, job, plugin.name, frontier, totals, progress).run()
        finally:
            if client.status == "running":
                client.unregister_worker_plugin(plugin.name)
    if unreadable:
        raise BadBlockError("; ".join(sorted(unreadable)))
    return totals


class _Loop:
    """The client's loop over tasks that end: note what they report, submit what they make possible."""

    def __init__(
        self,
        client: Client,
        job: Job,
        plugin: str,
        frontier: Frontier,
        totals: Totals,
        progress: Callable[[Totals], None],
    ) -> None:
        self._client, self._job, self._plugin = client, job, plugin
        self._frontier, self._totals, self._progress = frontier, totals, progress
        self._running: dict[Future, Index] = {}
        self._inferring: set[Future] = set()
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._watch = _Watch(client, job)

    def run(self) -> set[str]:
        """Until nothing is left that can be done; returns messages of unreadable blocks."""
        unreadable: set[str] = set()
        try:
            self._submit()
            while self._running:
                future = self._watch.next_of(self._ended)
                chunk = self._running.pop(future)
                try:
                    self._note(future, chunk)
                except TimeoutError:  # its worker was lost with the result, and another does it again
                    self._await(future, chunk)
                    self._watch.look()
                    continue
                except BadBlockError as error:
                    log.error("%s", error)
                    unreadable.add(str(error))
                self._inferring.discard(future)
                future.release()
                self._submit()
        finally:
            if self._running and self._client.status == "running":
                self._client.cancel(list(self._running), force=True)
        return unreadable

    def _submit(self) -> None:
        for chunk in self._frontier.writable():
            self._await(self._client.submit(_write, self._job, chunk, pure=False, priority=1), chunk)
        # Asked anew each time: workers come and go. While there are none, one chunk waits for the first.
        bound = hands_of(self._client) + 1
        while len(self._inferring) < bound and (following := self._frontier.next_to_infer()) is not None:
            future = self._client.submit(_infer, self._job, following, self._plugin, pure=False)
            self._inferring.add(future)
            self._await(future, following)

    def _await(self, future: Future, chunk: Index) -> None:
        self._running[future] = chunk
        future.add_done_callback(self._ended.put)

    def _note(self, future: Future, chunk: Index) -> None:
        report: Report = _result(self._job, chunk, future)
        self._watch.heard()
        self._totals.add(report)
        if future in self._inferring:
            self._frontier.inferred(chunk)
        else:
            for spent in self._frontier.written(chunk):
                self._job.directory.drop_votes(spent)
        if self._frontier.done > self._totals.chunks_done:
            self._totals.chunks_done = self._frontier.done
            self._totals.pixels_done += self._job.tiling.pixels_of(chunk).pixels
        self._progress(self._totals)


def spread(client: Client, job: Job) -> MapChunks:
    """Does work on chunks of a job on the workers, at most twice as many at once as they have hands.

    Raises:
        ChunkError: the work on a chunk failed; names scene, chunk and source.
        RunError: the cluster is gone, or a chunk killed its worker again and again.
    """

    def spreading(work: Callable[[Index], T], chunks: Iterable[Index]) -> Iterator[T]:
        left, running, watch = iter(chunks), deque[tuple[Index, Future]](), _Watch(client, job)
        try:
            while True:
                with told_if_lost(client, _what(job)):
                    room = max(2 * hands_of(client), 1) - len(running)  # below 0 once workers have left
                    for chunk in islice(left, max(room, 0)):
                        running.append((chunk, client.submit(_work, job, work, chunk, pure=False)))
                    if not running:
                        return
                    chunk, future = running[0]
                    ended = SimpleQueue[Future]()
                    future.add_done_callback(ended.put)
                    watch.next_of(ended)
                    try:
                        found: T = _result(job, chunk, future)
                    except TimeoutError:  # its worker was lost with the result, and another does it again
                        watch.look()
                        continue
                watch.heard()
                running.popleft()
                future.release()
                yield found
        finally:
            if running and client.status == "running":
                client.cancel([future for _, future in running], force=True)

    return spreading


class _Watch:
    """Looks whether there is anybody who can end what a client waits for; waits for workers that come back, but not for
    ever.
    """

    def __init__(self, client: Client, job: Job) -> None:
        self._client, self._job = client, job
        self._alone_since: float | None = None

    def look(self) -> None:
        """Raises ``RunError`` when there were no workers for long, or the client was closed."""
        check_open(self._client, _what(self._job))
        if hands_of(self._client):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            log.warning("no workers: waiting up to %d s for one", WAIT_FOR_WORKERS)
        elif time.monotonic() - self._alone_since > WAIT_FOR_WORKERS:
            raise gone(_what(self._job), f"no worker for {WAIT_FOR_WORKERS} s")

    def heard(self) -> None:
        """A result came: there are workers, whatever was seen before."""
        self._alone_since = None

    def next_of(self, ended: SimpleQueue[Future]) -> Future:
        """The task that ended next.

        Not ``distributed.wait``: it wants its client to be Dask's current one, and who sets that in two threads at once
        may leave Dask with a scheduler that is gone, for all that the process computes afterwards.
        """
        while True:
            with suppress(Empty):
                return ended.get(timeout=LOOK_FOR_WORKERS)
            self.look()


def _what(job: Job) -> str:
    return f"scene {job.scene.id}"


def _result(job: Job, chunk: Index, future: Future) -> Any:
    """What a task that ended returned. Raises ``TimeoutError`` where nobody has it any more."""
    try:
        return future.result(timeout=LOOK_FOR_WORKERS)
    except KilledWorker as error:
        raise RunError(
            f"scene {job.scene.id}, chunk {tuple(chunk)}: {error.allowed_failures + 1} workers died "
            "on it, perhaps for want of memory; see the workers' logs. The same command goes on where it stopped; "
            "a smaller --window or --chunk-tiles needs --overwrite and starts over"
        ) from error


def _infer(job: Job, chunk: Index, plugin_name: str) -> Report:
    plugin: PredictorPlugin | None = get_worker().plugins.get(plugin_name)
    if plugin is None:  # the client took it away and goes; Dask forgets the task in a moment, and need not log it
        raise Reschedule

    wanted = _still_wanted()

    def work() -> Report:
        with plugin.hands:
            report = infer_chunk(job, chunk, plugin.predictor, plugin.on_device, wanted)
        metrics.count("inferred", report)
        return report

    return _named(job, chunk, work)


def _still_wanted() -> Callable[[], bool]:
    """Whether anybody waits for the task that calls this: its client may have taken it back, or be dead.

    Dask does not stop a task that runs; it only notes that the result is not wanted any more.
    """
    worker = get_worker()
    key, tasks = worker.get_current_task(), worker.state.tasks

    def wanted() -> bool:
        task = tasks.get(key)
        return task is not None and task.state not in ("cancelled", "resumed")

    return wanted


def _write(job: Job, chunk: Index) -> Report:
    def work() -> Report:
        report = write_chunk(job, chunk)
        metrics.count("written", report)
        return report

    return _named(job, chunk, work)


def _work(job: Job, work: Callable[[Index], T], chunk: Index) -> T:
    return _named(job, chunk, lambda: work(chunk))


def _named(job: Job, chunk: Index, work: Callable[[], T]) -> T:
    """Say of any error on a worker which scene, chunk and source it belongs to."""
    where = f"scene {job.scene.id}, chunk {tuple(chunk)} of {job.scene.source}"
    failure: SeamlineError
    try:
        return work()
    except BadBlockError as error:
        failure = BadBlockError(f"{where}: {error}")
    except RunError as error:
        failure = error
    except AbandonedError:
        raise Reschedule from None  # Dask forgets the task, as nobody waits for it
    except Exception as error:
        log.exception("%s", where)
        failure = ChunkError(f"{where}: {type(error).__name__}: {error}")
    metrics.count_failure()
    # Outside of the handlers: a cause that cannot be pickled, as rasterio's, would cost the caller the message.
    raise failure
