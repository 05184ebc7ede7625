"""A small picture of a scene, without reading the whole of a large one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.rasters import environment, opened
from pipeline.scene import Band, Scene

WHOLE = 50_000_000
"""Pixels that are read in full where a file has no overviews."""


def read_thumbnail(
    scene: Scene, bands: Sequence[Band], size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Bands (n, height, width) thinned to at most ``size`` pixels a side, and where any has data (height, width).

    Uses the files' overviews; ``None`` for a large file that has none, since all of it would be read.
    """
    height, width = scene.grid.shape
    step = max(1, math.ceil(max(height, width) / size))
    shape = math.ceil(height / step), math.ceil(width / step)
    pixels = np.empty((len(bands), *shape), np.float32)
    valid = np.zeros(shape, np.bool_)
    for values, band in zip(pixels, bands, strict=True):
        with environment(band.path):
            dataset = opened(band.path).dataset
            if height * width > WHOLE and not dataset.overviews(band.index):
                return None
            values[:] = dataset.read(band.index, out_shape=shape)
            valid |= (dataset.read_masks(band.index, out_shape=shape) > 0) & (values != band.nodata)
    return pixels, valid
