"""Labelled images, held in memory or read from files, and random windows of them.

A training needs three things of an image, whatever its size: its pixels and labels in a window, where each class is
(``Survey``, from one pass over the labels), and what its bands are like (``sample_blocks``: some blocks stand for all).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec.errors import ModelError
from seamline.model.training.augmentation import Jitter, Warp, turn_randomly

IGNORE = 255
"""The label of pixels that teach nothing."""
BLOCK_SIZE = 512
"""Edge of the blocks in which an image is surveyed."""
SAMPLED_BLOCKS = 256
"""Blocks that stand for an image when its bands are described."""

Area = tuple[slice, slice]
"""Rows and columns of an image, inside of it."""


class LabelledSource(Protocol):
    """An image and its labels. ``weight`` is how often windows are drawn from it, relative to the others."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def weight(self) -> float:
        """More than 0."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def pixels(self, area: Area) -> NDArray[np.float32]:
        """(bands, height, width) in the unit of the model's input, NaN where there is no data."""
        ...

    def labels(self, area: Area) -> NDArray[np.uint8]:
        """(height, width), ``IGNORE`` where nothing is known."""
        ...

    def digest(self) -> str:
        """Of pixels and labels: another one, another training."""
        ...


@dataclass(frozen=True)
class LabelledImage:
    """A labelled image in memory: ``image`` (bands, height, width) float32 and ``mask`` (height, width)."""

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
        """Height and width."""
        height, width = self.mask.shape
        return height, width

    def pixels(self, area: Area) -> NDArray[np.float32]:
        """(bands, height, width)."""
        return self.image[:, area[0], area[1]]

    def labels(self, area: Area) -> NDArray[np.uint8]:
        """(height, width)."""
        return self.mask[area]

    def digest(self) -> str:
        """SHA-256 (hex) of all numbers."""
        found = hashlib.sha256(np.ascontiguousarray(self.image).data)
        found.update(np.ascontiguousarray(self.mask).data)
        return found.hexdigest()


def load_into_memory(image: LabelledSource) -> LabelledImage:
    """The image with all of its pixels in memory."""
    whole = slice(0, image.shape[0]), slice(0, image.shape[1])
    return LabelledImage(image.name, image.pixels(whole), image.labels(whole), image.weight)


def read_window(
    image: LabelledSource, top: int, left: int, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Pixels and labels of a window that may overhang the image, which is mirrored there."""
    rows, down = _mirror_indices(top, height, image.shape[0])
    cols, across = _mirror_indices(left, width, image.shape[1])
    pixels, labels = image.pixels((rows, cols)), image.labels((rows, cols))
    return pixels[:, down][..., across], labels[down][:, across]


def _mirror_indices(start: int, length: int, extent: int) -> tuple[slice, slice | NDArray[np.int64]]:
    """What of an image a stretch shows, and what of that at each of its places."""
    if start >= 0 and start + length <= extent:
        return slice(start, start + length), slice(None)
    period = max(1, 2 * extent - 2)  # the edge itself is not repeated, as in segmentation
    places = np.arange(start, start + length) % period
    places = np.where(places < extent, places, period - places)
    first = int(places.min())
    return slice(first, int(places.max()) + 1), places - first


def split_into_blocks(shape: tuple[int, int], edge: int = BLOCK_SIZE) -> list[Area]:
    """The areas of at most ``edge``² pixels that an image consists of, row by row."""
    height, width = shape
    return [
        (slice(row, min(row + edge, height)), slice(col, min(col + edge, width)))
        for row in range(0, height, edge)
        for col in range(0, width, edge)
    ]


def sample_blocks(image: LabelledSource, edge: int = BLOCK_SIZE, most: int = SAMPLED_BLOCKS) -> list[Area]:
    """At most so many blocks of an image, drawn evenly and always the same; all of them, if there are no more."""
    every = split_into_blocks(image.shape, edge)
    if len(every) <= most:
        return every
    rng = np.random.default_rng(zlib.crc32(image.name.encode()))
    return [every[number] for number in sorted(rng.choice(len(every), most, replace=False))]


@dataclass(frozen=True)
class Survey:
    """Where the classes of an image are: ``counts`` (blocks, classes) of pixels, in the order of ``split_into_blocks``."""

    counts: NDArray[np.int64]

    @classmethod
    def from_image(cls, image: LabelledSource, classes: int) -> Survey:
        """From one pass over the labels.

        Raises ``ModelError`` for an image without labels, or with some that are no class.
        """
        found = np.array(
            [np.bincount(image.labels(area).ravel(), minlength=256) for area in split_into_blocks(image.shape)]
        )
        names = np.flatnonzero(found.sum(0))
        known = names[names != IGNORE]
        if not known.size or known[-1] >= classes:
            raise ModelError(
                f"source {image.name!r}",
                got=f"the label {known[-1]}" if known.size else "no labelled pixel",
                expected=f"0 to {classes - 1}, the classes of the recipe" if known.size else "some",
                fix="correct the recipe or the data",
            )
        return cls(found[:, :classes].astype(np.int64))

    @property
    def present(self) -> NDArray[np.int64]:
        """The classes that the image has."""
        return np.flatnonzero(self.counts.sum(0))

    def draw_block(self, label: int, rng: np.random.Generator) -> int:
        """A block, as probable as it has pixels of the class."""
        counts = self.counts[:, label]
        return int(np.searchsorted(np.cumsum(counts), rng.integers(counts.sum()), side="right"))


def draw_windows(
    images: Sequence[LabelledSource],
    surveys: Sequence[Survey],
    size: int,
    jitter: Jitter,
    warp: Warp,
    rng: np.random.Generator,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Endless windows (bands, size, size) and labels (size, size) at random places, turned, mirrored, warped.

    The rarest class counts: half of the windows are drawn around a pixel of a class that is drawn first, so
    that a class of one per cent of the pixels is in about every eighth window of a four-class problem.
    Images smaller than the window are mirrored. Pixels without data carry the label ``IGNORE``. Nothing but the
    windows is read: images may be larger than memory.
    """
    odds = np.array([image.weight for image in images]) / sum(image.weight for image in images)
    margin = warp.compute_margin(size)
    while True:
        number = int(rng.choice(len(images), p=odds))
        image = images[number]
        row, col = (int(rng.integers(0, max(1, extent - size + 1))) for extent in image.shape)
        if rng.random() < 0.5:
            at = _draw_class_pixel(image, surveys[number], rng)
            row, col = (
                int(np.clip(place - rng.integers(size), 0, max(0, extent - size)))
                for place, extent in zip(at, image.shape, strict=True)
            )
        pixels, labels = read_window(image, row - margin, col - margin, size + 2 * margin, size + 2 * margin)
        pixels, labels = warp(*turn_randomly(pixels, labels, rng), size, rng)
        pixels = jitter(pixels, rng)
        yield pixels, np.where(np.isfinite(pixels).all(0), labels, IGNORE).astype(np.uint8)


def _draw_class_pixel(image: LabelledSource, survey: Survey, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of a random pixel of a random class."""
    label = int(rng.choice(survey.present))
    rows, cols = split_into_blocks(image.shape)[survey.draw_block(label, rng)]
    found = np.flatnonzero(image.labels((rows, cols)) == label)
    row, col = divmod(int(found[rng.integers(len(found))]), cols.stop - cols.start)
    return rows.start + row, cols.start + col
