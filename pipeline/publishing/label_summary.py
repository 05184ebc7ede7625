"""What publishing must know of the labels: taken from them area by area on the workers, put together on the client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.pixel_area import PixelAreas
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.stac.class_areas import LabelCounts, count_labels
from seamline.pipeline.stac.footprint import find_hull_corners


@dataclass(frozen=True)
class LabelSummary:
    """What is known of the labels of an area.

    Attributes:
        counts: pixels and areas of each label.
        corners: corners (n, 2), column and row, of the convex hull of its labels.
        place: rows and columns of ``thinned`` in the thinned labels of the scene.
        thinned: every n-th row and column of its labels, counted from the scene's first ones.
    """

    counts: LabelCounts
    corners: NDArray[np.float64]
    place: tuple[slice, slice]
    thinned: NDArray[np.uint8]


def summarize_labels(areas: PixelAreas | None, step: int, window: Window, labels: NDArray[np.uint8]) -> LabelSummary:
    """Summarize the labels of an area.

    Args:
        areas: areas of the pixels of the scene. ``None``: unknown.
        step: distance in pixels between the labels of the thinned ones.
        window: where the area lies.
        labels: its labels (height, width).

    Returns:
        What ``compute_class_areas``, ``join_hulls`` and ``join_thinned_labels`` take.
    """
    thinned = labels[-window.row % step :: step, -window.col % step :: step]
    row, col = math.ceil(window.row / step), math.ceil(window.col / step)
    return LabelSummary(
        counts=count_labels(labels, None if areas is None else areas.for_window(window)),
        corners=find_hull_corners(labels, window),
        place=(slice(row, row + thinned.shape[0]), slice(col, col + thinned.shape[1])),
        thinned=thinned.copy(),
    )


def join_thinned_labels(summaries: Sequence[LabelSummary]) -> NDArray[np.uint8]:
    """Return every n-th label (height, width) of a scene from the summaries of all its areas."""
    shape = (max(summary.place[axis].stop for summary in summaries) for axis in (0, 1))
    small = np.empty(tuple(shape), np.uint8)
    for summary in summaries:
        small[summary.place] = summary.thinned
    return small
