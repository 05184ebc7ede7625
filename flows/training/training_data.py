"""What a network learns from: arrays, simulated scenes, weak labels, and labelled files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seamline.flows.settings.option_types import Scale
from seamline.flows.training.labelled_images import (
    ImageSplit,
    Label,
    LabelledFolder,
    LabelledPair,
    RecipePart,
    read_reflectance,
)
from seamline.model.training.data import IGNORE, LabelledImage
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.synthetic.simulate import Simulation


class Chip(RecipePart):
    """A labelled array in an .npz file: an image (height, width, bands) of reflectance and a mask of labels."""

    kind: Literal["chip"]
    path: Path
    image_key: str
    mask_key: str
    labels: dict[int, Label] = Field(description="value in the mask → label; other values teach nothing")
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """The whole chip."""
        try:
            with np.load(data / self.path) as arrays:
                image = arrays[self.image_key].astype(np.float32)
                mask = arrays[self.mask_key].squeeze()
        except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=describe_error(error),
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
        return ImageSplit([LabelledImage(self.name, np.moveaxis(image, -1, 0), labels, self.weight)], [])


class Simulated(RecipePart):
    """Simulated scenes of ``size``² pixels, one for each seed."""

    kind: Literal["simulated"]
    size: int = Field(gt=0, le=2**14, description="the scenes are held in memory")
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    name: str = "simulated"

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Every scene with its truth; ``weight`` is shared between them."""
        whole = Window(0, 0, self.size, self.size)
        images = []
        for seed in self.seeds:
            pixels, truth = Simulation(self.size, self.size, seed=seed).render_block(whole)
            image = np.where(truth == IGNORE, np.nan, pixels * np.float32(1e-4)).astype(np.float32)
            images.append(LabelledImage(f"{self.name}-{seed}", image, truth, self.weight / len(self.seeds)))
        return ImageSplit([*images], [])


_INDEX_BANDS = {"blue", "green", "nir", "swir16"}


class WaterIndex(RecipePart):
    """A real scene without labels, weakly labelled by its modified normalised difference water index.

    MNDWI = (green − SWIR1) / (green + SWIR1), Xu (2006), doi:10.1080/01431160600589179. Water where it is above
    ``margin`` and the near infrared is dark, land where it is below −``margin``; bright pixels, which may be
    cloud, dark ones that may be shadow, and all between teach nothing.
    """

    kind: Literal["water-index"]
    path: Path
    scale: Scale = None
    bands: tuple[str, ...] = ()
    margin: float = 0.1
    brightest: float = Field(default=0.18, description="blue reflectance above which a pixel may be cloud")
    darkest_land: float = Field(default=0.15, description="near infrared below which land may be shadow")
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """The file's or folder's stem."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """The whole scene; needs the bands blue, green, nir and swir16."""
        names = [need.name for need in bands]
        if not set(names) >= _INDEX_BANDS:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=f"the bands {', '.join(names)}",
                expected=", ".join(sorted(_INDEX_BANDS)),
                fix="add them to the recipe's bands, or leave out the sources of kind water-index",
            )
        options = SceneOptions(scale=self.scale, bands=self.bands)
        scene = open_scene(data / self.path, bands, options, assumed_nodata=assumed_nodata)
        image = read_reflectance(scene, Window(0, 0, *scene.grid.shape))
        by_name = {need.name: values for need, values in zip(bands, image, strict=True)}
        return ImageSplit([LabelledImage(self.name, image, self._labels(by_name), self.weight)], [])

    def _labels(self, bands: dict[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
        blue, green, nir, swir = (bands[name] for name in ("blue", "green", "nir", "swir16"))
        with np.errstate(invalid="ignore", divide="ignore"):
            index = (green - swir) / (green + swir)
            clear = blue < self.brightest
            water = clear & (index > self.margin) & (nir < 0.2)
            land = clear & (index < -self.margin) & (nir > self.darkest_land)
        return np.select([water, land], [np.uint8(1), np.uint8(0)], default=np.uint8(IGNORE))


def describe_error(error: Exception) -> str:
    """What an error has to say, in one line."""
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())


Source = Annotated[Chip | Simulated | WaterIndex | LabelledPair | LabelledFolder, Field(discriminator="kind")]
