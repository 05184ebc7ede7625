"""What a training is: plain values that decide, with the images, which network comes out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec.config import UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.data import LabelledSource, sample_blocks
from seamline.model.training.losses import Loss


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: ``epochs`` of ``steps`` batches of ``batch`` windows of ``window``² pixels.

    The rate rises linearly over the first ``warmup`` share of all steps to ``rate`` and falls as a cosine.
    ``averaged``: over how many steps, about, the weights are averaged. ``patience``: after how many epochs without a
    better mean IoU on the hold-out the training stops and takes the best; 0: never, the last counts.
    """

    epochs: int = 20
    steps: int = 100
    batch: int = 8
    window: int = 256
    rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 1e-4
    averaged: int = 200
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch", "window", "averaged"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a training: got {getattr(self, name)}, expected at least 1")
        checks = (
            (0 < self.rate < math.inf, "rate", "more than 0"),
            (0 <= self.warmup <= 1, "warmup", "a share from 0 to 1"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "at least 0"),
            (self.patience >= 0, "patience", "at least 0"),
            (0 <= self.seed < 2**32, "seed", "a whole number from 0 to 2³² − 1"),
        )
        for good, name, expected in checks:
            if not good:
                raise ValueError(f"{name} of a training: got {getattr(self, name)}, expected {expected}")

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps."""
        return self.epochs * self.steps

    def compute_rate_factor(self, step: int) -> float:
        """Share of ``rate`` at a step, 0 to 1."""
        warm = max(1, round(self.warmup * self.total_steps))
        if step < warm:
            return (step + 1) / warm
        return float(0.5 + 0.5 * np.cos(np.pi * (step - warm) / max(1, self.total_steps - warm)))


@dataclass(frozen=True)
class TrainingConfig:
    """All but the images: the network, how long, how windows may look, what is minimised."""

    network: UNetConfig
    schedule: Schedule
    class_weights: tuple[float, ...]
    jitter: Jitter
    warp: Warp
    loss: Loss

    def digest(self, images: Sequence[LabelledSource], validation: Sequence[LabelledSource]) -> str:
        """SHA-256 (hex) of this and of the images: their names, sizes, weights, pixels and labels."""
        data = [
            [(image.name, image.shape, image.weight, image.digest()) for image in part] for part in (images, validation)
        ]
        return hashlib.sha256(json.dumps([asdict(self), data], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each band; pixels without data become 0 after it."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_images(cls, images: Sequence[LabelledSource]) -> Normalisation:
        """Over all images, each weighed by how often it is drawn, not by its size; of large ones a part.

        Raises ``ModelError`` for an image without data, or a band that cannot be normalised.
        """
        odds = np.array([image.weight for image in images]) / sum(image.weight for image in images)
        moments = np.tensordot(odds, np.array([_compute_moments(image) for image in images]), 1)
        mean = moments[0]
        std = np.round(np.sqrt(np.maximum(moments[1] - mean**2, 0)), 5)
        for number, (middle, spread_) in enumerate(zip(mean, std, strict=True), start=1):
            if not (math.isfinite(middle) and math.isfinite(spread_) and spread_ > 0):
                raise ModelError(
                    f"band {number} of the training images",
                    got=f"a mean of {middle:g} and a deviation of {spread_:g}",
                    expected="finite values that differ by more than 0.00001",
                    fix="check the sources and their scales",
                )
        return cls(tuple(np.round(mean, 5).tolist()), tuple(std.tolist()))

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(…, bands, height, width) normalised; NaN, where there is no data, becomes 0."""
        mean = np.array(self.mean, np.float32)[:, None, None]
        std = np.array(self.std, np.float32)[:, None, None]
        normalised: NDArray[np.float32] = np.nan_to_num((pixels - mean) / std, nan=0.0)
        return normalised


def _compute_moments(image: LabelledSource) -> NDArray[np.float64]:
    """(2, bands): mean and mean square of each band, over the pixels that have data."""
    parts = []
    for area in sample_blocks(image):
        pixels = image.pixels(area)
        parts.append(
            [np.isfinite(pixels).sum((1, 2)), _sum_pixels(pixels), _sum_pixels(np.square(pixels, dtype=np.float64))]
        )
    totals = np.asarray(parts, np.float64).sum(0)  # (3, bands)
    if not totals[0].all():
        raise ModelError(
            f"source {image.name!r}", got="no pixel that has data in all bands", expected="some",
            fix="correct the recipe or the data",
        )  # fmt: skip
    moments: NDArray[np.float64] = totals[1:] / totals[0]
    return moments


def _sum_pixels(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(np.nansum(values, (1, 2), dtype=np.float64))
