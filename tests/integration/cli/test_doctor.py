"""``seamline doctor`` on this machine, and on a cluster of real workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seamline.flows.settings.model_folder import Model
from tests.support.command_line import CommandLine

Row = tuple[str, str]


def read_rows(table: str) -> list[Row]:
    """Return name and state of each line of the table that begins a check."""
    return re.findall(r"^│ (\S.*?) +│ (ok|warning|failed) ", table, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def test_machine_and_cluster_that_run_these_tests_can_run_seamline(
    command_line: CommandLine, cluster: Callable[[int], str], small_model: Model, tmp_path: Path
) -> None:
    asked = ("--cluster", cluster(2), "--model", small_model.folder, "--folder", tmp_path)
    code, out, _ = command_line("doctor", *asked)
    rows = read_rows(out)
    assert code == 0 and "0 failed" in out, out
    assert f"{len(rows)} checks: " in out
    names = [re.sub(r" on tcp://127.0.0.1:\d+$", " on host", name) for name, _ in rows]
    # Two workers, but one host: it is asked once.
    assert names[-7:] == [
        "folder",
        "model",
        "cluster",
        "workers",
        "versions on the cluster",
        "folder on host",
        "model on host",
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_told_without_secrets(command_line: CommandLine, tmp_path: Path) -> None:
    asked = ("--cluster", "tcp://me:secret@127.0.0.1:9", "--model", tmp_path, "--folder", tmp_path / "none")
    code, out, err = command_line("doctor", *asked)
    failed = [name for name, state in read_rows(out) if state == "failed"]
    assert (code, failed) == (1, ["folder", "model", "cluster"])
    assert "secret" not in out + err and "→ make it, or correct the path" in out
    code, out, _ = command_line("doctor", "--cluster", "tcp://127.0.0.1:9")
    assert code == 1 and ("cluster", "failed") in read_rows(out)


def test_data_of_another_proj_are_noticed(tmp_path: Path) -> None:
    """Variables that lead GDAL to data of another installation, as on many machines with several of them."""
    environment = {**os.environ, "PROJ_DATA": str(tmp_path), "GDAL_DATA": str(tmp_path)}
    check = "from seamline.pipeline.raster_io import abilities as a; from pathlib import Path; import sys; "
    say = "print(a.find_crs_problem()); print(a.has_gdal_data()); print(a.find_cog_problem(Path(sys.argv[1])))"
    said = subprocess.run(
        [sys.executable, "-c", check + say, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    crs, data, cog = said.stdout.splitlines()
    assert "proj.db" in crs and data == "False" and "proj.db" in cog
