"""Recipes of trainings that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from seamline.flows.training.recipes import Recipe
from seamline.model.training.loop import EpochReport
from tests.support.small_rasters import BAND_NAMES

SMALL_RECIPE: dict[str, Any] = {
    "name": "small",
    "version": "1",
    "description": "for tests",
    "license": "Apache-2.0",
    "bands": [{"name": name, "wavelength": 0.5} for name in BAND_NAMES],
    "classes": [{"name": name, "color": "#102030"} for name in ("land", "water", "cloud", "shadow")],
    "network": {"depth": 2, "base_width": 4},
    "sources": [{"kind": "simulated", "size": 64, "seeds": [1]}],
    "schedule": {"epochs": 1, "steps": 1, "batch": 2, "window": 32},
}


def make_recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**SMALL_RECIPE, **changes})


def ignore_progress(progress: EpochReport) -> None:
    pass


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**SMALL_RECIPE, **changes}))
    return path
