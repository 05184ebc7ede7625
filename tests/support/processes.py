"""Run Dask's processes, wait for what other processes do, and ask a Prefect server that may be busy."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

PATIENCE = 400
"""Seconds that a busy machine may take for anything; a test as a whole may take 600."""

HTTP_BUSY = 503
"""What Prefect answers while its SQLite database is locked; its own client asks again, too."""


def wait_until(condition: Callable[[], Any], what: str = "it", seconds: float = PATIENCE, pause: float = 0.2) -> Any:
    """Ask ``condition`` again and again, and return its first answer that is true.

    Args:
        condition: What is asked.
        what: Named in the message if it does not happen.
        seconds: How long to ask. Only a test that fails takes that long.
        pause: Seconds between two questions.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(pause)
    return value


def wait_until_idle(scheduler: str) -> None:
    """Return when no worker of a Dask cluster computes any more: what it had in hand is written or given up."""
    with Client(scheduler, set_as_default=False) as client:

        def compute_no_more() -> bool:
            return not any(client.run(lambda dask_worker: len(dask_worker.active_threads)).values())

        wait_until(compute_no_more, "the end of what the workers had in hand", pause=0.05)
        assert not any(client.processing().values())


def find_free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def run_scheduler_and_worker(
    folder: Path, *worker_options: str
) -> Iterator[tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Run a scheduler and a worker as processes of their own.

    Args:
        folder: Where they run.
        *worker_options: More options of the worker.

    Yields:
        The scheduler's address, and both processes, which may be killed.
    """
    port = find_free_port()
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    python = [sys.executable, "-m"]
    listening = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen([*python, "distributed.cli.dask_scheduler", *listening], **quiet)
    alone = ["--nthreads", "3", "--no-dashboard", "--no-nanny", "--death-timeout", "20"]
    worker = subprocess.Popen([*python, "distributed.cli.dask_worker", address, *alone, *worker_options], **quiet)
    try:
        with Client(address, timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        yield address, scheduler, worker
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def ask_prefect(api: str, path: str, body: Any = None) -> Any:
    """Ask Prefect's API, again where the server is too busy to answer.

    Args:
        api: URL of the API.
        path: Path below it.
        body: What is posted, as JSON; without a body it is a GET.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}{path}", data, {"Content-Type": "application/json"})
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != HTTP_BUSY or time.monotonic() > end:
                raise
        time.sleep(1)


def wait_for_deployment(api: str, name: str) -> dict[str, Any]:
    """Return a deployment (``flow/deployment``) as soon as the process that serves it has made it known."""

    def look() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = ask_prefect(api, f"/deployments/name/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None
        return found

    known: dict[str, Any] = wait_until(look, f"deployment {name}")
    return known


def start_flow_run(api: str, deployment: str, **parameters: Any) -> str:
    """Start a run of a deployment, with some of its parameters changed, and return its id."""
    known = wait_for_deployment(api, deployment)
    body = {"parameters": known["parameters"] | parameters}
    return str(ask_prefect(api, f"/deployments/{known['id']}/create_flow_run", body)["id"])


def flow_run_state(api: str, run: str) -> str:
    """Return the type of a flow run's state, such as COMPLETED."""
    return str(ask_prefect(api, f"/flow_runs/{run}")["state_type"])
