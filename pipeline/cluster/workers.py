"""The workers of a cluster: how many chunks they hold, how much memory they may take, work on those of one host."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
from distributed import Client, Scheduler

from seamline.pipeline.cluster.losses import (
    ADVICE_ON_MEMORY,
    PAUSE_THRESHOLD,
    WORKER_CHECK_INTERVAL,
    WorkersDiedError,
    WorkerWatch,
    describe_memory_kills,
    get_known_workers,
)

T = TypeVar("T")

CHUNKS_AT_ONCE = 3
"""Chunks that a worker process holds at once: one is read, one is inferred, one is written.
Beside a device that infers faster than a core reads, it holds more (``pipeline.planning.chunks_at_once``)."""

_MOST_THREADS = 16
"""The most Dask threads of a worker process: all of them share one interpreter."""

_SUBMITTED_PER_PLACE = 4
"""Chunks that are submitted for each one that the workers hold. The others wait at the scheduler, so that an adaptive
cluster sees that there is more work than workers, and grows several-fold at a time."""

_MOST_TRIES = 4
"""How often work on chosen workers is begun, if one of them is lost each time."""


@dataclass(frozen=True)
class Capacity:
    """How many chunks a cluster takes.

    Attributes:
        held: chunks that its workers can work on together; 0 while there are no workers.
        submitted: chunks that the scheduler should know of, those that the workers hold among them; at least one.
    """

    held: int
    submitted: int


def choose_device_threads(cores: int) -> int:
    """Return the Dask threads of a worker process whose network runs on a device: the most chunks that it can hold.

    One core is taken by the thread that feeds the device. Beside the chunks that the others read, one is in the network
    and one is ready for it.

    Args:
        cores: cores of the machine for each of its worker processes.
    """
    return min(_MOST_THREADS, max(CHUNKS_AT_ONCE, cores + 1))


def count_readers(chunks_at_once: int) -> int:
    """Return how many of the chunks that a process holds are read at the same time: all but two, one at least."""
    return max(1, chunks_at_once - 2)


def ask_capacity(client: Client, chunks_at_once: int = CHUNKS_AT_ONCE) -> Capacity:
    """Ask the scheduler how many chunks its workers take. One small answer, however many workers there are.

    A worker that Dask paused, because it holds too much memory, begins nothing new and does not count.

    Args:
        client: client of the cluster.
        chunks_at_once: chunks that a process of the run holds, if its worker has as many threads.
    """
    if client.status not in ("running", "connecting"):
        return Capacity(0, 1)
    try:
        return Capacity(*client.run_on_scheduler(_count_places, chunks_at_once=chunks_at_once))
    except OSError:  # also Dask's CommClosedError
        return Capacity(0, 1)


def _count_places(dask_scheduler: Scheduler, chunks_at_once: int) -> tuple[int, int]:
    """Count the fields of a ``Capacity``; runs on the scheduler.

    The scheduler gives a worker a tenth more tasks than it has threads and keeps the others. A worker with more threads
    than chunks that it works on would hold chunks that others could begin; then one more is submitted than they hold.
    """
    threads = [worker.nthreads for worker in dask_scheduler.workers.values() if worker.status.name == "running"]
    held = sum(min(chunks_at_once, count) for count in threads)
    keeps = math.isfinite(dask_scheduler.WORKER_SATURATION) and max(threads, default=0) <= chunks_at_once
    return held, 1 + held * (_SUBMITTED_PER_PLACE if keeps else 1)


def get_worker_memory(client: Client) -> int:
    """Return the bytes that the worker with the least memory may take before Dask pauses it.

    Raises:
        RunError: there are no workers and none joins.
    """
    total = int(psutil.virtual_memory().total)
    workers = wait_for_workers(client).values()
    return int(PAUSE_THRESHOLD * min(int(worker["memory_limit"]) or total for worker in workers))


def wait_for_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by address, as soon as there is at least one.

    Raises:
        RunError: none joins within ``NO_WORKER_TIMEOUT``, or the client was closed.
    """
    watch = WorkerWatch(client, "planning")
    while not (workers := get_known_workers(client)):
        watch.check()
        with suppress(TimeoutError):
            client.wait_for_workers(1, WORKER_CHECK_INTERVAL)
    return workers


def list_first_host_workers(client: Client) -> list[str]:
    """Return the addresses of all workers on the host of the first worker, that worker first.

    Raises:
        RunError: there are no workers and none joins.
    """
    return next(iter(_group_by_host(wait_for_workers(client)).values()))


def _group_by_host(workers: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    addresses: dict[str, list[str]] = {}
    for address, worker in workers.items():
        addresses.setdefault(worker["host"], []).append(address)
    return addresses


def run_on_first_host(
    client: Client,
    limit: int | None,
    work: Callable[..., T],
    *arguments: object,
    while_waiting: Callable[[], None] = lambda: None,
) -> list[T]:
    """Run a function on the workers of one host, on all at the same time.

    Args:
        client: client of the cluster.
        limit: the most workers to use; ``None`` for all of the host.
        work: the function; picklable.
        *arguments: its arguments.
        while_waiting: called every ``WORKER_CHECK_INTERVAL`` seconds until the results are there.

    Returns:
        The result of each worker, in the order of ``list_first_host_workers``.

    Raises:
        RunError: there are no workers and none joins, or none of them can work for long.
        WorkersDiedError: a worker was lost each time.
    """

    def choose() -> list[str]:
        return list_first_host_workers(client)[:limit]

    return list(_run_on(client, choose, work, arguments, while_waiting).values())


def run_on_each_host(client: Client, work: Callable[..., T], *arguments: object) -> dict[str, T]:
    """Run a function on one worker of each host.

    Args:
        client: client of the cluster.
        work: the function; picklable.
        *arguments: its arguments.

    Returns:
        Address of the worker → its result.

    Raises:
        RunError, WorkersDiedError: as ``run_on_first_host``.
    """

    def choose() -> list[str]:
        return [addresses[0] for addresses in _group_by_host(wait_for_workers(client)).values()]

    return _run_on(client, choose, work, arguments)


def _run_on(
    client: Client,
    choose: Callable[[], list[str]],
    work: Callable[..., T],
    arguments: tuple[object, ...],
    while_waiting: Callable[[], None] = lambda: None,
) -> dict[str, T]:
    """Run a function on chosen workers; if one of them leaves meanwhile, choose and run again.

    Dask alone would wait for the lost worker for ever, since the task is bound to it.
    """
    watch = WorkerWatch(client, "planning")
    for _ in range(_MOST_TRIES):
        workers = choose()
        futures = [client.submit(work, *arguments, workers=[address], pure=False) for address in workers]
        try:
            while set(workers) <= set(get_known_workers(client)):
                with suppress(TimeoutError):
                    results = [future.result(timeout=WORKER_CHECK_INTERVAL) for future in futures]
                    return dict(zip(workers, results, strict=True))
                watch.check()
                while_waiting()
        finally:
            if client.status == "running":
                client.cancel(futures)
    raise WorkersDiedError(
        f"planning: {_MOST_TRIES} times a worker died before it was done{describe_memory_kills(client)}; "
        f"{ADVICE_ON_MEMORY}"
    )
