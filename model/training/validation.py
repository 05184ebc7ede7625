"""Validation of a network in training: labels of images of any size, tile by tile, and the IoU of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from seamline.model.engines.torch_engine import enable_mixed_precision
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.metrics import confusion_matrix, iou
from seamline.model.training.data import BLOCK_SIZE, Area, LabelledSource, read_window, sample_blocks
from seamline.model.training.normalisation import Normalisation

SAMPLED_TILES = 32
"""The most tiles of an image that are scored after each epoch: a few seconds, however large the image is."""
_MAX_CONTEXT = 128
"""The most pixels that are read around a tile, also for networks whose receptive radius is larger."""


def evaluate(
    network: UNet, images: Sequence[LabelledSource], normalise: Normalisation, most: int | None = None
) -> tuple[float, ...]:
    """Compute the IoU of each class over all images.

    Args:
        network: what to score.
        images: labelled images.
        normalise: the network's normalisation.
        most: the most tiles of each image that are scored; ``None``: all of them.

    Returns:
        One value for each class, NaN for a class that is neither labelled nor predicted.
    """
    classes = network.config.classes
    matrix = np.zeros((classes, classes), np.int64)
    for image in images:
        for area in sample_blocks(image, BLOCK_SIZE, most or math.prod(image.shape)):
            predicted = predict_labels(network, image, area, normalise)
            matrix += confusion_matrix(predicted, image.labels(area), classes)
    return tuple(iou(matrix).tolist())


def predict_labels(network: UNet, image: LabelledSource, area: Area, normalise: Normalisation) -> NDArray[np.uint8]:
    """Predict the labels of an area, with context around it that is mirrored at the image's edges.

    Args:
        network: a U-Net on any device; it is left in evaluation mode.
        image: what to read.
        area: rows and columns inside of the image.
        normalise: the network's normalisation.

    Returns:
        Labels (height, width).
    """
    device = next(network.parameters()).device
    halo, divisor = compute_context(network.config), network.config.divisor
    height, width = (side.stop - side.start for side in area)
    window = [extent + -extent % divisor + 2 * halo for extent in (height, width)]
    pixels, _ = read_window(image, area[0].start - halo, area[1].start - halo, *window)
    x = torch.from_numpy(normalise(pixels))[None].to(device, memory_format=torch.channels_last)
    network.eval()
    with torch.inference_mode(), enable_mixed_precision(device):
        logits = network(x, halo)
    labels: NDArray[np.uint8] = logits[0, :, :height, :width].argmax(0).to("cpu", torch.uint8).numpy()
    return labels


def compute_context(config: UNetConfig) -> int:
    """Return the pixels to read around a tile: the receptive radius, at most ``_MAX_CONTEXT``, on the lattice."""
    radius = _MAX_CONTEXT if config.receptive_radius is None else min(_MAX_CONTEXT, config.receptive_radius)
    return max(config.least_halo, math.ceil(radius / config.divisor) * config.divisor)
