"""Sources of a recipe that are files: an image and its labels, or a folder of images and their labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from seamline.flows.settings.option_types import Scale
from seamline.flows.training.labelled_images import FileImage, ImageSplit
from seamline.model.training.data import IGNORE
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.results.truth import VECTOR_SUFFIXES, Truth, make_label_reader
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene

log = logging.getLogger("seamline.training")

Label = Annotated[int, Field(ge=0, lt=IGNORE)]
Share = Annotated[float, Field(ge=0, lt=1)]

_IMAGE_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png")
"""Suffixes of images in a folder; labels may also have those of vector files."""


class RecipePart(BaseModel):
    """Base of the parts of a recipe; a field that the part does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=1000)


def _check_part(part: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = part
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("left, top, right and bottom as shares of the image, 0 to 1")
    return part


class _LabelledFiles(RecipePart):
    """Fields of all sources that are files.

    Attributes:
        name: Name of the source in the recipe.
        values: Label of each value in a raster of labels, or in the ``attribute`` of polygons. The network does not
            learn from pixels with other values.
        attribute: Attribute of polygons; empty for polygons of label 1 on a ground of label 0.
        scale: Reflectance of a digital number of 1, if the files do not say it.
        bands: Bands of the files, in the order of the recipe's bands; empty to match them by name.
        weight: How often windows are drawn from the source, relative to others.
    """

    # A recipe gives values as the file has them, 255 or forest; YAML reads some of them as numbers.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: str
    values: dict[str, Label] = {}
    attribute: str = ""
    scale: Scale = None
    bands: tuple[str, ...] = ()
    weight: float = Field(default=1.0, gt=0)

    def open_image(
        self, name: str, image: Path, labels: Path, bands: Sequence[BandNeed], assumed_nodata: float | None
    ) -> FileImage:
        """Open a whole image and its labels.

        Args:
            name: Name of the image for messages and scores.
            image: Raster, or folder of band files.
            labels: Raster or polygons.
            bands: Bands of the recipe.
            assumed_nodata: Digital number that means no data in files that declare none.

        Returns:
            The image; no pixel has been read.

        Raises:
            InputError: the image or the labels cannot be opened or do not fit.
        """
        options = SceneOptions(scale=self.scale, bands=self.bands)
        scene = open_scene(image, bands, options, assumed_nodata=assumed_nodata, georeferenced=False)
        truth = Truth(labels, self.attribute, self.values)
        height, width = scene.grid.shape
        whole = Window(0, 0, height, width)
        return FileImage(name, scene, whole, truth, make_label_reader(scene.grid, truth), self.weight)


class LabelledPair(_LabelledFiles):
    """An image and its labels, on any two grids.

    To hold out another area than the east of an image, list the image twice with two names and two parts.

    Attributes:
        image: Raster that GDAL reads, or folder of band files.
        labels: Raster or polygons.
        part: Part of the image to use, as shares of its width and height.
        holdout: Share of the part, at its eastern edge, to validate on and not to train on.
    """

    kind: Literal["labelled"]
    image: Path
    labels: Path
    part: Annotated[tuple[float, float, float, float], AfterValidator(_check_part)] = Field(
        default=(0, 0, 1, 1), description="left, top, right, bottom as shares of the image"
    )
    holdout: Share = 0

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Open the part of the image, and the part of it that is held out.

        Args:
            data: Folder that relative paths start from.
            bands: Bands of the recipe.
            assumed_nodata: Digital number that means no data in files that declare none.

        Raises:
            InputError: a file cannot be opened, or a part has no pixels.
        """
        whole = self.open_image(self.name, data / self.image, data / self.labels, bands, assumed_nodata)
        _log_warnings(whole.scene)
        left, top, right, bottom = self.part
        border = right - self.holdout * (right - left)
        training = _take_part(whole, self.name, (left, top, border, bottom))
        if not self.holdout:
            return ImageSplit([training], [])
        return ImageSplit([training], [_take_part(whole, f"{self.name}-holdout", (border, top, right, bottom))])


def _log_warnings(scene: Scene) -> None:
    for warning in scene.warnings:
        log.warning("%s", warning)


def _take_part(image: FileImage, name: str, shares: tuple[float, float, float, float]) -> FileImage:
    """Return a part (left, top, right, bottom as shares) of an image under another name."""
    height, width = image.shape
    left, right = round(shares[0] * width), round(shares[2] * width)
    top, bottom = round(shares[1] * height), round(shares[3] * height)
    window = Window(top, left, bottom - top, right - left)
    if not window.pixel_count:
        raise InputError(f"source {image.name!r}", got="a part without pixels", expected="some", fix="correct it")
    return replace(image, name=name, part=window)


class LabelledFolder(_LabelledFiles):
    """A folder of images and their labels.

    The source's ``weight`` is divided between the images by their sizes.

    Attributes:
        images: Folder of images.
        labels: Folder of files with the images' names before the dot, or one file for all images.
        holdout: Share of the images' pixels to validate on and not to train on; whole images are held out, drawn by
            their names.
    """

    kind: Literal["labelled-folder"]
    images: Path
    labels: Path
    holdout: Share = 0

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Open every image of the folder.

        Args:
            data: Folder that relative paths start from.
            bands: Bands of the recipe.
            assumed_nodata: Digital number that means no data in files that declare none.

        Raises:
            InputError: there are no images, an image has no labels, or a file cannot be opened.
        """
        pairs = self._pair_files(data / self.images, data / self.labels)
        images = [
            self.open_image(f"{self.name}/{image.stem}", image, labels, bands, assumed_nodata)
            for image, labels in pairs
        ]
        self._check_scales(images)
        _log_warnings(images[0].scene)  # what is assumed of the first image is assumed of all
        total = sum(image.part.pixel_count for image in images)
        weighted = [replace(image, weight=self.weight * image.part.pixel_count / total) for image in images]
        held_out = self._draw_holdout([image.part.pixel_count for image in images])
        return ImageSplit(
            [image for number, image in enumerate(weighted) if number not in held_out],
            [image for number, image in enumerate(weighted) if number in held_out],
        )

    def _draw_holdout(self, sizes: Sequence[int]) -> set[int]:
        """Draw images (by their numbers) until they have the share of all pixels; the draw is always the same."""
        held_out: set[int] = set()
        for number in np.random.default_rng(0).permutation(len(sizes)):
            if sum(sizes[k] for k in held_out) >= self.holdout * sum(sizes):
                break
            held_out.add(int(number))
        return held_out

    def _check_scales(self, images: Sequence[FileImage]) -> None:
        """Refuse images for which different scales are assumed; scales that the files state may differ."""
        scales = {tuple((band.scale, band.offset) for band in image.scene.bands): image for image in images}
        if len(scales) > 1 and self.scale is None and any(image.scene.warnings for image in images):
            (first, one), (second, other), *_ = scales.items()
            raise InputError(
                f"source {self.name!r}",
                got=f"numbers × {first[0][0]:g} in {one.name}, × {second[0][0]:g} in {other.name}",
                expected="one scale, where the files state none",
                fix="say it: --set sources.0.scale=0.0001",
            )

    def _pair_files(self, images: Path, labels: Path) -> list[tuple[Path, Path]]:
        """Return each image with its labels."""
        image_files = _list_files(images, _IMAGE_SUFFIXES)
        if not image_files:
            raise InputError(
                f"source {self.name!r}",
                got=f"no images in {images}",
                expected="GeoTIFFs",
                fix="check the folder, and --data",
            )
        if not labels.is_dir():
            return [(path, labels) for path in image_files.values()]
        label_files = _list_files(labels, (*_IMAGE_SUFFIXES, *VECTOR_SUFFIXES))
        if missing := sorted(set(image_files) - set(label_files)):
            raise InputError(
                f"source {self.name!r}",
                got=f"{len(missing)} images without labels in {labels}, the first {missing[0]}",
                expected="for each image a file with the same name before the dot",
                fix="add them, or take the images away",
            )
        return [(path, label_files[name]) for name, path in image_files.items()]


def _list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by their names before the dot, in the order of the names."""
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    by_stem = {path.stem: path for path in files}
    if len(by_stem) < len(files):
        twice = next(path for path in files if by_stem[path.stem] != path)
        raise InputError(
            f"folder {folder}",
            got=f"{twice.name} and {by_stem[twice.stem].name}",
            expected="one file of a name",
            fix="take one of them away",
        )
    return by_stem
