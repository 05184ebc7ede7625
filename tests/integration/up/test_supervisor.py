"""Services under one supervisor: started, started again, stopped, and nothing else is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from seamline.flows.cli.up import _build_foreground_command
from seamline.flows.runs import planning
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.up import deployments
from seamline.flows.up import stack as up_stack
from seamline.flows.up.leftovers import FOLDER_VARIABLE, list_left
from seamline.flows.up.stack import STATE_FILE, Stack, stop_stack
from seamline.flows.up.supervisor import Service, Supervisor, rotate_log
from seamline.pipeline.common.errors import RunError
from tests.support.command_line import CommandLine
from tests.support.processes import wait_until

FREE = ("--prefect-port", "0", "--dask-port", "0", "--dashboard-port", "0", "--map-port", "0")


@pytest.mark.parametrize("mine", [True, False])
def test_down_stops_what_was_started_and_nothing_else(tmp_path: Path, mine: bool) -> None:
    """Numbers of processes are given again, and `seamline` runs under many names."""
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4))
    with subprocess.Popen(["sleep", "60"]) as other:
        stack.write(psutil.Process(other.pid))
        if not mine:
            said = json.loads((tmp_path / STATE_FILE).read_text())
            (tmp_path / STATE_FILE).write_text(json.dumps(said | {"started": said["started"] - 60}))
        assert stop_stack(tmp_path) == (mine, 0)
        assert (other.poll() is None) is not mine
        other.kill()
    assert Stack.read(tmp_path / STATE_FILE) == (stack, None)


SUPERVISOR = """
import sys, time
from pathlib import Path
from seamline.flows.up.leftovers import FOLDER_VARIABLE, guard
from seamline.flows.up.supervisor import Service, Supervisor

folder, deaf = Path(sys.argv[1]), sys.argv[2]
service = Service("deaf", (sys.executable, deaf), {FOLDER_VARIABLE: str(folder)})
with guard(folder):
    Supervisor([service], folder, print).start()
    time.sleep(600)
"""
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) < 2:
    subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Path]:
    """A program that does not end by SIGTERM, and starts another such in a session of its own."""
    program = tmp_path / "deaf.py"
    program.write_text(DEAF)
    yield program
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(program) in process.cmdline():
                process.kill()


def find_services(folder: Path, count: int) -> list[psutil.Process]:
    wait_until(lambda: len(list_left(folder)) == count, f"{count} processes")
    return list_left(folder)


def test_all_services_end_with_a_supervisor_that_is_killed(tmp_path: Path, deaf: Path) -> None:
    """So do those that do not end by SIGTERM, and what they have started."""
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path), str(deaf)])
    services = find_services(tmp_path, 2)
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not any(service.is_running() for service in services), "the end of all services")


@pytest.mark.parametrize("command", ["down", "up"])
def test_what_a_killed_supervisor_has_left_is_told_and_ended(
    tmp_path: Path, deaf: Path, command: str, command_line: CommandLine, started: list[Stack]
) -> None:
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4))
    stack.write(None)
    variables = os.environ | {FOLDER_VARIABLE: str(tmp_path)}
    others = os.environ | {FOLDER_VARIABLE: str(tmp_path / "other")}
    _, other = (subprocess.Popen([sys.executable, str(deaf)], env=each) for each in (variables, others))
    find_services(tmp_path, 2)
    code, out, _ = command_line("status", "--folder", tmp_path)
    assert code == 3 and "2 processes left" in " ".join(out.split())
    assert len(json.loads(command_line("status", "--folder", tmp_path, "--json")[1])["left"]) == 2
    _, out, err = command_line(command, "--folder", tmp_path, *(FREE if command == "up" else ()))
    assert "ended 2 processes that a killed `seamline up` had left" in out + err
    assert list_left(tmp_path) == [] and other.poll() is None
    assert "nothing ran" in command_line("down", "--folder", tmp_path)[1]


def test_programs_that_watch_over_services_start_without_prefect() -> None:
    """Its import takes seconds, and makes a folder in the user's home."""
    words = "import sys, seamline.flows.up.stack, seamline.flows.up.status; print('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True).stdout == "False\n"


def test_services_write_below_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("PREFECT_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "DASK_TEMPORARY_DIRECTORY")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    environment = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4)).environment
    assert all(Path(environment[name]).is_relative_to(tmp_path) for name in names)
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    assert Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4)).environment["MPLCONFIGDIR"] == "/mine"


def test_workers_have_the_threads_of_the_stack(tmp_path: Path) -> None:
    """A state file without a number is of workers with three."""
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4), threads=12)
    (words,) = (service.command for service in stack.list_services() if service.name == "workers")
    assert words[words.index("--nthreads") + 1] == "12"
    assert words[words.index("--dashboard-address") + 1] == "127.0.0.1:0"  # by default it answers everybody
    stack.write(None)
    assert Stack.read(tmp_path / STATE_FILE) == (stack, None)
    said = json.loads((tmp_path / STATE_FILE).read_text())
    del said["threads"]
    (tmp_path / STATE_FILE).write_text(json.dumps(said))
    assert Stack.read(tmp_path / STATE_FILE) == (replace(stack, threads=3), None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Stack]:
    """What ``seamline up`` would run."""
    stacks: list[Stack] = []
    monkeypatch.setattr(up_stack, "run_stack", lambda stack, say: stacks.append(stack))
    return stacks


def test_up_gives_workers_of_devices_their_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command_line: CommandLine, started: list[Stack]
) -> None:
    monkeypatch.setattr(planning, "count_worker_threads", lambda options, workers: 10 * workers)
    assert command_line("up", "--folder", tmp_path, "--workers", 2, *FREE)[0] == 0
    assert started[0].workers == 2 and started[0].threads == 20


def test_options_reach_the_deployments_and_a_detached_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command_line: CommandLine, started: list[Stack]
) -> None:
    """A file of options counts for the process in the background, too, which is given none."""
    (tmp_path / "area.geojson").write_text("{}")
    (tmp_path / "run.yaml").write_text("polygon-min-area: 12.5\noutputs: [cog]\nzarr-shards: false\n")
    monkeypatch.chdir(tmp_path)
    words = ("--outputs", "cog,zarr,polygons", "--aoi", "area.geojson", "--nodata=-9999", "--zarr-shards")
    words = (*words, "--bands", "1,2,3,4,5,6", "--on-bad-block", "nodata", "--keep-days", 7, "--allow", "/data")
    assert command_line("up", "--folder", tmp_path / "up", "--config", "run.yaml", *words, *FREE)[0] == 0
    (stack,) = started
    assert command_line(*_build_foreground_command(stack)[3:])[0] == 0
    assert started[1] == stack
    stack.folder.mkdir()
    stack.write(None)
    assert Stack.read(stack.folder / STATE_FILE) == (stack, None)
    served: list[Any] = []
    monkeypatch.setattr(deployments, "serve", lambda *made, **options: served.extend(made))
    monkeypatch.setattr(deployments, "create_automations", lambda: None)
    monkeypatch.setattr(deployments, "end_unfinished_runs", lambda: 0)
    monkeypatch.setattr(deployments, "_delete_idle_runs", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", None)
    deployments._serve_deployments(stack)
    inbox, scene, _ = (deployment.parameters for deployment in served)
    assert inbox["options"] == scene["options"]
    assert SegmentOptions(**inbox["options"]) == SegmentOptions(
        cluster=stack.scheduler,
        outputs=("cog", "zarr", "polygons"),
        bands=("1", "2", "3", "4", "5", "6"),
        aoi=tmp_path / "area.geojson",
        nodata=-9999,
        zarr_shards=True,
        polygon_min_area=12.5,
        on_bad_block="nodata",
    )
    assert inbox["scenes"]["notes"] is True and inbox["scenes"]["allow"] == ["/data"]
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    vacuum = ServerServicesDBVacuumSettings()
    assert vacuum.retention_period == timedelta(days=7) and vacuum.enabled_vacuum_types >= {"flow_runs", "events"}
    assert vacuum.event_retention_overrides["prefect.flow-run.Completed"] == timedelta(days=1)


@pytest.mark.parametrize("is_there", [True, False])
def test_dasks_page_is_offered_where_it_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_there: bool) -> None:
    monkeypatch.setattr(up_stack, "find_spec", lambda name: object() if is_there and name == "bokeh" else None)
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (1, 2, 3, 4))
    assert ("Dask http://127.0.0.1:3/status" in up_stack.describe_addresses(stack)) is is_there
    assert "map http://127.0.0.1:4, Prefect http://127.0.0.1:1" in up_stack.describe_addresses(stack)
    (scheduler,) = (service for service in stack.list_services() if service.name == "scheduler")
    assert scheduler.ready_url == "http://127.0.0.1:3/health"  # which answers without a page


def test_a_log_that_has_grown_is_cut_while_it_is_written_to(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(b"%d" % number * 10)
            rotate_log(log, 20)
        assert (tmp_path / "x.log.2").read_bytes() == b"0" * 10 + b"1" * 10
        assert (log.read_bytes(), (tmp_path / "x.log.1").read_bytes()) == (b"4" * 10, b"2" * 10 + b"3" * 10)
        writer.write(b"5" * 10)
        rotate_log(log, 20)
        writer.write(b"6")
    assert log.read_bytes() == b"6"
    assert (tmp_path / "x.log.2").read_bytes() == b"2" * 10 + b"3" * 10
    rotate_log(tmp_path / "none.log", 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--every", "0"), "--every"),
        (("--model", "none"), "which does not exist"),
        (("--prefect-port", "99999"), "port 99999"),
        (("--keep-days", "0"), "--keep-days"),
        (("--aoi", "none.geojson"), "--aoi"),
        (("--bands", "1,2"), "--bands does not fit the model: got 2 bands"),
        (("--outputs", "polygons"), "--outputs"),
    ],
)
def test_wrong_words_start_nothing(
    words: tuple[str, ...], said: str, tmp_path: Path, command_line: CommandLine
) -> None:
    code, _, err = command_line("up", "--detach", "--folder", tmp_path / "up", *FREE, *words)
    assert code == 2 and said in err
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
