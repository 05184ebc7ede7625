"""Dask: a cluster on this machine or somebody's scheduler, and the network on its workers."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from multiprocessing.resource_tracker import ensure_running
from typing import Any, TypeVar

import psutil
from distributed import Client, LocalCluster
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError, get_address_host_port, normalize_address
from distributed.security import Security

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.execution.predictor import CHUNKS_AT_ONCE

T = TypeVar("T")

PAUSE_THRESHOLD = 0.8
"""Share of its memory limit at which a Dask worker takes no more tasks (``distributed.worker.memory.pause``)."""

LOOK_FOR_WORKERS, WAIT_FOR_WORKERS = 10, 300
"""Seconds without news after which the cluster is looked at; seconds without a worker after which a run gives up."""

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Of local worker processes. A thread of the network that waits for another one gives its core to the thread that reads
the next chunk; by default it spins on it, and while a chunk is read the network runs at half its speed."""


@contextmanager
def connect(cluster: str, workers: int) -> Iterator[Client]:
    """A client of ``workers`` processes on this machine (``cluster`` = ``"local"``) or of a scheduler's address.

    The certificates of ``tls://`` addresses are those that Dask's configuration names
    (``DASK_DISTRIBUTED__COMM__TLS__…`` in the environment; ``deploy/certificates`` makes them).

    Raises:
        InputError: no scheduler answers at the address, it has no workers, or TLS is wanted by one side only.
    """
    if cluster == "local":
        with _block_interrupts():
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=CHUNKS_AT_ONCE,
                processes=True,
                dashboard_address=":0",  # any free port
                env=WORKER_ENVIRONMENT,
                silence_logs=logging.ERROR,
            )
        with local, Client(local, set_as_default=False) as client:
            yield client
        return
    # Of a scheduler that is lost it would tell in tracebacks; we say it in a line, see ``raise_if_cluster_lost``.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        # Of an address that cannot be one, a client would say so and then once more, when it is collected.
        get_address_host_port(normalize_address(cluster))
        _check_encryption(cluster)
        remote = Client(cluster, timeout="5s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {cluster}",
            got=str(error) or type(error).__name__,
            expected="the address of a Dask scheduler that answers, such as tcp://10.0.0.5:8786, or local",
            fix="start the scheduler or correct the address",
        ) from error
    with remote as client:
        if not _get_known_workers(client):
            raise InputError(
                f"--cluster {cluster}",
                got="no workers",
                expected="at least one",
                fix="start workers: dask worker ADDRESS",
            )
        yield client


def _check_encryption(cluster: str) -> None:
    """Raises ``InputError`` where address and configuration disagree on TLS, ``OSError`` for bad certificates."""
    ours = Security().get_connection_args("client")
    wanted = normalize_address(cluster).startswith("tls://")
    if wanted and ours.get("ssl_context") is None:
        raise InputError(
            f"--cluster {cluster}",
            got="no certificate",
            expected="one in Dask's configuration, as a tls:// address wants",
            fix="set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__CLIENT__CERT and …__CLIENT__KEY",
        )
    if not wanted and ours["require_encryption"]:
        raise InputError(
            f"--cluster {cluster}",
            got="an address without TLS",
            expected="tls://…, since Dask's configuration requires encryption",
            fix="correct the address",
        )


@contextmanager
def raise_if_cluster_lost(client: Client, what: str) -> Iterator[None]:
    """Around what waits for a client's cluster. Raises ``RunError`` where it is lost; ``what`` was being done."""
    try:
        yield
    except (CancelledError, CommClosedError) as error:  # the latter, where a result was on its way
        raise cluster_lost_error(what, str(error)) from error
    except (RuntimeError, ClosedClientError) as error:  # of a client that closed itself, as it heard nothing for long
        if client.status == "running":
            raise
        raise cluster_lost_error(what, str(error)) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Dask had no answer in time; errors of files have a number
            raise cluster_lost_error(what, str(error)) from error
        raise


def raise_if_closed(client: Client, what: str) -> None:
    """Raises ``RunError`` where another thread closed the client: Dask would let everybody wait who asks it then."""
    if client.status in ("closing", "closed"):
        raise cluster_lost_error(what, "its client was closed")


def cluster_lost_error(what: str, why: str) -> RunError:
    """The error of a cluster that is lost."""
    return RunError(
        f"{what}: the cluster is gone ({why}); what is done is kept, run the same command again when there is a cluster"
    )


@contextmanager
def _block_interrupts() -> Iterator[None]:
    """Processes and threads that are started meanwhile do not hear of Ctrl-C.

    In a terminal it reaches all processes; local workers leave it to the client, which closes them.
    """
    ensure_running()  # or the first process would start the resource tracker, which unblocks them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _get_known_workers(client: Client) -> dict[str, dict[str, Any]]:
    # A client that lost its scheduler says what it heard last, perhaps nothing.
    return client.scheduler_info(n_workers=-1).get("workers", {})  # type: ignore[no-any-return]


def wait_for_workers(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker, by address; there is one. Raises ``RunError`` if none comes."""
    while not (workers := _get_known_workers(client)):
        try:
            client.wait_for_workers(1, WAIT_FOR_WORKERS)
        except TimeoutError as error:
            raise cluster_lost_error("planning", f"no worker for {WAIT_FOR_WORKERS} s") from error
    return workers


def list_first_host_workers(client: Client) -> list[str]:
    """Addresses of the workers on the first one's host, the first one first. Raises ``RunError`` if none comes."""
    workers = wait_for_workers(client)
    first = next(iter(workers))
    return [address for address, worker in workers.items() if worker["host"] == workers[first]["host"]]


def run_on_first_host(client: Client, most: int | None, work: Callable[..., T], *arguments: object) -> list[T]:
    """What ``work`` returns on the workers of ``list_first_host_workers``, on all at once or at ``most`` so many.

    When one leaves meanwhile it is begun anew with those there are then: Dask would wait for that one for ever.

    Raises:
        RunError: there are no workers and none comes.
    """
    while True:
        chosen = list_first_host_workers(client)[:most]
        futures = [client.submit(work, *arguments, workers=[address], pure=False) for address in chosen]
        try:
            while set(chosen) <= set(_get_known_workers(client)):
                with suppress(TimeoutError):
                    return [future.result(timeout=LOOK_FOR_WORKERS) for future in futures]
        finally:
            if client.status == "running":
                client.cancel(futures)


def chunk_capacity(client: Client) -> int:
    """Chunks that the cluster's workers can have in hand together, 0 while there are none."""
    return sum(min(CHUNKS_AT_ONCE, worker["nthreads"]) for worker in _get_known_workers(client).values())


def get_worker_memory(client: Client) -> int:
    """Bytes that the smallest worker may take. Raises ``RunError`` if there is none."""
    total = int(psutil.virtual_memory().total)
    return int(
        PAUSE_THRESHOLD * min(int(worker["memory_limit"]) or total for worker in wait_for_workers(client).values())
    )
