"""How the benchmark of maps counts, on labels that are drawn by hand; and that its made-up results are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest

from benchmarks.mosaic import BORDER, Comparison
from benchmarks.mosaic_pair import measure_change_across
from benchmarks.mosaic_scenes import MadeUpScene, write_zones
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac.catalog import update_catalog


def draw_scenes() -> Comparison:
    """The left 200 columns in one scene, the right 200 in a later one, 100 in both; land above water."""
    truth = np.zeros((200, 300), np.uint8)
    truth[100:] = 1
    left, right = truth.copy(), truth.copy()
    left[:, 200:] = right[:, :100] = NODATA
    right[:20, 120:140] = 2
    return Comparison(truth, {"left": left, "right": right})


def test_later_scenes_are_pasted_over_earlier_ones_and_clouds_may_be_holes() -> None:
    scenes = draw_scenes()
    np.testing.assert_array_equal(scenes.paste(with_clouds=False), scenes.truth)
    pasted = scenes.paste(with_clouds=True)
    assert (pasted[:20, 120:140] == 2).all() and np.sum(pasted != scenes.truth) == 400


def test_a_label_that_is_missing_counts_as_missed() -> None:
    scenes = draw_scenes()
    whole = np.ones(scenes.truth.shape, bool)
    assert scenes.score(scenes.truth, whole) == (1, 1)
    assert scenes.score(scenes.views["left"], whole) == pytest.approx((2 / 3, 2 / 3))
    assert scenes.score(scenes.views["left"], scenes.views["left"] != NODATA) == (1, 1)


def test_faults_along_borders_are_told_from_faults_elsewhere() -> None:
    scenes = draw_scenes()
    near = scenes.near_borders
    # The edge of the raster is no border: a scene may go on there.
    assert near[150, 100 - BORDER : 100 + BORDER].all() and not near[150, [60, 140, 150, 160, 240]].any()
    labels = scenes.truth.copy()
    assert scenes.compare_borders(labels, near | ~near) == (0, 0)
    labels[:50, 195:200] = 1  # along the border of the left scene
    beside, elsewhere = scenes.compare_borders(labels, near | ~near)
    assert beside > 0.01 and elsewhere == 0


def test_a_line_along_the_edge_of_a_scene_is_seen_in_the_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (300, 300)).repeat(4, 0).repeat(4, 1)[:300, :300].astype(np.uint8)
    valid = np.zeros(labels.shape, bool)
    valid[:, :130] = True
    pasted = np.where(valid, labels, 1 - np.roll(labels, 1, axis=1)).astype(np.uint8)
    shares = measure_change_across(pasted, valid)
    assert shares[0] > 0.9 and all(shares[at] < 0.7 for at in (-16, -8, 8, 16))


def test_made_up_results_are_whole_and_overlap(tmp_path: Path) -> None:
    scenes = [MadeUpScene(number, 64) for number in (4, 5, 54)]
    for scene in scenes:
        scene.publish(tmp_path)
    update_catalog(tmp_path)
    assert list(verify(tmp_path)) == []
    west, east, later = (scene.grid.extent.to_crs("EPSG:32632") for scene in scenes)
    assert [str(scene.grid.crs) for scene in scenes] == ["EPSG:32632", "EPSG:32633", "EPSG:32632"]
    assert west.geom.intersection(east.geom).area > 0.1 * west.geom.area
    assert west.geom.intersection(later.geom).area > 0.5 * west.geom.area


def test_zones_are_as_many_as_asked_for(tmp_path: Path) -> None:
    write_zones(tmp_path / "zones.gpkg", 1000, 64)
    zones = pyogrio.read_info(tmp_path / "zones.gpkg")
    assert zones["features"] == 1000 and zones["fields"].tolist() == ["name"] and zones["crs"] == "EPSG:32632"
