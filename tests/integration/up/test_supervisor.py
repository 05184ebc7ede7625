"""Services under one supervisor: started, started again, stopped, and nothing else is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
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
from seamline.flows.up.stack import STATE_FILE, Stack, stop_stack
from seamline.flows.up.supervisor import Service, Supervisor, rotate_log
from seamline.pipeline.common.errors import RunError
from tests.support.command_line import CommandLine

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
        assert stop_stack(tmp_path) is mine
        assert (other.poll() is None) is not mine
        other.kill()
    assert Stack.read(tmp_path / STATE_FILE) == (stack, None)


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
