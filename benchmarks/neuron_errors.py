"""Errors of a segmentation of neurites as the ISBI 2012 challenge defined them: warping, Rand and pixel error.

The challenge was "Segmentation of neuronal structures in EM stacks"; the errors are the columns of table 1 in
Ronneberger, Fischer and Brox (2015).

The functions take lists of slices. The truth of a slice is an array (height, width) of bool, True inside of neurites,
False on membranes. A prediction is the probability of "inside", 0 to 1, (height, width). Each error is the least over
thresholds 0, 0.1, …, 1, as in the challenge's program (Fiji, Trainable_Segmentation, package ``metrics``); a pixel is
inside if its probability is above the threshold. Neurites are 4-connected, membranes 8-connected. Like the challenge,
the functions average the warping error over slices, and count pairs and pixels over all slices before they take the
F-score.

Sources: the challenge's page "Evaluation"; Jain et al., Boundary learning by optimization with topological constraints,
CVPR 2010 (warping error); Rand, Objective criteria for the evaluation of clustering methods, 1971; Bertrand and
Malandain, Pattern Recognition Letters 15, 1994 (simple points); Arganda-Carreras et al., Frontiers in Neuroanatomy 9,
2015 (the challenge in retrospect, which replaced all three).

Published sources do not say which version of the warping error the leader board used at which time. It later ranked by
"minimum splits and mergers warping error", which leaves out mismatches that only add or delete objects and holes. Here
all mismatches count, as in Jain et al., so this warping error is the larger one.
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
NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Steps (row, column) to the eight neighbours of a pixel, in the order of the bits in ``list_simple_points``."""


def compute_warping_error(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """Return the mean share of pixels that differ after the truth was warped towards the prediction.

    Warping does not change the truth's topology; see ``find_mismatches``. The mean is over slices, the least over
    thresholds counts.
    """
    return min(
        float(np.mean([find_mismatches(t, p, threshold).mean() for t, p in zip(truth, predicted, strict=True)]))
        for threshold in THRESHOLDS
    )


def compute_rand_error(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """Return 1 − the largest F-score of Rand's pairs, restricted to the pixels inside of true neurites.

    A pair of pixels of one slice is true if both are in one true neurite, and predicted if both are in one predicted
    neurite. A pixel that is predicted to be membrane is in no pair. Precision is the share of predicted pairs that are
    true, recall the share of true pairs that are predicted.
    """
    labels = [ndimage.label(t, FOUR)[0] for t in truth]

    def count(threshold: float) -> tuple[int, int, int]:
        slices = [
            _count_pairs(t, ndimage.label(p > threshold, FOUR)[0]) for t, p in zip(labels, predicted, strict=True)
        ]
        both, true, positive = (sum(column) for column in zip(*slices, strict=True))
        return both, true, positive

    return _find_least_error(count)


def compute_pixel_error(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """Return 1 − the largest F-score of the pixels inside of neurites.

    The challenge's page defines it as "1 − the maximal F-score of pixel similarity, or squared Euclidean distance". The
    squared distance of labels is ``compute_wrong_share``, which is another number.
    """

    def count(threshold: float) -> tuple[int, int, int]:
        slices = [(t, p > threshold) for t, p in zip(truth, predicted, strict=True)]
        both = sum(int((t & p).sum()) for t, p in slices)
        return both, sum(int(t.sum()) for t, _ in slices), sum(int(p.sum()) for _, p in slices)

    return _find_least_error(count)


def compute_wrong_share(truth: Sequence[Mask], predicted: Sequence[Probability]) -> float:
    """Return the share of wrong pixels, the mean over slices; the least over thresholds counts."""
    return min(
        float(np.mean([(t != (p > threshold)).mean() for t, p in zip(truth, predicted, strict=True)]))
        for threshold in THRESHOLDS
    )


def find_mismatches(truth: Mask, predicted: Probability, threshold: float) -> Mask:
    """Warp the truth towards the prediction and return the pixels that still differ.

    Pixels that differ are flipped if they are simple (see ``list_simple_points``), those with the surest prediction
    first, again and again until no simple one is left. Outside of the image everything is membrane. The result depends
    on the order, and pixels that agree are never flipped, so it is a local minimum, as in the challenge's program: a
    membrane that moved by more than its own width counts as an error.

    Args:
        truth: (height, width), True inside of neurites.
        predicted: probability of "inside" (height, width).
        threshold: above which a predicted pixel is inside.

    Returns:
        True on the pixels that differ, (height, width).
    """
    height, width = truth.shape
    wide = width + 2
    warped = bytearray(np.pad(truth, 1).astype(np.uint8).tobytes())
    target = predicted > threshold
    rows, cols = np.nonzero(truth != target)
    order = np.argsort(-np.abs(predicted[rows, cols] - threshold), kind="stable")
    candidates = ((rows[order] + 1) * wide + cols[order] + 1).tolist()
    is_simple = list_simple_points()
    a, b, c, d, e, f, g, h = (row * wide + col for row, col in NEIGHBOURS)
    while True:
        remaining = []
        for at in candidates:
            # The neighbours as bits, written out because this is the innermost loop.
            code = warped[at + a] | warped[at + b] << 1 | warped[at + c] << 2 | warped[at + d] << 3
            code |= warped[at + e] << 4 | warped[at + f] << 5 | warped[at + g] << 6 | warped[at + h] << 7
            if is_simple[code]:
                warped[at] ^= 1
            else:
                remaining.append(at)
        if len(remaining) == len(candidates):
            break
        candidates = remaining
    result = np.frombuffer(warped, np.uint8).reshape(height + 2, wide)[1:-1, 1:-1].astype(bool)
    return np.asarray(result != target)


@cache
def list_simple_points() -> tuple[bool, ...]:
    """Return for each neighbourhood whether its middle pixel can be flipped without a change of topology.

    The index is the neighbourhood: one bit for each of the eight neighbours, 1 inside, in the order of ``NEIGHBOURS``.
    A pixel is simple if exactly one 4-connected component of the inside among the eight neighbours touches the pixel's
    four neighbours, and exactly one 8-connected component of the outside is among the eight. Then a flip does not
    join, part, add or delete any component.
    """
    return tuple(_is_simple(code) for code in range(256))


def _is_simple(code: int) -> bool:
    inside = np.zeros((3, 3), bool)
    for bit, (row, col) in enumerate(NEIGHBOURS):
        inside[1 + row, 1 + col] = code >> bit & 1
    outside = ~inside
    outside[1, 1] = False
    components = ndimage.label(inside, FOUR)[0]
    beside = {int(components[at]) for at in ((0, 1), (1, 0), (1, 2), (2, 1))} - {0}
    return len(beside) == 1 and ndimage.label(outside, EIGHT)[1] == 1


def _count_pairs(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> tuple[int, int, int]:
    """Count pairs of pixels inside of true neurites: in one neurite of both, in a true one, in a predicted one."""
    true, positive = truth[truth > 0].astype(np.int64), predicted[truth > 0].astype(np.int64)
    inside = positive > 0
    both = np.unique(true[inside] * (int(positive.max(initial=0)) + 1) + positive[inside], return_counts=True)[1]
    return _sum_pairs(both), _sum_pairs(np.bincount(true)), _sum_pairs(np.bincount(positive[inside]))


def _sum_pairs(sizes: NDArray[np.integer]) -> int:
    """Return the number of pairs within groups of these sizes."""
    return sum(int(n) * (int(n) - 1) // 2 for n in sizes)


def _find_least_error(count: Callable[[float], tuple[int, int, int]]) -> float:
    """Return 1 − the largest F-score over thresholds, from counts of (true and predicted, true, predicted)."""
    scores = []
    for threshold in THRESHOLDS:
        both, true, positive = count(threshold)
        scores.append(2 * both / (true + positive) if true + positive else 1.0)
    return 1 - max(scores)
