"""The weights of a tile's votes along one axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def make_taper(support: int, overlap: int, rises: bool, falls: bool) -> NDArray[np.float64]:
    """Return the weights of a tile along one axis: a raised cosine over each overlap, one elsewhere.

    The weights of two neighbouring tiles sum to exactly one, because the falling side is computed as one minus the
    rising side. On a side without a neighbour the weights stay one, so that the weights on every pixel of a scene sum
    to one.

    Args:
        support: Length of the tile's support in pixels.
        overlap: Length in pixels of the band that the tile shares with a neighbour.
        rises: Whether a neighbour lies before the tile.
        falls: Whether a neighbour lies behind the tile.

    Returns:
        Weights in [0, 1], shape (support,).
    """
    weights = np.ones(support)
    if overlap:
        rising = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
        if rises:
            weights[:overlap] = rising
        if falls:
            weights[support - overlap :] = 1.0 - rising
    return weights
