"""Normalisation of images: mean and standard deviation of each band, measured on the training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec.errors import ModelError
from seamline.model.training.data import LabelledSource, sample_blocks


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each band, in the unit of the images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_images(cls, images: Sequence[LabelledSource]) -> Normalisation:
        """Measure mean and standard deviation over all images, of large images over a sample of their blocks.

        An image counts by its weight, that is how often windows are drawn from it, not by its size.

        Raises:
            ModelError: an image has no data, or a band is constant or not finite.
        """
        odds = np.array([image.weight for image in images]) / sum(image.weight for image in images)
        moments = np.tensordot(odds, np.array([_compute_moments(image) for image in images]), 1)
        means = moments[0]
        deviations = np.round(np.sqrt(np.maximum(moments[1] - means**2, 0)), 5)
        for number, (mean, deviation) in enumerate(zip(means, deviations, strict=True), start=1):
            if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
                raise ModelError(
                    f"band {number} of the training images",
                    got=f"a mean of {mean:g} and a deviation of {deviation:g}",
                    expected="finite values that differ by more than 0.00001",
                    fix="check the sources and their scales",
                )
        return cls(tuple(np.round(means, 5).tolist()), tuple(deviations.tolist()))

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise (…, bands, height, width); NaN, which stands for no data, becomes 0."""
        mean = np.array(self.mean, np.float32)[:, None, None]
        std = np.array(self.std, np.float32)[:, None, None]
        normalised: NDArray[np.float32] = np.nan_to_num((pixels - mean) / std, nan=0.0)
        return normalised


def _compute_moments(image: LabelledSource) -> NDArray[np.float64]:
    """Return (2, bands): mean and mean square of each band, over the pixels that have data."""
    rows = []
    for area in sample_blocks(image):
        pixels = image.pixels(area)
        squares = np.square(pixels, dtype=np.float64)
        rows.append([np.isfinite(pixels).sum((1, 2)), _sum_pixels(pixels), _sum_pixels(squares)])
    totals = np.asarray(rows, np.float64).sum(0)  # (3, bands): number of pixels, sum, sum of squares
    if not totals[0].all():
        raise ModelError(
            f"source {image.name!r}",
            got="no pixel that has data in all bands",
            expected="some",
            fix="correct the recipe or the data",
        )
    moments: NDArray[np.float64] = totals[1:] / totals[0]
    return moments


def _sum_pixels(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.nansum(values, (1, 2), dtype=np.float64))
