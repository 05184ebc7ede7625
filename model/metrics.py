"""Agreement between two label rasters: confusion matrix and what follows from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts (truth, predicted), shape (classes, classes). Pixels with a label outside 0..classes−1 in either
    raster, such as nodata, are left out."""
    known = (truth < classes) & (predicted < classes)
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, NaN for a class that neither raster has."""
    both = np.diag(matrix).astype(np.float64)
    either = matrix.sum(0) + matrix.sum(1) - both
    scores: NDArray[np.float64] = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
    return scores
