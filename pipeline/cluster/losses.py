"""Notice that a cluster or its workers are lost, and say so in one line.

A cluster may be lost as a whole, have no workers, have only workers that hang or that Dask paused for want of memory,
or restart its workers again and again, since the kernel or Dask kills them. Dask itself waits in all of these cases. So
whoever waits for a task asks a ``WorkerWatch`` now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any

from dask.utils import format_bytes
from distributed import Client
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError

from seamline.pipeline.common.errors import RunError

log = logging.getLogger("seamline.run")

PAUSE_THRESHOLD = 0.8
"""Share of its memory limit at which a Dask worker takes no more tasks (``distributed.worker.memory.pause``)."""

WORKER_CHECK_INTERVAL = 10
"""Seconds without news after which it is checked whether the workers are still there."""

NO_WORKER_TIMEOUT = 300
"""Seconds without a worker that can work after which a run gives up."""

SILENCE = 60
"""Seconds without a heartbeat after which a worker counts as one that cannot work; it may hang, or be stopped."""

_RESTART_TIMEOUT = 20
"""Seconds that the restart of a worker may take."""

_DEATHS_PER_WORKER = 3
"""How often each worker of a cluster may die on average, while nothing is finished, before a run gives up. Machines
that are taken away take each of their workers once; a worker that has too little memory dies again and again."""


class WorkersDiedError(RunError):
    """Workers died again and again on the same work, in most cases for want of memory."""


def get_known_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by address; empty once the scheduler or the client is lost.

    Not ``Client.scheduler_info``: it returns an attribute that the client itself renews every two seconds, then without
    any workers.
    """
    if client.status not in ("running", "connecting"):
        return {}
    try:
        workers: dict[str, dict[str, Any]] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    except OSError:  # also Dask's CommClosedError
        return {}
    return workers


class WorkerWatch:
    """Notices when a cluster has had no worker that can work for long, or loses its workers again and again.

    Call ``check`` after each ``WORKER_CHECK_INTERVAL`` without news, and ``mark_alive`` with each result.
    """

    def __init__(self, client: Client, what: str) -> None:
        """Watch the cluster of a client; ``what`` is being done on it, for messages."""
        self._client, self._what = client, what
        self._idle_since: float | None = None
        self._deaths_counted_from: float | None = None
        self._deaths_told = 0
        self._workers = 1
        self._heartbeats: dict[str, tuple[float, float]] = {}

    def check(self) -> None:
        """Look at the workers.

        Raises:
            RunError: no worker could work for long, or the client was closed.
            WorkersDiedError: workers died again and again since the last result.
        """
        _raise_if_closed(self._client, self._what)
        workers = get_known_workers(self._client)
        self._check_deaths(len(workers))
        silent = self._list_silent(workers)
        if any(_can_work(worker) for address, worker in workers.items() if address not in silent):
            self._idle_since = None
            return
        why = _describe_idle(workers, silent)
        if self._idle_since is None:
            self._idle_since = time.monotonic()
            log.warning("%s: waiting up to %d s for one that can work", why, NO_WORKER_TIMEOUT)
        elif time.monotonic() - self._idle_since > NO_WORKER_TIMEOUT:
            if silent:
                raise RunError(f"{self._what}: {why}; look at their machines, and run the same command again")
            if workers:
                raise RunError(f"{self._what}: {why} for {NO_WORKER_TIMEOUT} s; {ADVICE_ON_MEMORY}")
            raise _cluster_lost_error(self._what, f"no worker for {NO_WORKER_TIMEOUT} s")

    def mark_alive(self) -> None:
        """Note that a result came, so there are workers that work."""
        self._idle_since = self._deaths_counted_from = None
        self._deaths_told = 0

    def _list_silent(self, workers: dict[str, dict[str, Any]]) -> list[str]:
        """Return the addresses of workers without a heartbeat for long, by the clock of this machine alone."""
        now, known = time.monotonic(), self._heartbeats
        heard = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        self._heartbeats = {
            address: known[address] if address in known and known[address][0] == when else (when, now)
            for address, when in heard.items()
        }
        return [address for address, (_, since) in self._heartbeats.items() if now - since > SILENCE]

    def _check_deaths(self, workers: int) -> None:
        events = self._client.get_events("all")
        if self._deaths_counted_from is None:
            self._deaths_counted_from = events[-1][0] if events else 0.0
        self._workers = max(self._workers, workers)
        deaths = sum(when > self._deaths_counted_from and _is_death(event) for when, event in events)
        if deaths > _DEATHS_PER_WORKER * self._workers:
            raise WorkersDiedError(
                f"{self._what}: {deaths} workers died one after the other, and nothing was done"
                f"{describe_memory_kills(self._client)}; {ADVICE_ON_MEMORY}"
            )
        if deaths > self._deaths_told:
            self._deaths_told = deaths
            log.warning("%d workers died since something was done last%s", deaths, describe_memory_kills(self._client))


ADVICE_ON_MEMORY = (
    "give each worker more memory, or start fewer on a machine, and run the same command again: it goes on where it "
    "stopped; a smaller --window or --chunk-tiles needs --overwrite and starts over"
)
"""What the user can do about workers that have too little memory."""


def _can_work(worker: dict[str, Any]) -> bool:
    """Return whether a worker takes tasks, or still works on one although Dask paused it."""
    executing = worker.get("metrics", {}).get("task_counts", {}).get("executing", 0)
    return worker["status"] == "running" or bool(executing)


def _describe_idle(workers: dict[str, dict[str, Any]], silent: list[str]) -> str:
    if not workers:
        return "no workers"
    if silent:
        return f"{len(silent)} of {len(workers)} workers have said nothing for {SILENCE} s, and no other one works"
    limit = min(int(worker["memory_limit"]) for worker in workers.values())
    return (
        f"Dask paused all workers ({len(workers)}), since they hold more than {PAUSE_THRESHOLD:.0%} of their memory "
        f"limit ({format_bytes(limit)})"
    )


def _is_death(event: dict[str, Any]) -> bool:
    """Return whether an event of the scheduler is the loss of a worker that nobody asked to leave."""
    return event.get("action") == "remove-worker" and not event["expected"]


def describe_memory_kills(client: Client) -> str:
    """Return a clause in parentheses on the workers that Dask has restarted for their memory, with their limit."""
    kills = [event for _, event in client.get_events("worker-restart-memory")]
    if not kills:
        return " (not by Dask, perhaps by the kernel for want of memory; see the workers' logs)"
    with suppress(TimeoutError):
        client.wait_for_workers(1, _RESTART_TIMEOUT)  # the last of them may be the one that is restarted now
    limits = [int(worker["memory_limit"]) for worker in get_known_workers(client).values()]
    limit = f" of {format_bytes(min(limits))}" if limits else ""
    held = format_bytes(max(int(event["rss"]) for event in kills))
    return f" (Dask restarted {len(kills)} that came near their memory limit{limit}: they held up to {held})"


@contextmanager
def raise_if_cluster_lost(client: Client, what: str) -> Iterator[None]:
    """Turn the errors by which Dask reports a lost cluster into a ``RunError``.

    Args:
        client: the client that the wrapped code waits for.
        what: what is being done, for the message.

    Raises:
        RunError: the cluster is lost.
    """
    try:
        yield
    except (CancelledError, CommClosedError) as error:  # CommClosedError: lost while a result was transferred
        raise _cluster_lost_error(what, str(error)) from error
    except (RuntimeError, ClosedClientError) as error:  # a client closes itself after a long silence
        if client.status == "running":
            raise
        raise _cluster_lost_error(what, str(error)) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Dask's time-out; errors of files have a number
            raise _cluster_lost_error(what, str(error)) from error
        raise


def _raise_if_closed(client: Client, what: str) -> None:
    """Raise ``RunError`` if another thread closed the client, since calls to a closed client may wait for ever.

    Args:
        client: the client.
        what: what is being done, for the message.

    Raises:
        RunError: the client is closed.
    """
    if client.status in ("closing", "closed"):
        raise _cluster_lost_error(what, "its client was closed")


def _cluster_lost_error(what: str, why: str) -> RunError:
    """Return the error for a lost cluster: what was being done, and why the cluster counts as lost."""
    return RunError(
        f"{what}: the cluster is gone ({why}); what is done is kept, run the same command again when there is a cluster"
    )
