"""Errors of a segmentation of neurites, as the ISBI 2012 challenge (segmentation of neuronal structures in EM stacks)
defined them: warping, Rand and pixel error, the columns of table 1 in Ronneberger, Fischer and Brox (2015).

Truth is an array (height, width) of bool, True inside of neurites, False on membranes; a prediction is the probability
of "inside", 0 to 1, (height, width). Each error is the least over thresholds 0, 0.1, …, 1, as the challenge's program
(Fiji, Trainable_Segmentation, package ``metrics``) takes it; a pixel is inside where its probability is above the
threshold. Neurites are 4-connected, membranes 8-connected. Of a stack the challenge averages the warping error over
slices, and counts pairs and pixels over all slices before it takes the F-score: give the functions lists of slices.

Sources: the challenge's page "Evaluation"; Jain et al., Boundary learning by optimization with topological constraints,
CVPR 2010 (warping error); Rand, Objective criteria for the evaluation of clustering methods, 1971; Bertrand and
Malandain, Pattern Recognition Letters 15, 1994 (simple points); Arganda-Carreras et al., Frontiers in Neuroanatomy 9,
2015 (the challenge in retrospect, which replaced all three).

Not known from what is public: on which of its versions the leader board stood when. It later ranked by "minimum splits
and mergers warping error", which leaves out mismatches that only add or delete objects and holes; here all count, as
in Jain et al., so this warping error is the larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Probability = NDArray[np.floating]

THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(11))
FOUR = ndimage.generate_binary_structure(2, 1)
EIGHT = ndimage.generate_binary_structure(2, 2)
AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The neighbours of a pixel, (row, column), in the order of the bits in the table of simple points."""


def warping_error(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """Share of pixels on which prediction and truth differ after the truth was warped towards the prediction without
    a change of its topology; the mean over slices, the least over thresholds."""
    return min(
        float(np.mean([mismatches(t, p, threshold).mean() for t, p in zip(truth, predicted, strict=True)]))
        for threshold in THRESHOLDS
    )


def rand_error(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """1 − the largest F-score of Rand's pairs, restricted to the pixels inside of true neurites.

    A pair of pixels of one slice is true if both are in one true neurite, found if both are in one predicted one. A
    pixel that is predicted to be membrane is alone. Precision is the share of found pairs that are true, recall the
    share of true pairs that are found.
    """
    labels = [ndimage.label(t, FOUR)[0] for t in truth]

    def counts(threshold: float) -> tuple[int, int, int]:
        slices = [_pairs(t, ndimage.label(p > threshold, FOUR)[0]) for t, p in zip(labels, predicted, strict=True)]
        both, true, found = (sum(column) for column in zip(*slices, strict=True))
        return both, true, found

    return _least(counts)


def pixel_error(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """1 − the largest F-score of pixels inside of neurites. (The challenge's page: "1 − the maximal F-score of pixel
    similarity, or squared Euclidean distance"; of labels the latter is ``wrong_pixels``, which is not the same.)"""

    def counts(threshold: float) -> tuple[int, int, int]:
        slices = [(t, p > threshold) for t, p in zip(truth, predicted, strict=True)]
        return sum(int((t & p).sum()) for t, p in slices), sum(int(t.sum()) for t, _ in slices), sum(
            int(p.sum()) for _, p in slices
        )  # fmt: skip

    return _least(counts)


def wrong_pixels(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """Share of pixels on the wrong side; the mean over slices, the least over thresholds."""
    return min(
        float(np.mean([(t != (p > threshold)).mean() for t, p in zip(truth, predicted, strict=True)]))
        for threshold in THRESHOLDS
    )


def mismatches(truth: Mask, predicted: Probability, threshold: float) -> Mask:
    """Pixels that differ from the prediction after the truth was warped: nothing that is left can be flipped alone.

    Pixels that differ are flipped while they are simple, the surest first, again and again until none is. The world
    outside of the image is membrane. The order decides which pixels are left, and pixels that agree stay as they
    are, so this is a local minimum, as the challenge's: a membrane that moved beyond its own width is not forgiven.
    """
    height, width = truth.shape
    wide = width + 2
    warped = bytearray(np.pad(truth, 1).astype(np.uint8).tobytes())
    target = predicted > threshold
    rows, cols = np.nonzero(truth != target)
    order = np.argsort(-np.abs(predicted[rows, cols] - threshold), kind="stable")
    waiting = ((rows[order] + 1) * wide + cols[order] + 1).tolist()
    simple, steps = simple_points(), [row * wide + col for row, col in AROUND]
    a, b, c, d, e, f, g, h = steps
    while True:
        left = []
        for at in waiting:
            code = (
                warped[at + a] | warped[at + b] << 1 | warped[at + c] << 2 | warped[at + d] << 3
                | warped[at + e] << 4 | warped[at + f] << 5 | warped[at + g] << 6 | warped[at + h] << 7
            )  # fmt: skip
            if simple[code]:
                warped[at] ^= 1
            else:
                left.append(at)
        if len(left) == len(waiting):
            break
        waiting = left
    result = np.frombuffer(warped, np.uint8).reshape(height + 2, wide)[1:-1, 1:-1].astype(bool)
    return np.asarray(result != target)


@cache
def simple_points() -> tuple[bool, ...]:
    """For each neighbourhood, a bit for each neighbour that is inside: may the pixel between them flip?

    It is simple if one 4-connected component of the inside touches its four neighbours, and one 8-connected component
    of the outside its eight, both looked for among the eight: then neither flip joins, parts, adds or deletes a thing.
    """
    return tuple(_is_simple(code) for code in range(256))


def _is_simple(code: int) -> bool:
    inside = np.zeros((3, 3), bool)
    for bit, (row, col) in enumerate(AROUND):
        inside[1 + row, 1 + col] = code >> bit & 1
    outside = ~inside
    outside[1, 1] = False
    components = ndimage.label(inside, FOUR)[0]
    beside = {int(components[at]) for at in ((0, 1), (1, 0), (1, 2), (2, 1))} - {0}
    return len(beside) == 1 and ndimage.label(outside, EIGHT)[1] == 1


def _pairs(truth: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[int, int, int]:
    """Pairs of pixels inside of true neurites: in one of both, in one true neurite, in one predicted neurite."""
    true, found = truth[truth > 0].astype(np.int64), found[truth > 0].astype(np.int64)
    seen = found > 0
    both = np.unique(true[seen] * (int(found.max(initial=0)) + 1) + found[seen], return_counts=True)[1]
    return _choose(both), _choose(np.bincount(true)), _choose(np.bincount(found[seen]))


def _choose(sizes: NDArray[np.integer]) -> int:
    return sum(int(n) * (int(n) - 1) // 2 for n in sizes)


def _least(counts: Callable[[float], tuple[int, int, int]]) -> float:
    """1 − the largest F-score over thresholds, of (true and found, true, found)."""
    scores = []
    for threshold in THRESHOLDS:
        both, true, found = counts(threshold)
        scores.append(2 * both / (true + found) if true + found else 1.0)
    return 1 - max(scores)
