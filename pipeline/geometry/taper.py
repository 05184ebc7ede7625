"""The weights of a tile's votes along one axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.votes import Array
from seamline.pipeline.geometry.window import Window


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


class DeviceTapers:
    """The tapers of a tiling's tiles on a device, which get there once for each object of this class."""

    def __init__(self, tiling: Tiling, upload: Callable[[NDArray[np.float64]], Array]) -> None:
        """Upload nothing yet.

        Args:
            tiling: the tiling.
            upload: returns an array on the device.
        """
        self._tiling, self._upload = tiling, upload
        self._kept: dict[tuple[bool, bool], Array] = {}

    def of(self, tile: Index, support: Window) -> tuple[Array, Array]:
        """Return the tapers along the rows and columns of a tile's support, as far as it lies in the scene."""
        last_row, last_col = self._tiling.tile_grid
        down = self._get(tile.row > 0, tile.row < last_row - 1)
        across = self._get(tile.col > 0, tile.col < last_col - 1)
        return down[: support.height], across[: support.width]

    def _get(self, rises: bool, falls: bool) -> Array:
        if (rises, falls) not in self._kept:
            taper = make_taper(self._tiling.support, self._tiling.overlap, rises, falls)
            self._kept[rises, falls] = self._upload(taper)
        return self._kept[rises, falls]
