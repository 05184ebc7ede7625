"""Weigh tiles' probabilities and add them up: the same code on numpy arrays and on a device's tensors.

**Order does not matter, by construction.** Up to four tiles vote on a pixel, and which of them share a chunk depends
on the plan. Floating-point sums depend on the order of their terms, integer sums don't: a vote is therefore the
product of probability and taper in fixed point, an int32 in units of 2⁻³⁰. Tapers sum to one, so a sum of votes stays
within [0, 2³⁰ + 4] and is exact, whoever adds which strip first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

Array = Any
"""An array of the array API standard: numpy's, or a tensor on the device where it was made."""

FULL_VOTE = 2**30
"""The vote of a tile that is alone on a pixel and certain."""


def make_taper(support: int, overlap: int, rises: bool, falls: bool) -> NDArray[np.float64]:
    """A tile's weights along one axis, length ``support``.

    Raised cosines over ``overlap`` pixels: at the start where a neighbour lies before (``rises``), at the end where
    one lies behind (``falls``); one elsewhere, so that at the scene's edges nothing is divided by less than one.
    Falling is computed as one minus rising: neighbours sum to exactly one.
    """
    weights = np.ones(support)
    if overlap:
        rising = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
        if rises:
            weights[:overlap] = rising
        if falls:
            weights[support - overlap :] = 1.0 - rising
    return weights


def weighted_scores(probabilities: Array, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Array:
    """Votes (classes, height, width) int32 of one tile's probabilities (classes, height, width) in [0, 1].

    ``rows`` and ``cols`` are the tapers along both axes, of lengths height and width.
    """
    xp = array_namespace(probabilities)
    # The product in double precision: rounded once, at the end.
    return xp.astype(
        xp.round(xp.astype(probabilities, xp.float64) * _pixel_weights(xp, probabilities, rows, cols)), xp.int32
    )


def weighted_squares(probabilities: Array, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Array:
    """Votes (1, height, width) int32 like ``weighted_scores``, of the mean over the classes of the squared probabilities."""
    xp = array_namespace(probabilities)
    exact = xp.astype(probabilities, xp.float64)
    mean = xp.mean(exact * exact, axis=0, keepdims=True)
    return xp.astype(xp.round(mean * _pixel_weights(xp, probabilities, rows, cols)), xp.int32)


def _pixel_weights(xp: Any, like: Array, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Array:
    down = xp.asarray(rows, dtype=xp.float64, device=like.device)[:, None]
    across = xp.asarray(cols, dtype=xp.float64, device=like.device)[None, :]
    return down * across * FULL_VOTE


def argmax_classes(scores: Array) -> Array:
    """Labels (height, width) uint8: the class with the most votes or the highest score, the first of equals.

    ``scores`` is (classes, height, width). It is argmax along the first axis, class by class: libraries reduce an
    axis other than the last one up to twenty times slower.
    """
    xp = array_namespace(scores)
    best = scores[0]
    labels = xp.zeros(best.shape, dtype=xp.uint8, device=best.device)
    for label in range(1, scores.shape[0]):
        better = scores[label] > best
        labels = xp.where(better, xp.asarray(label, dtype=xp.uint8, device=best.device), labels)
        best = xp.where(better, scores[label], best)
    return labels
