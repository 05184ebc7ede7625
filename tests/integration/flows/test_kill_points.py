"""A collection that is killed at any operation on a file is whole after the next flow run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings

from seamline.flows.collection.scene_sources import Glob
from seamline.flows.segment_collection import segment_collection
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.results.verify import verify
from tests.support.kill_points import choose_points, count_changes, kill_at_change
from tests.support.run_folders import FIXED_ENGINE, list_names, read_rasters
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SAMPLE = 2
SCENES = ("one", "two")


def segment_all(folder: Path, model: Path, out: Path, cluster: str, api: str) -> None:
    """Run the flow; runs in a process of its own."""
    options = SegmentOptions(window=160, halo=48, cluster=cluster, outputs=("cog", "zarr"), **FIXED_ENGINE)
    with temporary_settings({PREFECT_API_URL: api}):
        segment_collection(Glob(pattern=f"{folder}/*.tif"), str(model), out, options)


def test_a_collection_that_is_killed_is_whole_after_the_next_run(
    prefect: None, small_model: Model, cluster: Callable[[int], str], tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for seed, name in enumerate(SCENES):
        pixels = make_noise(6, 100, 200, seed=seed)
        write_geotiff(scenes / f"{name}.tif", pixels, names=BAND_NAMES, nodata=0)

    def get_arguments(out: Path) -> tuple[object, ...]:
        return scenes, small_model.folder, out, cluster(1), PREFECT_API_URL.value()

    out = tmp_path / "counted"
    points = count_changes(segment_all, *get_arguments(out), below=out)
    whole, names = {name: read_rasters(out / name) for name in SCENES}, list_names(out)
    assert points > 60
    for point in choose_points(points, SAMPLE):
        out = tmp_path / f"killed-{point}"
        was_killed = kill_at_change(point, segment_all, *get_arguments(out), below=out)
        assert was_killed or point > points - 30  # with two scenes at once the number differs
        count_changes(segment_all, *get_arguments(out), below=out)
        assert {name: read_rasters(out / name) for name in SCENES} == whole, point
        assert not list(verify(out)), point
        assert list_names(out) == names, point
        shutil.rmtree(out)
