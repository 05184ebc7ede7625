"""Counted numbers tell what the pixels tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seamline.pipeline.geometry.sampling import NumberCounts

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def make_pixels(dtype: str, size: int) -> Any:
    pixels = np.random.default_rng(size).normal(60, 30, size)
    return np.clip(pixels, 0 if dtype.startswith("u") else -120, 120).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 5, 100, 1001])
def test_counted_numbers_have_the_median_and_the_shares_of_all_pixels(dtype: str, size: int) -> None:
    pixels = make_pixels(dtype, size)
    counts = NumberCounts.count([pixels[: size // 2], pixels[size // 2 :].reshape(1, -1)])
    assert counts.size == size and counts.numbers.dtype == dtype
    np.testing.assert_array_equal(np.repeat(counts.numbers, counts.counts), np.sort(pixels))
    for scale, offset in ((1e-4, -0.1), (-2.5, 3.0), (1.0, 0.0)):
        values, own = pixels.astype(float) * scale + offset, counts.numbers.astype(float) * scale + offset
        assert np.median(counts.middle.astype(float) * scale + offset) == np.median(values)
        limit = float(np.mean(values))
        assert counts.measure_share(own < limit) == (values < limit).mean()
    assert counts.compute_quantile(0.05) == pytest.approx(np.quantile(pixels.astype(float), 0.05), rel=1e-6)
    if np.issubdtype(dtype, np.integer):
        assert counts.compute_quantile(0.05) == np.quantile(pixels, 0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_of_no_pixels_has_no_numbers(dtype: str) -> None:
    counts = NumberCounts.count([np.empty((0, 4), dtype), np.empty(0, dtype)])
    assert counts.size == 0 and counts.measure_share(counts.numbers < 1) == 0
    assert counts.compute_quantile(0.05) == np.inf


def test_numbers_that_are_selected_keep_their_counts() -> None:
    counts = NumberCounts.count([np.array([3, 1, 3, 2], "uint16")])
    chosen = counts.select(counts.numbers > 1)
    assert (chosen.numbers.tolist(), chosen.counts.tolist(), chosen.size) == ([2, 3], [1, 2], 3)
