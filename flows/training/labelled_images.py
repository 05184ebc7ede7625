"""Labelled images in files, read window by window: rasters beside rasters or polygons, one pair or a folder of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from seamline.flows.settings.option_types import Scale
from seamline.model.training.data import IGNORE, Area, LabelledSource
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.content import hash_content
from seamline.pipeline.results.compare import VECTOR_SUFFIXES, Truth, make_label_reader
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.scenes.scene import Scene, read_block

log = logging.getLogger("seamline.training")

Label = Annotated[int, Field(ge=0, lt=IGNORE)]
Share = Annotated[float, Field(ge=0, lt=1)]
IMAGE_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png")
"""Names of images in a folder; labels may have those of vectors, too."""


class ImageSplit(NamedTuple):
    """Images to learn from, and images to validate on."""

    training: list[LabelledSource]
    validation: list[LabelledSource]


class RecipePart(BaseModel):
    """A part of a recipe: what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class FileImage:
    """A part of a scene and its labels, both read when they are needed."""

    name: str
    scene: Scene
    part: Window
    truth: Truth
    read_labels: Callable[[Window], NDArray[np.uint8]]
    weight: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.part.height, self.part.width

    def pixels(self, area: Area) -> NDArray[np.float32]:
        """(bands, height, width): reflectances, NaN where there is no data."""
        return read_reflectance(self.scene, self._window(area))

    def labels(self, area: Area) -> NDArray[np.uint8]:
        """(height, width)."""
        return self.read_labels(self._window(area))

    def digest(self) -> str:
        """Of the files' contents and what they are taken for; large rasters are sampled."""
        labels = _digest_file(self.truth) + repr((self.truth.attribute, sorted(self.truth.values.items())))
        return hashlib.sha256(f"{self.scene.compute_digest()} {labels} {self.part}".encode()).hexdigest()

    def _window(self, area: Area) -> Window:
        rows, cols = area
        return Window(
            self.part.row + rows.start, self.part.col + cols.start, rows.stop - rows.start, cols.stop - cols.start
        )


def _digest_file(truth: Truth) -> str:
    if not truth.is_vector:
        return hash_content(str(truth.path), [1])
    with truth.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_reflectance(scene: Scene, window: Window) -> NDArray[np.float32]:
    """The pixels of a window (bands, height, width) as reflectances, NaN where there is no data."""
    block = read_block(scene, window)
    factors = np.array([(b.scale, b.offset) for b in scene.bands], np.float32)[:, :, None, None]
    image: NDArray[np.float32] = block.pixels * factors[:, 0] + factors[:, 1]
    image[:, ~block.valid] = np.nan
    for values, pixels, band in zip(image, block.pixels, scene.bands, strict=True):
        values[pixels == band.nodata] = np.nan
    return image


def _check_part(part: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = part
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("left, top, right and bottom as shares of the image, 0 to 1")
    return part


class _LabelledFiles(RecipePart):
    """What labelled files have in common.

    ``values`` says which value in a raster of labels, or in the polygons' ``attribute``, stands for which label; what
    it does not name teaches nothing. Without an attribute polygons have the label 1 and the rest 0.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)  # a value is written as it is, 255 or forest

    name: str
    values: dict[str, Label] = {}
    attribute: str = ""
    scale: Scale = None
    bands: tuple[str, ...] = ()
    weight: float = Field(default=1.0, gt=0)

    def open_image(
        self, name: str, image: Path, labels: Path, bands: Sequence[BandNeed], assumed_nodata: float | None
    ) -> FileImage:
        """A whole image and its labels."""
        options = SceneOptions(scale=self.scale, bands=self.bands)
        scene = open_scene(image, bands, options, assumed_nodata=assumed_nodata, georeferenced=False)
        truth = Truth(labels, self.attribute, self.values)
        height, width = scene.grid.shape
        whole = Window(0, 0, height, width)
        return FileImage(name, scene, whole, truth, make_label_reader(scene.grid, truth), self.weight)


class LabelledPair(_LabelledFiles):
    """An image, a raster GDAL reads or a folder of band files, and its labels: a raster, or polygons, on any grid.

    ``part`` is what of the image is taken, as shares. ``holdout`` is the share of that part, in the east of it, that
    is validated on and not trained on; or list an image twice, under two names, to hold out another area of it.
    """

    kind: Literal["labelled"]
    image: Path
    labels: Path
    part: Annotated[tuple[float, float, float, float], AfterValidator(_check_part)] = Field(
        default=(0, 0, 1, 1), description="left, top, right, bottom as shares of the image"
    )
    holdout: Share = 0

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """The part of the image, and what of it is held out."""
        whole = self.open_image(self.name, data / self.image, data / self.labels, bands, assumed_nodata)
        _log_warnings(whole.scene)
        left, top, right, bottom = self.part
        border = right - self.holdout * (right - left)
        parts = [_take_part(whole, self.name, (left, top, border, bottom))]
        held = [_take_part(whole, f"{self.name}-holdout", (border, top, right, bottom))] if self.holdout else []
        return ImageSplit([*parts], [*held])


def _log_warnings(scene: Scene) -> None:
    for warning in scene.warnings:
        log.warning("%s", warning)


def _take_part(image: FileImage, name: str, shares: tuple[float, float, float, float]) -> FileImage:
    height, width = image.shape
    left, top, right, bottom = (
        round(share * size) for share, size in zip(shares, (width, height, width, height), strict=True)
    )
    window = Window(top, left, bottom - top, right - left)
    if not window.pixel_count:
        raise InputError(f"source {image.name!r}", got="a part without pixels", expected="some", fix="correct it")
    return replace(image, name=name, part=window)


class LabelledFolder(_LabelledFiles):
    """A folder of images, and their labels: a folder of files with the same names before the dot, or one file for all.

    ``holdout`` is the share of the images' pixels that is validated on: whole images, drawn by their names.
    ``weight`` is shared between the images by their sizes.
    """

    kind: Literal["labelled-folder"]
    images: Path
    labels: Path
    holdout: Share = 0

    def load(self, data: Path, bands: Sequence[BandNeed], assumed_nodata: float | None) -> ImageSplit:
        """Every image of the folder."""
        pairs = self._pair_files(data / self.images, data / self.labels)
        images = [
            self.open_image(f"{self.name}/{image.stem}", image, labels, bands, assumed_nodata)
            for image, labels in pairs
        ]
        self._check_scales(images)
        _log_warnings(images[0].scene)  # what is assumed of the first is assumed of all
        total = sum(image.part.pixel_count for image in images)
        shared = [replace(image, weight=self.weight * image.part.pixel_count / total) for image in images]
        order = np.random.default_rng(0).permutation(len(shared))  # of names in order: always the same
        held: set[int] = set()
        for number in order:
            if sum(images[k].part.pixel_count for k in held) >= self.holdout * total:
                break
            held.add(int(number))
        return ImageSplit(
            [image for number, image in enumerate(shared) if number not in held],
            [image for number, image in enumerate(shared) if number in held],
        )

    def _check_scales(self, images: Sequence[FileImage]) -> None:
        """Scales that files state may differ, those that are assumed of them may not."""
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
        found = _list_files(images, IMAGE_SUFFIXES)
        if not found:
            raise InputError(
                f"source {self.name!r}", got=f"no images in {images}", expected="GeoTIFFs",
                fix="check the folder, and --data",
            )  # fmt: skip
        if not labels.is_dir():
            return [(path, labels) for path in found.values()]
        masks = _list_files(labels, (*IMAGE_SUFFIXES, *VECTOR_SUFFIXES))
        if missing := sorted(set(found) - set(masks)):
            raise InputError(
                f"source {self.name!r}",
                got=f"{len(missing)} images without labels in {labels}, the first {missing[0]}",
                expected="for each image a file with the same name before the dot",
                fix="add them, or take the images away",
            )
        return [(path, masks[name]) for name, path in found.items()]


def _list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder by their names before the dot, in the order of the names."""
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        twice = next(path for path in files if found[path.stem] != path)
        raise InputError(
            f"folder {folder}",
            got=f"{twice.name} and {found[twice.stem].name}",
            expected="one file of a name",
            fix="take one of them away",
        )
    return found
