"""Statistics of the digital numbers in a band of a raster, as GDAL keeps them in its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ROWS_AT_ONCE = 512
"""Rows that numpy counts at a time; it makes integers of eight bytes of all of them."""
_NAMES = {"maximum": "MAXIMUM", "mean": "MEAN", "minimum": "MINIMUM", "stddev": "STDDEV"}


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of the valid digital numbers of a band.

    Attributes:
        minimum: smallest one.
        maximum: largest one.
        mean: their mean.
        stddev: their standard deviation.
    """

    minimum: float
    maximum: float
    mean: float
    stddev: float

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> BandStatistics | None:
        """Return what the metadata of a band say; None where they have no statistics."""
        keys = {field: f"STATISTICS_{name}" for field, name in _NAMES.items()}
        if not set(keys.values()) <= set(tags):
            return None
        return cls(**{field: float(tags[key]) for field, key in keys.items()})

    def to_fields(self) -> dict[str, float]:
        """Return them as STAC names them."""
        return asdict(self)


def describe_histogram(histogram: Sequence[int], nodata: int) -> dict[str, str]:
    """Return the metadata in which GDAL keeps the statistics of a band; none of a band without valid values.

    Args:
        histogram: how often each digital number occurs.
        nodata: the number that is left out.
    """
    counts = [(value, count) for value, count in enumerate(histogram) if count and value != nodata]
    valid = sum(count for _, count in counts)
    if not valid:
        return {}
    total, squares = (sum(value**power * count for value, count in counts) for power in (1, 2))
    return {
        "STATISTICS_MAXIMUM": f"{counts[-1][0]}",
        "STATISTICS_MEAN": f"{total / valid:.14g}",
        "STATISTICS_MINIMUM": f"{counts[0][0]}",
        "STATISTICS_STDDEV": f"{math.sqrt(squares * valid - total**2) / valid:.14g}",
        "STATISTICS_VALID_PERCENT": f"{100 * valid / sum(histogram):.4g}",
    }


def count_numbers(band: NDArray[Any]) -> NDArray[np.int64]:
    """Return how often each number of its type, an unsigned one, occurs in a band (height, width)."""
    if band.dtype == np.uint8:  # Pillow counts several times as fast as numpy does
        return np.array(Image.fromarray(np.ascontiguousarray(band)).histogram())
    counts = np.zeros(int(np.iinfo(band.dtype).max) + 1, np.int64)
    for start in range(0, len(band), _ROWS_AT_ONCE):
        counts += np.bincount(band[start : start + _ROWS_AT_ONCE].ravel(), minlength=len(counts))
    return counts
