"""The runtime: a network in one process that scores windows of a scene's digital numbers on its device.

A chunk's digital numbers go to the device in one piece. Windows are cut, scaled, normalised and filled there, the
network and its activation run there, and the scores stay there until the caller asks for what was made of them. On a
CUDA device everything is only enqueued, a few batches ahead; ``Fetched.result`` is what waits for it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.devices.cuda_device import open_device
from seamline.model.devices.device import Device, Download, Event
from seamline.model.devices.graphs import GraphedNetwork
from seamline.model.engines.engines import get_input_dtype, open_network
from seamline.model.engines.input_transform import InputTransform, Place
from seamline.model.engines.onnx_engine import OnnxUNet
from seamline.model.engines.programs import OnnxProgram
from seamline.model.spec.config import EngineSettings, Radiometry
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec

log = logging.getLogger("seamline.runtime")

K = TypeVar("K", bound=Hashable)

_BATCHES_AHEAD = 2
"""The most batches that are enqueued and not yet done: one is computed, one follows. More would only be lost when a
chunk is cancelled."""


@dataclass(eq=False)
class DeviceBlock:
    """Pixels of a scene on the device. A context: leaving it gives their memory back.

    Attributes:
        device: where they are.
        pixels: digital numbers (bands, H, W).
        has_data: True where there is data (H, W).
        label_mask: True where a pixel gets a label (H, W).
        uploaded: when they are there.
        held_bytes: bytes that were taken of the device's budget.
        is_finite: whether all scores are numbers, of the windows that were scored; a tensor () of bool.
    """

    device: Device
    pixels: Tensor
    has_data: Tensor
    label_mask: Tensor
    uploaded: Event
    held_bytes: int
    is_finite: Tensor | None = None

    def __enter__(self) -> DeviceBlock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.pixels, self.has_data, self.label_mask  # others may have their memory now
        self.device.budget.give_back(self.held_bytes)

    def note_scores(self, scores: Tensor) -> None:
        """Note whether scores are numbers, without looking."""
        is_finite = torch.isfinite(scores.sum(dtype=torch.float32))
        self.is_finite = is_finite if self.is_finite is None else self.is_finite & is_finite


@dataclass(frozen=True)
class Fetched(Generic[K]):
    """Arrays by name on their way back from the device, and behind them whether all scores were numbers."""

    names: tuple[K, ...]
    download: Download
    precision: str

    def result(self) -> dict[K, NDArray[Any]]:
        """Wait for the arrays and return them.

        Raises:
            ModelError: scores are not finite.
        """
        *arrays, is_finite = self.download.result()
        if not is_finite:
            raise ModelError(
                "the network",
                got=f"scores that are no numbers, in {self.precision}",
                expected="finite scores for every pixel",
                fix="check its weights, normalisation and the scene's scale, or take --precision fp32",
            )
        return dict(zip(self.names, arrays, strict=True))


class Runtime:
    """A network that is loaded in this process and scores windows of one size.

    Attributes:
        settings: engine, device, precision, layout, batch and threads.
        halo: pixels on every side of a window that are read and thrown away.
    """

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        settings: EngineSettings,
        radiometry: Radiometry,
        halo: int,
        device: Device | None = None,
    ) -> None:
        """Load the network to the device and set torch up for it; the settings of torch are those of the process.

        Args:
            spec: what the model is.
            folder: where its weights are.
            settings: engine, device, precision, layout, batch, threads.
            radiometry: meaning of the scene's digital numbers, in the order of the spec's bands.
            halo: pixels on every side of a window that are read and thrown away.
            device: the device; None opens the one of the settings.

        Raises:
            ModelError: there is no such device, or the network cannot be run as the settings ask.
        """
        self._device = open_device(settings.device) if device is None else device
        if settings.threads:
            torch.set_num_threads(settings.threads)
        # The same windows must give the same bytes: benchmark mode chooses algorithms by a race, and some algorithms
        # add in an order that varies.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # By default cuDNN rounds float32 to the 10 bits of TF32 before it multiplies; other precisions have a name.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.settings, self.halo = settings, halo
        self._network = open_network(spec, folder, settings)
        self._activation, self._binary = spec.activation, spec.is_binary
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self._transform_input = InputTransform(spec, radiometry, self._device, get_input_dtype(settings), layout)
        self._batch, self._bands = settings.batch, len(spec.bands)
        self._enqueued: deque[Event] = deque()

    def prepare(self, edge: int) -> None:
        """Compile the graph for windows of ``edge``² pixels now, in engines that compile before the first window."""
        if isinstance(self._network, OnnxUNet | OnnxProgram):
            self._network.prepare((self._batch, self._bands, edge, edge), self.halo)

    def predict(self, pixels: Sequence[NDArray[Any]], valid: Sequence[NDArray[np.bool_]]) -> Iterator[Tensor]:
        """Yield the scores of each window, on the device, as soon as its batch is done.

        For windows that are no parts of one block; of a block ``load`` and ``infer`` copy less and wait for nothing.

        Args:
            pixels: digital numbers (bands, H, W) of each window; all of one size.
            valid: True where there is data (H, W), of each window.

        Yields:
            Scores (classes, H − 2·halo, W − 2·halo).

        Raises:
            ModelError: scores are not finite, or the engine cannot run the network on such windows.
        """
        for start in range(0, len(pixels), self.settings.batch):
            part = slice(start, start + self.settings.batch)
            height, width = valid[start].shape
            beside, has_data = (_put_beside(list(arrays[part])) for arrays in (pixels, valid))
            places = [(slice(0, height), slice(left, left + width)) for left in range(0, has_data.shape[-1], width)]
            with self.load(beside, has_data, has_data) as block:
                scores = list(self.infer(block, places))
                self.fetch(block, {}).result()
            yield from scores

    def load(
        self,
        pixels: NDArray[Any],
        valid: NDArray[np.bool_],
        label_mask: NDArray[np.bool_],
        result_bytes: int = 0,
    ) -> DeviceBlock:
        """Begin to copy a block to the device; wait while other blocks hold the memory that there is for them.

        May be called from any thread, while the network computes in another one.

        Args:
            pixels: digital numbers (bands, H, W).
            valid: True where there is data (H, W).
            label_mask: True where a pixel gets a label (H, W).
            result_bytes: bytes that the caller will keep on the device for the block.

        Returns:
            The block; leaving it as a context gives its memory back.
        """
        held_bytes = pixels.nbytes + valid.nbytes + label_mask.nbytes + result_bytes
        self._device.budget.take(held_bytes)
        try:
            (numbers, has_data, labelled), uploaded = self._device.upload([pixels, valid, label_mask])
        except BaseException:
            self._device.budget.give_back(held_bytes)
            raise
        return DeviceBlock(self._device, numbers, has_data, labelled, uploaded, held_bytes)

    def upload(self, array: NDArray[Any]) -> Tensor:
        """Return a small array as a tensor on the device, for what is enqueued from now on."""
        (tensor,), uploaded = self._device.upload([array])
        self._device.hold_until(uploaded)
        return tensor

    def infer(self, block: DeviceBlock, places: Sequence[Place]) -> Iterator[Tensor]:
        """Yield the scores of windows of a block, on the device, where they may not be computed yet.

        If a CUDA device runs out of memory, the batch is halved and prediction goes on. On CUDA every batch has the
        same size, the last one filled up with its last window: cuDNN chooses kernels by size, and they may differ in
        the last bits.

        Args:
            block: from ``load``.
            places: rows and columns of each window in the block; all of one size.

        Yields:
            Scores (classes, H − 2·halo, W − 2·halo).

        Raises:
            ModelError: the engine cannot run the network on such windows.
        """
        self._device.hold_until(block.uploaded)
        done = 0
        while done < len(places):
            part = places[done : done + self._batch]
            try:
                scores = self._forward(block, part)
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._halve_batch()
                continue
            self._enqueued.append(self._device.mark())
            while len(self._enqueued) >= _BATCHES_AHEAD:  # now, so that who asks for the next may cancel it
                self._enqueued.popleft().wait()
            yield from scores[: len(part)]
            done += len(part)

    def _halve_batch(self) -> None:
        """Go on with half of the batch and without CUDA graphs."""
        self._batch //= 2
        if isinstance(self._network, GraphedNetwork):
            self._network.drop()
        self._device.release_memory()
        log.warning("out of device memory: going on with batches of %d windows", self._batch)

    @torch.inference_mode()
    def _forward(self, block: DeviceBlock, places: Sequence[Place]) -> Tensor:
        """Return the scores of a batch of windows (B, classes, H − 2·halo, W − 2·halo)."""
        missing = self._batch - len(places) if self._device.is_asynchronous else 0
        filled = [*places, *[places[-1]] * missing]
        scores = self._network(self._transform_input(block.pixels, block.has_data, filled), self.halo)
        block.note_scores(scores)
        if self._activation == "none":
            scores = scores.clamp(0, 1)
        if self._binary:  # add the first class: 1 − p, or the score 0, since softmax of (0, s) is the sigmoid of s
            first = 1 - scores if self._activation == "none" else torch.zeros_like(scores)
            scores = torch.cat([first, scores], dim=1)
        return scores

    @torch.inference_mode()
    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probabilities (classes, H, W) of one window's scores, in float64 if the network runs in fp64."""
        scores = scores if self.settings.precision == "fp64" else scores.float()
        if self._activation == "softmax" or (self._binary and self._activation == "sigmoid"):
            return scores.softmax(0)
        return scores.sigmoid() if self._activation == "sigmoid" else scores

    def fetch(self, block: DeviceBlock, arrays: Mapping[K, Tensor]) -> Fetched[K]:
        """Begin to copy arrays back from the device that were made of a block's scores.

        Args:
            block: the block, of which at least one window was scored.
            arrays: tensors by any name.

        Returns:
            The arrays by name, to be waited for in any thread.
        """
        assert block.is_finite is not None
        download = self._device.download([*arrays.values(), block.is_finite])
        return Fetched(tuple(arrays), download, self.settings.precision)

    @property
    def device_memory(self) -> int:
        """Peak bytes of torch on the CUDA device; 0 on a CPU, where they are part of the process's memory."""
        return self._device.peak_memory


def _put_beside(windows: list[NDArray[Any]]) -> NDArray[Any]:
    """Put windows (…, H, W) beside each other: (…, H, n·W); one alone is not copied."""
    return windows[0] if len(windows) == 1 else np.concatenate(windows, axis=-1)
