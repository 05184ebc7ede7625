"""Give a plugin to all workers, and take it back, also while some of them die or hang.

Dask asks every worker and waits for every answer: a worker that dies makes the call fail, although the scheduler gives
the plugin to each worker that joins; one that hangs holds the call until Dask gives it up, after minutes.
"""

from __future__ import annotations

from concurrent.futures import wait
from contextlib import suppress

from distributed import Client, WorkerPlugin

from seamline.pipeline.cluster.losses import WORKER_CHECK_INTERVAL, WorkersDiedError, WorkerWatch
from seamline.pipeline.common.background import call_in_background

_MOST_TRIES = 4
"""How often a plugin is given to the workers, if one of them is lost each time."""
_REMOVAL_TIMEOUT = 5
"""Seconds for the workers to answer that a plugin is removed."""


def add_plugin(client: Client, plugin: WorkerPlugin, what: str) -> None:
    """Give a plugin to all workers, and to those that join later.

    Args:
        client: client of the cluster.
        plugin: the plugin.
        what: what is being done, for messages.

    Raises:
        RunError: no worker could work for long, or the client was closed.
        WorkersDiedError: workers were lost each time.
    """
    watch = WorkerWatch(client, what)
    for _ in range(_MOST_TRIES):
        answer = call_in_background(client.register_plugin, plugin)
        while not wait([answer], timeout=WORKER_CHECK_INTERVAL).done:
            watch.check()
        if not isinstance(answer.exception(), OSError):  # which Dask's CommClosedError is
            answer.result()
            return
        watch.check()
    raise WorkersDiedError(f"{what}: {_MOST_TRIES} times a worker was lost before it began; see the workers' logs")


def remove_plugin(client: Client, name: str) -> None:
    """Take a plugin from all workers; those that don't answer soon, or have none of this name, are passed over."""
    with suppress(OSError, ValueError):  # also TimeoutError
        call_in_background(client.unregister_worker_plugin, name).result(timeout=_REMOVAL_TIMEOUT)
