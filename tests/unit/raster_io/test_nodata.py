"""Which pixels have the nodata value of a file, as precisely as files state it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.raster_io.nodata import is_nodata

LOWEST = float(np.finfo("float32").min)


@pytest.mark.parametrize(
    ("pixel", "dtype", "stated"),
    [
        (LOWEST, "float32", LOWEST),
        (LOWEST, "float32", -3.40282e38),  # six digits
        (LOWEST, "float32", -3.40282306073709653e38),  # ESRI's
        (2.0**127, "float32", 1.70141e38),  # GRASS
        (np.finfo("float64").min, "float64", -1.79769e308),
        (0.1, "float32", 0.1),
        (-9999.9, "float32", -9999.9),
        (np.nan, "float32", np.nan),
        (-np.inf, "float64", -np.inf),
        (-9999, "int16", -9999),
    ],
)
def test_values_that_files_state_with_fewer_digits_are_found(pixel: float, dtype: str, stated: float) -> None:
    pixels = np.array([pixel, 0, 1, 0.25], dtype=dtype)
    assert is_nodata(pixels, stated).tolist() == [True, False, False, False]


@given(st.floats(-1e6, 1e6, width=32), st.sampled_from(["float32", "float64"]))
def test_no_measured_value_is_taken_for_another(value: float, dtype: str) -> None:
    pixels = np.array([value, value * 1.0001 + 0.001, value * 0.9999 - 0.001], dtype=dtype)
    assert is_nodata(pixels, value).tolist() == [True, False, False]


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_integers_are_compared_exactly(pixel: int, stated: int) -> None:
    assert is_nodata(np.array([pixel], dtype="int32"), float(stated)).tolist() == [pixel == stated]
