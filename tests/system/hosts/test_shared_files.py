"""A worker that does not see the client's folders, since it has other mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="root and unshare hide a folder"
)


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """A folder that the worker sees empty."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    return folder


@pytest.fixture
def scheduler(hidden: Path) -> Iterator[str]:
    """The address of a scheduler with one worker, on which an empty file system lies over ``hidden``."""
    with LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster:
        worker = f"{sys.executable} -m dask worker {cluster.scheduler_address} --nthreads 3 --no-dashboard --no-nanny"
        command = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {hidden} && exec {worker}"]
        with (hidden.parent / "worker.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=hidden.parent, stdout=log, stderr=log)
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=120)
            yield cluster.scheduler_address
        finally:
            process.terminate()
            process.wait(60)


def test_folders_that_a_worker_does_not_see_are_told_before_anything_is_inferred(
    scheduler: str, hidden: Path, small_model: Model
) -> None:
    scenes = {
        folder: write_geotiff(folder / "scene.tif", make_noise(6, 64, 64), names=BAND_NAMES)
        for folder in (hidden, hidden.parent)
    }
    options = SegmentOptions(cluster=scheduler, window=64, halo=16, engine="torch")
    for source, out in ((scenes[hidden], hidden.parent / "out"), (scenes[hidden.parent], hidden / "out")):
        with pytest.raises(InputError, match=rf"worker tcp://.*: got no {hidden}/.* there, expected .* same paths"):
            segment(source, small_model.folder, out, options, RunObserver())
        assert not out.exists()
    result = segment(scenes[hidden.parent], small_model.folder, hidden.parent / "out", options, RunObserver())
    assert (result.folder / "segmentation.tif").exists()
