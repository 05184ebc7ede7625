"""Where a raster is looked at in order to know it without reading it, and which numbers are found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window

_MAX_EDGE = 512
"""Edge of a sampled block in pixels, at most."""


def spread_blocks(shape: tuple[int, int], block_shape: tuple[int, int], count: int) -> list[Window]:
    """Return blocks of a raster that are spread over it evenly, the first and the last among them.

    Args:
        shape: (height, width) of the raster in pixels.
        block_shape: (height, width) of its blocks; of larger ones a corner is taken.
        count: How many blocks; fewer if the raster has not so many.
    """
    whole = Window(0, 0, *shape)
    height, width = (min(edge, _MAX_EDGE) for edge in block_shape)
    rows, cols = -(-whole.height // height), -(-whole.width // width)
    places = (divmod(int(number), cols) for number in np.unique(np.linspace(0, rows * cols - 1, count).astype(int)))
    return [Window(row * height, col * width, height, width).intersection(whole) for row, col in places]


@dataclass(frozen=True)
class NumberCounts:
    """The numbers of a sample. What holds for pixels is computed once for all pixels of a number.

    Attributes:
        numbers: Distinct numbers in ascending order, shape (n,); none is NaN.
        counts: How many pixels have each of them, shape (n,).
    """

    numbers: NDArray[Any]
    counts: NDArray[np.intp]

    @staticmethod
    def count(parts: Sequence[NDArray[Any]]) -> NumberCounts:
        """Count the numbers in arrays of any shape and one type."""
        dtype = parts[0].dtype
        if not np.issubdtype(dtype, np.integer) or dtype.itemsize > 2:
            return NumberCounts(*np.unique(np.concatenate([part.ravel() for part in parts]), return_counts=True))
        least, largest = np.iinfo(dtype).min, np.iinfo(dtype).max
        counts = np.zeros(largest - least + 1, dtype=np.intp)
        for part in parts:
            counts += np.bincount(part.ravel().astype(np.intp) - least, minlength=counts.size)
        there = np.flatnonzero(counts)
        return NumberCounts((there + least).astype(dtype), counts[there])

    @cached_property
    def size(self) -> int:
        """How many pixels there are."""
        return int(self.counts.sum())

    @cached_property
    def middle(self) -> NDArray[Any]:
        """The two numbers whose mean is the median, which are one if the size is odd; shape (2,)."""
        return self._take(np.array([(self.size - 1) // 2, self.size // 2]))

    def compute_quantile(self, share: float) -> float:
        """Return the number below which a share of the pixels lies, as ``numpy.quantile`` does; infinity without."""
        if not self.size:
            return np.inf
        place = share * (self.size - 1)
        low = int(place)
        return float(np.quantile(self._take(np.array([low, min(low + 1, self.size - 1)])), place - low))

    def measure_share(self, where: NDArray[np.bool_]) -> float:
        """Return the share of pixels whose numbers are marked, shape (n,); 0 if there are none."""
        return int(self.counts[where].sum()) / max(self.size, 1)

    def select(self, where: NDArray[np.bool_]) -> NumberCounts:
        """Return the pixels whose numbers are marked, shape (n,)."""
        return NumberCounts(self.numbers[where], self.counts[where])

    def _take(self, places: NDArray[np.intp]) -> NDArray[Any]:
        """Return the numbers at some places of all pixels in ascending order."""
        return np.asarray(self.numbers[np.searchsorted(np.cumsum(self.counts), places, side="right")])
