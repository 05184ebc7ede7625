"""Train a model by a recipe and write it as a model folder (``seamline train``)."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from seamline.flows.settings.model_folder import FIGURES, open_model, refuse_existing_model
from seamline.flows.training.labelled_images import ImageSplit
from seamline.flows.training.plots import write_curves, write_samples
from seamline.flows.training.recipes import Recipe
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.spec import ModelSpec
from seamline.model.training.loop import EpochReport, TrainingResult, train
from seamline.model.training.normalisation import Normalisation
from seamline.model.training.start import StartingPoint
from seamline.model.training.validation import SAMPLED_TILES, evaluate
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.storage.atomic import check_writable

_CHECKPOINT = "checkpoint.pt"
_RECIPE = "recipe.yaml"
_CURVES = "curves.png"
_SAMPLES = "samples.png"


def train_from_recipe(
    recipe: Recipe, data: Path, out: Path, report: Callable[[EpochReport], None], overwrite: bool = False
) -> ModelSpec:
    """Train a model by a recipe and write the model folder.

    Beside the model the folder gets ``figures.json`` (scores and history), ``curves.png``, ``samples.png`` and the
    recipe. A killed training goes on from ``checkpoint.pt`` in the folder, which is removed when the model is written.

    Args:
        recipe: Network, bands, classes, sources of images and schedule.
        data: Folder that the recipe's relative paths start from.
        out: The model folder to write.
        report: Called after each epoch.
        overwrite: Replace a model that is in the folder.

    Returns:
        The spec of the trained model.

    Raises:
        InputError: the folder cannot be written, another training works on it, or it holds a model and ``overwrite``
            is False.
    """
    require_extras("training", "train")
    check_writable(out, f"--out {out}")
    # A spec that is not valid is found before the training; the real normalisation is known only after it.
    _build_spec(recipe, Normalisation((0.0,) * len(recipe.bands), (1.0,) * len(recipe.bands)))
    checkpoint = out / _CHECKPOINT
    with _lock_folder(out):
        if not checkpoint.exists() and not overwrite:
            refuse_existing_model(out)
        start, images = _load_start(recipe), recipe.load(data)
        result = train(recipe.training_config, images.training, images.validation, checkpoint, report, start)
        spec = _build_spec(recipe, result.normalisation)
        try:
            _write_model_folder(recipe, result, images, spec, out)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"--out {out}",
                got=error,
                expected="room for the model",
                fix="make some and give the same command again: the training is kept",
            ) from error
        checkpoint.unlink(missing_ok=True)
    return spec


def _load_start(recipe: Recipe) -> StartingPoint | None:
    """Return the weights of the model that the recipe begins with, if it names one."""
    if not recipe.start:
        return None
    model = open_model(recipe.start)
    spec, network = model.spec, recipe.training_config.network
    given = (spec.network, [band.name for band in spec.bands], [entry.name for entry in spec.classes])
    if given != (network, [band.name for band in recipe.bands], [entry.name for entry in recipe.classes]):
        raise InputError(
            "recipe's start",
            got=f"{recipe.start}, {given}",
            expected="a model that has the recipe's bands, classes and network",
            fix="correct them, or leave start out",
        )
    return StartingPoint.from_model(spec, model.folder, model.digest)


def _build_spec(recipe: Recipe, normalisation: Normalisation) -> ModelSpec:
    network = recipe.training_config.network
    try:
        return ModelSpec(
            name=recipe.name,
            version=recipe.version,
            bands=recipe.build_input_bands(normalisation),
            classes=recipe.model_classes,
            network=network,
            receptive_radius=network.receptive_radius,
            assumed_nodata=recipe.assumed_nodata,
            license=recipe.license,
            description=recipe.description,
            limits=recipe.limits,
            training_data=tuple(recipe.training_data),
            unseen=None if recipe.unseen is None else tuple(recipe.unseen),
        )
    except ValueError as error:
        raise InputError(
            f"recipe {recipe.name}", got=error, expected="what a model can have", fix="correct it"
        ) from error


def _write_model_folder(recipe: Recipe, result: TrainingResult, images: ImageSplit, spec: ModelSpec, out: Path) -> None:
    figures = _compute_figures(recipe, result, images)
    (out / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    document = yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    (out / _RECIPE).write_text(document, encoding="utf-8")
    write_curves(result, spec.classes, out / _CURVES)
    write_samples(result, images.validation or images.training, spec, out / _SAMPLES)
    tensors = {name: tensor.contiguous() for name, tensor in result.network.state_dict().items()}
    save_file(tensors, out / spec.weights)
    write_model_spec(spec, out)  # last, because a folder with this document is taken for a complete model


@contextmanager
def _lock_folder(out: Path) -> Iterator[None]:
    """Lock the folder for this process; the operating system releases the lock when the process dies."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out {out}",
                got="another training that works on it",
                expected="one at a time",
                fix="wait for it, or choose another folder",
            ) from None
        yield
    finally:
        os.close(folder)


def _compute_figures(recipe: Recipe, result: TrainingResult, images: ImageSplit) -> dict[str, Any]:
    """Return IoU by image and class, and the history of the epochs.

    An image of the hold-out is evaluated on all of its pixels, an image of the training on a sample.
    """
    class_names = [entry.name for entry in recipe.classes]

    def name_scores(scores: tuple[float, ...]) -> dict[str, float | None]:
        return {name: _round_score(score) for name, score in zip(class_names, scores, strict=True)}

    iou: dict[str, Any] = {}
    for part, most_tiles in ((images.validation, None), (images.training, SAMPLED_TILES)):
        for image in part:
            scores = evaluate(result.network, [image], result.normalisation, most_tiles)
            iou[image.name] = name_scores(scores)
    history = [
        {**asdict(epoch), "iou": name_scores(epoch.iou) if epoch.iou else {}, "loss": _round_score(epoch.loss)}
        for epoch in result.history
    ]
    return {
        "holdout": sorted(image.name for image in images.validation),
        "epoch": result.chosen_epoch,
        "iou": iou,
        "history": history,
    }


def _round_score(value: float) -> float | None:
    """Round a score for JSON, which has no NaN: an image without a class has no score of it."""
    return None if math.isnan(value) else round(value, 4)
