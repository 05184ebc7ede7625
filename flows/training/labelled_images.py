"""Labelled images that are read from files, window by window, while a network learns from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seamline.model.training.data import IGNORE, Area, LabelledSource, split_into_blocks
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.content import hash_content
from seamline.pipeline.results.truth import Truth, describe_values
from seamline.pipeline.scenes.scene import Scene, read_block


class ImageSplit(NamedTuple):
    """Labelled images, split into those to train on and those to validate on."""

    training: list[LabelledSource]
    validation: list[LabelledSource]


@dataclass(frozen=True)
class FileImage:
    """A part of a scene and its labels, as a ``LabelledSource`` that reads pixels and labels from files.

    Attributes:
        name: Name for messages and scores.
        scene: The scene.
        part: Part of the scene, in pixels of its grid.
        truth: File of the labels.
        read_labels: Reads the labels (height, width) of a window of the scene's grid.
        weight: How often windows are drawn from the image, relative to others.
    """

    name: str
    scene: Scene
    part: Window
    truth: Truth
    read_labels: Callable[[Window], NDArray[np.uint8]]
    weight: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.part.height, self.part.width

    def pixels(self, area: Area) -> NDArray[np.float32]:
        """Read reflectances (bands, height, width) of an area; NaN where there is no data."""
        return read_reflectance(self.scene, self._to_window(area))

    def labels(self, area: Area) -> NDArray[np.uint8]:
        """Read the labels (height, width) of an area."""
        return self.read_labels(self._to_window(area))

    def refuse_unnamed_values(self) -> None:
        """Refuse labels none of whose values is named; mostly the first block tells.

        Raises:
            InputError: no pixel of the part has one of the named values.
        """
        if self.truth.values and all((self.labels(area) == IGNORE).all() for area in split_into_blocks(self.shape)):
            raise unnamed_values_error(self.name, describe_values(self.truth), self.truth.values)

    def digest(self) -> str:
        """Return a digest of the contents and the meaning of the files; of large rasters a sample is read."""
        labels = _digest_labels(self.truth) + repr((self.truth.attribute, sorted(self.truth.values.items())))
        return hashlib.sha256(f"{self.scene.compute_digest()} {labels} {self.part}".encode()).hexdigest()

    def _to_window(self, area: Area) -> Window:
        """Convert rows and columns of the part to a window of the scene's grid."""
        rows, cols = area
        return Window(
            self.part.row + rows.start, self.part.col + cols.start, rows.stop - rows.start, cols.stop - cols.start
        )


def unnamed_values_error(name: str, found: str, named: Iterable[object]) -> InputError:
    """Return the error for labels with other values than those that are named.

    Args:
        name: name of the image.
        found: the values that its labels have, as text.
        named: the values that are named.

    Returns:
        The error.
    """
    return InputError(
        f"labels of source {name!r}",
        got=f"the values {found}",
        expected=f"pixels of {' or '.join(map(str, named))}, the values that are named",
        fix="name the values that the labels have: --values 0=0,255=1, or `values` in the recipe",
    )


def _digest_labels(truth: Truth) -> str:
    if not truth.is_vector:
        return hash_content(str(truth.path), [1])
    with truth.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_reflectance(scene: Scene, window: Window) -> NDArray[np.float32]:
    """Read a window of a scene as reflectances.

    Returns:
        Reflectances (bands, height, width); NaN where there is no data.
    """
    block = read_block(scene, window)
    factors = np.array([(band.scale, band.offset) for band in scene.bands], np.float32)[:, :, None, None]
    image: NDArray[np.float32] = block.pixels * factors[:, 0] + factors[:, 1]
    image[:, ~block.valid] = np.nan
    for values, pixels, band in zip(image, block.pixels, scene.bands, strict=True):
        values[pixels == band.nodata] = np.nan
    return image
