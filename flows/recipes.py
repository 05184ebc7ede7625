"""The recipe of a training, a YAML file: network, bands, classes, sources of labelled images, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.data import IGNORE, Jitter, LabelledImage
from model.spec import InputBand, ModelClass
from model.train import Normalisation, Schedule
from pipeline.errors import InputError
from pipeline.grid import Window
from pipeline.scene import read_block
from pipeline.simulate import Simulation
from pipeline.sources import BandNeed, SceneOptions, open_scene


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    labels: dict[int, int] = Field(description="value in the mask → label; other values teach nothing")
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed]) -> list[LabelledImage]:
        """The whole chip."""
        with np.load(data / self.path) as arrays:
            image = np.moveaxis(arrays[self.image_key].astype(np.float32), -1, 0)
            mask = arrays[self.mask_key].squeeze()
        if image.shape[0] != len(bands):
            raise InputError(
                f"chip {self.path}", got=f"{image.shape[0]} bands", expected=len(bands), fix="check the recipe"
            )
        table = np.full(256, IGNORE, np.uint8)
        for value, label in self.labels.items():
            table[value] = label
        return [LabelledImage(self.name, image, table[mask], self.weight)]


class Simulated(_Strict):
    """Simulated scenes of ``size``² pixels, one for each seed."""

    kind: Literal["simulated"]
    size: int = Field(gt=0)
    seeds: list[int]
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


class WaterIndex(_Strict):
    """A real scene without labels, weakly labelled by its modified normalised difference water index.

    MNDWI = (green − SWIR1) / (green + SWIR1), Xu (2006), doi:10.1080/01431160600589179. Water where it is above
    ``margin`` and the near infrared is dark, land where it is below −``margin``; bright pixels, which may be
    cloud, dark ones that may be shadow, and all between teach nothing.
    """

    kind: Literal["water-index"]
    path: Path
    scale: float | None = None
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
    upsampling: Literal["upconv", "bilinear"] = "upconv"
    norm: Literal["none", "batch", "group"] = "batch"
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Recipe(_Strict):
    """All that decides what a training makes."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    version: str
    description: str
    license: str
    bands: list[BandEntry]
    classes: list[ClassEntry]
    network: NetworkEntry = NetworkEntry()
    sources: list[Source]
    holdout: list[str] = Field(default=[], description="names of sources to validate on and not to train on")
    schedule: Schedule = Schedule()
    jitter: Jitter = Jitter()
    training_data: list[str] = []

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
            part = validation if source.name in self.holdout else training
            try:
                part.extend(source.load(data, self.needs))
            except (OSError, KeyError) as error:
                raise InputError(
                    f"source {source.name!r} of the recipe",
                    got=error,
                    expected=f"a file below {data}",
                    fix="check the path and --data",
                ) from error
        return training, validation


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe; the error names every wrong field."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"recipe {path}", got=wrong, expected="the fields of a recipe", fix="correct them") from error
    except (OSError, yaml.YAMLError) as error:
        problem = str(error).replace("\n", " ")
        raise InputError(f"recipe {path}", got=problem, expected="a YAML file", fix="check the path") from error
