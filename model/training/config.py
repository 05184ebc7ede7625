"""The configuration of a training: plain values that, together with the images, decide which network comes out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from seamline.model.spec.config import UNetConfig
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.data import LabelledSource
from seamline.model.training.losses import Loss


@dataclass(frozen=True)
class Schedule:
    """How long a network is trained and how fast.

    Attributes:
        epochs: the most epochs.
        steps: batches of an epoch, each one step of the optimiser.
        batch: windows of a batch.
        window: edge of a window, in pixels.
        rate: the highest learning rate; see ``compute_rate_factor``.
        warmup: share of all steps (0 to 1) over which the learning rate rises.
        weight_decay: of AdamW.
        averaged: steps, about, over which the weights are averaged.
        patience: epochs without a better mean IoU on the hold-out after which the training stops and takes the best
            epoch; 0: it never stops early and takes the last epoch.
        seed: of all random choices.
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
        for is_valid, name, expected in checks:
            if not is_valid:
                raise ValueError(f"{name} of a training: got {getattr(self, name)}, expected {expected}")

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps of all epochs."""
        return self.epochs * self.steps

    def compute_rate_factor(self, step: int) -> float:
        """Return the learning rate at a step as a share of ``rate``: a linear rise, then half a cosine down to 0."""
        warm = max(1, round(self.warmup * self.total_steps))
        if step < warm:
            return (step + 1) / warm
        return float(0.5 + 0.5 * np.cos(np.pi * (step - warm) / max(1, self.total_steps - warm)))


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training except the images.

    Attributes:
        network: what the U-Net is made of.
        schedule: how long it is trained and how fast.
        class_weights: weight of each class in the loss.
        jitter: random changes of the windows' values.
        warp: random changes of the windows' shape.
        loss: what is minimised.
    """

    network: UNetConfig
    schedule: Schedule
    class_weights: tuple[float, ...]
    jitter: Jitter
    warp: Warp
    loss: Loss

    def digest(self, images: Sequence[LabelledSource], validation: Sequence[LabelledSource]) -> str:
        """Return SHA-256 (hex) of the configuration and of the images' names, sizes, weights, pixels and labels."""
        data = [
            [(image.name, image.shape, image.weight, image.digest()) for image in part] for part in (images, validation)
        ]
        return hashlib.sha256(json.dumps([asdict(self), data], sort_keys=True).encode()).hexdigest()
