"""Which band of a raster is an alpha band, by its colour interpretation and by its pixels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.sampling import spread_blocks

_SAMPLED_BLOCKS = 5
_MOST = 0.5
"""Share of pixels that are neither clear nor opaque from which on a band is no alpha band; soft edges are less."""
_RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]


def find_alpha(dataset: Any, read: Callable[[int, Window], NDArray[Any]]) -> int | None:
    """Return the index of the alpha band, counted from 1; None if there is none.

    A band that is tagged as alpha may be near infrared, which programs tag so as the fourth band of a picture: most of
    its pixels are neither clear nor opaque. And the fourth band of a picture of eight bits may be an alpha band without
    a tag, which holds nothing but 0 and one other number.

    Args:
        dataset: An open rasterio dataset.
        read: Reads a window of one of its bands.
    """
    kinds = list(dataset.colorinterp)
    if ColorInterp.alpha in kinds:
        index = kinds.index(ColorInterp.alpha) + 1
        return None if len(kinds) == len(_RGB) + 1 and _measure_partial(dataset, index, read) > _MOST else index
    if kinds[:3] == _RGB and len(kinds) == len(_RGB) + 1 and dataset.dtypes[-1] == "uint8":
        return len(kinds) if _measure_partial(dataset, len(kinds), read) == 0 else None
    return None


def _measure_partial(dataset: Any, index: int, read: Callable[[int, Window], NDArray[Any]]) -> float:
    """Return the share of a sample of a band that is neither 0 nor the largest number there is."""
    parts = []
    for block in spread_blocks((dataset.height, dataset.width), dataset.block_shapes[index - 1], _SAMPLED_BLOCKS):
        with suppress(RasterioIOError):  # reported with its place when the scene is read
            parts.append(read(index, block).ravel())
    if not parts:
        return 0.0
    numbers = np.concatenate(parts)
    return float(((numbers != 0) & (numbers < numbers.max())).mean()) if numbers.size else 0.0
