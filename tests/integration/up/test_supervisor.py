"""Services under one supervisor: started, started again, stopped, and nothing else is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

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
