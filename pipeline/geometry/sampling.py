"""Where a raster is looked at in order to know it without reading it."""

from __future__ import annotations

import numpy as np

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
