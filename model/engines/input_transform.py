"""From a scene's digital numbers to a network's input: cut, scaled, normalised and filled, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.devices.device import Device
from seamline.model.spec.config import Radiometry
from seamline.model.spec.spec import ModelSpec

Place = tuple[slice, slice]
"""Rows and columns of a window in a block."""


class InputTransform:
    """Makes a network's input of digital numbers: (DN · scale + offset − mean) / std, and the fill without data."""

    def __init__(
        self,
        spec: ModelSpec,
        radiometry: Radiometry,
        device: Device,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> None:
        """Compute the factors of each band.

        Args:
            spec: mean and standard deviation of the bands, and the fill.
            radiometry: scale, offset and nodata of the scene's bands, in the order of the spec's bands.
            device: where the input is made.
            dtype: of the input; float64 is computed in float64, everything else in float32.
            memory_format: of the input.
        """
        std = np.array([band.std for band in spec.bands])
        mean = np.array([band.mean for band in spec.bands])
        self._fill = spec.fill
        self._computing_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._largest = torch.finfo(dtype).max
        self._dtype, self._format, self._device = dtype, memory_format, device.torch_device
        self._looks = not device.is_asynchronous
        # DN · scale + offset, minus mean, over std: one multiplication and one addition.
        self._factors = self._make_column(np.array(radiometry.scale) / std)
        self._summands = self._make_column((np.array(radiometry.offset) - mean) / std)
        self._has_nodata = [value is not None for value in radiometry.nodata]
        self._nodata = self._make_column(np.array([np.nan if value is None else value for value in radiometry.nodata]))

    def _make_column(self, values: NDArray[np.float64]) -> Tensor:
        """Return one value for each band (bands, 1, 1) on the device."""
        return torch.from_numpy(values.astype(np.float64)).to(self._device, self._computing_dtype)[:, None, None]

    def __call__(self, pixels: Tensor, valid: Tensor, places: Sequence[Place]) -> Tensor:
        """Cut a batch of windows and transform them.

        Args:
            pixels: digital numbers of a block (bands, H, W), on the device.
            valid: True where there is data (H, W), on the device.
            places: rows and columns of each window in the block; all of one size.

        Returns:
            The network's input (B, bands, height, width) on the device.
        """
        shape = len(places), len(pixels), *valid[places[0]].shape
        x = torch.empty(shape, dtype=self._dtype, device=self._device, memory_format=self._format)
        # A CPU has one band of a window in its cache for all passes over it; a device has all of them at hand.
        windows_at_once, bands_at_once = (1, 1) if self._looks else shape[:2]
        for start in range(0, len(places), windows_at_once):
            windows = slice(start, start + windows_at_once)
            missing = self._find_missing(valid, places[windows])
            for first in range(0, len(pixels), bands_at_once):
                bands = slice(first, first + bands_at_once)
                cut = torch.empty(x[windows, bands].shape, dtype=self._computing_dtype, device=self._device)
                for window, place in zip(cut, places[windows], strict=True):
                    window.copy_(pixels[bands, *place])
                x[windows, bands] = self._normalise(cut, missing, bands)
        return x

    def _find_missing(self, valid: Tensor, places: Sequence[Place]) -> Tensor | None:
        """Return where windows have no data (B, 1, H, W); None where they are seen to have data everywhere."""
        if self._looks and all(valid[place].all() for place in places):
            return None
        return torch.stack([~valid[place] for place in places])[:, None]

    def _normalise(self, values: Tensor, missing: Tensor | None, bands: slice) -> Tensor:
        """Normalise bands (B, bands, H, W) in place; fill what is missing, nodata or no number of the input's type."""
        is_nodata = values == self._nodata[bands] if any(self._has_nodata[bands]) else None
        values.mul_(self._factors[bands]).add_(self._summands[bands])
        if not self._looks or not self._are_numbers(values):
            values.masked_fill_(~(values.abs() <= self._largest), self._fill)
        for mask in (missing, is_nodata):
            if mask is not None and (not self._looks or mask.any()):
                values.masked_fill_(mask, self._fill)
        return values

    def _are_numbers(self, values: Tensor) -> bool:
        """Whether the type of the input holds all values."""
        low, high = torch.aminmax(values)
        return bool(low >= -self._largest and high <= self._largest)  # neither holds for NaN
