"""Agreement between predicted and true labels: confusion matrix, scores of it, and boundaries.

A confusion matrix has the shape (classes, classes) and the axes (truth, predicted).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Numbers = NDArray[np.int64] | NDArray[np.float64] | np.integer


def confusion_matrix(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count the pixels of every pair of true and predicted label.

    Args:
        predicted: predicted labels, of any shape.
        truth: true labels, of the same shape.
        classes: number of classes. Pixels whose label is outside of 0 to ``classes`` − 1 in either raster, such as
            nodata, are not counted.

    Returns:
        Counts with the axes (truth, predicted) and the shape (classes, classes).
    """
    known = (truth < classes) & (predicted < classes)
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return intersection over union of each class; NaN for a class that neither raster has."""
    both = np.diag(matrix)
    return _divide(both, matrix.sum(0) + matrix.sum(1) - both)


def precision(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of the pixels predicted as a class that truly have it; NaN for a class never predicted."""
    return _divide(np.diag(matrix), matrix.sum(0))


def recall(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of the pixels that truly have a class that were predicted as it; NaN for a class not there."""
    return _divide(np.diag(matrix), matrix.sum(1))


def f1(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the harmonic mean of precision and recall of each class; NaN for a class that neither raster has."""
    return _divide(2 * np.diag(matrix), matrix.sum(0) + matrix.sum(1))


def accuracy(matrix: NDArray[np.int64]) -> float:
    """Return the share of the pixels whose class was predicted right; NaN without pixels."""
    return float(_divide(np.trace(matrix), matrix.sum()))


def kappa(matrix: NDArray[np.int64]) -> float:
    """Return Cohen's kappa (1960), (accuracy − expected) / (1 − expected); NaN where chance alone is always right."""
    total = float(matrix.sum())
    expected = float(matrix.sum(0).astype(float) @ matrix.sum(1).astype(float)) / total**2 if total else 1.0
    return (accuracy(matrix) - expected) / (1 - expected) if expected < 1 else float("nan")


@dataclass(frozen=True)
class BoundaryCounts:
    """Boundary pixels of each class, arrays of shape (classes,). Counts of several blocks can be added.

    Attributes:
        predicted: boundary pixels in the predicted labels.
        predicted_near: those of them near a boundary pixel of the same class in the true labels.
        true: boundary pixels in the true labels.
        true_near: those of them near a boundary pixel of the same class in the predicted labels.
    """

    predicted: NDArray[np.int64]
    predicted_near: NDArray[np.int64]
    true: NDArray[np.int64]
    true_near: NDArray[np.int64]

    @classmethod
    def zeros(cls, classes: int) -> BoundaryCounts:
        """Return counts of zero, to which others are added."""
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
        """Boundary F1 of each class (Csurka et al. 2013); NaN where neither raster has a boundary."""
        boundary_precision = _divide(self.predicted_near, self.predicted, where_zero=0.0)
        boundary_recall = _divide(self.true_near, self.true, where_zero=0.0)
        score = _divide(2 * boundary_precision * boundary_recall, boundary_precision + boundary_recall, where_zero=0.0)
        has_none = self.predicted + self.true == 0
        return np.where(has_none, np.nan, score)


def count_boundaries(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int, tolerance: int, inner: tuple[slice, slice]
) -> BoundaryCounts:
    """Count the boundary pixels of each class, and how many of them lie near a boundary of the other raster.

    A boundary pixel has a neighbour (left, right, above, below) of another class. Labels outside of 0 to
    ``classes`` − 1 make no boundary.

    Args:
        predicted: predicted labels (rows, cols).
        truth: true labels (rows, cols).
        classes: number of classes.
        tolerance: pixels up to which a boundary is near.
        inner: rows and columns in which pixels are counted. The arrays hold ``tolerance`` + 1 pixels around them,
            except at the edge of the scene.

    Returns:
        The counts of every class.
    """
    from scipy import ndimage  # takes a third of a second, and only evaluations need it

    offsets = np.arange(-tolerance, tolerance + 1)
    disc = np.hypot(*np.meshgrid(offsets, offsets)) <= tolerance
    counts = np.zeros((4, classes), np.int64)
    for label in range(classes):
        ours, theirs = (_find_boundary(labels, label, classes) for labels in (predicted, truth))
        for row, (boundary, other) in enumerate(((ours, theirs), (theirs, ours))):
            if not boundary[inner].any():
                continue
            near = ndimage.binary_dilation(other, disc) if other.any() else other
            counts[2 * row, label] = np.count_nonzero(boundary[inner])
            counts[2 * row + 1, label] = np.count_nonzero((boundary & near)[inner])
    return BoundaryCounts(*counts)


def _find_boundary(labels: NDArray[np.uint8], label: int, classes: int) -> NDArray[np.bool_]:
    """Return a mask of the pixels of a class that have a neighbour of another class."""
    own, other = labels == label, (labels != label) & (labels < classes)
    has_other_neighbour = np.zeros(labels.shape, np.bool_)
    has_other_neighbour[:-1] |= other[1:]
    has_other_neighbour[1:] |= other[:-1]
    has_other_neighbour[:, :-1] |= other[:, 1:]
    has_other_neighbour[:, 1:] |= other[:, :-1]
    boundary: NDArray[np.bool_] = has_other_neighbour & own
    return boundary


def _divide(part: _Numbers, whole: _Numbers, where_zero: float = np.nan) -> NDArray[np.float64]:
    """Return part / whole, and ``where_zero`` where the whole is 0."""
    parts, wholes = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result = np.full(wholes.shape, where_zero)
    np.divide(parts, wholes, out=result, where=wholes > 0)
    return result
