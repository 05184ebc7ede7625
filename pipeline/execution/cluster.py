"""Dask: a cluster on this machine or somebody's scheduler, and the network on its workers."""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.resource_tracker import ensure_running
from threading import BoundedSemaphore
from typing import Any, TypeVar

import psutil
from distributed import Client, LocalCluster, Scheduler, Worker, WorkerPlugin
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError, get_address_host_port, normalize_address
from distributed.security import Security

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.memory import reset_peak_memory
from seamline.pipeline.execution.predictor import Predictor, PredictorLoader

T = TypeVar("T")

PAUSES_AT = 0.8
"""Share of its memory limit at which a Dask worker takes no more tasks (``distributed.worker.memory.pause``)."""

CHUNKS_AT_ONCE = 3
"""Chunks that one worker process has in hand: one is read, one inferred, one written."""

LOOK_FOR_WORKERS, WAIT_FOR_WORKERS = 10, 300
"""Seconds without news after which the cluster is looked at; seconds without a worker after which a run gives up."""

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Of local worker processes. A thread of the network that waits for another one gives its core to the thread that reads
the next chunk; by default it spins on it, and while a chunk is read the network runs at half its speed."""


PLUGIN = "seamline"
"""How the names of our plugins begin; then comes the id of the client that they work for."""


class PredictorPlugin(WorkerPlugin):  # type: ignore[misc]
    """Gives each worker process, also one that joins or restarts later, one predictor, loaded once.

    The predictor computes in one thread of its own: libraries keep a pool of threads and freed memory for each thread
    that calls them. Thread and predictor go when Dask has let go of the plugin and the last chunk has ended: nothing is
    torn down under a chunk that nobody waits for any more. ``hands`` bounds the chunks, and so the memory, of the
    process however many threads its worker has.
    """

    idempotent = True

    def __init__(self, loader: PredictorLoader, client: str) -> None:
        # One of its own for each run: runs share workers, and the first to end must not take it from the others.
        self.name = f"{PLUGIN}/{client}/{uuid.uuid4().hex[:8]}"
        self._loader = loader

    def setup(self, worker: Worker) -> None:
        """Load the predictor; called by Dask on the worker."""
        self._device = ThreadPoolExecutor(1, "device")
        self.predictor: Predictor = self.on_device(self._loader)
        self.hands = BoundedSemaphore(CHUNKS_AT_ONCE)
        reset_peak_memory()

    def on_device(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the thread of the predictor, after what others gave it before."""
        return self._device.submit(work).result()


def forget_dead(client: Client) -> None:
    """Take from the workers what clients that were killed have left there: their predictors, and their memory."""
    for name in client.run_on_scheduler(_of_dead_clients):
        with suppress(ValueError):  # another client was quicker
            client.unregister_worker_plugin(name)


def _of_dead_clients(dask_scheduler: Scheduler) -> list[str]:
    mine = (name for name in dask_scheduler.worker_plugins if str(name).startswith(f"{PLUGIN}/"))
    return [name for name in mine if name.split("/")[1] not in dask_scheduler.clients]


@contextmanager
def connected(cluster: str, workers: int) -> Iterator[Client]:
    """A client of ``workers`` processes on this machine (``cluster`` = ``"local"``) or of a scheduler's address.

    The certificates of ``tls://`` addresses are those that Dask's configuration names
    (``DASK_DISTRIBUTED__COMM__TLS__…`` in the environment; ``deploy/certificates`` makes them).

    Raises:
        InputError: no scheduler answers at the address, it has no workers, or TLS is wanted by one side only.
    """
    if cluster == "local":
        with _interrupts_blocked():
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
    # Of a scheduler that is lost it would tell in tracebacks; we say it in a line, see ``told_if_lost``.
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
        if not _known(client):
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
def told_if_lost(client: Client, what: str) -> Iterator[None]:
    """Around what waits for a client's cluster. Raises ``RunError`` where it is lost; ``what`` was being done."""
    try:
        yield
    except (CancelledError, CommClosedError) as error:  # the latter, where a result was on its way
        raise gone(what, str(error)) from error
    except (RuntimeError, ClosedClientError) as error:  # of a client that closed itself, as it heard nothing for long
        if client.status == "running":
            raise
        raise gone(what, str(error)) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # Dask had no answer in time; errors of files have a number
            raise gone(what, str(error)) from error
        raise


def check_open(client: Client, what: str) -> None:
    """Raises ``RunError`` where another thread closed the client: Dask would let everybody wait who asks it then."""
    if client.status in ("closing", "closed"):
        raise gone(what, "its client was closed")


def gone(what: str, why: str) -> RunError:
    """The error of a cluster that is lost."""
    return RunError(
        f"{what}: the cluster is gone ({why}); what is done is kept, run the same command again when there is a cluster"
    )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes and threads that are started meanwhile do not hear of Ctrl-C.

    In a terminal it reaches all processes; local workers leave it to the client, which closes them.
    """
    ensure_running()  # or the first process would start the resource tracker, which unblocks them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _known(client: Client) -> dict[str, dict[str, Any]]:
    # A client that lost its scheduler says what it heard last, perhaps nothing.
    return client.scheduler_info(n_workers=-1).get("workers", {})  # type: ignore[no-any-return]


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker, by address; there is one. Raises ``RunError`` if none comes."""
    while not (workers := _known(client)):
        try:
            client.wait_for_workers(1, WAIT_FOR_WORKERS)
        except TimeoutError as error:
            raise gone("planning", f"no worker for {WAIT_FOR_WORKERS} s") from error
    return workers


def first_host(client: Client) -> list[str]:
    """Addresses of the workers on the first one's host, the first one first. Raises ``RunError`` if none comes."""
    workers = workers_of(client)
    first = next(iter(workers))
    return [address for address, worker in workers.items() if worker["host"] == workers[first]["host"]]


def on_first_host(client: Client, most: int | None, work: Callable[..., T], *arguments: object) -> list[T]:
    """What ``work`` returns on the workers of ``first_host``, on all at once or at ``most`` so many.

    When one leaves meanwhile it is begun anew with those there are then: Dask would wait for that one for ever.

    Raises:
        RunError: there are no workers and none comes.
    """
    while True:
        chosen = first_host(client)[:most]
        futures = [client.submit(work, *arguments, workers=[address], pure=False) for address in chosen]
        try:
            while set(chosen) <= set(_known(client)):
                with suppress(TimeoutError):
                    return [future.result(timeout=LOOK_FOR_WORKERS) for future in futures]
        finally:
            if client.status == "running":
                client.cancel(futures)


def hands_of(client: Client) -> int:
    """Chunks that the cluster's workers can have in hand together, 0 while there are none."""
    return sum(min(CHUNKS_AT_ONCE, worker["nthreads"]) for worker in _known(client).values())


def memory_of(client: Client) -> int:
    """Bytes that the smallest worker may take. Raises ``RunError`` if there is none."""
    total = int(psutil.virtual_memory().total)
    return int(PAUSES_AT * min(int(worker["memory_limit"]) or total for worker in workers_of(client).values()))
