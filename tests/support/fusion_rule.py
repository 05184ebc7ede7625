"""The rule by which scenes are fused, written out for one pixel at a time in Python's own integers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.fusion.fusing import UNKNOWN_DATE, FusedChunk
from seamline.pipeline.geometry.warp import NOWHERE


@dataclass(frozen=True)
class FusedScene:
    """A whole scene, and where the pixels of a map lie in it, in 1/64 pixels."""

    labels: np.ndarray
    probabilities: np.ndarray | None
    rows: np.ndarray
    cols: np.ndarray
    day: int | None


def vote_of(scene: FusedScene, values: Sequence[int], unseen: Collection[int], row: int, col: int) -> list[int]:
    """The rule for a scene's pixel; one beyond the scene votes for nothing."""
    height, width = scene.labels.shape
    nothing = [0] * len(values)
    if not (0 <= row < height and 0 <= col < width) or scene.labels[row, col] == NODATA:
        return nothing
    own = list(values).index(scene.labels[row, col])
    if own in unseen:
        return nothing
    if scene.probabilities is None:
        scores = [250 if position == own else 0 for position in range(len(values))]
    else:
        scores = [int(score) for score in scene.probabilities[:, row, col]]
    best, second = sorted([*scores, 0], reverse=True)[:2]
    # The nearest pixel without data: one of the scene, or one of the ring around it.
    invalid = np.argwhere(np.pad(scene.labels == NODATA, 1, constant_values=True)) - 1
    square = int(((invalid - (row, col)) ** 2).sum(1).min())
    taper = min(256, math.isqrt(16 * square))
    return [0 if position in unseen else p * (1 + best - second) * taper for position, p in enumerate(scores)]


def round_share(part: int, all_parts: int) -> int:
    return math.floor(Fraction(250 * part, all_parts) + Fraction(1, 2))


def fuse_pixel(
    scenes: Sequence[FusedScene], values: Sequence[int], unseen: Collection[int], at: tuple[int, int]
) -> list[Any]:
    """Label, probabilities, observations, agreement and last date of a pixel of the map."""
    votes, own_labels, days = [0] * len(values), [], []
    for scene in scenes:
        y, x = int(scene.rows[at]), int(scene.cols[at])
        if y == NOWHERE or scene.labels[y // 64, x // 64] in (NODATA, *(values[position] for position in unseen)):
            continue
        own_votes = [0] * len(values)
        for row in range(y // 64 - 1, y // 64 + 2):
            for col in range(x // 64 - 1, x // 64 + 2):
                part = max(0, 64 - abs(64 * row + 32 - y)) * max(0, 64 - abs(64 * col + 32 - x))
                for position, vote in enumerate(vote_of(scene, values, unseen, row, col)):
                    own_votes[position] += part * vote
        if not any(own_votes):  # all probabilities are 0, which no network says
            continue
        votes = [sum(pair) for pair in zip(votes, own_votes, strict=True)]
        own_labels.append(list(values).index(scene.labels[y // 64, x // 64]))
        days += [] if scene.day is None else [scene.day]
    if not own_labels:
        return [NODATA, [NODATA] * len(values), 0, NODATA, UNKNOWN_DATE]
    label = votes.index(max(votes))
    probabilities = [round_share(vote, sum(votes)) for vote in votes]
    agreement = round_share(own_labels.count(label), len(own_labels))
    return [values[label], probabilities, len(own_labels), agreement, max(days, default=UNKNOWN_DATE)]


def assert_same(one: FusedChunk, other: FusedChunk) -> None:
    assert one.labels.tobytes() == other.labels.tobytes()
    for name, layer in one.layers.items():
        assert layer.dtype == other.layers[name].dtype
        np.testing.assert_array_equal(layer, other.layers[name], name)
