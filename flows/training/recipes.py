"""The recipe of a training: network, bands, classes, sources of labelled images, schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from seamline.flows.training.labelled_files import RecipePart
from seamline.flows.training.labelled_images import FileImage, ImageSplit
from seamline.flows.training.model_defaults import WAVELENGTHS, get_default_color
from seamline.flows.training.training_data import Source
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.spec import MAX_CLASSES, InputBand, ModelClass, parse_color
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.config import Schedule, TrainingConfig
from seamline.model.training.data import LabelledSource, load_into_memory
from seamline.model.training.losses import Loss
from seamline.model.training.normalisation import Normalisation
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandNeed

_MAX_HELD_BYTES = 2**30
"""Images that need no more memory than this are read once; windows of larger ones are read when they are drawn."""


class BandEntry(RecipePart):
    """A band of the model's input."""

    name: str
    wavelength: float | None = Field(default=None, description="centre, µm; of common bands known by their names")

    @property
    def center(self) -> float | None:
        """Centre in µm, also of common bands whose wavelength the recipe leaves out; None if unknown."""
        return WAVELENGTHS.get(self.name) if self.wavelength is None else self.wavelength


class ClassEntry(RecipePart):
    """A class of the model.

    Attributes:
        name: Name of the class.
        color: Colour as #RRGGBB; empty for one of a palette.
        description: Text for people.
        weight: Weight of the class in the loss.
    """

    name: str
    color: str = Field(default="", pattern="^(#[0-9a-fA-F]{6})?$", description="default: one of a palette")
    description: str = ""
    weight: float = Field(default=1.0, gt=0)


class NetworkEntry(RecipePart):
    """Architecture of the U-Net; ``UNetConfig`` explains the fields."""

    depth: int = Field(default=4, ge=1, le=8)
    base_width: int = Field(default=16, ge=1)
    padding: Literal["valid", "same"] = "same"
    upsampling: Literal["upconv", "bilinear"] = "upconv"
    norm: Literal["none", "batch", "group"] = "batch"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build_config(self, bands: int, classes: int) -> UNetConfig:
        """Return the configuration of the network for a number of bands and classes."""
        return UNetConfig(bands, classes, **self.model_dump())

    @model_validator(mode="after")
    def _check_size(self) -> NetworkEntry:
        self.build_config(1, 2)  # raises ValueError for a network that cannot be built
        return self


class Recipe(RecipePart):
    """Everything that decides the result of a training.

    Attributes:
        name: Name of the model.
        version: Version of the model.
        description: Text for people.
        limits: What the model is good for and what not, in one line that every run says.
        license: SPDX name.
        bands: Bands of the model's input.
        classes: Classes in label order.
        network: Architecture of the U-Net.
        start: Name of an embedded model, or a model folder, whose weights the training begins with; empty for random
            ones. It must have the bands, classes and network of the recipe.
        sources: Where labelled images come from.
        holdout: Names of sources to validate on and not to train on.
        schedule: Windows, batches and learning rate.
        jitter: Random change of brightness.
        warp: Random change of geometry.
        loss: What the training minimises.
        training_data: Description of the data, for the model's document.
        unseen: Names of the classes that say that the ground was not seen, such as cloud; None for nothing said.
        assumed_nodata: Digital number outside of the footprint in files that declare no nodata value, in the training
            and in every scene.
    """

    name: str = Field(default="model", pattern="^[a-z0-9][a-z0-9-]*$")
    version: str = "1"
    description: str = "trained by Seamline"
    limits: str = ""
    license: str = Field(default="unknown", pattern=r"^[\w.+-]+$", description="SPDX name")
    bands: list[BandEntry] = Field(min_length=1)
    classes: list[ClassEntry] = Field(min_length=2, max_length=MAX_CLASSES)
    network: NetworkEntry = NetworkEntry()
    start: str = Field(default="", description="model whose weights the training begins with; default: random ones")
    sources: list[Source] = Field(min_length=1)
    holdout: list[str] = Field(default=[], description="names of sources to validate on and not to train on")
    schedule: Schedule = Schedule()
    jitter: Jitter = Jitter()
    warp: Warp = Warp()
    loss: Loss = Loss()
    training_data: list[str] = Field(default=[])
    unseen: list[str] | None = Field(
        default=None,
        description="classes that say that the ground was not seen, such as cloud; they do not vote in maps",
    )
    assumed_nodata: float | None = Field(
        default=None, description="number outside of footprints in files that declare none, here and in every scene"
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> Recipe:
        _refuse_duplicates("bands", [band.name for band in self.bands])
        _refuse_duplicates("classes", [entry.name for entry in self.classes])
        if unknown := set(self.unseen or ()) - {entry.name for entry in self.classes}:
            raise ValueError(f"unseen: no class is called {min(unknown)!r}")
        window = self.schedule.window
        network = self.network.build_config(len(self.bands), len(self.classes))
        least = 2 * (network.divisor + network.least_halo)
        if window % network.divisor or window < least:
            raise ValueError(
                f"schedule: window {window} must be a multiple of {network.divisor}, the network's divisor, "
                f"and at least {least}"
            )
        return self

    @property
    def band_needs(self) -> tuple[BandNeed, ...]:
        """Bands of the model's input, as the pipeline matches them with those of a scene."""
        return tuple(BandNeed(band.name, band.center) for band in self.bands)

    @property
    def model_classes(self) -> tuple[ModelClass, ...]:
        """Classes in label order, each with a colour."""
        return tuple(
            ModelClass(entry.name, parse_color(entry.color or get_default_color(label)), entry.description)
            for label, entry in enumerate(self.classes)
        )

    @property
    def training_config(self) -> TrainingConfig:
        """Everything but the images, as the training takes it."""
        network = self.network.build_config(len(self.bands), len(self.classes))
        weights = tuple(entry.weight for entry in self.classes)
        return TrainingConfig(network, self.schedule, weights, self.jitter, self.warp, self.loss)

    def build_input_bands(self, normalisation: Normalisation) -> tuple[InputBand, ...]:
        """Return the bands with the mean and the standard deviation that the training measured."""
        return tuple(
            InputBand(band.name, band.center, mean, std)
            for band, mean, std in zip(self.bands, normalisation.mean, normalisation.std, strict=True)
        )

    def load(self, data: Path) -> ImageSplit:
        """Open the images of all sources, and read them into memory if they are small.

        Args:
            data: Folder that relative paths start from.

        Returns:
            Images to train on and to validate on.

        Raises:
            InputError: a source cannot be opened or does not fit, the hold-out names a source that the recipe does not
                have, or nothing is left to train on or to validate on.
        """
        names = {source.name for source in self.sources}
        if unknown := set(self.holdout) - names:
            raise InputError(
                "recipe's holdout",
                got=sorted(unknown),
                expected=sorted(source.name for source in self.sources),
                fix="name sources of the recipe",
            )
        images = ImageSplit([], [])
        for source in self.sources:
            training, validation = source.load(data, self.band_needs, self.assumed_nodata)
            (images.validation if source.name in self.holdout else images.training).extend(training)
            images.validation.extend(validation)
        self._check_split(images)
        self._check_band_counts([*images.training, *images.validation])
        for image in (*images.training, *images.validation):
            if isinstance(image, FileImage):
                image.refuse_unnamed_values()
        pixels = sum(math.prod(image.shape) for image in [*images.training, *images.validation])
        bytes_per_pixel = 4 * len(self.bands) + 1
        if pixels * bytes_per_pixel > _MAX_HELD_BYTES:
            return images
        return ImageSplit(
            [load_into_memory(image) for image in images.training],
            [load_into_memory(image) for image in images.validation],
        )

    def _check_split(self, images: ImageSplit) -> None:
        """Refuse a recipe that leaves nothing to train on, or nothing to validate on if the schedule needs it."""
        if not images.training:
            raise InputError(
                "recipe's holdout",
                got="every source",
                expected="a source that is left to train on",
                fix="hold out fewer, or a smaller share of an area",
            )
        if self.schedule.patience and not images.validation:
            raise InputError(
                "recipe's schedule.patience",
                got=f"{self.schedule.patience} without a hold-out",
                expected="images to see an improvement on",
                fix="hold out a source, or a share of one",
            )

    def _check_band_counts(self, images: Iterable[LabelledSource]) -> None:
        """Refuse images with another number of bands than the recipe; one pixel of each is read."""
        corner = slice(0, 1), slice(0, 1)
        for image in images:
            count = len(image.pixels(corner))
            if count != len(self.bands):
                raise InputError(
                    f"source {image.name!r} of the recipe",
                    got=f"{count} bands",
                    expected=len(self.bands),
                    fix="correct the recipe or the data",
                )


def _refuse_duplicates(what: str, names: Sequence[str]) -> None:
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(f"{what}: two are called {duplicates[0]!r}")
