"""What ``seamline status`` says of services that run, that are down, and where nothing was started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.scene_ref import RejectedSource
from seamline.flows.up import status as status_module
from seamline.flows.up.stack import STATE_FILE, Stack
from seamline.flows.up.status_table import _format_age, _format_due
from seamline.pipeline.common.layout import ITEM
from tests.support.command_line import CommandLine

LATE = "2026-05-01T00:00:00Z"
RUNS = {
    "RUNNING": [{"name": "inbox to results", "state_name": "Running"}],
    "SCHEDULED": [{"expected_start_time": LATE, "state_type": "SCHEDULED"}],
    "COMPLETED": [{"state_name": "Failed", "end_time": LATE, "state": {"message": "1 of 2 scenes failed"}}],
}


class Server(BaseHTTPRequestHandler):
    """Answers as Prefect, the scheduler and the map do."""

    workers = 1
    broken = ""

    def do_GET(self) -> None:
        self.answer({"workers": self.workers})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        first = asked["flow_runs"]["state"]["type"]["any_"][0]
        self.answer(3 if self.path.endswith("/count") else RUNS[first])

    def answer(self, document: object) -> None:
        self.send_response(503 if self.broken and self.broken in self.path else 200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def end(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Runs a process for each service of a stack, which does nothing; ends the one with a name."""
    stack = Stack(tmp_path, "m", 1, 5.0, 1.0, (port, port, port, port))
    services = stack.list_services()
    commands = {
        service.name: (sys.executable, "-c", "import time; time.sleep(600)", service.name) for service in services
    }
    monkeypatch.setattr(
        Stack, "list_services", lambda self: [replace(each, command=commands[each.name]) for each in services]
    )
    monkeypatch.setattr(status_module, "_WORDS_OF_A_SERVICE", 4)
    started = {name: subprocess.Popen(command) for name, command in commands.items()}
    stack.write(psutil.Process())

    def end(name: str) -> None:
        started[name].kill()
        started[name].wait()

    yield end
    for name in started:
        end(name)


def look(command_line: CommandLine, folder: Path) -> tuple[int, dict[str, object], str]:
    code, out, _ = command_line("status", "--folder", folder, "--json")
    plain_code, plain, _ = command_line("status", "--folder", folder)
    assert code == plain_code
    return code, json.loads(out), " ".join(plain.split())


def test_all_that_runs_is_said(
    end: Callable[[str], None], command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        item = tmp_path / "results" / f"scene-{number}" / ITEM
        item.parent.mkdir(parents=True)
        item.touch()
        os.utime(item, (number, number))
    (tmp_path / "results" / ".running").mkdir()
    (tmp_path / "results" / ".running" / "scene-9").touch()
    ledger = Ledger(tmp_path / "results", "m", "o")
    ledger.record_rejected("in", [RejectedSource(f"/in/[b]{n}.tif", f"{n}", "no [red]raster") for n in range(12)])
    code, document, plain = look(command_line, tmp_path)
    assert code == 0 and document["runs"] is True
    assert {service["state"] for service in document["services"]} == {"runs"}
    assert [scene["scene"] for scene in document["last_scenes"]] == [f"scene-{n}" for n in (6, 5, 4, 3, 2)]
    assert (document["scenes"], document["working"], len(document["failures"])) == (7, ["scene-9"], 12)
    assert document["queue"] == {
        "running": [{"run": "inbox to results", "state": "Running"}],
        "next_look": LATE,
        "last_look": {"state": "Failed", "ended": LATE, "message": "1 of 2 scenes failed"},
        "failed_today": 3,
    }
    for said in (
        "7 published, at work on scene-9",
        "[b]0.tif: no [red]raster",
        "2 more, see --json",
        "3 runs failed",
        "due since",
    ):
        assert said in plain
    assert document["disk"]["is_low"] is False and "little is left" not in plain
    monkeypatch.setattr(status_module, "is_disk_low", lambda total, free: total > free)
    monkeypatch.setattr(Server, "broken", "flow_runs")
    code, document, plain = look(command_line, tmp_path)
    assert code == 0 and document["queue"] is None and "Prefect does not answer" in plain
    assert document["disk"]["is_low"] is True and "free: little is left" in plain


@pytest.mark.parametrize("case", ["map", "no workers", "health"])
def test_a_service_that_is_down_or_silent_is_told(
    end: Callable[[str], None], command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    expected = {case: "is down"}
    if case == "map":
        end("map")
    elif case == "no workers":
        monkeypatch.setattr(Server, "workers", 0)
        expected = {"workers": "does not answer"}
    else:
        monkeypatch.setattr(Server, "broken", "/health")
        expected = {"prefect": "does not answer", "scheduler": "does not answer"}
    code, document, plain = look(command_line, tmp_path)
    assert code == 1
    states = {service["name"]: service["state"] for service in document["services"]}
    assert {name: state for name, state in states.items() if state != "runs"} == expected
    for name, state in expected.items():
        assert f"{name} {state}" in plain and f"see logs/{name}.log" in plain


@pytest.mark.parametrize("was_started", [True, False])
def test_where_nothing_runs_it_is_said(command_line: CommandLine, tmp_path: Path, was_started: bool) -> None:
    folder = tmp_path / "up"
    if was_started:
        folder.mkdir()
        Stack(folder, "m", 1, 5.0, 1.0, (1, 2, 3, 4)).write(None)
    code, document, plain = look(command_line, folder)
    assert code == 3 and "nothing runs here; `seamline up` starts it" in plain
    assert (document["runs"], document["services"], document["queue"]) == (False, [], None)
    assert document["disk"]["free_bytes"] > 0
    assert folder.exists() == was_started


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "3 s ago"), (-30, "in 30 s"), (130, "2 min ago"), (10_000, "3 h ago"), (300_000, "3 d ago")],
)
def test_times_are_told_from_now(seconds: int, said: str) -> None:
    when = datetime.now(UTC) - timedelta(seconds=seconds)
    assert _format_age(when.isoformat()) == said


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ((("SCHEDULED", 7), ("SCHEDULED", 17)), "in 7 s"),
        ((("PENDING", 7), ("SCHEDULED", 17)), "in 7 s"),  # Prefect prepares a run ten seconds before it is due
        ((("PENDING", -2), ("SCHEDULED", 8)), "in 8 s"),  # which begins
        ((("SCHEDULED", -40), ("SCHEDULED", 8)), "due since 40 s"),  # nothing ran when it was due
        ((), "none is scheduled yet; if it stays so, the schedule is paused"),
    ],
)
def test_the_next_look_is_the_one_that_begins_next(runs: tuple[tuple[str, int], ...], said: str) -> None:
    begin = datetime.now(UTC) + timedelta(seconds=0.4)
    due = [
        {"state_type": state, "expected_start_time": (begin + timedelta(seconds=seconds)).isoformat()}
        for state, seconds in runs
    ]
    assert _format_due(status_module._find_next(due)) == said


@pytest.mark.parametrize(
    "state", ["", "null", "5", '"x"', "[]", '{"pid": 1, "started": 0, "folder": "up", "ports": [1, 2]}']
)
def test_a_damaged_state_is_of_nothing_that_runs(tmp_path: Path, state: str) -> None:
    (tmp_path / STATE_FILE).write_text(state)
    assert status_module.read_status(tmp_path).exit_code == 3


def test_a_file_in_place_of_the_folder_holds_nothing_that_runs(tmp_path: Path) -> None:
    (tmp_path / "scene.tif").touch()
    assert status_module.read_status(tmp_path / "scene.tif").exit_code == 3
