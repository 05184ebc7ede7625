"""Drive a run from the client: keep the workers busy with a bounded number of chunks, and know what is done.

The graph is never built whole: chunks are submitted when others end. A few times as many as the workers hold are known
to the scheduler, which gives the next one to the first worker that has room. So no worker waits for the client or holds
what others could begin, and an adaptive cluster sees that there is work for more workers.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Protocol, TypeVar, cast

from distributed import Client

from seamline.pipeline.cluster.losses import raise_if_cluster_lost
from seamline.pipeline.cluster.plugins import add_plugin, remove_plugin
from seamline.pipeline.common.errors import BadBlockError
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_queue import ChunkQueue
from seamline.pipeline.execution.chunk_tasks import (
    ChunkOrigin,
    ChunkTask,
    ChunkTaskPool,
    apply_task,
    call_task,
    infer_task,
    write_task,
)
from seamline.pipeline.execution.done_chunks import find_done_chunks
from seamline.pipeline.execution.predictor import PredictorLoader, PredictorPlugin, forget_dead_clients
from seamline.pipeline.execution.run_directory import Report
from seamline.pipeline.geometry.tiling import Index, MapChunks

T = TypeVar("T")


class CallFunction(Protocol):
    """Call a function, here or elsewhere, and return what it returns."""

    def __call__(self, function: Callable[[], T], /) -> T:
        """Return ``function()``."""


log = logging.getLogger("seamline.run")

_MOST_TOLD = 10
"""Chunks with an unreadable block that the message of a run names; a file that is lost fails all of them."""


@dataclass
class Totals:
    """What a run has done so far. Stage seconds are summed over workers; bytes are the most of any worker.

    ``chunk_rates`` are the seconds per pixel of network input of each chunk that was inferred, on the network's thread;
    ``rates_beside`` those of reading and writing it. ``seconds_without_tiles`` is what tasks took that inferred no
    tile: those that add the votes of neighbours, and chunks that hold no data.
    """

    chunks: int
    chunks_done: int = 0
    windows: int = 0
    pixels_inferred: int = 0
    pixels_done: int = 0
    peak_memory: int = 0
    device_memory: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    chunk_rates: list[float] = field(default_factory=list)
    rates_beside: list[float] = field(default_factory=list)
    seconds_without_tiles: float = 0.0
    bad_blocks: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self.started

    @property
    def seconds_beside(self) -> float:
        """Seconds of one core per pixel of network input that went beside the network, in whatever task."""
        return median(self.rates_beside) + self.seconds_without_tiles / self.pixels_inferred

    def add(self, report: Report) -> None:
        """Count what a worker reports of this run."""
        self.windows += report.windows
        self.pixels_inferred += report.pixels_inferred
        for stage, seconds in report.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if report.pixels_inferred:
            busy = report.seconds.get("infer", 0.0) + report.seconds.get("blend", 0.0)
            self.chunk_rates.append(busy / report.pixels_inferred)
            beside = report.seconds.get("read", 0.0) + report.seconds.get("write", 0.0)
            self.rates_beside.append(beside / report.pixels_inferred)
        else:
            self.seconds_without_tiles += sum(report.seconds.get(stage, 0.0) for stage in ("read", "blend", "write"))
        self.add_earlier(report)

    def add_earlier(self, report: Report) -> None:
        """Count what belongs to the scene whichever run did it: memory, and blocks that could not be read."""
        self.peak_memory = max(self.peak_memory, report.peak_memory)
        self.device_memory = max(self.device_memory, report.device_memory)
        self.bad_blocks = sorted({*self.bad_blocks, *report.bad_blocks})


def run_chunks(
    client: Client,
    context: ChunkContext,
    loader: PredictorLoader,
    progress: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Infer and write every chunk of a run that is not written yet.

    A chunk with an unreadable block does not stop the others.

    Args:
        client: client of the cluster that works.
        context: the run.
        loader: loads the network on a worker.
        progress: is called with the totals at the start and after each step of a chunk.

    Returns:
        What was done, and what the whole run took so far.

    Raises:
        BadBlockError: after everything else is done, for all chunks with an unreadable block.
        ChunkError: a chunk failed for another reason; names scene, chunk and source.
        RunError: the cluster is lost, or a chunk killed its worker again and again.
    """
    tiling, done = context.tiling, find_done_chunks(context)
    queue = ChunkQueue(tiling, done.inferred, done.written)
    totals = Totals(tiling.chunk_grid.row * tiling.chunk_grid.col, chunks_done=queue.done)
    for report in done.inferred.values():
        totals.add_earlier(report)
    totals.pixels_done = sum(tiling.write_window_of(chunk).pixel_count for chunk in done.written)
    progress(totals)
    plugin = PredictorPlugin(loader, context, client.id)
    with raise_if_cluster_lost(client, f"scene {context.scene.id}"):
        try:
            forget_dead_clients(client)
            add_plugin(client, plugin, f"scene {context.scene.id}")
            unreadable = _run_queue(client, context, plugin.name, queue, totals, progress)
        finally:
            if client.status == "running":
                remove_plugin(client, plugin.name)
    if unreadable:
        told = sorted(unreadable)[:_MOST_TOLD]
        more = [f"{len(unreadable) - len(told)} more, in the log"] if len(unreadable) > len(told) else []
        raise BadBlockError("; ".join([*told, *more]))
    return totals


def _run_queue(
    client: Client,
    context: ChunkContext,
    plugin_name: str,
    queue: ChunkQueue,
    totals: Totals,
    progress: Callable[[Totals], None],
) -> set[str]:
    """Submit what the queue yields until nothing is left that can be done; return messages of unreadable blocks."""
    unreadable: set[str] = set()
    with ChunkTaskPool(client, ChunkOrigin.of(context.scene).name, context.reading.chunks_at_once) as pool:
        _submit_ready(pool, queue, plugin_name)
        while len(pool):
            for task in pool.wait_for_some():
                try:
                    totals.add(task.result())
                    _note_done(context, queue, totals, task)
                    progress(totals)
                except BadBlockError as error:
                    log.error("%s", error)
                    unreadable.add(str(error))
            _submit_ready(pool, queue, plugin_name)
    return unreadable


def _submit_ready(pool: ChunkTaskPool, queue: ChunkQueue, plugin_name: str) -> None:
    """Submit every chunk that can be written, and as many to infer as the scheduler should know of.

    Those to infer are submitted once there is room for as many as would fill half of the workers' places, since a
    message to the scheduler costs more than a task.
    """
    pool.submit(write_task, queue.take_writable(), {"plugin_name": plugin_name}, priority=1)
    capacity, inferring = pool.capacity(), pool.count_running(infer_task)
    room = capacity.submitted - inferring
    waiting = inferring - capacity.held
    if room > 0 and (waiting <= capacity.held or room >= capacity.held / 2):
        chunks = list(islice(iter(queue.take_next_to_infer, None), room))
        pool.submit(infer_task, chunks, {"plugin_name": plugin_name})


def _note_done(context: ChunkContext, queue: ChunkQueue, totals: Totals, task: ChunkTask) -> None:
    """Note in queue and totals that a step of a chunk is done; drop votes that nothing waits for any more."""
    assert task.chunk is not None
    if task.function is infer_task:
        queue.mark_inferred(task.chunk)
    else:
        for spent in queue.mark_written(task.chunk):
            context.directory.drop_votes(spent)
    if queue.done > totals.chunks_done:
        totals.chunks_done = queue.done
        totals.pixels_done += context.tiling.write_window_of(task.chunk).pixel_count


def map_on_workers(client: Client, origin: ChunkOrigin) -> MapChunks:
    """Return a ``map`` over chunks that runs on the workers, with at most twice as many tasks as they can hold.

    Args:
        client: client of the cluster that works.
        origin: the scene or map that the chunks belong to.

    Returns:
        A function that yields results in the order of the chunks. It raises ``ChunkError`` where the work on a chunk
        failed, and ``RunError`` where the cluster is lost or a chunk killed its worker again and again.
    """

    def map_chunks(function: Callable[[Index], T], chunks: Iterable[Index]) -> Iterator[T]:
        left, waiting = iter(chunks), deque[ChunkTask]()
        constants = {"origin": origin, "function": function}
        with ChunkTaskPool(client, origin.name) as pool:
            while True:
                room = max(2 * pool.capacity().held, 1) - len(waiting)  # below 0 once workers have left
                following = list(islice(left, max(room, 0)))
                waiting += pool.submit(apply_task, following, constants)
                if not waiting:
                    return
                while not waiting[0].ended:
                    pool.wait_for_some()
                yield waiting.popleft().result()

    return map_chunks


def call_on_worker(client: Client, origin: ChunkOrigin) -> CallFunction:
    """Return a function that calls another one on whichever worker is free.

    Args:
        client: client of the cluster that works.
        origin: the scene or map that the work is for.

    Returns:
        A function that returns what the other one returns. It raises ``ChunkError`` where that failed, and
        ``RunError`` where the cluster is lost or the call killed its worker again and again.
    """

    def call(function: Callable[[], T], /) -> T:
        with ChunkTaskPool(client, origin.name) as pool:
            (task,) = pool.submit(call_task, [None], {"origin": origin, "function": function})
            while not task.ended:
                pool.wait_for_some()
            return cast(T, task.result())

    return call


def call_here(function: Callable[[], T], /) -> T:
    """Return ``function()``: what takes the place of ``call_on_worker`` where there is no cluster."""
    return function()
