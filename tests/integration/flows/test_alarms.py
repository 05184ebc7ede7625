"""Alarms: one command makes them at a real Prefect server, and what they are for reaches a webhook."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import Automation, Posture

from seamline.flows.settings.folders import is_disk_low
from seamline.flows.tracking import alarms, artifacts
from seamline.flows.tracking.lost_runs import TAG
from tests.support.processes import wait_until

NAMES = ("seamline: a run failed", "seamline: no scene", "seamline: little disk")


class Hook(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    texts: list[str]

    def do_POST(self) -> None:
        self.texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Hook.texts = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/alarms"
        server.shutdown()


def read_alarms() -> dict[str, Automation]:
    with get_client(sync_client=True) as client:
        return {name: found for name in NAMES for found in client.read_automations_by_name(name)}


@pytest.fixture
def installed(prefect: None, address: str) -> Iterator[str]:
    assert alarms.main([address, "--hours", "30"]) == 0
    yield address
    with get_client(sync_client=True) as client:
        for found in read_alarms().values():
            client.delete_automation(found.id)


def test_a_failed_run_and_a_full_disk_reach_the_webhook(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    def fail(reason: str) -> None:
        raise ValueError(reason)

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - 7, 7))
    fail("not ours", return_state=True)
    with tags(TAG):
        fail("ours", return_state=True)
    assert artifacts.report_disk(tmp_path) and artifacts.report_disk(tmp_path)
    wait_until(lambda: len(Hook.texts) >= 2, "two alarms")
    failed, disk = sorted(Hook.texts)
    assert failed.startswith("seamline: a run failed: ") and "(Failed): " in failed and "ours" in failed
    assert "not ours" not in failed
    assert disk == f"seamline: little disk: {tmp_path}: 7 of {10**12} bytes free"


def test_a_second_command_changes_the_alarms_and_leaves_paused_ones_paused(installed: str) -> None:
    before = read_alarms()
    assert tuple(before) == NAMES
    trigger = before["seamline: no scene"].trigger
    assert (trigger.posture, trigger.within) == (Posture.Proactive, timedelta(hours=30))
    with get_client(sync_client=True) as client:
        client.pause_automation(before["seamline: little disk"].id)
    assert alarms.main([installed, "--hours", "2"]) == 0
    after = read_alarms()
    assert {name: found.id for name, found in after.items()} == {name: found.id for name, found in before.items()}
    assert after["seamline: no scene"].trigger.within == timedelta(hours=2)
    assert [found.enabled for found in after.values()] == [True, True, False]


def test_a_place_that_is_none_is_refused(prefect: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert alarms.main(["slack-webhook/none"]) == 2
    assert "expected a notification block of Prefect's server" in capsys.readouterr().err
    assert not read_alarms()
    with pytest.raises(SystemExit):
        alarms.main(["slack-webhook/none", "--hours", "0"])


@pytest.mark.parametrize(
    ("total", "free", "is_low"), [(100, 9, True), (100, 10, False), (10**13, 50 * 2**30, False), (10**13, 10**9, True)]
)
def test_a_disk_is_low_below_a_tenth_or_fifty_gibibytes(total: int, free: int, is_low: bool) -> None:
    assert is_disk_low(total, free) is is_low
