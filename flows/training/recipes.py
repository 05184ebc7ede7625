"""The recipe of a training, a YAML file: network, bands, classes, sources of labelled images, schedule."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from seamline.flows.training.importing import PALETTE, WAVELENGTHS
from seamline.flows.training.labelled_images import ImageSplit, RecipePart
from seamline.flows.training.training_data import Source, describe_error
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.spec import MAX_CLASSES, InputBand, ModelClass, parse_color
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.config import Schedule, TrainingConfig
from seamline.model.training.data import load_into_memory
from seamline.model.training.losses import Loss
from seamline.model.training.normalisation import Normalisation
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandNeed

LabelledPaths = tuple[Path, Path | None, Sequence[str], Sequence[str], Mapping[str, Any]]
"""Images, labels, names of bands and of classes, and other fields of the source: a training without a recipe."""

MAX_HELD_BYTES = 2**30
"""Bytes of images that are held in memory; of more than that only what is drawn is read."""


class BandEntry(RecipePart):
    """A band of the model's input."""

    name: str
    wavelength: float | None = Field(default=None, description="centre, µm; of common bands known by their names")

    @property
    def center(self) -> float | None:
        """The wavelength, or that of the band that is commonly called so."""
        return WAVELENGTHS.get(self.name) if self.wavelength is None else self.wavelength


class ClassEntry(RecipePart):
    """A class, its colour as #RRGGBB; its weight in the loss."""

    name: str
    color: str = Field(default="", pattern="^(#[0-9a-fA-F]{6})?$", description="default: one of a palette")
    description: str = ""
    weight: float = Field(default=1.0, gt=0)


class NetworkEntry(RecipePart):
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
    def _check_size(self) -> NetworkEntry:
        self.config(1, 2)
        return self


class Recipe(RecipePart):
    """All that decides what a training makes."""

    name: str = Field(default="model", pattern="^[a-z0-9][a-z0-9-]*$")
    version: str = "1"
    description: str = "trained by Seamline"
    license: str = Field(default="unknown", pattern=r"^[\w.+-]+$", description="SPDX name")
    bands: list[BandEntry] = Field(min_length=1)
    classes: list[ClassEntry] = Field(min_length=2, max_length=MAX_CLASSES)
    network: NetworkEntry = NetworkEntry()
    sources: list[Source] = Field(min_length=1)
    holdout: list[str] = Field(default=[], description="names of sources to validate on and not to train on")
    schedule: Schedule = Schedule()
    jitter: Jitter = Jitter()
    warp: Warp = Warp()
    loss: Loss = Loss()
    training_data: list[str] = Field(default=[])
    assumed_nodata: float | None = Field(
        default=None, description="number outside of footprints in files that declare none, here and in every scene"
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> Recipe:
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
    def band_needs(self) -> tuple[BandNeed, ...]:
        """The bands, as the pipeline looks for them."""
        return tuple(BandNeed(band.name, band.center) for band in self.bands)

    @property
    def model_classes(self) -> tuple[ModelClass, ...]:
        """The classes in label order."""
        return tuple(
            ModelClass(c.name, parse_color(c.color or PALETTE[label % len(PALETTE)]), c.description)
            for label, c in enumerate(self.classes)
        )

    @property
    def training(self) -> TrainingConfig:
        """All of it but the images."""
        network = self.network.config(len(self.bands), len(self.classes))
        weights = tuple(entry.weight for entry in self.classes)
        return TrainingConfig(network, self.schedule, weights, self.jitter, self.warp, self.loss)

    def input_bands(self, normalisation: Normalisation) -> tuple[InputBand, ...]:
        """The bands with what the training found of them."""
        return tuple(
            InputBand(band.name, band.center, mean, std)
            for band, mean, std in zip(self.bands, normalisation.mean, normalisation.std, strict=True)
        )

    def load(self, data: Path) -> ImageSplit:
        """Images to train on and to validate on, from files below ``data``; in memory if all of them are small."""
        unknown = set(self.holdout) - {source.name for source in self.sources}
        if unknown:
            raise InputError(
                "recipe's holdout",
                got=sorted(unknown),
                expected=sorted(source.name for source in self.sources),
                fix="name sources of the recipe",
            )
        found = ImageSplit([], [])
        for source in self.sources:
            training, validation = source.load(data, self.band_needs, self.assumed_nodata)
            (found.validation if source.name in self.holdout else found.training).extend(training)
            found.validation.extend(validation)
        self._check(found)
        size = sum(math.prod(image.shape) for image in [*found.training, *found.validation])
        if size * (4 * len(self.bands) + 1) <= MAX_HELD_BYTES:
            found = ImageSplit(
                [load_into_memory(image) for image in found.training],
                [load_into_memory(image) for image in found.validation],
            )
        return found

    def _check(self, found: ImageSplit) -> None:
        """Refuse images of other bands than the recipe's, and recipes that leave nothing to train or validate on."""
        if not found.training:
            raise InputError(
                "recipe's holdout",
                got="every source",
                expected="a source that is left to train on",
                fix="hold out fewer, or a smaller share of an area",
            )
        if self.schedule.patience and not found.validation:
            raise InputError(
                "recipe's schedule.patience", got=f"{self.schedule.patience} without a hold-out",
                expected="images to see an improvement on", fix="hold out a source, or a share of one",
            )  # fmt: skip
        corner = slice(0, 1), slice(0, 1)
        for image in [*found.training, *found.validation]:
            if (count := len(image.pixels(corner))) != len(self.bands):
                raise InputError(
                    f"source {image.name!r} of the recipe", got=f"{count} bands", expected=len(self.bands),
                    fix="correct the recipe or the data",
                )  # fmt: skip


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe, with some fields as ``changes`` say; the error names every wrong field."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # ValueError: no text, no such date
        raise InputError(
            f"recipe {path}", got=describe_error(error), expected="a YAML file", fix="check the path"
        ) from error
    if not isinstance(document, dict):
        raise InputError(
            f"recipe {path}",
            got="nothing" if document is None else f"a {type(document).__name__}",
            expected="a YAML file with the fields of a recipe",
            fix="compare it with the recipe of an embedded model",
        )
    return parse_recipe(apply_changes(document, changes), f"recipe {path}")


def parse_recipe(document: Mapping[str, Any], what: str) -> Recipe:
    """The recipe with the fields of a document; ``what`` it is called in errors."""
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        places = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
        wrong = "; ".join(f"{place}: {message}" if place else message for place, message in places)
        raise InputError(what, got=wrong, expected="the fields of a recipe", fix="correct them") from error


def apply_changes(document: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A document with fields set: ``schedule.epochs=5``, ``sources.0.weight=2``; values are written as in YAML."""
    result: dict[str, Any] = copy.deepcopy(dict(document))
    for change in changes:
        place, equals, text = change.partition("=")
        *path, last = place.split(".")
        try:
            if not equals:
                raise ValueError("no value")
            value, part = yaml.safe_load(text), result
            for name in path:
                part = part[int(name)] if isinstance(part, list) else part.setdefault(name, {})
            part[int(last) if isinstance(part, list) else last] = value
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise InputError(
                "--set", got=change, expected="FIELD=VALUE with a field of the recipe, as in schedule.epochs=5",
                fix="see the recipe of an embedded model",
            ) from error  # fmt: skip
    return result


def choose_recipe(path: Path | None, pairs: LabelledPaths | None, out: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the one that images and labels make, with fields as ``changes`` say.

    Raises:
        InputError: there is neither or there are both, or the recipe is wrong.
    """
    if (path is None) == (pairs is None):
        raise InputError(
            "seamline train", got="neither a recipe nor images" if path is None else "a recipe and --images",
            expected="a recipe, or --images and --labels", fix="see seamline train --help",
        )  # fmt: skip
    if pairs is None:
        assert path is not None
        return read_recipe(path, changes)
    return parse_recipe(apply_changes(_build_document(pairs, out), changes), "training without a recipe")


def _build_document(pairs: LabelledPaths, out: Path) -> dict[str, Any]:
    """A recipe for one image or a folder of them, of which the last entry of ``read_label_pairs`` has further fields."""
    images, labels, bands, classes, options = pairs
    for option, given in (("--labels", labels), ("--bands", bands), ("--classes", classes)):
        if not given:
            raise InputError(option, got="nothing", expected="what --images does not say", fix="add it")
    assert labels is not None
    if images.absolute() == labels.absolute():
        raise InputError(
            "--labels", got="the same place as --images", expected="images and labels in folders of their own",
            fix="take them apart",
        )  # fmt: skip
    folder = images.is_dir() and labels.is_dir()  # with labels in one file it is a scene, a folder of band files
    places = {"images" if folder else "image": str(images.resolve()), "labels": str(labels.resolve())}
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", out.name.lower()).strip("-") or "model",
        "version": "1",
        "description": f"trained on {images.name}",
        "license": "unknown",
        "bands": [{"name": name} for name in bands],
        "classes": [{"name": name} for name in classes],
        "sources": [{"kind": "labelled-folder" if folder else "labelled", "name": images.stem, **places, **options}],
    }
