"""Which band of a raster is an alpha band, by its colour interpretation and by its pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError

from seamline.pipeline.geometry.sampling import spread_blocks
from seamline.pipeline.geometry.window import Window

_SAMPLED_BLOCKS = 5
_PARTIAL_SHARE = 0.5
"""Share of pixels that are neither clear nor opaque from which on a band is no alpha band; soft edges are less."""
_OPAQUE = (1, 255, 32767, 65535)
"""Numbers of opaque pixels, by the type of the band."""
_RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
_NO_COLOURS = {ColorInterp.undefined, ColorInterp.gray}
_NAME = re.compile(r"alpha|mask|opa|transp|valid|(?:band|layer|channel|b)?[ _.-]*\d+", re.IGNORECASE)
"""Description of a band that may be an alpha band; other descriptions name what it shows."""
_ALPHA_NAME = re.compile(r"alpha\b", re.IGNORECASE)


def find_alpha(dataset: Any, read: Callable[[int, Window], NDArray[Any]]) -> int | None:
    """Return the index of the alpha band, counted from 1; None if there is none.

    A band that is tagged as alpha may be near infrared, which programs tag so as the fourth band of a picture: its
    description says so, or most of its pixels are neither clear nor opaque. And the last band of a picture, or one
    that is described as alpha, may be an alpha band without a tag: it holds nothing but 0 and the number of opaque
    pixels.

    Args:
        dataset: An open rasterio dataset.
        read: Reads a window of one of its bands.
    """
    kinds = list(dataset.colorinterp)
    if not kinds:
        return None
    index = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else len(kinds)
    description = (dataset.descriptions[index - 1] or "").strip()
    if description and not _NAME.match(description):
        return None
    if ColorInterp.alpha in kinds:
        return index if _measure_partial(_read_sample(dataset, index, read)) < _PARTIAL_SHARE else None
    has_colours = kinds[:3] == _RGB
    is_picture = len(kinds) == len(_RGB) + 1 and set(kinds) <= _NO_COLOURS and dataset.dtypes[-1] == "uint8"
    is_named = _ALPHA_NAME.match(description) is not None
    if is_named or (len(kinds) > len(_RGB) and (has_colours or is_picture)):
        sample = _read_sample(dataset, index, read)
        if sample.size and sample.max() in _OPAQUE and _measure_partial(sample) == 0:
            return index
    return None


def _read_sample(dataset: Any, index: int, read: Callable[[int, Window], NDArray[Any]]) -> NDArray[Any]:
    parts = []
    for block in spread_blocks((dataset.height, dataset.width), dataset.block_shapes[index - 1], _SAMPLED_BLOCKS):
        with suppress(RasterioIOError):  # reported with its place when the scene is read
            parts.append(read(index, block).ravel())
    return np.concatenate(parts) if parts else np.empty(0)


def _measure_partial(sample: NDArray[Any]) -> float:
    """Return the share of a sample of a band that is neither 0 nor the largest number there is."""
    return float(((sample != 0) & (sample != sample.max())).mean()) if sample.size else 0.0
