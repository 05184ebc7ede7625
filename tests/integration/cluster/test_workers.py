"""Real workers with little memory, and what is at the address of a scheduler."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from seamline.pipeline.cluster import connect as connecting
from seamline.pipeline.cluster import losses, machine, plugins, workers
from seamline.pipeline.cluster.losses import WorkersDiedError, get_known_workers
from seamline.pipeline.cluster.workers import run_on_first_host
from seamline.pipeline.common.errors import InputError, RunError
from tests.support.processes import wait_until


@pytest.fixture
def small_worker(tmp_path: Path) -> Iterator[Client]:
    """A client of a scheduler whose only worker may take 300 MB."""
    with LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster:
        command = ["dask", "worker", cluster.scheduler_address, "--memory-limit", "300MB", "--no-dashboard"]
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stdout=log, stderr=log)
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=120)
                yield client
        finally:
            worker.terminate()
            worker.wait(60)


def test_a_worker_that_is_killed_for_its_memory_each_time_ends_the_measurement(
    small_worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_memory() -> None:
        import time

        held = b"1" * 400_000_000
        time.sleep(60)
        assert held

    monkeypatch.setattr(workers, "WORKER_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(workers, "_MOST_TRIES", 2)
    said = r"2 times a worker died .*\(Dask restarted 2 .*limit of 286.10 MiB: .*\); give each worker more memory"
    with pytest.raises(WorkersDiedError, match=said):
        run_on_first_host(small_worker, 1, take_memory)


def test_workers_are_known_also_while_the_client_renews_what_it_knows(small_worker: Client) -> None:
    client = small_worker
    renewing = client._periodic_callbacks["scheduler-info"]
    renewing.stop()
    renewing.callback_time = 1  # milliseconds; 2000 by default
    renewing.start()
    assert {len(get_known_workers(client)) for _ in range(300)} == {1}


def test_workers_that_hang_end_the_work(small_worker: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives up a silent worker after five minutes, and may then wait for another one for ever."""
    for name, seconds in (("SILENCE", 2), ("NO_WORKER_TIMEOUT", 1)):
        monkeypatch.setattr(losses, name, seconds)
    for module in (workers, plugins):
        monkeypatch.setattr(module, "WORKER_CHECK_INTERVAL", 0.5)
    (process,) = small_worker.run(os.getpid).values()
    os.kill(process, signal.SIGSTOP)
    try:
        said = "1 of 1 workers have said nothing for 2 s, and no other one works; look at their machines"
        with pytest.raises(RunError, match=f"a scene: {said}"):
            plugins.add_plugin(small_worker, WorkerPlugin(), "a scene")
        with pytest.raises(RunError, match=f"planning: {said}"):
            run_on_first_host(small_worker, 1, os.getpid)
        monkeypatch.setattr(plugins, "_REMOVAL_TIMEOUT", 0.5)
        plugins.remove_plugin(small_worker, "anything")
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_plugin_outlives_a_worker(small_worker: Client, tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    class DiesOnce(WorkerPlugin):  # type: ignore[misc]
        """Ends the first worker that it is given to."""

        def setup(self, worker: Worker) -> None:
            if not seen.exists():
                seen.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    plugins.add_plugin(small_worker, DiesOnce(), "a scene")
    assert seen.exists()


def test_a_worker_that_is_killed_before_it_is_there_is_one_line() -> None:
    def list_workers() -> set[psutil.Process]:
        return {child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}

    def kill_new_one() -> None:
        next(iter(wait_until(lambda: list_workers() - before, pause=0.05))).kill()

    before = list_workers()
    killer = threading.Thread(target=kill_new_one)
    killer.start()
    said = r"the worker processes did not start \(.*\); see whether something ends them"
    with pytest.raises(RunError, match=said), connecting.connect("local", 1):
        pass
    killer.join()


def test_what_takes_connections_and_says_nothing_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_ANSWER_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        said = rf"--cluster {address}: got .*, expected the address of a Dask scheduler that answers"
        with pytest.raises(InputError, match=said), connecting.connect(address, 1):
            pass


@pytest.mark.parametrize("workers", [0, 1])
def test_a_local_cluster_listens_to_this_machine_alone(workers: int) -> None:
    def list_sockets() -> set[tuple[str, int]]:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return {
            (found.laddr.ip, found.laddr.port)
            for process in processes
            for found in process.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN
        }

    before = list_sockets()
    with connecting.connect("local", workers) as client:
        assert client.submit(os.getpid).result()
        listening = list_sockets() - before
    assert listening and {address for address, _ in listening} == {"127.0.0.1"}


def test_each_worker_of_a_local_cluster_sees_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    with connecting.connect("local", 3) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        assert sorted(seen.values()) == ["GPU-a", "GPU-a", "GPU-b"]
        (address,) = (address for address, device in seen.items() if device == "GPU-b")
        client.restart_workers([address])
        assert sorted(client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).values()) == ["GPU-a", "GPU-a", "GPU-b"]


def test_more_workers_than_the_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_memory_limit", lambda: 700_000_000)
    said = r"--workers 2: got 77.79 MiB for each worker: 667.57 MiB of memory may be used here, expected at least 512"
    with pytest.raises(InputError, match=said), connecting.connect("local", 2):
        pass
