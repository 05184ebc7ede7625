"""``seamline train``: from a recipe to a model folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from flows.recipes import Recipe
from model.document import write_document
from model.spec import ModelSpec
from model.train import Progress, evaluate, train
from pipeline.errors import InputError
from pipeline.files import check_writable


def train_model(recipe: Recipe, data: Path, out: Path, report: Callable[[Progress], None]) -> ModelSpec:
    """Train by ``recipe`` on files below ``data``; ``out`` becomes a model folder.

    A killed training goes on from ``out/checkpoint.pt``; the checkpoint goes when the model is written.
    """
    check_writable(out, f"--out {out}")
    training, validation = recipe.load(data)
    config = recipe.network.config(len(recipe.bands), len(recipe.classes))
    checkpoint = out / "checkpoint.pt"
    network, normalisation = train(
        config,
        training,
        validation,
        recipe.schedule,
        recipe.jitter,
        [entry.weight for entry in recipe.classes],
        checkpoint,
        report,
    )
    spec = ModelSpec(
        name=recipe.name,
        version=recipe.version,
        bands=recipe.input_bands(normalisation),
        classes=recipe.model_classes,
        network=config,
        receptive_radius=config.receptive_radius,
        assumed_nodata=0,
        license=recipe.license,
        description=recipe.description,
        training_data=tuple(recipe.training_data),
    )
    names = [entry.name for entry in recipe.classes]
    figures = {
        image.name: _rounded(dict(zip(names, evaluate(network, [image], normalisation), strict=True)))
        for image in [*validation, *training]
    }
    try:
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out / spec.weights)
        write_document(spec, out)
        (out / "figures.json").write_text(json.dumps({"holdout": recipe.holdout, "iou": figures}, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"--out {out}",
            got=error,
            expected="room for the model",
            fix="make some and give the same command again: the training is kept",
        ) from error
    checkpoint.unlink(missing_ok=True)
    return spec


def _rounded(scores: dict[str, float]) -> dict[str, float | None]:
    """For JSON, which has no NaN: a class that an image does not have has no score."""
    return {name: None if math.isnan(score) else round(score, 4) for name, score in scores.items()}
