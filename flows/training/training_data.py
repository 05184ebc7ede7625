"""Sources of labelled images that a recipe may list: arrays, simulated scenes, weakly labelled scenes and files."""

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
from seamline.flows.training.labelled_files import Label, LabelledFolder, LabelledPair, RecipePart
from seamline.flows.training.labelled_images import ImageSplit, read_reflectance, unnamed_values_error
from seamline.model.training.data import IGNORE, LabelledImage, LabelledSource
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.results.label_raster import format_values
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.synthetic.simulate import Simulation


class Chip(RecipePart):
    """A labelled array in an .npz file.

    Attributes:
        path: The file.
        image_key: Array of reflectances (height, width, bands).
        mask_key: Array of values (height, width).
        labels: Label of each value in the mask. The network does not learn from pixels with other values.
        weight: How often windows are drawn from the source, relative to others.
    """

    kind: Literal["chip"]
    path: Path
    image_key: str
    mask_key: str
    labels: dict[int, Label] = Field(description="value in the mask → label; other values teach nothing")
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """Stem of the file."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Read the array.

        Args:
            data: Folder that relative paths start from.
            bands: Bands of the recipe.
            assumed_nodata: Digital number that means no data in files that declare none.

        Raises:
            InputError: the file cannot be read, or its arrays do not fit each other or the recipe.
        """
        try:
            with np.load(data / self.path) as arrays:
                image = arrays[self.image_key].astype(np.float32)
                mask = arrays[self.mask_key].squeeze()
        except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=get_error_text(error),
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
        if self.labels and (labels == IGNORE).all():
            raise unnamed_values_error(self.name, format_values(mask), self.labels)
        return ImageSplit([LabelledImage(self.name, np.moveaxis(image, -1, 0), labels, self.weight)], [])


class Simulated(RecipePart):
    """Simulated scenes with their truth.

    Attributes:
        size: Edge of each scene in pixels.
        seeds: Seed of each scene.
        harsh: Whether the scenes have lava, burn scars and districts of bright roofs.
        weight: How often windows are drawn from the source, relative to others; divided between the scenes.
        name: Name of the source in the recipe.
    """

    kind: Literal["simulated"]
    size: int = Field(gt=0, le=2**14, description="the scenes are held in memory")
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    harsh: bool = Field(default=False, description="with lava, burn scars and districts of bright roofs")
    weight: float = Field(default=1.0, gt=0)
    name: str = "simulated"

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Simulate the scenes.

        Args:
            data: Not used.
            bands: Not used; simulated scenes have six bands.
            assumed_nodata: Not used.
        """
        whole = Window(0, 0, self.size, self.size)
        images: list[LabelledSource] = []
        for seed in self.seeds:
            simulation = Simulation(self.size, self.size, seed=seed, harsh=self.harsh)
            pixels, truth = simulation.render_block(whole)
            image = np.where(truth == IGNORE, np.nan, pixels * np.float32(1e-4)).astype(np.float32)
            images.append(LabelledImage(f"{self.name}-{seed}", image, truth, self.weight / len(self.seeds)))
        return ImageSplit(images, [])


_INDEX_BANDS = {"blue", "green", "nir", "swir16"}
_STRICT_BANDS = {"red", "swir22"}

_BRIGHTEST_WATER = 0.2
"""Reflectance in the near infrared above which a pixel is not labelled as water."""
_BRIGHTEST_SWIR_OF_WATER = 0.05
"""Reflectance at 1.6 µm above which strict rules label no pixel as water."""
_DARKEST_BRIGHT_GROUND = 0.12
"""Reflectance in the near infrared that bright ground has at least; water with sediment or glint has less."""


class WaterIndex(RecipePart):
    """A real scene without labels, weakly labelled by its modified normalised difference water index.

    MNDWI = (green − SWIR1) / (green + SWIR1), Xu (2006), doi:10.1080/01431160600589179. A pixel is water (label 1) if
    the index is above ``margin`` and the near infrared is dark. It is land (label 0) if the index is below −``margin``
    and the near infrared is bright. The network does not learn from other pixels, nor from those with a bright blue,
    which may be cloud.

    Lava, burn scars and wet ground pass this rule for water where the air brightens the green. With ``strict`` water
    must also be darker at 1.6 µm and in the near infrared than they are, and dark ground without plants is land. In a
    scene that is known to have no cloud (``cloudless``) bright dry ground, such as roofs and sand, is land.

    Attributes:
        path: Raster, or folder of band files.
        scale: Reflectance of a digital number of 1, if the files do not say it.
        bands: Bands of the files, in the order of the recipe's bands; empty to match them by name.
        margin: Index above which a pixel may be water, and below whose negative it may be land.
        brightest: Largest reflectance in the blue of a pixel that is not cloud.
        darkest_land: Smallest reflectance in the near infrared of land; a darker pixel may be shadow.
        strict: Whether fewer pixels are water, and dark ground without plants is land.
        cloudless: Whether somebody has seen that the scene has no cloud, so that bright ground is land.
        weight: How often windows are drawn from the source, relative to others.
    """

    kind: Literal["water-index"]
    path: Path
    scale: Scale = None
    bands: tuple[str, ...] = ()
    margin: float = 0.1
    brightest: float = Field(default=0.18, description="blue reflectance above which a pixel may be cloud")
    darkest_land: float = Field(default=0.15, description="near infrared below which land may be shadow")
    strict: bool = Field(default=False, description="fewer pixels are water, and dark ground without plants is land")
    cloudless: bool = Field(default=False, description="the scene has no cloud: bright dry ground is land")
    weight: float = Field(default=1.0, gt=0)

    @property
    def name(self) -> str:
        """Stem of the file or folder."""
        return self.path.stem

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Read the whole scene and label it.

        Args:
            data: Folder that relative paths start from.
            bands: Bands of the recipe.
            assumed_nodata: Digital number that means no data in files that declare none.

        Raises:
            InputError: the recipe lacks a band that the rules need, or the scene cannot be opened.
        """
        names, needed = [need.name for need in bands], _INDEX_BANDS | (_STRICT_BANDS if self.strict else set())
        if not set(names) >= needed:
            raise InputError(
                f"source {self.name!r} of the recipe",
                got=f"the bands {', '.join(names)}",
                expected=", ".join(sorted(needed)),
                fix="add them to the recipe's bands, or leave out the sources of kind water-index",
            )
        options = SceneOptions(scale=self.scale, bands=self.bands)
        scene = open_scene(data / self.path, bands, options, assumed_nodata=assumed_nodata)
        image = read_reflectance(scene, Window(0, 0, *scene.grid.shape))
        by_name = {need.name: values for need, values in zip(bands, image, strict=True)}
        return ImageSplit([LabelledImage(self.name, image, self._label(by_name), self.weight)], [])

    def _label(self, bands: dict[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
        blue, green, nir, swir = (bands[name] for name in ("blue", "green", "nir", "swir16"))
        with np.errstate(invalid="ignore", divide="ignore"):
            index = (green - swir) / (green + swir)
            clear = blue < self.brightest
            water = clear & (index > self.margin) & (nir < _BRIGHTEST_WATER)
            land = clear & (index < -self.margin) & (nir > self.darkest_land)
            if self.strict:
                dark = clear & _find_dark_ground(bands)
                water &= (swir < _BRIGHTEST_SWIR_OF_WATER) & (green > nir) & ~dark
                land |= dark
            if self.cloudless:
                land |= (blue >= self.brightest) & (index < 0) & (nir > _DARKEST_BRIGHT_GROUND)
        return np.select([water, land], [np.uint8(1), np.uint8(0)], default=np.uint8(IGNORE))


def _find_dark_ground(bands: dict[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Return where (height, width) ground is as dark as lava and burn scars are: no plants, some light at 2.2 µm."""
    red, nir, swir, swir2 = (bands[name] for name in ("red", "nir", "swir16", "swir22"))
    vegetation = (nir - red) / (nir + red)
    is_bare = (vegetation > -0.05) & (vegetation < 0.35) & (nir < 0.15)
    has_rising_spectrum = (swir > 0.035) & (swir > 0.6 * nir) & (swir2 > 0.03) & (swir2 > 0.6 * swir)
    found: NDArray[np.bool_] = is_bare & has_rising_spectrum
    return found


def get_error_text(error: Exception) -> str:
    """Return the message of an error in one line, without the file name that ``OSError`` adds."""
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())


Source = Annotated[Chip | Simulated | WaterIndex | LabelledPair | LabelledFolder, Field(discriminator="kind")]
