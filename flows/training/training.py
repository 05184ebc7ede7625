"""``seamline train``: from a recipe to a model folder."""

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

from seamline.flows.settings.model_folder import FIGURES
from seamline.flows.training.labelled_images import ImageSplit
from seamline.flows.training.plots import write_curves, write_samples
from seamline.flows.training.recipes import Recipe
from seamline.model.spec.document import MODEL_FILENAME, write_model_spec
from seamline.model.spec.spec import ModelSpec
from seamline.model.training.loop import EpochReport, TrainingResult, train
from seamline.model.training.normalisation import Normalisation
from seamline.model.training.validation import SAMPLED_TILES, evaluate
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import check_writable

CHECKPOINT, RECIPE, CURVES, SAMPLES = "checkpoint.pt", "recipe.yaml", "curves.png", "samples.png"


def train_from_recipe(
    recipe: Recipe, data: Path, out: Path, report: Callable[[EpochReport], None], overwrite: bool = False
) -> ModelSpec:
    """Train by ``recipe`` on files below ``data``; ``out`` becomes a model folder.

    Beside the model it gets ``figures.json`` (scores and history), ``curves.png``, ``samples.png`` and the recipe.
    A killed training goes on from ``out/checkpoint.pt``; the checkpoint goes when the model is written.

    Raises:
        InputError: ``out`` cannot be written, another training works there, or it holds a model that is not to be
            replaced (``overwrite``).
    """
    check_writable(out, f"--out {out}")
    _build_spec(recipe, Normalisation((0.0,) * len(recipe.bands), (1.0,) * len(recipe.bands)))
    with _lock_folder(out):
        if (out / MODEL_FILENAME).exists() and not (out / CHECKPOINT).exists() and not overwrite:
            raise InputError(
                f"--out {out}",
                got="a model that is there already",
                expected="a folder without one",
                fix="choose another, or give --overwrite",
            )
        images = recipe.load(data)
        trained = train(recipe.training, images.training, images.validation, out / CHECKPOINT, report)
        spec = _build_spec(recipe, trained.normalisation)
        try:
            _write_model_folder(recipe, trained, images, spec, out)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"--out {out}",
                got=error,
                expected="room for the model",
                fix="make some and give the same command again: the training is kept",
            ) from error
        (out / CHECKPOINT).unlink(missing_ok=True)
    return spec


def _build_spec(recipe: Recipe, normalisation: Normalisation) -> ModelSpec:
    try:
        return ModelSpec(
            name=recipe.name,
            version=recipe.version,
            bands=recipe.input_bands(normalisation),
            classes=recipe.model_classes,
            network=recipe.training.network,
            receptive_radius=recipe.training.network.receptive_radius,
            assumed_nodata=recipe.assumed_nodata,
            license=recipe.license,
            description=recipe.description,
            training_data=tuple(recipe.training_data),
        )
    except ValueError as error:
        raise InputError(
            f"recipe {recipe.name}", got=error, expected="what a model can have", fix="correct it"
        ) from error


def _write_model_folder(
    recipe: Recipe, trained: TrainingResult, images: ImageSplit, spec: ModelSpec, out: Path
) -> None:
    figures = _compute_figures(recipe, trained, images)
    (out / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    document = yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    (out / RECIPE).write_text(document, encoding="utf-8")
    write_curves(trained, spec.classes, out / CURVES)
    write_samples(trained, images.validation or images.training, spec, out / SAMPLES)
    save_file({k: v.contiguous() for k, v in trained.network.state_dict().items()}, out / spec.weights)
    write_model_spec(spec, out)  # last: with it the folder is a model


@contextmanager
def _lock_folder(out: Path) -> Iterator[None]:
    """Hold the folder for this process; a dead one's hold ends with it."""
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


def _compute_figures(recipe: Recipe, trained: TrainingResult, images: ImageSplit) -> dict[str, Any]:
    """IoU of each image, of the hold-out on all of it, of large training images on a part; and every epoch."""
    names = [entry.name for entry in recipe.classes]

    def scores(values: tuple[float, ...]) -> dict[str, float | None]:
        return {name: _round_score(value) for name, value in zip(names, values, strict=True)}

    parts = ((images.validation, None), (images.training, SAMPLED_TILES))
    return {
        "holdout": sorted(image.name for image in images.validation),
        "epoch": trained.chosen_epoch,
        "iou": {
            image.name: scores(evaluate(trained.network, [image], trained.normalisation, most))
            for part, most in parts
            for image in part
        },
        "history": [
            {**asdict(done), "iou": scores(done.iou) if done.iou else {}, "loss": _round_score(done.loss)}
            for done in trained.history
        ],
    }


def _round_score(value: float) -> float | None:
    """For JSON, which has no NaN: a class that an image does not have has no score."""
    return None if math.isnan(value) else round(value, 4)
