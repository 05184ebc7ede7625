"""How the process of a command begins."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from seamline.flows.terminal.process import begin_soon

PROGRAM = """
import gc, json, sys
from seamline.flows.terminal import process
if sys.argv[1:] == ["claimed"]:
    process.claim_process()
process.begin_soon()
import pyarrow as pa
import rasterio.session
column = pa.array([{"a": 1.5}, None])
found = {name for name in ("boto3", "pandas") if name in sys.modules}
import pandas
print(json.dumps([sorted(found), gc.get_threshold(), column.to_pylist(), len(pandas.Series([1, 2]))]))
"""


def run_program(*arguments: str) -> list[object]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    answer: list[object] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    return answer


def test_a_command_imports_nothing_that_libraries_look_for_in_vain() -> None:
    """Who asks for it by itself, later, gets it."""
    youngest, young, old = gc.get_threshold()
    assert run_program("claimed") == [[], [youngest, young, 20 * old], [{"a": 1.5}, None], 2]


def test_segmenting_imports_none_of_it_before_the_scene_is_opened(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "seamline", "segment", str(tmp_path / "none.tif")]
    command += ["--model", "land-water-cloud", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and "none.tif" in done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "rasterio.session" in imported
    assert not imported & {"botocore", "pandas.core", "requests.api"}


def test_the_process_of_somebody_else_stays_as_it_is() -> None:
    thresholds, finders = gc.get_threshold(), list(sys.meta_path)
    begin_soon()
    assert (gc.get_threshold(), sys.meta_path) == (thresholds, finders)
    found, threshold, *_ = run_program()
    assert "pandas" in found and threshold == list(thresholds)  # type: ignore[operator]
