"""Processes that write one ledger at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.scene_ref import SceneRef

NOTING = """
import sys
from pathlib import Path
from seamline.flows.collection.scene_ref import SceneRef
from seamline.flows.collection.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), "m", "o")
scenes = [SceneRef(f"/data/{number}.tif", str(number), sys.argv[2]) for number in range(5)]
print("begun", flush=True)
number = 0
while number < int(sys.argv[3]):
    ledger.record_outcome(scenes[number % 5], "failed", f"{sys.argv[2]} " * 200)
    number += 1
"""


@pytest.mark.parametrize("killed", [True, False])
def test_two_processes_at_once_and_a_kill_leave_whole_entries(tmp_path: Path, killed: bool) -> None:
    count = str(10**9 if killed else 60)
    writers = [
        subprocess.Popen([sys.executable, "-c", NOTING, str(tmp_path), name, count], stdout=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
    if killed:
        while len(list((tmp_path / ".collection").glob("[!.]*.json"))) < 5:
            time.sleep(0.01)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == (-signal.SIGKILL if killed else 0)
    ledger = Ledger(tmp_path, "m", "o")
    for number in range(5):
        entry = ledger.read_entry(SceneRef(f"/data/{number}.tif", str(number), "one"))
        assert entry is not None and entry.reason == " ".join([entry.fingerprint] * 200)
