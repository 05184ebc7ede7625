"""Clouds on two labelled Landsat chips: a U-Net trained on one and tested on the other, beside ukis-csmask.

ukis-csmask brings four networks, which are run by its own program. They know the classes clear, cloud and shadow, so
land and water are merged into clear for the comparison.

    python benchmarks/clouds.py --data DATA
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from ukis_csmask.mask import CSmask

from seamline.flows.settings.model_folder import open_model
from seamline.flows.training.recipe_documents import read_recipe
from seamline.flows.training.train_from_recipe import train_from_recipe
from seamline.model.engines.torch_engine import load_unet
from seamline.model.spec.metrics import confusion_matrix, iou, kappa
from seamline.model.training.data import LabelledImage, load_into_memory
from seamline.model.training.normalisation import Normalisation
from seamline.model.training.validation import predict_labels

CHIPS = ("landsat5", "landsat7")
BANDS = ["blue", "green", "red", "nir", "swir16", "swir22"]
CLEAR = np.array([0, 0, 1, 2], np.uint8)
"""The class of ukis-csmask for each of land, water, cloud and shadow."""


def print_row(
    network: str, chip: str, labels: NDArray[np.uint8], truth: NDArray[np.uint8], names: tuple[str, ...]
) -> None:
    """Print one row of the table: IoU of each class and kappa of labels against the truth (height, width)."""
    matrix = confusion_matrix(labels, truth, len(names))
    scores = ", ".join(f"{name} {score:.2f}" for name, score in zip(names, iou(matrix), strict=True))
    print(f"| {network} | {chip} | {scores} | {kappa(matrix):.3f} |", flush=True)


def merge_classes(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return labels of land, water, cloud and shadow as clear, cloud and shadow; unknown labels become 255."""
    return np.where(labels < 4, CLEAR[np.minimum(labels, 3)], 255).astype(np.uint8)


def predict_held_out(chip: str, data: Path, folder: Path) -> NDArray[np.uint8]:
    """Train a network on the other chip, write it to a folder, and return its labels of this chip."""
    recipe = read_recipe(Path(__file__).with_suffix(".yaml"), [f"holdout=[{chip}]"])
    train_from_recipe(recipe, data, folder, lambda report: print(report, file=sys.stderr))
    (image,) = recipe.load(data).validation
    model = open_model(folder)
    normalise = Normalisation(*zip(*((band.mean, band.std) for band in model.spec.bands), strict=True))
    whole = slice(0, image.shape[0]), slice(0, image.shape[1])
    return predict_labels(load_unet(model.spec, folder), image, whole, normalise)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    recipe = read_recipe(Path(__file__).with_suffix(".yaml"))
    images: dict[str, LabelledImage] = {
        image.name: load_into_memory(image) for image in recipe.load(arguments.data).training
    }
    print("| network | tested on | IoU | kappa |\n|---|---|---|---|")
    for chip in CHIPS:
        truth = images[chip].mask
        pixels = np.moveaxis(images[chip].image, 0, -1)
        for bands in (4, 6):
            for level in ("l1c", "l2a"):
                foreign = CSmask(pixels[..., :bands].copy(), BANDS[:bands], product_level=level).csm[..., 0]
                print_row(
                    f"ukis-csmask {bands}b {level}", chip, foreign, merge_classes(truth), ("clear", "cloud", "shadow")
                )
        with TemporaryDirectory() as folder:
            labels = predict_held_out(chip, arguments.data, Path(folder))
        print_row(
            "trained on the other chip", chip, merge_classes(labels), merge_classes(truth), ("clear", "cloud", "shadow")
        )
        print_row("the same, four classes", chip, labels, truth, ("land", "water", "cloud", "shadow"))


if __name__ == "__main__":
    main()
