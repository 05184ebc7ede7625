"""Agreement between predicted and true labels: counts, and the scores that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Numbers = NDArray[np.int64] | NDArray[np.float64] | np.integer


def confusion_matrix(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts (truth, predicted), shape (classes, classes). Pixels with a label outside 0..classes−1 in either
    raster, such as nodata, are left out."""
    known = (truth < classes) & (predicted < classes)
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, NaN for a class that neither raster has."""
    both = np.diag(matrix)
    return _divide(both, matrix.sum(0) + matrix.sum(1) - both)


def precision(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the pixels that were given a class, the share that has it; NaN for a class that none was given."""
    return _divide(np.diag(matrix), matrix.sum(0))


def recall(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the pixels that have a class, the share that was given it; NaN for a class that none has."""
    return _divide(np.diag(matrix), matrix.sum(1))


def f1(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall of each class; NaN for a class that neither raster has."""
    return _divide(2 * np.diag(matrix), matrix.sum(0) + matrix.sum(1))


def accuracy(matrix: NDArray[np.int64]) -> float:
    """Share of the pixels that were given the class they have; NaN without pixels."""
    return float(_divide(np.trace(matrix), matrix.sum()))


def kappa(matrix: NDArray[np.int64]) -> float:
    """Agreement beyond chance (Cohen 1960): (accuracy − expected) / (1 − expected); NaN where chance is certain."""
    total = float(matrix.sum())
    expected = float(matrix.sum(0).astype(float) @ matrix.sum(1).astype(float)) / total**2 if total else 1.0
    return (accuracy(matrix) - expected) / (1 - expected) if expected < 1 else float("nan")


@dataclass(frozen=True)
class BoundaryCounts:
    """Of each class: boundary pixels predicted and true, and how many of them lie near one of the other."""

    predicted: NDArray[np.int64]
    predicted_near: NDArray[np.int64]
    true: NDArray[np.int64]
    true_near: NDArray[np.int64]

    @classmethod
    def zeros(cls, classes: int) -> BoundaryCounts:
        """The sum of nothing."""
        return cls(*(np.zeros(classes, np.int64) for _ in range(4)))

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            self.predicted + other.predicted,
            self.predicted_near + other.predicted_near,
            self.true + other.true,
            self.true_near + other.true_near,
        )

    @property
    def f1(self) -> NDArray[np.float64]:
        """Boundary F1 of each class (Csurka et al. 2013); NaN where neither has a boundary."""
        right = _divide(self.predicted_near, self.predicted, nothing=0.0)
        found = _divide(self.true_near, self.true, nothing=0.0)
        nowhere = self.predicted + self.true == 0
        return np.where(nowhere, np.nan, _divide(2 * right * found, right + found, nothing=0.0))


def count_boundaries(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int, tolerance: int, inner: tuple[slice, slice]
) -> BoundaryCounts:
    """Count boundary pixels in ``inner``; those within ``tolerance`` pixels of one of the other raster are near.

    A boundary pixel has a neighbour (left, right, above, below) of another class; labels outside of 0..classes−1 make
    no boundary. The arrays hold ``tolerance`` + 1 pixels around ``inner``, where there are any.
    """
    reach = np.arange(-tolerance, tolerance + 1)
    disc = np.hypot(*np.meshgrid(reach, reach)) <= tolerance
    counts = np.zeros((4, classes), np.int64)
    for label in range(classes):
        ours, theirs = (_find_boundary(labels, label, classes) for labels in (predicted, truth))
        for row, (edge, other) in enumerate(((ours, theirs), (theirs, ours))):
            if not edge[inner].any():
                continue
            near = ndimage.binary_dilation(other, disc) if other.any() else other
            counts[2 * row, label] = np.count_nonzero(edge[inner])
            counts[2 * row + 1, label] = np.count_nonzero((edge & near)[inner])
    return BoundaryCounts(*counts)


def _find_boundary(labels: NDArray[np.uint8], label: int, classes: int) -> NDArray[np.bool_]:
    own, other = labels == label, (labels != label) & (labels < classes)
    edge = np.zeros(labels.shape, np.bool_)
    edge[:-1] |= other[1:]
    edge[1:] |= other[:-1]
    edge[:, :-1] |= other[:, 1:]
    edge[:, 1:] |= other[:, :-1]
    result: NDArray[np.bool_] = edge & own
    return result


def _divide(part: Numbers, whole: Numbers, nothing: float | NDArray[np.float64] = np.nan) -> NDArray[np.float64]:
    """part / whole; ``nothing`` where the whole is 0."""
    parts, wholes = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result = np.array(np.broadcast_to(np.asarray(nothing, np.float64), wholes.shape))
    np.divide(parts, wholes, out=result, where=wholes > 0)
    return result
