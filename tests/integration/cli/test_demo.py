"""``make demo``, the first command of the README, on a small scene."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import rasterio

from seamline.flows.settings.model_folder import open_model
from tests.support.prefect_server import copy_empty_database


def test_the_demo_ends_with_a_result_and_its_scores(prefect_database: Path, tmp_path: Path) -> None:
    copy_empty_database(prefect_database, tmp_path / "demo" / "prefect")
    command = [sys.executable, "-m", "seamline.flows.cli.demo", "--size", "600", "700", "--out", tmp_path / "demo"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    folder = tmp_path / "demo" / "scene"
    with rasterio.open(folder / "segmentation.tif") as file:
        assert file.shape == (600, 700)
    said = ran.stdout + ran.stderr
    assert said.count("network pixels per scene pixel") == 1  # the table of the run is shown once
    assert said.count(f"land-water-cloud: {open_model('land-water-cloud').spec.limits}") == 1
    rows = re.findall(r"│ (land|water|cloud|cloud shadow) +│ (\d\.\d{3}) +│", said)
    assert [name for name, _ in rows] == ["land", "water", "cloud", "cloud shadow"]
    assert "intersection over union" in said and "of segment-scene: Completed" in said and "preview.png" in said
    (line,) = re.findall(r"what to type next, for the map: (.+)", said)
    command, *words = shlex.split(line)
    assert shutil.which(command) and words == ["serve", str(tmp_path / "demo"), "--open"]
