"""Losses beside their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional as F

from seamline.model.training.data import (
    IGNORE,
)
from seamline.model.training.losses import BORDER_CUTOFF, Loss, compute_border_weights


def _some() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 9, 11))
    labels[0, :3] = IGNORE
    return torch.randn(2, 3, 9, 11), labels, torch.tensor([1.0, 2.0, 0.5])


def test_cross_entropy_is_torchs() -> None:
    logits, labels, weights = _some()
    expected = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE)
    torch.testing.assert_close(Loss(dice=0)(logits, labels, weights), expected)
    torch.testing.assert_close(Loss(0, 0, focal=1, gamma=0)(logits, labels, weights), expected)
    level = torch.full(labels.shape, 7.0)
    unweighted = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(Loss(dice=0)(logits, labels, torch.ones(3), level), unweighted)


def test_focal_loss_is_the_papers() -> None:
    logits, labels, _ = _some()
    known = labels != IGNORE
    p = logits.softmax(1).gather(1, torch.where(known, labels, 0)[:, None])[:, 0][known]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    torch.testing.assert_close(Loss(0, 0, focal=1, gamma=2)(logits, labels, torch.ones(3)), expected)


@pytest.mark.parametrize("loss", [Loss(), Loss(focal=1), Loss(border=10)], ids=repr)
def test_unknown_pixels_teach_nothing(loss: Loss) -> None:
    logits, labels, weights = _some()
    borders = torch.rand(labels.shape)
    other = torch.where((labels == IGNORE)[:, None], torch.randn_like(logits) * 5, logits)
    torch.testing.assert_close(loss(logits, labels, weights, borders), loss(other, labels, weights, borders))
    assert loss(logits, torch.full_like(labels, IGNORE), weights) == 0
    sure = 50 * F.one_hot(torch.where(labels == IGNORE, 0, labels), 3).movedim(-1, 1).float()
    assert loss(sure, labels, weights, borders) < 0.02


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 4), st.integers(1, 3))
def test_border_weights_are_equation_two(seed: int, sigma: float, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((14, 17)) < 0.25).astype(np.uint8) * rng.integers(1, classes + 1, (14, 17)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.05] = IGNORE
    far = BORDER_CUTOFF * sigma
    distances = [np.full(labels.shape, far), np.full(labels.shape, far)]
    for label in range(1, classes + 1):
        objects, count = ndimage.label(labels == label)
        for number in range(1, count + 1):
            points = np.argwhere(objects == number)
            offsets = np.indices(labels.shape)[..., None] - points.T[:, None, None]
            distances.append(np.hypot(*offsets).min(-1))
    first, second = np.sort(np.array(distances), axis=0)[:2]
    expected = 10 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(
        compute_border_weights(labels, 10, sigma), expected, rtol=1e-4, atol=10 * np.exp(-(BORDER_CUTOFF**2) / 2)
    )
