"""What a network learns from: labelled images in files, simulated scenes, weak labels."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flows.options import Scale
from model.data import IGNORE, LabelledImage
from pipeline.comparison import Truth, labels_on
from pipeline.errors import InputError
from pipeline.grid import Window
from pipeline.scene import Scene, read_block
from pipeline.simulate import Simulation
from pipeline.sources import BandNeed, SceneOptions, open_scene

Label = Annotated[int, Field(ge=0, lt=IGNORE)]


class Strict(BaseModel):
    """A part of a recipe: what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Chip(Strict):
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
                got=said(error),
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


class Simulated(Strict):
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


class WaterIndex(Strict):
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
        image = physical(scene, Window(0, 0, *scene.grid.shape))
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


def _a_part(part: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = part
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("left, top, right and bottom as shares of the image, 0 to 1")
    return part


class Labelled(Strict):
    """An image, a raster GDAL reads or a folder of band files, and its labels: a raster, or polygons, on any grid.

    ``values`` says which value in the raster, or in the polygons' ``attribute``, stands for which label; what it does
    not name teaches nothing. Without an attribute polygons have the label 1 and the rest 0. ``part`` is what of the
    image is taken, as shares: list an image twice, under two names, to hold out an area of it.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)  # a value is written as it is, 255 or forest

    kind: Literal["labelled"]
    name: str
    image: Path
    labels: Path
    values: dict[str, Label] = {}
    attribute: str = ""
    part: Annotated[tuple[float, float, float, float], AfterValidator(_a_part)] = Field(
        default=(0, 0, 1, 1), description="left, top, right, bottom as shares of the image"
    )
    scale: Scale = None
    bands: list[str] = []
    weight: float = Field(default=1.0, gt=0)

    def load(self, data: Path, bands: Sequence[BandNeed]) -> list[LabelledImage]:
        """The part of the image and its labels."""
        scene = open_scene(data / self.image, bands, SceneOptions(scale=self.scale, bands=tuple(self.bands)))
        height, width = scene.grid.shape
        left, top, right, bottom = (
            round(share * size) for share, size in zip(self.part, (width, height, width, height), strict=True)
        )
        window = Window(top, left, bottom - top, right - left)
        if not window.pixels:
            raise InputError(f"source {self.name!r}", got="a part without pixels", expected="some", fix="correct it")
        labels = labels_on(scene.grid, Truth(data / self.labels, self.attribute, self.values), window)
        return [LabelledImage(self.name, physical(scene, window), labels, self.weight)]


def said(error: Exception) -> str:
    """What an error has to say, in one line."""
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())


def physical(scene: Scene, window: Window) -> NDArray[np.float32]:
    """The pixels of a window (bands, height, width) as reflectances, NaN where there is no data."""
    block = read_block(scene, window)
    factors = np.array([(b.scale, b.offset) for b in scene.bands], np.float32)[:, :, None, None]
    image: NDArray[np.float32] = block.pixels * factors[:, 0] + factors[:, 1]
    image[:, ~block.valid] = np.nan
    for values, pixels, band in zip(image, block.pixels, scene.bands, strict=True):
        values[pixels == band.nodata] = np.nan
    return image


Source = Annotated[Chip | Simulated | WaterIndex | Labelled, Field(discriminator="kind")]
