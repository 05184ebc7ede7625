"""How well models of land, water, cloud and cloud shadow do on labelled chips and on real scenes.

    python benchmarks/embedded_model.py --data DATA land-water-cloud build/other-model

Two chips have labels (IoU). In the real scenes, which have none, errors are counted where it is known without labels
what is there: no cloud in four scenes that are clear to the eye, and dry ground by indices; and lava, which the eye
bounds on Momotombo. A model that learned from a chip or a scene flatters itself there: ``seamline train RECIPE
--holdout NAME,…`` trains one that did not.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, label

from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.training.labelled_images import read_reflectance
from seamline.flows.training.recipe_documents import read_recipe
from seamline.flows.training.training_data import Chip
from seamline.model.engines.torch_engine import load_unet
from seamline.model.spec.metrics import confusion_matrix, iou
from seamline.model.training.data import LabelledImage
from seamline.model.training.start import StartingPoint
from seamline.model.training.validation import predict_labels
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]

_LAND, _WATER, _CLOUD, _SHADOW = range(4)
_CLEAR = {
    "Liverpool": "xlandsat/LC08_L2SP_204023_20200927_20201006_02_T1_6b.tif",
    "Lahaina": "xlandsat/LC09_L1TP_063046_20230714_20230714_02_T1_6b.tif",
    "Manaus": "xlandsat/LC09_L2SP_231062_20230723_20230802_02_T1_6b.tif",
    "Aquileia": "aquileia-s2",
}
_LAVA = {
    "Momotombo, surface": "xlandsat/LC08_L2SP_017051_20151205_20200908_02_T1_6b.tif",
    "Momotombo, top of atmosphere": "xlandsat/LC08_L1TP_017051_20151205_20200908_02_T1_6b.tif",
}
_LAVA_BOX = np.s_[45:225, 95:300]
"""Rows and columns around the lava, without a lake and clouds."""
_EXPORT_SCALE = 1 / 65535
"""Reflectance of a digital number of 1 in scenes that are folders."""


@dataclass(frozen=True)
class Indices:
    """What is known of each pixel without labels: masks (height, width).

    Attributes:
        valid: where all bands have data.
        water: MNDWI above 0, and a dark near infrared.
        dry: plants, or clearly negative MNDWI and no darkness.
    """

    valid: Mask
    water: Mask
    dry: Mask

    @classmethod
    def from_reflectance(cls, pixels: NDArray[np.float32]) -> Indices:
        """Compute the masks of reflectances (6, height, width): blue, green, red, nir, swir16, swir22."""
        _, green, red, nir, swir, _ = pixels
        with np.errstate(invalid="ignore", divide="ignore"):
            index, vegetation = (green - swir) / (green + swir), (nir - red) / (nir + red)
        valid = np.isfinite(pixels).all(0)
        dry = valid & ((vegetation > 0.35) | ((index < -0.15) & (nir > 0.05)))
        return cls(valid, valid & (index > 0) & (nir < 0.2), dry)


def read_scene(path: Path, model: Model) -> LabelledImage:
    """Read a scene as reflectance; it has no labels."""
    options = SceneOptions(scale=_EXPORT_SCALE if path.is_dir() else None)
    scene = open_scene(path, model.band_needs, options, assumed_nodata=0)
    pixels = read_reflectance(scene, Window(0, 0, *scene.grid.shape))
    return LabelledImage(path.stem, pixels, np.zeros(scene.grid.shape, np.uint8))


def find_lava(pixels: NDArray[np.float32]) -> Mask:
    """Return where (height, width) the lava of Momotombo lies, of top-of-atmosphere reflectances."""
    blue, _, red, nir, *_ = pixels
    inside = np.zeros(nir.shape, bool)
    inside[_LAVA_BOX] = True
    dark = binary_opening(inside & ((nir - red) / (nir + red) < 0.3) & (blue < 0.13) & (nir < 0.2))
    parts, _ = label(dark)
    large: Mask = dark & (np.bincount(parts.ravel())[parts] > 60)
    return large


def predict(model: Model, image: LabelledImage) -> Labels:
    """Return the labels (height, width) that a model gives an image."""
    start = StartingPoint.from_model(model.spec, model.folder, model.digest)
    whole = slice(0, image.shape[0]), slice(0, image.shape[1])
    return predict_labels(load_unet(model.spec, model.folder), image, whole, start.normalisation)


def score(model: Model, data: Path) -> dict[str, str]:
    """Return the figures of a model, each by what it says."""
    embedded = open_model("land-water-cloud")
    recipe = read_recipe(embedded.folder / "recipe.yaml")
    chips = [source for source in recipe.sources if isinstance(source, Chip)]
    found: dict[str, str] = {}
    for chip in chips:
        (image,), _ = chip.load(data, recipe.band_needs, None)
        assert isinstance(image, LabelledImage)
        scores = iou(confusion_matrix(predict(model, image), image.mask, 4))
        found[f"{chip.name}: IoU of land, water, cloud, shadow"] = ", ".join(f"{value:.2f}" for value in scores)
    for name, path in _CLEAR.items():
        found.update(_score_clear(name, model, read_scene(data / path, embedded)))
    lava: Mask | None = None
    for name, path in reversed(_LAVA.items()):
        image = read_scene(data / path, embedded)
        lava = find_lava(image.image) if lava is None else lava
        rows, cols = image.shape
        labels = predict(model, image)[lava[:rows, :cols] & np.isfinite(image.image).all(0)]
        shares = np.bincount(labels, minlength=4) / labels.size
        found[f"{name}: lava as land, water, cloud, shadow"] = ", ".join(f"{share:.2f}" for share in shares)
    return found


def _score_clear(name: str, model: Model, image: LabelledImage) -> Mapping[str, str]:
    labels, known = predict(model, image), Indices.from_reflectance(image.image)
    water = (labels == _WATER) & known.valid
    agreement = (water & known.water).sum() / (water | known.water).sum()
    clouded = [(labels[known.valid] == value).mean() for value in (_CLOUD, _SHADOW)]
    return {
        f"{name}: IoU of water with MNDWI > 0": f"{agreement:.3f}",
        f"{name}: dry ground as water": f"{1e3 * water[known.dry].mean():.1f} ‰",
        f"{name}: cloud, shadow, of which there is none": ", ".join(f"{1e3 * share:.1f} ‰" for share in clouded),
    }


def main() -> None:
    """Print a table with a column for each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    columns = [score(open_model(name), arguments.data) for name in arguments.models]
    print(f"| | {' | '.join(arguments.models)} |\n|---|{'---|' * len(columns)}")
    for row in columns[0]:
        print(f"| {row} | {' | '.join(column[row] for column in columns)} |")


if __name__ == "__main__":
    main()
