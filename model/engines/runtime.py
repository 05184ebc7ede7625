"""Run a network on windows of raw pixels, where and how it runs best, and nowhere decide what a scene is.

Raw digital numbers go to the device; scaling, normalising, filling, the network and its activation run there;
probabilities of the support stay there until the caller asks for them.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.engines.engines import OnnxProgram, OnnxUNet, get_input_dtype, open_network
from seamline.model.spec.config import EngineSettings, Radiometry
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec

log = logging.getLogger("seamline.runtime")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``; see malloc.h."""

Scalar = TypeVar("Scalar", bound=np.generic)


class Runtime:
    """One network, loaded once in a process, ready to predict windows of one size."""

    def __init__(
        self, spec: ModelSpec, folder: Path, settings: EngineSettings, radiometry: Radiometry, halo: int
    ) -> None:
        """Load the network to the device.

        Args:
            spec: what the model is.
            folder: where its weights lie.
            settings: engine, device, precision, layout, batch, threads.
            radiometry: meaning of the scene's digital numbers, in the order of the spec's bands.
            halo: pixels on every side of a window that are read and thrown away.
        """
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise ModelError("--device", got="cuda", expected="a CUDA device on every worker", fix="take --device cpu")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        if settings.device == "cpu":
            keep_freed_memory()
        else:
            torch.cuda.reset_peak_memory_stats()
        # The same windows must give the same bytes: no algorithm that is chosen by a race, none with atomics.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self.settings, self.halo = settings, halo
        self.device = torch.device(settings.device)
        self._network = open_network(spec, folder, settings)
        self._activation, self._binary = spec.activation, spec.binary
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self._prepare = _InputTransform(spec, radiometry, self.device, get_input_dtype(settings), layout)
        self._batch, self._bands = settings.batch, len(spec.bands)

    def prepare(self, edge: int) -> None:
        """Do now what the first windows of this edge would wait for, of engines that compile."""
        if isinstance(self._network, OnnxUNet | OnnxProgram):
            self._network.prepare((self._batch, self._bands, edge, edge), self.halo)

    def predict(self, pixels: Sequence[NDArray[np.generic]], valid: Sequence[NDArray[np.bool_]]) -> Iterator[Tensor]:
        """Scores (classes, S, S) on the device for each of the windows, S = window − 2·halo.

        Out of memory on a CUDA device halves the batch and goes on. There every batch has one size, the last one
        filled up with its last window: kernels are chosen by size, and may differ in the last bits.

        Args:
            pixels: of each window (bands, window, window), digital numbers.
            valid: of each window (window, window), True = data.
        """
        done = 0
        while done < len(pixels):
            part = slice(done, done + self._batch)
            try:
                result = self._forward(self._batched(pixels[part]), self._batched(valid[part]))
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch //= 2
                torch.cuda.empty_cache()
                log.warning("out of device memory: going on with batches of %d windows", self._batch)
                continue
            result = result[: len(pixels[part])]
            yield from result
            done += len(result)

    def _batched(self, windows: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
        missing = self._batch - len(windows) if self.device.type == "cuda" else 0
        return np.stack([*windows, *[windows[-1]] * missing])

    @torch.inference_mode()
    def _forward(self, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> Tensor:
        scores = self._network(self._prepare(pixels, valid), self.halo)
        if not torch.isfinite(scores.sum(dtype=torch.float32)):
            raise ModelError(
                "the network",
                got=f"scores that are no numbers, in {self.settings.precision}",
                expected="finite scores for every pixel",
                fix="check its weights, normalisation and the scene's scale, or take --precision fp32",
            )
        if self._activation == "none":
            scores = scores.clamp(0, 1)
        if self._binary:  # of the other class the rest; as scores: softmax of (0, s) is the sigmoid of s
            rest = 1 - scores if self._activation == "none" else torch.zeros_like(scores)
            scores = torch.cat([rest, scores], dim=1)
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # what comes after is not the network's time, nor are its errors
        return scores

    @torch.inference_mode()
    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities (classes, S, S) of the scores of a window, in double precision if the network has it."""
        scores = scores if self.settings.precision == "fp64" else scores.float()
        if self._activation == "softmax" or (self._binary and self._activation == "sigmoid"):
            return scores.softmax(0)
        return scores.sigmoid() if self._activation == "sigmoid" else scores

    def to_host(self, array: Tensor) -> NDArray[np.generic]:
        """The same values as a numpy array."""
        return array.cpu().numpy()

    @property
    def device_memory(self) -> int:
        """Bytes that the network took on the device at most; 0 on a CPU, where they are the process's."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0


def keep_freed_memory() -> None:
    """Let the C library keep what it is given back, for the next window.

    Activations are tens of megabytes each. By default glibc maps and unmaps every one of them, and the kernel clears
    its pages each time: measured, half of a U-Net's time at windows of 1024 and above.
    """
    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


class _InputTransform:
    """Digital numbers to the network's input, on the device."""

    def __init__(
        self,
        spec: ModelSpec,
        radiometry: Radiometry,
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> None:
        self._nodata = tuple(radiometry.nodata)
        std = np.array([band.std for band in spec.bands])
        mean = np.array([band.mean for band in spec.bands])
        # DN·scale + offset, minus mean, over std: one multiplication and one addition.
        self._factors = (np.array(radiometry.scale) / std).tolist()
        self._summands = ((np.array(radiometry.offset) - mean) / std).tolist()
        self._fill = spec.fill
        self._exact = torch.float64 if dtype == torch.float64 else torch.float32
        self._device, self._dtype, self._format = device, dtype, memory_format

    def __call__(self, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> Tensor:
        numbers, known = self._uploaded(pixels), self._uploaded(valid)
        missing = None if known.all() else ~known  # (n, H, W)
        x = torch.empty(numbers.shape, dtype=self._dtype, device=self._device, memory_format=self._format)
        for band in range(x.shape[1]):  # one by one: the passes over a band find it in the cache
            x[:, band] = self._normalise_band(numbers[:, band], missing, band)
        return x  # (n, bands, H, W)

    def _normalise_band(self, numbers: Tensor, missing: Tensor | None, band: int) -> Tensor:
        """One band (n, H, W), filled where it has no data."""
        values, nodata = numbers.to(self._exact), self._nodata[band]
        absent = [] if missing is None else [missing]
        if nodata is not None and (equal := values == nodata).any():
            absent.append(equal)
        if not torch.isfinite(values.sum()):
            absent.append(~torch.isfinite(values))
        values.mul_(self._factors[band]).add_(self._summands[band])
        for pixels in absent:
            values.masked_fill_(pixels, self._fill)
        return values

    def _uploaded(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor
