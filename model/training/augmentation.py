"""How a labelled window may look otherwise: turned, mirrored, warped, under another sun."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Labels = NDArray[np.uint8]
Pixels = NDArray[np.float32]

ELASTIC_GRID = 3
"""Displacements are drawn on a grid of so many points a side (Ronneberger et al. 2015, section 3.1)."""


def turn_randomly(pixels: Pixels, labels: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
    """One of the eight ways to lay a square window: quarter turns and mirrors."""
    turns = int(rng.integers(4))
    pixels, labels = np.rot90(pixels, turns, (1, 2)), np.rot90(labels, turns)
    if rng.random() < 0.5:
        pixels, labels = pixels[..., ::-1], labels[..., ::-1]
    return pixels, labels


@dataclass(frozen=True)
class Warp:
    """Smooth changes of shape, of pixels and labels alike; 0 leaves out each.

    ``elastic`` is the standard deviation, in pixels, of displacements on a coarse 3×3 grid, bicubic between its points:
    the paper's elastic deformation, with 10. ``rotation`` is the largest angle in degrees, ``zoom`` the largest
    change of scale: 0.2 stands for 1/1.2 to 1.2.
    """

    elastic: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("elastic", 100), ("rotation", 180), ("zoom", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} of a warp: got {getattr(self, name)}, expected 0 to {most}")

    def compute_margin(self, size: int) -> int:
        """Pixels around a window of ``size``² that warped windows may show; beyond them they are mirrored."""
        angle = math.radians(min(self.rotation, 45))
        turned = (math.cos(angle) + math.sin(angle)) * (1 + self.zoom)
        return math.ceil((turned - 1) * size / 2 + 2 * self.elastic)

    def __call__(self, pixels: Pixels, labels: Labels, size: int, rng: np.random.Generator) -> tuple[Pixels, Labels]:
        """The middle (bands, size, size) and (size, size) of a window with its margin, warped.

        Pixels are interpolated, those beside pixels without data have none; labels are those of the nearest pixel.
        """
        if not self.compute_margin(size):
            return pixels, labels
        extent = labels.shape[0]
        places = (
            torch.from_numpy(self._draw_coordinates(size, rng)) / extent * 2
        )  # −1 to 1 over the window with its margin
        image = torch.from_numpy(np.ascontiguousarray(pixels))[None]
        mask = torch.from_numpy(np.ascontiguousarray(labels)).float()[None, None]
        warped = _sample_at(image, places, "bilinear")[0].numpy()
        return warped, _sample_at(mask, places, "nearest")[0, 0].numpy().astype(np.uint8)

    def _draw_coordinates(self, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """(size, size, 2): x and y, in pixels from the middle, of what each pixel shows."""
        steps = np.arange(size, dtype=np.float32) - (size - 1) / 2
        across, down = np.meshgrid(steps, steps)
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        scale = (1 + self.zoom) ** rng.uniform(-1, 1)
        x = scale * (math.cos(angle) * across - math.sin(angle) * down)
        y = scale * (math.sin(angle) * across + math.cos(angle) * down)
        coarse = (
            torch.from_numpy(rng.normal(0, 1, (1, 2, ELASTIC_GRID, ELASTIC_GRID)).astype(np.float32)) * self.elastic
        )
        shift = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[0].numpy()
        return np.stack([x + shift[0], y + shift[1]], axis=-1).astype(np.float32)


def _sample_at(image: Tensor, places: Tensor, mode: str) -> Tensor:
    return F.grid_sample(image, places[None], mode=mode, padding_mode="reflection", align_corners=False)


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

    def __post_init__(self) -> None:
        for name in ("gain", "band_gain", "offset", "noise", "dropout"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of a jitter: got {value}, expected at least 0")
        if self.dropout > 1:
            raise ValueError(f"dropout of a jitter: got {self.dropout}, expected at most 1")

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """A changed copy of ``image`` (bands, height, width)."""
        bands = image.shape[0]
        common = rng.uniform(-self.gain, self.gain)
        gain = np.exp(common + rng.uniform(-self.band_gain, self.band_gain, (bands, 1, 1))).astype(np.float32)
        offset = rng.uniform(-self.offset, self.offset, (bands, 1, 1)).astype(np.float32)
        changed: Pixels = image * gain + offset
        changed += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, self.noise))
        if rng.random() < self.dropout:
            height, width = image.shape[1:]
            angle = rng.uniform(0, 2 * np.pi)
            rows, cols = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            changed[:, rows * np.sin(angle) + cols * np.cos(angle) > rng.uniform(0, 1)] = np.nan
        return changed
