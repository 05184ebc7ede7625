"""Images of two bands in stripes, and trainings on them that take seconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from seamline.model.spec.config import UNetConfig
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.config import Schedule, TrainingConfig
from seamline.model.training.data import (
    LabelledImage,
)
from seamline.model.training.losses import Loss

STILL = Jitter(0, 0, 0, 0, 0)


def make_striped_image(height: int = 300, width: int = 420, seed: int = 0) -> LabelledImage:
    """Two bands; the label says which of them is brighter. Stripes of 40 pixels, noise on top."""
    mask = (np.add.outer(np.arange(height), np.arange(width)) // 40 % 2).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 0.1, (2, height, width))
    return LabelledImage(f"stripes-{seed}", (np.stack([1 - mask, mask]) + noise).astype(np.float32), mask)


def make_training(config: UNetConfig, **schedule: Any) -> TrainingConfig:
    given = {"epochs": 3, "steps": 20, "batch": 4, "window": 64, "rate": 0.01, "averaged": 20, **schedule}
    return TrainingConfig(config, Schedule(**given), (1.0,) * config.classes, STILL, Warp(), Loss())
