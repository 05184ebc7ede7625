"""The loss that a training minimises, and the weight map that makes narrow gaps between objects count more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seamline.model.training.data import IGNORE

BORDER_CUTOFF = 4.0
"""Distance from an object, in units of sigma, beyond which the border weight no longer falls."""


@dataclass(frozen=True)
class Loss:
    """A weighted sum of loss terms; a factor of 0 leaves its term out.

    Attributes:
        cross_entropy: factor of cross-entropy with class weights.
        dice: factor of soft Dice (Milletari et al. 2016, arXiv:1606.04797).
        focal: factor of focal loss, that is cross-entropy times (1 − p)^gamma (Lin et al. 2017, arXiv:1708.02002).
        gamma: exponent of the focal loss.
        border: w0 of the U-Net paper's weight map, 10 there; it counts in cross-entropy and focal loss.
        sigma: width of that weight map, in pixels; see ``compute_border_weights``.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    focal: float = 0.0
    gamma: float = 2.0
    border: float = 0.0
    sigma: float = 5.0

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "dice", "focal", "gamma", "border", "sigma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of a loss: got {value}, expected at least 0")
        if self.cross_entropy + self.dice + self.focal == 0:
            raise ValueError("a loss: got no term, expected cross_entropy, dice or focal above 0")
        if not 0 < self.sigma <= 64:
            raise ValueError(f"sigma of a loss: got {self.sigma}, expected above 0, up to 64")

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor, borders: Tensor | None = None) -> Tensor:
        """Compute the loss over the pixels whose label is not ``IGNORE``.

        Args:
            logits: (batch, classes, height, width).
            labels: (batch, height, width), int64.
            weights: (classes,), the weight of each class.
            borders: (batch, height, width), added to the weight of the class at each pixel.

        Returns:
            A scalar.
        """
        known = labels != IGNORE
        if not known.any():
            return logits.sum() * 0
        entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")  # (B, H, W)
        pixel_weights = weights[torch.where(known, labels, 0)] * known
        if borders is not None:
            pixel_weights = (pixel_weights + borders) * known
        total = pixel_weights.sum()
        loss = logits.new_zeros(())
        if self.cross_entropy:
            loss = loss + self.cross_entropy * (pixel_weights * entropy).sum() / total
        if self.focal:
            hardness = (1 - (-entropy).exp()).clamp(1e-7, 1) ** self.gamma  # x^gamma has no gradient at 0 for gamma < 1
            loss = loss + self.focal * (pixel_weights * hardness * entropy).sum() / total
        if self.dice:
            loss = loss + self.dice * _compute_dice_loss(logits, labels, known)
        return loss


def _compute_dice_loss(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Return 1 − soft Dice, the mean over the classes that are in the labels."""
    probabilities = logits.softmax(1) * known[:, None]
    truth = F.one_hot(torch.where(known, labels, 0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    intersection, total = (probabilities * truth).sum((0, 2, 3)), (probabilities + truth).sum((0, 2, 3))
    dice: Tensor = 1 - (2 * intersection + 1) / (total + 1)
    return dice[truth.sum((0, 2, 3)) > 0].mean()


def compute_border_weights(labels: NDArray[np.uint8], w0: float, sigma: float) -> NDArray[np.float32]:
    """Compute the U-Net paper's weight map: background between two objects that almost touch counts most.

    w0 · exp(−(d1 + d2)² / 2σ²), where d1 and d2 are the distances in pixels to the nearest and the second nearest
    object (Ronneberger et al. 2015, equation 2). An object is a 4-connected region of a class other than 0. Distances
    beyond 4σ count as 4σ.

    Args:
        labels: (height, width).
        w0: the weight between objects that touch.
        sigma: how fast the weight falls, in pixels.

    Returns:
        Weights (height, width).
    """
    from scipy import ndimage  # an extra, which the training alone needs

    reach = math.ceil(BORDER_CUTOFF * sigma)
    first, second = np.full((2, *labels.shape), BORDER_CUTOFF * sigma, np.float32)
    for label in np.unique(labels[(labels != 0) & (labels != IGNORE)]):
        objects, _ = ndimage.label(labels == label)
        for number, box in enumerate(ndimage.find_objects(objects), start=1):
            around = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
            distance = ndimage.distance_transform_edt(objects[around] != number).astype(np.float32)
            nearest, next_nearest = first[around], second[around]
            np.minimum(next_nearest, np.maximum(nearest, distance), out=next_nearest)
            np.minimum(nearest, distance, out=nearest)
    weights: NDArray[np.float32] = w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return weights.astype(np.float32)
