"""Clouds on two labelled Landsat chips: a U-Net trained on one and tested on the other, beside four foreign networks.

The foreign networks are those of the ukis-csmask package, run by their authors' own program, as it is; they know
clear, cloud and shadow, so that land and water count as one class beside them.

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
from seamline.model.training.config import Normalisation
from seamline.model.training.data import LabelledImage, load_into_memory
from seamline.model.training.validation import predict_labels

CHIPS = ("landsat5", "landsat7")
BANDS = ["blue", "green", "red", "nir", "swir16", "swir22"]
CLEAR = np.array([0, 0, 1, 2], np.uint8)
"""Of land, water, cloud and shadow what the foreign networks call it."""


def row(name: str, chip: str, labels: NDArray[np.uint8], truth: NDArray[np.uint8], names: tuple[str, ...]) -> None:
    matrix = confusion_matrix(labels, truth, len(names))
    scores = ", ".join(f"{name} {score:.2f}" for name, score in zip(names, iou(matrix), strict=True))
    print(f"| {name} | {chip} | {scores} | {kappa(matrix):.3f} |", flush=True)


def merged(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(labels < 4, CLEAR[np.minimum(labels, 3)], 255).astype(np.uint8)


def trained_without(chip: str, data: Path, folder: Path) -> NDArray[np.uint8]:
    """Labels of a chip by a network that was trained on the other."""
    recipe = read_recipe(Path(__file__).with_suffix(".yaml"), [f"holdout=[{chip}]"])
    train_from_recipe(recipe, data, folder, lambda done: print(done, file=sys.stderr))
    (image,) = recipe.load(data).validation
    model = open_model(folder)
    normalise = Normalisation(*zip(*((band.mean, band.std) for band in model.spec.bands), strict=True))
    whole = slice(0, image.shape[0]), slice(0, image.shape[1])
    return predict_labels(load_unet(model.spec, folder), image, whole, normalise)


def main() -> None:
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
                theirs = CSmask(pixels[..., :bands].copy(), BANDS[:bands], product_level=level).csm[..., 0]
                row(f"ukis-csmask {bands}b {level}", chip, theirs, merged(truth), ("clear", "cloud", "shadow"))
        with TemporaryDirectory() as folder:
            labels = trained_without(chip, arguments.data, Path(folder))
        row("trained on the other chip", chip, merged(labels), merged(truth), ("clear", "cloud", "shadow"))
        row("the same, four classes", chip, labels, truth, ("land", "water", "cloud", "shadow"))


if __name__ == "__main__":
    main()
