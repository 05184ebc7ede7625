"""The U-Net paper's own benchmark, ISBI 2012: membranes in electron microscopy, trained on six slices, tested on two.

The paper's table 1 states a warping error of 0.000353, a Rand error of 0.0382 and a pixel error of 0.0611, for 30
training slices and the hidden test set. Here four networks are trained: with unpadded convolutions, as in the paper,
and padded ones, each with and without elastic deformation. ``--data`` is the folder that holds ``isbi2012``.

    python benchmarks/membranes.py --data DATA [--steps 450] [--only same-elastic]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.neuron_errors import (
    compute_pixel_error,
    compute_rand_error,
    compute_warping_error,
    compute_wrong_share,
)
from seamline.model.spec.config import UNetConfig
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.config import Schedule, TrainingConfig
from seamline.model.training.data import LabelledImage, read_window
from seamline.model.training.loop import TrainingResult, train
from seamline.model.training.losses import Loss
from seamline.model.training.validation import compute_context

TRAINED, TESTED = range(6), range(6, 8)
MEMBRANE, CELL = 0, 1
PADDINGS = ("same", "valid")


def configure_training(padding: str, elastic: bool, steps: int) -> TrainingConfig:
    """Configure the paper's network at a quarter of its width, with the paper's loss.

    Args:
        padding: ``"same"`` or ``"valid"``, of the convolutions.
        elastic: whether windows are deformed.
        steps: of the optimiser, about.

    Returns:
        A training on windows that have 256² pixels after the network's lost border.
    """
    network = UNetConfig(1, 2, depth=4, base_width=16, padding="same" if padding == "same" else "valid", norm="batch")
    return TrainingConfig(
        network,
        Schedule(epochs=10, steps=steps // 10, batch=4, window=256 + 2 * network.least_halo, rate=3e-3, averaged=100),
        class_weights=(1.0, 1.0),
        jitter=Jitter(gain=0.15, band_gain=0.0, offset=0.05, noise=0.02, dropout=0.0),
        warp=Warp(elastic=10.0 if elastic else 0.0),
        loss=Loss(cross_entropy=1.0, dice=0.0, border=10.0, sigma=5.0),
    )


def load_slices(folder: Path, numbers: range) -> list[LabelledImage]:
    """Load slices of 512² pixels, with values from 0 to 1."""
    return [
        LabelledImage(
            f"slice {number}",
            np.asarray(Image.open(folder / "image" / f"{number}.png"), np.float32)[None] / 255,
            np.where(np.asarray(Image.open(folder / "label" / f"{number}.png")) > 127, CELL, MEMBRANE).astype(np.uint8),
        )
        for number in numbers
    ]


@torch.inference_mode()
def predict_cells(trained: TrainingResult, image: LabelledImage) -> NDArray[np.float32]:
    """Predict the probability of a cell (height, width), the mean over turned and mirrored slices as in the paper."""
    config = trained.network.config
    halo = compute_context(config)
    height, width = image.shape
    pixels, _ = read_window(image, -halo, -halo, height + 2 * halo, width + 2 * halo)
    x = torch.from_numpy(trained.normalisation(pixels))[None]
    total = torch.zeros(height, width)
    for turns in range(4):
        for mirrored in (False, True):
            turned = torch.rot90(x, turns, (2, 3)).flip(3) if mirrored else torch.rot90(x, turns, (2, 3))
            probabilities = trained.network(turned.contiguous(), halo).softmax(1)[:, CELL]
            unmirrored = probabilities.flip(2) if mirrored else probabilities
            total += torch.rot90(unmirrored, -turns, (1, 2))[0]
    return (total / 8).numpy()


def main() -> None:
    """Train and print one line of JSON for each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--only", default="", help="same, same-elastic, valid or valid-elastic")
    arguments = parser.parse_args()
    folder = arguments.data / "isbi2012"
    tested = load_slices(folder, TESTED)
    for padding in PADDINGS:
        for elastic in (False, True):
            name = padding + ("-elastic" if elastic else "")
            if arguments.only not in ("", name):
                continue
            started = time.monotonic()
            trained = train(configure_training(padding, elastic, arguments.steps), load_slices(folder, TRAINED), [])
            minutes = (time.monotonic() - started) / 60
            truths = [image.mask == CELL for image in tested]
            predicted = [predict_cells(trained, image) for image in tested]
            scores = {
                "variant": name,
                "warping": compute_warping_error(truths, predicted),
                "rand": compute_rand_error(truths, predicted),
                "pixel": compute_pixel_error(truths, predicted),
                "wrong": compute_wrong_share(truths, predicted),
                "minutes": minutes,
                "loss": trained.history[-1].loss,
            }
            print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in scores.items()}), flush=True)


if __name__ == "__main__":
    main()
