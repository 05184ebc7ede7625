"""The recipe of a training, a YAML file: network, bands, classes, sources of labelled images, schedule."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.options import Scale
from model.config import UNetConfig
from model.data import IGNORE, Jitter, LabelledImage
from model.spec import LABELS, InputBand, ModelClass
from model.train import Normalisation, Schedule
from pipeline.errors import InputError
from pipeline.grid import Window
from pipeline.scene import read_block
from pipeline.simulate import Simulation
from pipeline.sources import BandNeed, SceneOptions, open_scene


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BandEntry(_Strict):
    """A band of the model's input."""

    name: str
    wavelength: float = Field(description="centre, µm")


class ClassEntry(_Strict):
    """A class, its colour as #RRGGBB; its weight in the loss."""

    name: str
    color: str = Field(pattern="^#[0-9a-fA-F]{6}$")
    description: str = ""
    weight: float = Field(default=1.0, gt=0)


class Chip(_Strict):
    """A labelled array in an .npz file: an image (height, width, bands) of reflectance and a mask of labels."""

    kind: Literal["chip"]
    path: Path
    image_key: str
    mask_key: str
    labels: dict[int, Annotated[int, Field(ge=0, lt=IGNORE)]] = Field(
        description="value in the mask → label; other values teach nothing"
    )
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed]) -> list[LabelledImage]:
        """The whole chip."""
        try:
            with np.load(data / self.path) as arrays:
                image = arrays[self.image_key].astype(np.float32)
                mask = arrays[self.mask_key].squeeze()
        except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=_said(error),
                expected=f"an .npz file below {data} with {self.image_key} and {self.mask_key}",
                fix="check the recipe's path and keys, and --data",
            ) from error
        if image.shape != (*mask.shape, len(bands)) or mask.ndim != 2:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=f"{image.shape} and {mask.shape}",
                expected=f"(height, width, {len(bands)}) of the image and (height, width) of the mask",
                fix="check the recipe's keys and bands",
            )
        labels = np.full(mask.shape, IGNORE, np.uint8)
        for value, label in self.labels.items():
            labels[mask == value] = label
        return [LabelledImage(self.name, np.moveaxis(image, -1, 0), labels, self.weight)]


class Simulated(_Strict):
    """Simulated scenes of ``size``² pixels, one for each seed."""

    kind: Literal["simulated"]
    size: int = Field(gt=0, le=2**14, description="the scenes are held in memory")
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    name: str = "simulated"

    def load(self, data: Path, bands: Sequence[BandNeed]) -> list[LabelledImage]:
        """Every scene with its truth; ``weight`` is shared between them."""
        whole = Window(0, 0, self.size, self.size)
        images = []
        for seed in self.seeds:
            pixels, truth = Simulation(self.size, self.size, seed=seed).block(whole)
            image = np.where(truth == IGNORE, np.nan, pixels * np.float32(1e-4)).astype(np.float32)
            images.append(LabelledImage(f"{self.name}-{seed}", image, truth, self.weight / len(self.seeds)))
        return images


_INDEX_BANDS = {"blue", "green", "nir", "swir16"}


class WaterIndex(_Strict):
    """A real scene without labels, weakly labelled by its modified normalised difference water index.

    MNDWI = (green − SWIR1) / (green + SWIR1), Xu (2006), doi:10.1080/01431160600589179. Water where it is above
    ``margin`` and the near infrared is dark, land where it is below −``margin``; bright pixels, which may be
    cloud, dark ones that may be shadow, and all between teach nothing.
    """

    kind: Literal["water-index"]
    path: Path
    scale: Scale = None
    bands: list[str] = []
    margin: float = 0.1
    brightest: float = Field(default=0.18, description="blue reflectance above which a pixel may be cloud")
    darkest_land: float = Field(default=0.15, description="near infrared below which land may be shadow")
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """The file's or folder's stem."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed]) -> list[LabelledImage]:
        """The whole scene; needs the bands blue, green, nir and swir16."""
        names = [need.name for need in bands]
        if not set(names) >= _INDEX_BANDS:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=f"the bands {', '.join(names)}",
                expected=", ".join(sorted(_INDEX_BANDS)),
                fix="add them to the recipe's bands, or leave out the sources of kind water-index",
            )
        options = SceneOptions(scale=self.scale, bands=tuple(self.bands))
        scene = open_scene(data / self.path, bands, options, assumed_nodata=0)
        block = read_block(scene, Window(0, 0, *scene.grid.shape))
        factors = np.array([(b.scale, b.offset) for b in scene.bands], np.float32)[:, :, None, None]
        image = block.pixels * factors[:, 0] + factors[:, 1]
        image[:, ~block.valid] = np.nan
        for values, pixels, band in zip(image, block.pixels, scene.bands, strict=True):
            values[pixels == band.nodata] = np.nan
        by_name = {need.name: values for need, values in zip(bands, image, strict=True)}
        return [LabelledImage(self.name, image, self._labels(by_name), self.weight)]

    def _labels(self, bands: dict[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
        blue, green, nir, swir = (bands[name] for name in ("blue", "green", "nir", "swir16"))
        with np.errstate(invalid="ignore", divide="ignore"):
            index = (green - swir) / (green + swir)
            clear = blue < self.brightest
            water = clear & (index > self.margin) & (nir < 0.2)
            land = clear & (index < -self.margin) & (nir > self.darkest_land)
        return np.select([water, land], [np.uint8(1), np.uint8(0)], default=np.uint8(IGNORE))


Source = Annotated[Chip | Simulated | WaterIndex, Field(discriminator="kind")]


class NetworkEntry(_Strict):
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


class Recipe(_Strict):
    """All that decides what a training makes."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    version: str
    description: str
    license: str
    bands: list[BandEntry] = Field(min_length=1)
    classes: list[ClassEntry] = Field(min_length=2, max_length=LABELS)
    network: NetworkEntry = NetworkEntry()
    sources: list[Source] = Field(min_length=1)
    holdout: list[str] = Field(default=[], description="names of sources to validate on and not to train on")
    schedule: Schedule = Schedule()
    jitter: Annotated[Jitter, AfterValidator(_plausible)] = Jitter()
    training_data: list[str] = []

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
        return tuple(
            ModelClass(c.name, (int(c.color[1:3], 16), int(c.color[3:5], 16), int(c.color[5:7], 16)), c.description)
            for c in self.classes
        )

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
        raise InputError(f"recipe {path}", got=_said(error), expected="a YAML file", fix="check the path") from error
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


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
