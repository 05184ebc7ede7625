"""Connect to a Dask cluster, look at its workers, and recognise its loss."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
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

_PAUSE_THRESHOLD = 0.8
"""Share of its memory limit at which a Dask worker takes no more tasks (``distributed.worker.memory.pause``)."""

WORKER_CHECK_INTERVAL = 10
"""Seconds without news after which it is checked whether the workers are still there."""

NO_WORKER_TIMEOUT = 300
"""Seconds without any worker after which a run gives up."""

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment variables of local worker processes. With them a thread of the network that waits for another one gives
its core to the thread that reads the next chunk. By default it spins, and the network runs at half its speed while a
chunk is read."""


def connect(cluster: str, workers: int) -> AbstractContextManager[Client]:
    """Return a context that connects to a Dask cluster and yields its client.

    Certificates for ``tls://`` addresses are those that Dask's configuration names (``DASK_DISTRIBUTED__COMM__TLS__…``
    in the environment; ``deploy/certificates`` makes them).

    Args:
        cluster: ``"local"`` for worker processes on this machine, otherwise the address of a scheduler.
        workers: processes of a local cluster.

    Returns:
        The context. Entering it raises ``InputError`` if no scheduler answers at the address, if it has no workers, or
        if only one side uses TLS.
    """
    return _start_local_cluster(workers) if cluster == "local" else _connect_to_scheduler(cluster)


@contextmanager
def _start_local_cluster(workers: int) -> Iterator[Client]:
    with _block_interrupts():
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=CHUNKS_AT_ONCE,
            processes=True,
            dashboard_address="127.0.0.1:0",  # any free port, for nobody else
            env=WORKER_ENVIRONMENT,
            silence_logs=logging.CRITICAL,  # Dask would print a traceback for each chunk that fails; we print a line
        )
    with local, Client(local, set_as_default=False) as client:
        yield client


@contextmanager
def _connect_to_scheduler(address: str) -> Iterator[Client]:
    # Dask logs tracebacks when it loses a scheduler; ``raise_if_cluster_lost`` reports the loss in one line.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        # Checked first, since a client reports a malformed address twice: the second time when it is collected.
        get_address_host_port(normalize_address(address))
        _check_encryption(address)
        remote = Client(address, timeout="5s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {address}",
            got=str(error) or type(error).__name__,
            expected="the address of a Dask scheduler that answers, such as tcp://10.0.0.5:8786, or local",
            fix="start the scheduler or correct the address",
        ) from error
    with remote as client:
        if not _get_known_workers(client):
            raise InputError(
                f"--cluster {address}",
                got="no workers",
                expected="at least one",
                fix="start workers: dask worker ADDRESS",
            )
        yield client


def _check_encryption(address: str) -> None:
    """Refuse an address that disagrees with Dask's configuration on TLS; ``OSError`` for unreadable certificates."""
    ours = Security().get_connection_args("client")
    wants_tls = normalize_address(address).startswith("tls://")
    if wants_tls and ours.get("ssl_context") is None:
        raise InputError(
            f"--cluster {address}",
            got="no certificate",
            expected="one in Dask's configuration, as a tls:// address wants",
            fix="set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__CLIENT__CERT and …__CLIENT__KEY",
        )
    if not wants_tls and ours["require_encryption"]:
        raise InputError(
            f"--cluster {address}",
            got="an address without TLS",
            expected="tls://…, since Dask's configuration requires encryption",
            fix="correct the address",
        )


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
        raise cluster_lost_error(what, str(error)) from error
    except (RuntimeError, ClosedClientError) as error:  # a client closes itself after a long silence
        if client.status == "running":
            raise
        raise cluster_lost_error(what, str(error)) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Dask's time-out; errors of files have a number
            raise cluster_lost_error(what, str(error)) from error
        raise


def raise_if_closed(client: Client, what: str) -> None:
    """Raise ``RunError`` if another thread closed the client, since calls to a closed client may wait for ever.

    Args:
        client: the client.
        what: what is being done, for the message.

    Raises:
        RunError: the client is closed.
    """
    if client.status in ("closing", "closed"):
        raise cluster_lost_error(what, "its client was closed")


def cluster_lost_error(what: str, why: str) -> RunError:
    """Return the error for a lost cluster: what was being done, and why the cluster counts as lost."""
    return RunError(
        f"{what}: the cluster is gone ({why}); what is done is kept, run the same command again when there is a cluster"
    )


@contextmanager
def _block_interrupts() -> Iterator[None]:
    """Block SIGINT for processes and threads that are started inside this context.

    A terminal sends Ctrl-C to all processes. Local workers ignore it, and the client closes them.
    """
    ensure_running()  # otherwise the first process starts the resource tracker, which unblocks SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _get_known_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by address; may be stale or empty once the scheduler is lost."""
    return client.scheduler_info(n_workers=-1).get("workers", {})  # type: ignore[no-any-return]


def wait_for_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by address, as soon as there is at least one.

    Raises:
        RunError: none joins within ``NO_WORKER_TIMEOUT``.
    """
    while not (workers := _get_known_workers(client)):
        try:
            client.wait_for_workers(1, NO_WORKER_TIMEOUT)
        except TimeoutError as error:
            raise cluster_lost_error("planning", f"no worker for {NO_WORKER_TIMEOUT} s") from error
    return workers


def list_first_host_workers(client: Client) -> list[str]:
    """Return the addresses of all workers on the host of the first worker, that worker first.

    Raises:
        RunError: there are no workers and none joins.
    """
    workers = wait_for_workers(client)
    host = next(iter(workers.values()))["host"]
    return [address for address, worker in workers.items() if worker["host"] == host]


def run_on_first_host(client: Client, limit: int | None, work: Callable[..., T], *arguments: object) -> list[T]:
    """Run a function on the workers of one host, on all at the same time.

    If one of them leaves meanwhile, the function is run again on those that are left. Dask alone would wait for the
    lost worker for ever, since the task is bound to it.

    Args:
        client: client of the cluster.
        limit: the most workers to use; ``None`` for all of the host.
        work: the function; picklable.
        *arguments: its arguments.

    Returns:
        The result of each worker, in the order of ``list_first_host_workers``.

    Raises:
        RunError: there are no workers and none joins.
    """
    while True:
        workers = list_first_host_workers(client)[:limit]
        futures = [client.submit(work, *arguments, workers=[address], pure=False) for address in workers]
        try:
            while set(workers) <= set(_get_known_workers(client)):
                with suppress(TimeoutError):
                    return [future.result(timeout=WORKER_CHECK_INTERVAL) for future in futures]
        finally:
            if client.status == "running":
                client.cancel(futures)


def chunk_capacity(client: Client) -> int:
    """Return how many chunks the cluster's workers can work on together; 0 while there are no workers."""
    return sum(min(CHUNKS_AT_ONCE, worker["nthreads"]) for worker in _get_known_workers(client).values())


def get_worker_memory(client: Client) -> int:
    """Return the bytes that the worker with the least memory may take before Dask pauses it.

    Raises:
        RunError: there are no workers and none joins.
    """
    total = int(psutil.virtual_memory().total)
    workers = wait_for_workers(client).values()
    return int(_PAUSE_THRESHOLD * min(int(worker["memory_limit"]) or total for worker in workers))
