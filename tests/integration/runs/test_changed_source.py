"""A source that somebody replaces or rewrites during a run never becomes a mixture of two scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import OtherRunError, SeamlineError
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

PLAN = {"window": 128, "halo": 48, "chunk_tiles": 2, "precision": "fp32", "engine": "torch"}


def write(path: Path, seed: int) -> Path:
    return write_geotiff(path, make_noise(6, 300, 300, seed=seed), names=BAND_NAMES, nodata=0)


def rewrite(path: Path) -> None:
    write(path, seed=1)


def replace(path: Path) -> None:
    write(path.with_name("new.tif"), seed=1).replace(path)


@pytest.mark.parametrize("change", [rewrite, replace, Path.unlink])
@pytest.mark.parametrize("moment", ["first chunk", "last chunk"])
def test_the_run_ends_and_says_so(
    small_model: Model, cluster: Callable[[int], str], tmp_path: Path, change: Callable[[Path], None], moment: str
) -> None:
    source, out = write(tmp_path / "scene.tif", seed=0), tmp_path / "out"
    options = SegmentOptions(cluster=cluster(1), **PLAN)
    done: list[Path] = []

    def watch(totals: object, plan: object) -> None:
        inferred = len(list(out.glob("scene/.run/*/inferred/*.json")))
        if not done and inferred >= (1 if moment == "first chunk" else 25):
            done.append(source)
            change(source)

    with pytest.raises(SeamlineError, match=r"scene\.tif (was changed or replaced|can no longer be opened)"):
        segment(source, small_model.folder, out, options, RunObserver(progress=watch))
    assert done and not list(out.rglob("segmentation.tif")) and not list(out.rglob("run.json"))
    write(source, seed=1)
    with pytest.raises(OtherRunError, match="--overwrite"):
        segment(source, small_model.folder, out, options, RunObserver())
    again = segment(source, small_model.folder, out, options.model_copy(update={"overwrite": True}), RunObserver())
    other = write(tmp_path / "fresh" / "scene.tif", seed=1)
    fresh = segment(other, small_model.folder, tmp_path / "expected", options, RunObserver())
    labels = [(result.folder / "segmentation.tif").read_bytes() for result in (again, fresh)]
    assert labels[0] == labels[1]
