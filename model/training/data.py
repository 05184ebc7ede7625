"""Labelled images, in memory or read from files, and the windows and blocks that are read of them."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""The label of pixels that are not learned from and not scored."""
BLOCK_SIZE = 512
"""Edge, in pixels, of the blocks in which large images are read."""
_SAMPLED_BLOCKS = 256
"""The most blocks of an image that are read to describe its bands."""

Area = tuple[slice, slice]
"""Rows and columns of an image, inside of it."""


class LabelledSource(Protocol):
    """An image and its labels, read area by area, so that it may be larger than memory."""

    @property
    def name(self) -> str:
        """Name for messages and reports."""
        ...

    @property
    def weight(self) -> float:
        """How often windows are drawn from this image, relative to the others; more than 0."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def pixels(self, area: Area) -> NDArray[np.float32]:
        """Read the pixels (bands, height, width) of an area, in the unit of the model's input, NaN without data."""
        ...

    def labels(self, area: Area) -> NDArray[np.uint8]:
        """Read the labels (height, width) of an area, ``IGNORE`` where they are unknown."""
        ...

    def digest(self) -> str:
        """Return a digest of pixels and labels: a training is not resumed when it changes."""
        ...


@dataclass(frozen=True)
class LabelledImage:
    """A labelled image in memory.

    Attributes:
        name: for messages and reports.
        image: (bands, height, width) float32, NaN without data.
        mask: labels (height, width), ``IGNORE`` where they are unknown.
        weight: how often windows are drawn from this image, relative to the others.
    """

    name: str
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[1:] != self.mask.shape:
            raise ValueError(
                f"{self.name}: image {self.image.shape} and labels {self.mask.shape}, "
                "expected (bands, height, width) and (height, width) of one size"
            )
        if self.weight <= 0:
            raise ValueError(f"{self.name}: weight {self.weight}, expected more than 0")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.mask.shape
        return height, width

    def pixels(self, area: Area) -> NDArray[np.float32]:
        """Return the pixels (bands, height, width) of an area."""
        return self.image[:, area[0], area[1]]

    def labels(self, area: Area) -> NDArray[np.uint8]:
        """Return the labels (height, width) of an area."""
        return self.mask[area]

    def digest(self) -> str:
        """Return SHA-256 (hex) of all pixels and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.image).data)
        digest.update(np.ascontiguousarray(self.mask).data)
        return digest.hexdigest()


def load_into_memory(image: LabelledSource) -> LabelledImage:
    """Read all of an image's pixels and labels into memory."""
    whole = slice(0, image.shape[0]), slice(0, image.shape[1])
    return LabelledImage(image.name, image.pixels(whole), image.labels(whole), image.weight)


def read_window(
    image: LabelledSource, top: int, left: int, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read a window that may overhang the image, which is mirrored there without repeating its edge.

    Args:
        image: what to read.
        top: first row of the window; may be negative.
        left: first column of the window; may be negative.
        height: of the window, in pixels.
        width: of the window, in pixels.

    Returns:
        Pixels (bands, height, width) and labels (height, width).
    """
    rows, row_indices = _mirror_indices(top, height, image.shape[0])
    cols, col_indices = _mirror_indices(left, width, image.shape[1])
    pixels, labels = image.pixels((rows, cols)), image.labels((rows, cols))
    return pixels[:, row_indices][..., col_indices], labels[row_indices][:, col_indices]


def _mirror_indices(start: int, length: int, extent: int) -> tuple[slice, slice | NDArray[np.int64]]:
    """Return the part of an axis that a mirrored stretch shows, and the index in that part of each of its pixels."""
    if start >= 0 and start + length <= extent:
        return slice(start, start + length), slice(None)
    period = max(1, 2 * extent - 2)  # the edge itself is not repeated, as when scenes are read for segmentation
    indices = np.arange(start, start + length) % period
    indices = np.where(indices < extent, indices, period - indices)
    first = int(indices.min())
    return slice(first, int(indices.max()) + 1), indices - first


def split_into_blocks(shape: tuple[int, int], edge: int = BLOCK_SIZE) -> list[Area]:
    """Return the areas of at most ``edge``² pixels that cover an image of this shape, row by row."""
    height, width = shape
    return [
        (slice(row, min(row + edge, height)), slice(col, min(col + edge, width)))
        for row in range(0, height, edge)
        for col in range(0, width, edge)
    ]


def sample_blocks(image: LabelledSource, edge: int = BLOCK_SIZE, most: int = _SAMPLED_BLOCKS) -> list[Area]:
    """Draw blocks of an image, without repetition and the same ones in every call.

    Args:
        image: its name seeds the draw.
        edge: of a block, in pixels.
        most: number of blocks; an image that has no more gives all of them.

    Returns:
        Areas of the image, row by row.
    """
    blocks = split_into_blocks(image.shape, edge)
    if len(blocks) <= most:
        return blocks
    rng = np.random.default_rng(zlib.crc32(image.name.encode()))
    return [blocks[number] for number in sorted(rng.choice(len(blocks), most, replace=False))]
