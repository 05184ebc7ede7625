"""Services under one supervisor: started, started again, stopped, and nothing else is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from seamline.flows.cli.up import up
from seamline.flows.runs import planning
from seamline.flows.up import stack as up_stack
from seamline.flows.up.stack import STATE_FILE, Stack, stop_stack
from seamline.flows.up.supervisor import Service, Supervisor
from seamline.pipeline.common.errors import RunError

FREE = ("--prefect-port", "0", "--dask-port", "0", "--dashboard-port", "0", "--map-port", "0")


def seamline(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seamline", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mine", [True, False])
def test_down_stops_what_was_started_and_nothing_else(tmp_path: Path, mine: bool) -> None:
    """Numbers of processes are given again, and `seamline` runs under many names."""
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4))
    with subprocess.Popen(["sleep", "60"]) as other:
        stack.write(psutil.Process(other.pid))
        if not mine:
            said = json.loads((tmp_path / STATE_FILE).read_text())
            (tmp_path / STATE_FILE).write_text(json.dumps(said | {"started": said["started"] - 60}))
        assert stop_stack(tmp_path) is mine
        assert (other.poll() is None) is not mine
        other.kill()
    assert Stack.read(tmp_path / STATE_FILE) == (stack, None)


def test_workers_have_the_threads_of_the_stack(tmp_path: Path) -> None:
    """A state file without a number is of workers with three."""
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4), threads=12)
    (words,) = (service.command for service in stack.list_services() if service.name == "workers")
    assert words[words.index("--nthreads") + 1] == "12"
    stack.write(None)
    assert Stack.read(tmp_path / STATE_FILE) == (stack, None)
    said = json.loads((tmp_path / STATE_FILE).read_text())
    del said["threads"]
    (tmp_path / STATE_FILE).write_text(json.dumps(said))
    assert Stack.read(tmp_path / STATE_FILE) == (replace(stack, threads=3), None)


def test_up_gives_workers_of_devices_their_share_of_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Stack] = []
    monkeypatch.setattr(planning, "count_worker_threads", lambda options, workers: 10 * workers)
    monkeypatch.setattr(up_stack, "run_stack", lambda stack, say: started.append(stack))
    up(tmp_path, workers=2, prefect_port=0, dask_port=0, dashboard_port=0, map_port=0)
    assert started[0].workers == 2 and started[0].threads == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--every", "0"), "--every"),
        (("--model", "none"), "which does not exist"),
        (("--prefect-port", "99999"), "port 99999"),
    ],
)
def test_wrong_words_start_nothing(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    refused = seamline("up", "--detach", "--folder", tmp_path / "up", *FREE, *words)
    assert refused.returncode == 2 and said in refused.stderr
    assert not (tmp_path / "up").exists()


def test_a_service_that_dies_is_started_again_and_one_that_cannot_start_is_told(tmp_path: Path) -> None:
    sleeping = Service("sleeping", (sys.executable, "-c", "import time; time.sleep(600)"))
    said: list[str] = []
    supervisor = Supervisor([sleeping], tmp_path, said.append)
    supervisor.start()
    (running,) = supervisor._running
    first = psutil.Process(running.process.pid)
    first.kill()
    running.process.wait()
    time.sleep(1.1)
    supervisor._restart_if_ended(running)
    second = psutil.Process(running.process.pid)
    assert second.pid != first.pid and "starting it again" in said[0]
    supervisor.stop()
    assert not second.is_running()
    broken = Service("broken", (sys.executable, "-c", "raise SystemExit(3)"), ready_url="http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"broken ended with 3; see .*broken\.log"):
        Supervisor([broken], tmp_path, said.append).start()
