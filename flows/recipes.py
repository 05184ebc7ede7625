"""The recipe of a training, a YAML file: network, bands, classes, sources of labelled images, schedule."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from flows.training_data import Source, Strict, said
from model.config import UNetConfig
from model.data import IGNORE, Jitter, LabelledImage
from model.spec import LABELS, InputBand, ModelClass, color_of
from model.train import Normalisation, Schedule
from pipeline.errors import InputError
from pipeline.sources import BandNeed


class BandEntry(Strict):
    """A band of the model's input."""

    name: str
    wavelength: float = Field(description="centre, µm")


class ClassEntry(Strict):
    """A class, its colour as #RRGGBB; its weight in the loss."""

    name: str
    color: str = Field(pattern="^#[0-9a-fA-F]{6}$")
    description: str = ""
    weight: float = Field(default=1.0, gt=0)


class NetworkEntry(Strict):
    """The U-Net's size."""

    depth: int = Field(default=4, ge=1, le=8)
    base_width: int = Field(default=16, ge=1)
    padding: Literal["valid", "same"] = "same"
    upsampling: Literal["upconv", "bilinear"] = "upconv"
    norm: Literal["none", "batch", "group"] = "batch"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def config(self, bands: int, classes: int) -> UNetConfig:
        """The network for so many bands and classes."""
        return UNetConfig(bands, classes, **self.model_dump())

    @model_validator(mode="after")
    def _possible(self) -> NetworkEntry:
        self.config(1, 2)
        return self


def _plausible(jitter: Jitter) -> Jitter:
    for name in ("gain", "band_gain", "offset", "noise", "dropout"):
        value = getattr(jitter, name)
        if not (isfinite(value) and value >= 0):
            raise ValueError(f"{name} {value} must be at least 0")
    if jitter.dropout > 1:
        raise ValueError(f"dropout {jitter.dropout} must be at most 1")
    return jitter


class Recipe(Strict):
    """All that decides what a training makes."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    version: str
    description: str
    license: str = Field(pattern=r"^[\w.+-]+$", description="SPDX name")
    bands: list[BandEntry] = Field(min_length=1)
    classes: list[ClassEntry] = Field(min_length=2, max_length=LABELS)
    network: NetworkEntry = NetworkEntry()
    sources: list[Source] = Field(min_length=1)
    holdout: list[str] = Field(default=[], description="names of sources to validate on and not to train on")
    schedule: Schedule = Schedule()
    jitter: Annotated[Jitter, AfterValidator(_plausible)] = Jitter()
    training_data: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for what, names in (("bands", [b.name for b in self.bands]), ("classes", [c.name for c in self.classes])):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what}: two are called {twice[0]!r}")
        window, network = self.schedule.window, self.network.config(len(self.bands), len(self.classes))
        least = 2 * (network.divisor + network.least_halo)
        if window % network.divisor or window < least:
            raise ValueError(
                f"schedule: window {window} must be a multiple of {network.divisor}, the network's divisor, "
                f"and at least {least}"
            )
        return self

    @property
    def needs(self) -> tuple[BandNeed, ...]:
        """The bands, as the pipeline looks for them."""
        return tuple(BandNeed(band.name, band.wavelength) for band in self.bands)

    @property
    def model_classes(self) -> tuple[ModelClass, ...]:
        """The classes in label order."""
        return tuple(ModelClass(c.name, color_of(c.color), c.description) for c in self.classes)

    def input_bands(self, normalisation: Normalisation) -> tuple[InputBand, ...]:
        """The bands with what the training found of them."""
        return tuple(
            InputBand(band.name, band.wavelength, mean, std)
            for band, mean, std in zip(self.bands, normalisation.mean, normalisation.std, strict=True)
        )

    def load(self, data: Path) -> tuple[list[LabelledImage], list[LabelledImage]]:
        """(training, validation) images, from files below ``data``."""
        unknown = set(self.holdout) - {source.name for source in self.sources}
        if unknown:
            raise InputError(
                "recipe's holdout",
                got=sorted(unknown),
                expected=sorted(source.name for source in self.sources),
                fix="name sources of the recipe",
            )
        training: list[LabelledImage] = []
        validation: list[LabelledImage] = []
        for source in self.sources:
            images = source.load(data, self.needs)
            for image in images:
                self._check(image, source.name)
            (validation if source.name in self.holdout else training).extend(images)
        if not training:
            raise InputError(
                "recipe's holdout",
                got="every source",
                expected="a source that is left to train on",
                fix="hold out fewer",
            )
        return training, validation

    def _check(self, image: LabelledImage, source: str) -> None:
        """Refuse an image that nothing can be learned from, or of other bands or classes than the recipe's."""
        highest = int(np.max(image.labels, where=image.labels != IGNORE, initial=0))
        count, last = len(image.image), len(self.classes) - 1
        checks = (
            (count == len(self.bands), f"{count} bands", len(self.bands)),
            (image.valid.any(), "no pixel that has data in all bands", "some"),
            ((image.labels != IGNORE).any(), "no labelled pixel", "some"),
            (highest <= last, f"the label {highest}", f"0 to {last}, the classes of the recipe"),
        )
        for good, got, expected in checks:
            if not good:
                raise InputError(
                    f"source {source!r} of the recipe", got=got, expected=expected, fix="correct the recipe or the data"
                )


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe; the error names every wrong field."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no text, or a date that there is not
        raise InputError(f"recipe {path}", got=said(error), expected="a YAML file", fix="check the path") from error
    if not isinstance(document, dict):
        raise InputError(
            f"recipe {path}",
            got="nothing" if document is None else f"a {type(document).__name__}",
            expected="a YAML file with the fields of a recipe",
            fix="compare it with the recipe of an embedded model",
        )
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        places = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
        wrong = "; ".join(f"{place}: {message}" if place else message for place, message in places)
        raise InputError(f"recipe {path}", got=wrong, expected="the fields of a recipe", fix="correct them") from error
