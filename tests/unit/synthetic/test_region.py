"""The simulated region: one ground under scenes of two zones and three dates, whose skies differ."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.acquisition import read_acquisition_time
from seamline.pipeline.synthetic.region import Region, RegionScene
from seamline.pipeline.synthetic.simulate import CLASSES, SimulatedBlock
from seamline.pipeline.synthetic.simulation_files import write_region

LAND, WATER, CLOUD, SHADOW = (label.value for label in CLASSES)
REGION = Region(scene_size=256, rows=1, seed=3)


@cache
def _render(scene: RegionScene) -> SimulatedBlock:
    return scene.render_block(Window(0, 0, scene.grid.height, scene.grid.width))


@cache
def _truth() -> NDArray[np.uint8]:
    return REGION.render_truth(REGION.grid)


def _take_nearest(labels: NDArray[np.uint8], grid: GeoBox, target: GeoBox) -> NDArray[np.uint8]:
    """What lies at the centres of another grid's pixels, 255 outside."""
    rows, cols = np.mgrid[: target.height, : target.width] + 0.5
    x, y = target.affine @ (cols, rows)
    x, y = Transformer.from_crs(str(target.crs), str(grid.crs), always_xy=True).transform(x, y)
    cols, rows = (np.floor(axis).astype(int) for axis in ~grid.affine @ (x, y))
    inside = (rows >= 0) & (rows < grid.height) & (cols >= 0) & (cols < grid.width)
    return np.where(inside, labels[rows.clip(0, grid.height - 1), cols.clip(0, grid.width - 1)], NODATA)


@pytest.mark.parametrize("scene", REGION.scenes, ids=lambda scene: scene.id)
def test_all_scenes_show_the_ground_of_the_region(scene: RegionScene) -> None:
    """Where a scene is clear, it has the labels of the truth on the map's grid, but for pixels cut by a shore."""
    labels = _take_nearest(_render(scene)[1], scene.grid, REGION.grid)
    clear = labels <= WATER
    assert clear.sum() > 10_000
    assert np.mean(labels[clear] != _truth()[clear]) < 0.02


def test_scenes_overlap_across_the_border_of_the_zones_and_cover_the_region() -> None:
    ones = np.ones((256, 256), np.uint8)
    covers = {scene: _take_nearest(ones, scene.grid, REGION.grid) == 1 for scene in REGION.scenes}
    west, east = ([covers[scene] for scene in REGION.scenes if scene.zone == zone] for zone in (0, 1))
    assert {str(scene.grid.crs) for scene in covers} == {"EPSG:32632", "EPSG:32633"}
    for one, other in zip(west, east, strict=True):
        assert 0.15 * 256**2 < (one & other).sum() < 0.3 * 256**2
    assert np.mean(np.any([*west, *east], axis=0)) > 0.85


def test_a_place_is_hidden_at_one_date_and_seen_at_another() -> None:
    labels = np.stack([_take_nearest(_render(scene)[1], scene.grid, REGION.grid) for scene in REGION.scenes])
    hidden, seen = (labels == CLOUD).any(axis=0), (labels <= WATER).any(axis=0)
    assert np.mean(hidden & seen) > 0.25
    for scene in REGION.scenes:
        assert all(np.mean(_render(scene)[1] == value) > 0.002 for value in (LAND, WATER, CLOUD))


def test_light_and_haze_differ_by_scene() -> None:
    """Clear land of the overlap is brighter in one scene than in the other: pasting them would show a border."""
    assert len({scene.sky.gain for scene in REGION.scenes}) == len({scene.sky.haze for scene in REGION.scenes}) == 6
    medians = [np.median(_render(scene)[0][0][_render(scene)[1] == LAND]) for scene in REGION.scenes]
    assert max(medians) > 1.1 * min(medians)


def test_any_window_is_the_same_cut_out_of_the_scene() -> None:
    scene = REGION.scenes[1]
    numbers, labels = _render(scene)
    part = Window(90, 130, 100, 110)
    got = scene.render_block(part)
    np.testing.assert_array_equal(got[0], numbers[:, *part.to_slices()])
    np.testing.assert_array_equal(got[1], labels[part.to_slices()])


def test_truth_on_another_extent_of_the_grid_is_the_same() -> None:
    grid = GeoBox((100, 90), REGION.grid.affine @ Affine.translation(111, 77), REGION.grid.crs)
    np.testing.assert_array_equal(REGION.render_truth(grid), _truth()[77:177, 111:201])


def test_seeds_differ() -> None:
    scene, other = (Region(256, 1, seed=seed).scenes[0] for seed in (3, 4))
    assert scene.sky != other.sky
    assert np.mean(_truth() == Region(256, 1, seed=4).render_truth(REGION.grid)) < 0.95


def test_files_hold_the_scenes_and_say_when_they_were_taken(tmp_path: Path) -> None:
    region = Region(scene_size=64, rows=1, dates=2, seed=3)
    paths = write_region(region, tmp_path)
    assert len(paths) == 4 and len(list(tmp_path.iterdir())) == 9
    for path, scene in zip(paths, region.scenes, strict=True):
        numbers, labels = scene.render_block(Window(0, 0, 64, 64))
        with rasterio.open(path) as image, rasterio.open(path.with_stem(f"{path.stem}_truth")) as mask:
            np.testing.assert_array_equal(image.read(), numbers)
            np.testing.assert_array_equal(mask.read(1), labels)
            assert image.crs == str(scene.grid.crs) and image.transform == scene.grid.affine
        assert read_acquisition_time(str(path)) == TimeSpan.from_text(scene.acquired)
    with rasterio.open(tmp_path / "truth.tif") as truth:
        np.testing.assert_array_equal(truth.read(1), region.render_truth(region.grid))
        assert truth.transform == region.grid.affine and truth.transform.c % 10 == truth.transform.f % 10 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scene_size": 63}, "size of scenes: got 63, expected 64 to 10000"),
        ({"rows": 0}, "number of rows: got 0, expected 1 to 100"),
        ({"dates": 7}, "number of dates: got 7, expected 1 to 6"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_impossible_regions_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Region(**arguments)
