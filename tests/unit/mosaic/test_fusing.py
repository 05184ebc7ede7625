"""Fusing of scenes' votes, against the rule written out for one pixel at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.fusion.fusing import (
    TAPER_WIDTH,
    UNKNOWN_DATE,
    ChunkFusion,
    FusedChunk,
    ScenePixels,
    compute_taper,
)
from seamline.pipeline.geometry.warp import NOWHERE
from seamline.pipeline.geometry.window import Window
from tests.support.fusion_rule import FusedScene, assert_same, fuse_pixel


def make_classes(values: Sequence[int]) -> list[LabelClass]:
    return [LabelClass(value, f"class {value}", (0, 0, 0)) for value in values]


def pad(labels: np.ndarray) -> np.ndarray:
    """Where a scene is valid, with the margin around it that is not."""
    return np.pad(labels != NODATA, TAPER_WIDTH)


def cut(scene: FusedScene, window: Window) -> ScenePixels:
    """What is read of a window of a scene."""
    inside = window.to_slices()
    margin = Window(window.row, window.col, window.height + 2 * TAPER_WIDTH, window.width + 2 * TAPER_WIDTH)
    taper = compute_taper(pad(scene.labels)[margin.to_slices()])
    probabilities = None if scene.probabilities is None else scene.probabilities[:, *inside]
    return ScenePixels(scene.labels[inside], probabilities, taper, window.row, window.col)


def whole(scene: FusedScene) -> ScenePixels:
    return cut(scene, Window(0, 0, *scene.labels.shape))


def fuse(scenes: Sequence[FusedScene], values: Sequence[int], unseen: set[int], shape: tuple[int, int]) -> FusedChunk:
    fusion = ChunkFusion(make_classes(values), unseen, shape)
    for scene in scenes:
        fusion.add(whole(scene), scene.rows, scene.cols, scene.day)
    return fusion.finish()


def assert_is_the_rule(
    fused: FusedChunk, scenes: Sequence[FusedScene], values: Sequence[int], unseen: set[int]
) -> None:
    for at in np.ndindex(fused.labels.shape):
        found = [fused.labels[at], fused.probabilities[:, *at].tolist()]
        found += [layer[at] for layer in (fused.observations, fused.agreement, fused.last_date)]
        assert found == fuse_pixel(scenes, values, unseen, at), at


SHAPE = (4, 5)
"""Of the part of the map."""


@st.composite
def make_scene(draw: st.DrawFn, values: Sequence[int]) -> FusedScene:
    """A small scene with holes, and a map across it; few levels, so that there are ties."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([(50, 100), (0, 250), tuple(range(251))]))
    labels = np.array(values, np.uint8)[random.integers(0, len(values), (height, width))]
    labels[random.random((height, width)) < draw(st.sampled_from([0, 0.2, 1]))] = NODATA
    probabilities = np.array(levels, np.uint8)[random.integers(0, len(levels), (len(values), height, width))]
    probabilities[:, labels == NODATA] = NODATA
    rows = random.integers(0, 64 * height, SHAPE, np.int32)
    cols = random.integers(0, 64 * width, SHAPE, np.int32)
    if draw(st.booleans()):  # centres of pixels, and pixels that lie outside
        rows, cols = rows // 64 * 64 + 32, cols // 64 * 64 + 32
        outside = random.random(SHAPE) < 0.2
        rows[outside] = cols[outside] = NOWHERE
    day = draw(st.none() | st.integers(0, 65534))
    return FusedScene(labels, probabilities if draw(st.booleans()) else None, rows, cols, day)


@st.composite
def make_case(draw: st.DrawFn) -> tuple[list[FusedScene], list[int], set[int]]:
    values = draw(st.lists(st.integers(0, 254), min_size=1, max_size=4, unique=True))
    unseen = draw(st.sets(st.integers(0, len(values) - 1), max_size=len(values)))
    return draw(st.lists(make_scene(values), max_size=3)), values, unseen


@given(make_case())
def test_fusing_is_the_rule_pixel_by_pixel(case: tuple[list[FusedScene], list[int], set[int]]) -> None:
    scenes, values, unseen = case
    assert_is_the_rule(fuse(scenes, values, unseen, SHAPE), scenes, values, unseen)


@given(make_case(), st.randoms())
def test_neither_order_nor_windows_of_scenes_matter(
    case: tuple[list[FusedScene], list[int], set[int]], random: Any
) -> None:
    scenes, values, unseen = case
    expected = fuse(scenes, values, unseen, SHAPE)
    fusion = ChunkFusion(make_classes(values), unseen, SHAPE)
    for scene in random.sample(scenes, len(scenes)):
        # The pixels of the map in two groups, of which each reads the window that it needs.
        group = np.array([[random.random() < 0.5 for _ in range(SHAPE[1])] for _ in range(SHAPE[0])])
        for own in (group, ~group):
            rows, cols = (np.where(own, at, NOWHERE).astype(np.int32) for at in (scene.rows, scene.cols))
            found = rows != NOWHERE
            if found.any():
                first = [max((at[found].min() - 32) // 64, 0) for at in (rows, cols)]
                last = [(at[found].max() - 32) // 64 + 2 for at in (rows, cols)]
                sizes = [
                    min(end, size) - start for start, end, size in zip(first, last, scene.labels.shape, strict=True)
                ]
                fusion.add(cut(scene, Window(*first, *sizes)), rows, cols, scene.day)
    assert_same(fusion.finish(), expected)


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.0005, 0.01, 0.5, 1.0]))
def test_a_taper_is_the_distance_to_the_nearest_invalid_pixel(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    valid = random.random((height + 2 * TAPER_WIDTH, width + 2 * TAPER_WIDTH)) >= share
    taper = compute_taper(valid)
    invalid = np.argwhere(~valid)
    for row, col in np.ndindex(height, width):
        offsets = invalid - (row + TAPER_WIDTH, col + TAPER_WIDTH)
        square = int((offsets**2).sum(1).min(initial=10**6))
        assert taper[row, col] == min(256, math.isqrt(16 * square))


def test_tapers_grow_by_four_with_each_pixel_from_an_edge() -> None:
    taper = compute_taper(pad(np.zeros((150, 200), np.uint8)))
    assert taper.dtype == np.uint16 and taper[75, :65].tolist() == [*range(4, 257, 4), 256]
    assert taper[:65, 100].tolist() == [*range(4, 257, 4), 256]
    np.testing.assert_array_equal(taper, taper[::-1, ::-1])


def test_many_blocks_of_pixels_get_the_votes_of_their_own_places() -> None:
    """More pixels of a map than are worked on at a time, at places that no formula gives."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, (150, 170), np.uint8)
    labels[40:60, 90:] = NODATA
    probabilities = random.integers(0, 251, (3, 150, 170), np.uint8)
    shape = (300, 250)
    rows, cols = random.integers(0, 64 * 150, shape, np.int32), random.integers(0, 64 * 170, shape, np.int32)
    scene = FusedScene(labels, probabilities, rows, cols, 20_000)
    fused = fuse([scene], (0, 1, 2), {1}, shape)
    np.testing.assert_array_equal(fused.observations, np.isin(labels[rows // 64, cols // 64], (0, 2)))
    for at in zip(*(random.integers(0, size, 60) for size in shape), strict=True):
        expected = fuse_pixel([scene], (0, 1, 2), {1}, at)
        assert [fused.labels[at], fused.probabilities[:, *at].tolist(), fused.observations[at]] == expected[:3]


def center_of(height: int, width: int) -> dict[str, np.ndarray]:
    """A map of one pixel, in the middle of a scene."""
    return {"rows": np.array([[32 * height]], np.int32), "cols": np.array([[32 * width]], np.int32)}


def test_the_edge_of_a_scene_is_no_step_in_the_map() -> None:
    """A scene ends on one that says something else: shares change by less than two percent from pixel to pixel."""
    rows, cols = np.mgrid[:3, :200].astype(np.int32) * 64 + 32
    rows += 64 * 100
    below = FusedScene(np.zeros((203, 400), np.uint8), None, rows, cols + 64 * 100, None)
    outside = cols < 64 * 60
    above = FusedScene(
        np.ones((203, 400), np.uint8),
        None,
        np.where(outside, NOWHERE, rows).astype(np.int32),
        np.where(outside, NOWHERE, cols - 64 * 60).astype(np.int32),
        None,
    )
    shares = fuse([below, above], (0, 1), set(), (3, 200)).probabilities[1, 1].astype(int)
    assert shares[59] == 0 and 0 < shares[60] < 5 and shares[60 + 63 :].tolist() == [125] * 77
    assert np.diff(shares).min() >= 0 and np.diff(shares).max() < 5


def test_of_equal_votes_the_first_class_wins() -> None:
    scenes = [
        FusedScene(np.full((3, 3), value, np.uint8), None, **center_of(3, 3), day=day)
        for value, day in ((9, 5), (4, 3))
    ]
    fused = fuse(scenes, (4, 9), set(), (1, 1))
    assert (fused.labels[0, 0], fused.agreement[0, 0], fused.observations[0, 0], fused.last_date[0, 0]) == (
        4,
        125,
        2,
        5,
    )
    assert fused.probabilities[:, 0, 0].tolist() == [125, 125]
    assert fuse(scenes, (9, 4), set(), (1, 1)).labels[0, 0] == 9


def test_clouds_neither_vote_nor_count() -> None:
    cloud = FusedScene(np.full((3, 3), 2, np.uint8), None, **center_of(3, 3), day=9)
    land = np.array([[[150]], [[0]], [[100]]], np.uint8) * np.ones((1, 3, 3), np.uint8)
    clear = FusedScene(np.zeros((3, 3), np.uint8), land, **center_of(3, 3), day=None)
    fused = fuse([cloud, clear], (0, 1, 2), {2}, (1, 1))
    assert (fused.labels[0, 0], fused.observations[0, 0], fused.last_date[0, 0]) == (0, 1, UNKNOWN_DATE)
    assert fused.probabilities[:, 0, 0].tolist() == [250, 0, 0]
    assert fuse([cloud], (0, 1, 2), {2}, (1, 1)).labels[0, 0] == NODATA


def test_votes_of_very_many_scenes_are_exact() -> None:
    """As many scenes as a pixel may have, each with the most votes: no sum and no share overflows."""
    scene = FusedScene(np.full((129, 129), 7, np.uint8), None, **center_of(129, 129), day=1)
    fusion = ChunkFusion(make_classes([3, 7]), set(), (1, 1))
    pixels = whole(scene)
    fusion.add(pixels, scene.rows, scene.cols, 1)
    fusion._votes *= 65_534
    fusion._own_labels *= 65_534
    fused = fusion.finish()
    assert fusion._votes[1, 0] == 250 * 251 * 256 * 4096 * 65_534
    assert (fused.probabilities[:, 0, 0].tolist(), fused.observations[0, 0]) == ([0, 250], 65_534)


def test_positions_outside_of_the_window_are_refused() -> None:
    scene = FusedScene(np.zeros((3, 3), np.uint8), None, **center_of(3, 3), day=None)
    for rows, cols in (([[192]], [[0]]), ([[-1]], [[0]]), ([[0]], [[192]])):
        with pytest.raises(ValueError, match="outside of a window"):
            fuse(
                [FusedScene(scene.labels, None, np.array(rows, np.int32), np.array(cols, np.int32), None)],
                [0],
                set(),
                (1, 1),
            )


def test_probabilities_of_other_classes_are_refused() -> None:
    scene = FusedScene(np.zeros((3, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), **center_of(3, 3), day=None)
    with pytest.raises(ValueError, match="of 2 classes, expected 1"):
        fuse([scene], [0], set(), (1, 1))
    with pytest.raises(ValueError, match="beside labels"):
        ScenePixels(scene.labels, scene.probabilities[:, :2], np.zeros((3, 3), np.uint16), 0, 0)
