"""Augmentation of labelled windows: turns, mirrors, warps, and changes of brightness, colour and noise."""

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

_ELASTIC_GRID = 3
"""Points a side of the grid on which displacements are drawn (Ronneberger et al. 2015, section 3.1)."""


def turn_randomly(pixels: Pixels, labels: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
    """Turn a square window by 0 to 3 quarters and mirror it or not, at random.

    Args:
        pixels: (bands, size, size).
        labels: (size, size).
        rng: source of the choice.

    Returns:
        Views of pixels and labels, turned alike.
    """
    turns = int(rng.integers(4))
    pixels, labels = np.rot90(pixels, turns, (1, 2)), np.rot90(labels, turns)
    if rng.random() < 0.5:
        pixels, labels = pixels[..., ::-1], labels[..., ::-1]
    return pixels, labels


@dataclass(frozen=True)
class Warp:
    """Random smooth changes of shape, of pixels and labels alike. A value of 0 leaves that change out.

    Attributes:
        elastic: standard deviation, in pixels, of displacements on a 3 × 3 grid with bicubic interpolation between its
            points: the U-Net paper's elastic deformation, with 10.
        rotation: largest angle, in degrees.
        zoom: largest change of scale; 0.2 stands for factors of 1/1.2 to 1.2.
    """

    elastic: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("elastic", 100), ("rotation", 180), ("zoom", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} of a warp: got {getattr(self, name)}, expected 0 to {most}")

    def compute_margin(self, size: int) -> int:
        """Return the pixels around a window of ``size``² that a warp may need; what lies beyond them is mirrored."""
        angle = math.radians(min(self.rotation, 45))
        growth = (math.cos(angle) + math.sin(angle)) * (1 + self.zoom)
        return math.ceil((growth - 1) * size / 2 + 2 * self.elastic)

    def __call__(self, pixels: Pixels, labels: Labels, size: int, rng: np.random.Generator) -> tuple[Pixels, Labels]:
        """Warp a window and cut off its margin.

        Pixels are interpolated bilinearly, so a pixel beside one without data (NaN) has none either. Labels are taken
        from the nearest pixel.

        Args:
            pixels: (bands, size + 2·margin, size + 2·margin), with the margin of ``compute_margin``.
            labels: (size + 2·margin, size + 2·margin).
            size: of the result.
            rng: source of the displacements, the angle and the scale.

        Returns:
            Pixels (bands, size, size) and labels (size, size).
        """
        if not self.compute_margin(size):
            return pixels, labels
        extent = labels.shape[0]
        coordinates = torch.from_numpy(self._draw_coordinates(size, rng)) / extent * 2  # −1 to 1, as torch wants them
        image = torch.from_numpy(np.ascontiguousarray(pixels))[None]
        mask = torch.from_numpy(np.ascontiguousarray(labels)).float()[None, None]
        warped = _sample_at(image, coordinates, "bilinear")[0].numpy()
        return warped, _sample_at(mask, coordinates, "nearest")[0, 0].numpy().astype(np.uint8)

    def _draw_coordinates(self, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return (size, size, 2): where each pixel of the result comes from, x and y in pixels from the middle."""
        steps = np.arange(size, dtype=np.float32) - (size - 1) / 2
        across, down = np.meshgrid(steps, steps)
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        scale = (1 + self.zoom) ** rng.uniform(-1, 1)
        x = scale * (math.cos(angle) * across - math.sin(angle) * down)
        y = scale * (math.sin(angle) * across + math.cos(angle) * down)
        grid = rng.normal(0, 1, (1, 2, _ELASTIC_GRID, _ELASTIC_GRID)).astype(np.float32)
        coarse = torch.from_numpy(grid) * self.elastic
        shift = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[0].numpy()
        return np.stack([x + shift[0], y + shift[1]], axis=-1).astype(np.float32)


def _sample_at(image: Tensor, coordinates: Tensor, mode: str) -> Tensor:
    return F.grid_sample(image, coordinates[None], mode=mode, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Jitter:
    """Random changes of an image's values, as another sun, atmosphere or sensor would make them, in reflectance.

    Attributes:
        gain: limit of the logarithm of a factor common to all bands.
        band_gain: limit of the logarithm of a factor of each band.
        offset: limit of what is added to each band.
        noise: limit of the standard deviation of white noise.
        dropout: share of windows (0 to 1) of which one side, cut off by a slanted line, is set to no data.
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
        """Return a changed copy of an image (bands, height, width)."""
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
