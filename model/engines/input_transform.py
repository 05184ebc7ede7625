"""From a scene's digital numbers to a network's input: scaled, normalised and filled, on the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.spec.config import Radiometry
from seamline.model.spec.spec import ModelSpec


class InputTransform:
    """Makes a network's input of digital numbers: (DN · scale + offset − mean) / std, and the fill without data."""

    def __init__(
        self,
        spec: ModelSpec,
        radiometry: Radiometry,
        device: torch.device,
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
        self._nodata = tuple(radiometry.nodata)
        std = np.array([band.std for band in spec.bands])
        mean = np.array([band.mean for band in spec.bands])
        # DN · scale + offset, minus mean, over std: one multiplication and one addition.
        self._factors = (np.array(radiometry.scale) / std).tolist()
        self._summands = ((np.array(radiometry.offset) - mean) / std).tolist()
        self._fill = spec.fill
        self._computing_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._largest = torch.finfo(dtype).max
        self._device, self._dtype, self._format = device, dtype, memory_format

    def __call__(self, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> Tensor:
        """Transform a batch of windows.

        Args:
            pixels: digital numbers (B, bands, H, W).
            valid: True where there is data (B, H, W).

        Returns:
            The network's input (B, bands, H, W) on the device.
        """
        numbers, has_data = self._upload(pixels), self._upload(valid)
        missing = None if has_data.all() else ~has_data
        x = torch.empty(numbers.shape, dtype=self._dtype, device=self._device, memory_format=self._format)
        for band in range(x.shape[1]):  # band by band, so that all passes over a band find it in the CPU's cache
            x[:, band] = self._normalise_band(numbers[:, band], missing, band)
        return x

    def _normalise_band(self, numbers: Tensor, missing: Tensor | None, band: int) -> Tensor:
        """Normalise one band (B, H, W) and fill it where it is missing, nodata or no number of the input's type."""
        values, nodata = numbers.to(self._computing_dtype), self._nodata[band]
        masks = [] if missing is None else [missing]
        if nodata is not None and (is_nodata := values == nodata).any():
            masks.append(is_nodata)
        values.mul_(self._factors[band]).add_(self._summands[band])
        low, high = torch.aminmax(values)
        if not (low >= -self._largest and high <= self._largest):  # neither holds for NaN
            masks.append(~(values.abs() <= self._largest))
        for mask in masks:
            values.masked_fill_(mask, self._fill)
        return values

    def _upload(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor
