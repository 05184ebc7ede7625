"""Which pixels have the nodata value of a file, which hold a measured number, and how types hold numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXTREME = 1e15
"""Magnitude from which values are never measured, but mark missing pixels: 1e20 (CF), 9.97e36 (NetCDF), the largest
float. Files state them with six digits or more."""


def has_number(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where pixels hold a number that was measured: finite, not as large as only marks are, and not nodata.

    Args:
        pixels: Numbers of any shape.
        nodata: The value of missing pixels as the file or the user states it; None if there is none.
    """
    if not np.issubdtype(pixels.dtype, np.floating):
        return np.ones(pixels.shape, dtype=bool) if nodata is None else ~is_nodata(pixels, nodata)
    measured = np.asarray(np.abs(pixels) < _EXTREME)  # NaN is not
    return measured if nodata is None else measured & ~is_nodata(pixels, nodata)


def is_nodata(pixels: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Return where pixels have the nodata value, as precisely as files state it.

    Integers are compared exactly. Floats may differ by two units in the last place of float32, as in GDAL; values near
    the largest float by 1/100,000, because programs write "-3.40282e+38" for it. NaN is equal to NaN.

    Args:
        pixels: Numbers of any shape.
        nodata: The value as the file or the user states it.
    """
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        if not (limits.min <= nodata <= limits.max and float(nodata).is_integer()):
            return np.zeros(pixels.shape, dtype=bool)
        return np.asarray(pixels == pixels.dtype.type(nodata))  # in its own type, which takes a seventh of the time
    if not np.issubdtype(pixels.dtype, np.floating):
        return np.asarray(pixels == nodata)
    if np.isnan(nodata):
        return np.asarray(np.isnan(pixels))
    if np.isinf(nodata):
        return np.asarray(pixels == nodata)
    single = float(np.finfo(np.float32).eps)
    tolerance = abs(nodata) * (1e-5 if abs(nodata) >= _EXTREME else 0.0 if pixels.dtype == np.float64 else single)
    if tolerance == 0:
        return np.asarray(pixels == pixels.dtype.type(nodata))
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = (pixels.dtype.type(nodata + side * tolerance) for side in (-1, 1))
    return np.asarray((pixels >= low) & (pixels <= high))


def round_to_dtype(value: float, dtype: np.dtype[Any]) -> float | None:
    """Return a value as pixels of a type hold it: 0.1 is another number in float32. None if no pixel can have it."""
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            held = float(dtype.type(value))
        return held if np.isinf(held) == np.isinf(value) else None
    bounds = np.iinfo(dtype)
    return value if bounds.min <= value <= bounds.max and value == int(value) else None


def format_number(number: float, dtype: np.dtype[Any]) -> str:
    """Return a number with the digits that tell it from others of its type."""
    short = f"{number:g}"
    return short if is_nodata(np.array([number], dtype), float(short))[0] else str(dtype.type(number))
