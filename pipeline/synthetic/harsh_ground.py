"""Ground that networks take for something else: lava and burn scars as dark as water, districts of bright roofs.

Only scenes that a network learns from have it (``Simulation.harsh``). The spectra are rounded, typical values: basalt
and roofing as in the ECOSTRESS library (Meerdink et al. 2019, doi:10.1016/j.rse.2019.05.015), char and ash as Landsat
sees them after fires.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.synthetic.noise import Field, Lattice, fractal_noise, hash_keys, noise, uniform

# Reflectance in blue, green, red, nir, swir16, swir22.
_DARK = np.array(
    [
        (0.024, 0.032, 0.038, 0.052, 0.052, 0.046),  # fresh lava
        (0.034, 0.042, 0.049, 0.068, 0.075, 0.068),  # weathered lava
        (0.032, 0.040, 0.046, 0.065, 0.115, 0.110),  # char
        (0.055, 0.068, 0.080, 0.120, 0.190, 0.170),  # ash over soil
    ],
    np.float32,
)
_BRIGHT = np.array(
    [
        (0.480, 0.510, 0.530, 0.550, 0.480, 0.400),  # white membrane
        (0.300, 0.320, 0.330, 0.370, 0.350, 0.310),  # metal
        (0.210, 0.250, 0.290, 0.350, 0.410, 0.370),  # gravel and bare lots
        (0.150, 0.170, 0.185, 0.220, 0.240, 0.220),  # concrete
        (0.090, 0.100, 0.108, 0.130, 0.140, 0.125),  # asphalt
    ],
    np.float32,
)
_BLOCK = 7
"""Edge of a roof in pixels, about."""


class _Key(IntEnum):
    """Keys of independent random fields, other than those of landscape and clouds."""

    SCAR = 200
    MATERIAL = 201
    GRAIN = 202
    DISTRICT = 203
    ROOF = 204


def lay_harsh_ground(bands: Field, area: Window, seed: int) -> None:
    """Lay lava, burn scars and bright districts over dry land, in place.

    Args:
        bands: Reflectance (6, height, width) of the window.
        area: The window.
        seed: Seed of the scene.
    """
    at, coarse = Lattice(area), Lattice(area, 8)
    grain = 1 + np.float32(0.12) * fractal_noise(at, 14, 4, seed, _Key.GRAIN, gain=0.75)
    scar = fractal_noise(at, 190, 6, seed, _Key.SCAR, gain=0.55) > 1.6
    material = coarse.upsample(noise(coarse, 120, seed, _Key.MATERIAL)) * np.float32(0.9) + np.float32(1.5)
    _cover(bands, scar, _mix_spectra(_DARK, material), grain)
    built = fractal_noise(at, 260, 4, seed, _Key.DISTRICT, gain=0.4) > 1.2
    if built.any():
        roof = uniform(
            hash_keys(seed, _Key.ROOF, at.rows.astype(np.int64)[:, None] // _BLOCK, at.cols.astype(np.int64) // _BLOCK)
        )
        _cover(bands, built, _BRIGHT[(roof * len(_BRIGHT)).astype(np.intp)].transpose(2, 0, 1), grain)


def _mix_spectra(spectra: Field, position: Field) -> Field:
    """Return spectra (bands, height, width) between neighbours in a list, at positions (height, width) in it."""
    place = np.clip(position, np.float32(0), np.float32(len(spectra) - 1.001))
    first = place.astype(np.intp)
    share = (place - first)[..., None]
    mixed: Field = spectra[first] * (1 - share) + spectra[first + 1] * share
    return mixed.transpose(2, 0, 1)


def _cover(bands: Field, where: NDArray[np.bool_], spectra: Field, grain: Field) -> None:
    np.copyto(bands, spectra * grain, where=where)
