"""How alike two label maps are: the check that an engine or a precision is good enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def argmax_labels(scores: Tensor) -> NDArray[np.uint8]:
    """Return the class with the highest score of each pixel, (H, W), of scores (classes, H, W)."""
    return np.asarray(scores.argmax(0).cpu().numpy()).astype(np.uint8)


def compute_agreement(labels: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the share of pixels (H, W) with equal labels, in the quarter of the window where that share is least.

    A sample is small beside its scene, and most of it may be easy. Its hardest quarter says more about the scene.
    """
    equal = labels == reference
    return min(
        float(quarter.mean()) for half in np.array_split(equal, 2) for quarter in np.array_split(half, 2, axis=1)
    )
