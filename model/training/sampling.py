"""Random training windows: drawn evenly over the images, and around pixels of rare classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seamline.model.spec.errors import ModelError
from seamline.model.training.augmentation import Jitter, Warp, turn_randomly
from seamline.model.training.data import IGNORE, LabelledSource, read_window, split_into_blocks


@dataclass(frozen=True)
class Survey:
    """Where the classes of an image are.

    Attributes:
        counts: pixels of each class in each block (blocks, classes), in the order of ``split_into_blocks``.
    """

    counts: NDArray[np.int64]

    @classmethod
    def from_image(cls, image: LabelledSource, classes: int) -> Survey:
        """Count the classes in one pass over the labels.

        Raises:
            ModelError: the image has no labels, or labels that are no class.
        """
        blocks = split_into_blocks(image.shape)
        counts = np.array([np.bincount(image.labels(area).ravel(), minlength=256) for area in blocks])
        labels = np.flatnonzero(counts.sum(0))
        known = labels[labels != IGNORE]
        if not known.size or known[-1] >= classes:
            raise ModelError(
                f"source {image.name!r}",
                got=f"the label {known[-1]}" if known.size else "no labelled pixel",
                expected=f"0 to {classes - 1}, the classes of the recipe" if known.size else "some",
                fix="correct the recipe or the data",
            )
        return cls(counts[:, :classes].astype(np.int64))

    @property
    def present(self) -> NDArray[np.int64]:
        """The classes that the image has, in ascending order."""
        return np.flatnonzero(self.counts.sum(0))

    def draw_block(self, label: int, rng: np.random.Generator) -> int:
        """Draw the number of a block, with a probability proportional to its pixels of the class."""
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
    """Yield random augmented windows without end.

    Half of the windows are drawn around a pixel of a class, and the class is drawn first, so that rare classes are
    learned too: a class of one per cent of the pixels is in about every eighth window of a four-class problem. Only
    the windows are read, so images may be larger than memory; images smaller than a window are mirrored.

    Args:
        images: drawn from in proportion to their weights.
        surveys: one for each image.
        size: edge of a window, in pixels.
        jitter: change of the windows' values.
        warp: change of the windows' shape.
        rng: source of all random choices.

    Yields:
        Pixels (bands, size, size) and labels (size, size), ``IGNORE`` where pixels have no data.
    """
    odds = np.array([image.weight for image in images]) / sum(image.weight for image in images)
    margin = warp.compute_margin(size)
    while True:
        number = int(rng.choice(len(images), p=odds))
        image = images[number]
        row, col = (int(rng.integers(0, max(1, extent - size + 1))) for extent in image.shape)
        if rng.random() < 0.5:
            pixel = _draw_class_pixel(image, surveys[number], rng)
            row, col = (
                int(np.clip(position - rng.integers(size), 0, max(0, extent - size)))
                for position, extent in zip(pixel, image.shape, strict=True)
            )
        pixels, labels = read_window(image, row - margin, col - margin, size + 2 * margin, size + 2 * margin)
        pixels, labels = warp(*turn_randomly(pixels, labels, rng), size, rng)
        pixels = jitter(pixels, rng)
        yield pixels, np.where(np.isfinite(pixels).all(0), labels, IGNORE).astype(np.uint8)


def _draw_class_pixel(image: LabelledSource, survey: Survey, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a class, then a pixel of it; return the pixel's row and column."""
    label = int(rng.choice(survey.present))
    rows, cols = split_into_blocks(image.shape)[survey.draw_block(label, rng)]
    positions = np.flatnonzero(image.labels((rows, cols)) == label)
    row, col = divmod(int(positions[rng.integers(len(positions))]), cols.stop - cols.start)
    return rows.start + row, cols.start + col
