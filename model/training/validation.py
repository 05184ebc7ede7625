"""What a network in training gets right: labels of images of any size, tile by tile, and their scores."""

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
from seamline.model.training.config import Normalisation
from seamline.model.training.data import BLOCK_SIZE, Area, LabelledSource, read_window, sample_blocks

SAMPLED_TILES = 32
"""Tiles of an image that are looked at after each epoch: a few seconds, however large the image is."""
MAX_CONTEXT = 128
"""Pixels around a tile beyond which nothing is read, for networks that look farther than that."""


def evaluate(
    network: UNet, images: Sequence[LabelledSource], normalise: Normalisation, most: int | None = None
) -> tuple[float, ...]:
    """IoU of each class over all images, NaN for a class that is nowhere; of at most so many tiles of each image."""
    classes = network.config.classes
    matrix = np.zeros((classes, classes), np.int64)
    for image in images:
        for area in sample_blocks(image, BLOCK_SIZE, most or math.prod(image.shape)):
            matrix += confusion_matrix(predict_labels(network, image, area, normalise), image.labels(area), classes)
    return tuple(iou(matrix).tolist())


def predict_labels(network: UNet, image: LabelledSource, area: Area, normalise: Normalisation) -> NDArray[np.uint8]:
    """Labels (height, width) of an area, with the context around it, mirrored at the image's edges."""
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
    """Pixels to read around a tile: as far as the network looks, up to ``MAX_CONTEXT``, on its lattice."""
    far = MAX_CONTEXT if config.receptive_radius is None else min(MAX_CONTEXT, config.receptive_radius)
    return max(config.least_halo, math.ceil(far / config.divisor) * config.divisor)
