"""Training samples: labelled images in memory, random windows from them, augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""The label of pixels that teach nothing."""


@dataclass(frozen=True)
class LabelledImage:
    """An image (bands, height, width) float32 in the unit of the model's input and its labels (height, width).

    ``weight`` is how often windows are drawn from it, relative to the others.
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[1:] != self.labels.shape:
            raise ValueError(
                f"{self.name}: image {self.image.shape} and labels {self.labels.shape}, "
                "expected (bands, height, width) and (height, width) of one size"
            )
        if self.weight <= 0:
            raise ValueError(f"{self.name}: weight {self.weight}, expected more than 0")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(height, width): True where every band has a finite value."""
        return np.asarray(np.isfinite(self.image).all(axis=0))


@dataclass(frozen=True)
class Jitter:
    """How an image may look under another sun, atmosphere or sensor: limits of random changes in reflectance.

    ``gain`` is common to all bands, ``band_gain`` of each, ``offset`` adds to each band, ``noise`` is the
    standard deviation of white noise. ``dropout`` is the share of windows that get a slanted edge of no data.
    """

    gain: float = 0.2
    band_gain: float = 0.08
    offset: float = 0.015
    noise: float = 0.004
    dropout: float = 0.1

    def __call__(self, image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """A changed copy of ``image`` (bands, height, width)."""
        bands = image.shape[0]
        common = rng.uniform(-self.gain, self.gain)
        gain = np.exp(common + rng.uniform(-self.band_gain, self.band_gain, (bands, 1, 1))).astype(np.float32)
        offset = rng.uniform(-self.offset, self.offset, (bands, 1, 1)).astype(np.float32)
        changed: NDArray[np.float32] = image * gain + offset
        changed += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, self.noise))
        if rng.random() < self.dropout:
            height, width = image.shape[1:]
            angle = rng.uniform(0, 2 * np.pi)
            rows, cols = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            changed[:, rows * np.sin(angle) + cols * np.cos(angle) > rng.uniform(0, 1)] = np.nan
        return changed


def random_windows(
    images: Sequence[LabelledImage], size: int, jitter: Jitter | None, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Endless windows (bands, size, size) and labels (size, size) at random places, turned and mirrored.

    The rarest class counts: half of the windows are drawn around a pixel of a class that is drawn first, so
    that a class of one per cent of the pixels is in about every eighth window of a four-class problem.
    Images smaller than the window are mirrored. Pixels without data carry the label ``IGNORE``.
    """
    padded = [_padded(image, size) for image in images]
    odds = np.array([image.weight for image in images]) / sum(image.weight for image in images)
    positions = [
        {int(k): np.flatnonzero(image.labels == k) for k in np.unique(image.labels) if k != IGNORE} for image in padded
    ]
    while True:
        number = rng.choice(len(padded), p=odds)
        image, places = padded[number], positions[number]
        height, width = image.labels.shape
        row, col = (int(rng.integers(0, extent - size + 1)) for extent in (height, width))
        if places and rng.random() < 0.5:
            chosen = places[int(rng.choice(list(places)))]
            at = int(chosen[rng.integers(len(chosen))])
            row = int(np.clip(at // width - rng.integers(size), 0, height - size))
            col = int(np.clip(at % width - rng.integers(size), 0, width - size))
        pixels = image.image[:, row : row + size, col : col + size]
        labels = image.labels[row : row + size, col : col + size]
        turns = int(rng.integers(4))
        pixels, labels = np.rot90(pixels, turns, (1, 2)), np.rot90(labels, turns)
        if rng.random() < 0.5:
            pixels, labels = pixels[..., ::-1], labels[..., ::-1]
        if jitter is not None:
            pixels = jitter(pixels, rng)
        yield pixels, np.where(np.isfinite(pixels).all(0), labels, IGNORE).astype(np.uint8)


def _padded(image: LabelledImage, size: int) -> LabelledImage:
    pad = [(0, max(0, size - extent)) for extent in image.labels.shape]
    if not any(after for _, after in pad):
        return image
    return LabelledImage(
        image.name,
        np.pad(image.image, [(0, 0), *pad], mode="reflect"),
        np.pad(image.labels, pad, mode="reflect"),
        image.weight,
    )
