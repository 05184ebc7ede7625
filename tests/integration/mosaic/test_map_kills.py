"""A map whose run is killed, at any operation on a file and with all of its processes, is whole after the next run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from seamline.pipeline.maps.verify_map import verify_folder
from tests.support.kill_points import choose_points, count_changes, kill_at_change
from tests.support.map_runs import MONTHS, UNSEEN, build, read_rasters
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.run_folders import list_names

SAMPLE = 4
PATIENCE_S = 120
"""Seconds after which a run counts as hung."""


def update(results: Path) -> None:
    build(results, results / "land", MONTHS)


@pytest.fixture(scope="module")
def maps(region_results: RegionResults, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Scenes with the map of all of them, ``new``; and all scenes with the map of half of them, ``old``."""
    folders = {name: tmp_path_factory.mktemp(name) / "results" for name in ("old", "new")}
    update(copy_scenes(region_results, folders["new"]))
    update(copy_scenes(region_results, folders["old"], [scene.id for scene in region_results.region.scenes[:3]]))
    copy_scenes(region_results, folders["old"])
    return folders


def check_map(results: Path, maps: Mapping[str, Path], when: object) -> None:
    """What stands there is all old or all new."""
    before, after = (read_rasters(maps[name] / "land") for name in ("old", "new"))
    assert read_rasters(results / "land") in (before, after), when


def check_next_run(results: Path, maps: Mapping[str, Path], when: object) -> None:
    """The next run leaves what one leaves that nothing disturbed."""
    update(results)
    assert read_rasters(results / "land") == read_rasters(maps["new"] / "land"), when
    assert list(verify_folder(results)) == list(verify_folder(results / "land")) == [], when
    assert list_names(results) == list_names(maps["new"]), when


@pytest.mark.parametrize("stage", ["run", "publish"])
def test_a_map_that_is_killed_at_any_operation_on_files_is_whole_after_the_next_run(
    stage: str, maps: Mapping[str, Path], tmp_path: Path
) -> None:
    """``publish`` is the last fifth of the operations, in which the new map takes the place of the old one."""
    counted = shutil.copytree(maps["old"], tmp_path / "counted" / "results")
    points = count_changes(update, counted, below=counted)
    assert points > 200
    first = 0 if stage == "run" else points * 4 // 5
    for point in choose_points(points - first, SAMPLE):
        results = shutil.copytree(maps["old"], tmp_path / f"{point}" / "results")
        was_killed = kill_at_change(first + point, update, results, below=results)
        assert was_killed or first + point > points - 20
        check_map(results, maps, point)
        check_next_run(results, maps, point)
        shutil.rmtree(results)


def start_update(results: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start ``seamline mosaic`` and its workers in a process group of their own."""
    command = [sys.executable, "-m", "seamline", "mosaic", str(results), "--out", str(results / "land"), "--quiet"]
    command += ["--crs", "EPSG:32632", "--resolution", "10", "--unseen", ",".join(UNSEEN), "--period", "month"]
    return subprocess.Popen([*command, "--workers", f"{workers}"], start_new_session=True)


MOMENTS = {
    "the first chunk is fused": "land/.run/*/periods/*/inferred/*.json",
    "a period is published": "land/.run/*/result/land-*/run.json",
    "the new map takes its place": ".seamline/land.*",
}


def has_file(folder: Path, pattern: str) -> bool:
    """Whether a file is there, in folders that another process makes and removes meanwhile."""
    try:
        return any(folder.glob(pattern))
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_map_all_of_whose_processes_are_killed_is_whole_after_the_next_run(
    moment: str, maps: Mapping[str, Path], tmp_path: Path
) -> None:
    """Until then the map of before can be read: each file of it, at any time."""
    results = shutil.copytree(maps["old"], tmp_path / "results")
    labels = "land/land-2024-05/segmentation.tif"
    known = {(maps[name] / labels).read_bytes() for name in maps}
    process, end = start_update(results, workers=2), time.monotonic() + PATIENCE_S
    try:
        while not has_file(results, MOMENTS[moment]) and process.poll() is None:
            assert (results / labels).read_bytes() in known
            assert time.monotonic() < end
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)  # 0: it was faster than this test
    check_map(results, maps, moment)
    check_next_run(results, maps, moment)
