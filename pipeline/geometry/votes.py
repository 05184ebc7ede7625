"""Votes: the probabilities of a tile times its taper, in fixed point, and the labels that follow from their sums.

The functions work on numpy arrays and on tensors of a device alike. **The order in which votes are summed does not
matter.** Up to four tiles vote on a pixel, and the plan decides which of them share a chunk. Sums of floating-point
numbers depend on the order of their terms, sums of integers do not: a vote is therefore the product of probability
and taper as an int32 in units of 2⁻³⁰. Tapers sum to one, so a sum of votes stays within [0, 2³⁰ + 4] and is exact.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any
"""An array of the array API standard: numpy's, or a tensor on the device where it was made."""

FULL_VOTE = 2**30
"""The vote of a tile that is alone on a pixel and certain of the class."""


def weighted_scores(probabilities: Array, rows: Array, cols: Array) -> Array:
    """Return the votes of one tile: its probabilities times its tapers, in units of 2⁻³⁰.

    Args:
        probabilities: Probabilities in [0, 1], shape (classes, height, width).
        rows: Taper along the rows, float64, shape (height,), on any device.
        cols: Taper along the columns, float64, shape (width,), on any device.

    Returns:
        Votes as int32, shape (classes, height, width), on the device of ``probabilities``.
    """
    xp = array_namespace(probabilities)
    # In double precision, so that the product is rounded only once.
    exact = xp.astype(probabilities, xp.float64)
    return xp.astype(xp.round(exact * _pixel_weights(xp, probabilities, rows, cols)), xp.int32)


def weighted_squares(probabilities: Array, rows: Array, cols: Array) -> Array:
    """Return votes like those of ``weighted_scores``, of the mean over the classes of the squared probabilities.

    Args:
        probabilities: Probabilities in [0, 1], shape (classes, height, width).
        rows: Taper along the rows, float64, shape (height,), on any device.
        cols: Taper along the columns, float64, shape (width,), on any device.

    Returns:
        Votes as int32, shape (1, height, width), on the device of ``probabilities``.
    """
    xp = array_namespace(probabilities)
    exact = xp.astype(probabilities, xp.float64)
    mean = xp.mean(exact * exact, axis=0, keepdims=True)
    return xp.astype(xp.round(mean * _pixel_weights(xp, probabilities, rows, cols)), xp.int32)


def _pixel_weights(xp: Any, like: Array, rows: Array, cols: Array) -> Array:
    """Return the vote of a certain tile on each pixel, float64 of shape (height, width), on the device of ``like``."""
    down = xp.asarray(rows, dtype=xp.float64, device=like.device)[:, None]
    across = xp.asarray(cols, dtype=xp.float64, device=like.device)[None, :]
    return down * across * FULL_VOTE


def argmax_classes(scores: Array) -> Array:
    """Return the class with the highest score of each pixel; of equal scores the first class.

    Compares class by class, because libraries reduce an axis other than the last one up to twenty times slower.

    Args:
        scores: Scores or votes, shape (classes, height, width).

    Returns:
        Labels as uint8, shape (height, width).
    """
    xp = array_namespace(scores)
    best = scores[0]
    labels = xp.zeros(best.shape, dtype=xp.uint8, device=best.device)
    for label in range(1, scores.shape[0]):
        better = scores[label] > best
        # ``full``, since ``asarray`` would copy the number to the device and wait for that.
        labels = xp.where(better, xp.full((), label, dtype=xp.uint8, device=best.device), labels)
        best = xp.where(better, scores[label], best)
    return labels
