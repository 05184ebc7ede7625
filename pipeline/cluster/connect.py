"""Connect to a Dask cluster: worker processes on this machine, or a scheduler somewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.resource_tracker import ensure_running

import dask
from distributed import Client, LocalCluster, Scheduler, SpecCluster, Worker
from distributed.comm import connect as open_comm
from distributed.comm import get_address_host_port, normalize_address
from distributed.security import Security

from seamline.pipeline.cluster import devices
from seamline.pipeline.cluster.losses import get_known_workers
from seamline.pipeline.cluster.machine import share_memory
from seamline.pipeline.cluster.spawning import spare_main_module
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.common.errors import InputError, RunError

_ANSWER_TIMEOUT = 5
"""Seconds in which a scheduler answers."""

_OWN_ADDRESS = "127.0.0.1:0"
"""Where local clusters show their state: any free port, for nobody else."""

_DASK_LOGGERS = ("distributed", "distributed.client", "distributed.gc")
"""Loggers for which Dask sets a level, so that they do not have that of the one above them."""

CLIENT_MEMORY = 2**29
"""Bytes that the process which starts a local cluster needs itself."""

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_ARENA_MAX": "1"}
"""Environment variables of local worker processes.

With the first a thread of the network that waits for another one gives its core to the thread that reads the next
chunk. By default it spins, and the network runs at half its speed while a chunk is read. The second keeps freed memory
in the process whatever thread freed it (``inference_thread``)."""


def connect(cluster: str, workers: int, threads: int = CHUNKS_AT_ONCE) -> AbstractContextManager[Client]:
    """Return a context that connects to a Dask cluster and yields its client.

    Certificates for ``tls://`` addresses are those that Dask's configuration names (``DASK_DISTRIBUTED__COMM__TLS__…``
    in the environment; ``deploy/certificates`` makes them).

    Args:
        cluster: ``"local"`` for worker processes on this machine, otherwise the address of a scheduler.
        workers: processes of a local cluster; 0: this process works itself, which starts in no time.
        threads: Dask threads of each of these processes, which are the most chunks that it holds.

    Returns:
        The context. Entering it raises ``InputError`` if no scheduler answers at the address, if it has no workers, if
        only one side uses TLS, or if the machine's memory is too small for so many local workers.
    """
    if cluster != "local":
        return _connect_to_scheduler(cluster)
    return _start_worker_processes(workers, threads) if workers else _work_in_this_process()


@contextmanager
def _work_in_this_process() -> Iterator[Client]:
    """Start scheduler and one worker as threads of this process. Dask pauses it; nothing ends or restarts it."""
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # OpenMP reads its own when it is loaded, with the network
    # Not LocalCluster, whose worker would answer on all interfaces. Plots of the dashboard take long to import.
    shared = {"protocol": "inproc://", "dashboard": False, "dashboard_address": _OWN_ADDRESS}
    worker = {"nthreads": CHUNKS_AT_ONCE, "memory_limit": share_memory(1, CLIENT_MEMORY), **shared}
    with _quiet_dask():
        cluster = SpecCluster({0: {"cls": Worker, "options": worker}}, scheduler={"cls": Scheduler, "options": shared})
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _start_worker_processes(workers: int, threads: int) -> Iterator[Client]:
    memory = share_memory(workers, CLIENT_MEMORY)
    # Its warning that a worker takes seconds to end, and is killed, says nothing that anybody could do.
    logging.getLogger("distributed.nanny").setLevel(logging.CRITICAL)
    # The C library reads its variables when a process starts; those that LocalCluster takes are set after that.
    spawning = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in WORKER_ENVIRONMENT.items()}
    with spare_main_module(), _quiet_dask():
        with _block_interrupts(), _raise_if_not_started(), dask.config.set(spawning):
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=memory,
                processes=True,
                dashboard_address=_OWN_ADDRESS,
                preload=[devices.__name__],
                silence_logs=logging.CRITICAL,  # of the workers
            )
        with local, Client(local, set_as_default=False) as client:
            yield client


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Keep Dask from logging: it would log each start and a traceback for each chunk that fails; we say a line.

    The levels of its loggers are raised. What Dask's own ``silence_logs`` raises are levels of handlers, and a program
    with handlers of its own would see all of it.
    """
    loggers = [logging.getLogger(name) for name in _DASK_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _raise_if_not_started() -> Iterator[None]:
    """Turn the errors with which Dask does not start a cluster into a ``RunError``."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        raise RunError(
            f"the worker processes did not start ({' '.join(str(cause).split())[:200]}); see whether something ends "
            "them, such as a limit of memory or processes (ulimit -a), and run the same command again"
        ) from error


@contextmanager
def _connect_to_scheduler(address: str) -> Iterator[Client]:
    # Dask logs tracebacks when it loses a scheduler; ``raise_if_cluster_lost`` reports the loss in one line.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    if "@" in address:  # Dask would print the password in its message
        raise InputError(
            "--cluster", got="a user name in the address", expected="host and port alone", fix="leave the user name out"
        )
    try:
        # Checked first, since a client reports a malformed address twice: the second time when it is collected.
        get_address_host_port(normalize_address(address))
        _check_encryption(address)
        with ThreadPoolExecutor(1) as thread:  # this one may have a running event loop
            thread.submit(asyncio.run, _check_answer(address)).result()
        remote = Client(address, timeout="5s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {address}",
            got=str(error) or type(error).__name__,
            expected="the address of a Dask scheduler that answers, such as tcp://10.0.0.5:8786, or local",
            fix="start the scheduler or correct the address",
        ) from error
    with remote as client:
        if not get_known_workers(client):
            raise InputError(
                f"--cluster {address}",
                got="no workers",
                expected="at least one",
                fix="start workers: dask worker ADDRESS",
            )
        yield client


async def _check_answer(address: str) -> None:
    """Raise ``OSError`` if nothing at the address speaks Dask's protocol.

    Dask's own timeout ends when the connection is made. So it would wait for ever for a server that then says nothing.
    """
    security = Security().get_connection_args("client")
    try:
        comm = await asyncio.wait_for(open_comm(address, timeout=_ANSWER_TIMEOUT, **security), 2 * _ANSWER_TIMEOUT)
    except TimeoutError as error:
        raise TimeoutError(str(error) or "no answer to a connection") from error
    await comm.close()


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
