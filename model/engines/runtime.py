"""The runtime: a network in one process that predicts windows of a scene's digital numbers on its device.

Digital numbers go to the device. Scaling, normalising, filling, the network and its activation run there, and the
scores stay there until the caller asks for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seamline.model.engines.engines import get_input_dtype, open_network
from seamline.model.engines.input_transform import InputTransform
from seamline.model.engines.onnx_engine import OnnxUNet
from seamline.model.engines.programs import OnnxProgram
from seamline.model.spec.config import EngineSettings, Radiometry
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec

log = logging.getLogger("seamline.runtime")

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Runtime:
    """A network that is loaded in this process and predicts windows of one size.

    Attributes:
        settings: engine, device, precision, layout, batch and threads.
        halo: pixels on every side of a window that are read and thrown away.
        device: torch's device of the settings.
    """

    def __init__(
        self, spec: ModelSpec, folder: Path, settings: EngineSettings, radiometry: Radiometry, halo: int
    ) -> None:
        """Load the network to the device and set torch up for it; the settings of torch are those of the process.

        Args:
            spec: what the model is.
            folder: where its weights are.
            settings: engine, device, precision, layout, batch, threads.
            radiometry: meaning of the scene's digital numbers, in the order of the spec's bands.
            halo: pixels on every side of a window that are read and thrown away.

        Raises:
            ModelError: there is no such device, or the network cannot be run as the settings ask.
        """
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise ModelError("--device", got="cuda", expected="a CUDA device on every worker", fix="take --device cpu")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        if settings.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        # The same windows must give the same bytes: benchmark mode chooses algorithms by a race, and some algorithms
        # add in an order that varies.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # By default cuDNN rounds float32 to the 10 bits of TF32 before it multiplies; other precisions have a name.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.settings, self.halo = settings, halo
        self.device = torch.device(settings.device)
        self._network = open_network(spec, folder, settings)
        self._activation, self._binary = spec.activation, spec.is_binary
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self._transform_input = InputTransform(spec, radiometry, self.device, get_input_dtype(settings), layout)
        self._batch, self._bands = settings.batch, len(spec.bands)

    def prepare(self, edge: int) -> None:
        """Compile the graph for windows of ``edge``² pixels now, in engines that compile before the first window."""
        if isinstance(self._network, OnnxUNet | OnnxProgram):
            self._network.prepare((self._batch, self._bands, edge, edge), self.halo)

    def predict(self, pixels: Sequence[NDArray[np.generic]], valid: Sequence[NDArray[np.bool_]]) -> Iterator[Tensor]:
        """Yield the scores of each window, on the device.

        If a CUDA device runs out of memory, the batch is halved and prediction goes on. On CUDA every batch has the
        same size, the last one filled up with its last window: cuDNN chooses kernels by size, and they may differ in
        the last bits.

        Args:
            pixels: digital numbers (bands, H, W) of each window.
            valid: True where there is data (H, W), of each window.

        Yields:
            Scores (classes, H − 2·halo, W − 2·halo).

        Raises:
            ModelError: scores are not finite, or the engine cannot run the network on such windows.
        """
        done = 0
        while done < len(pixels):
            part = slice(done, done + self._batch)
            try:
                result = self._forward(self._stack_batch(pixels[part]), self._stack_batch(valid[part]))
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

    def _stack_batch(self, windows: Sequence[NDArray[_Scalar]]) -> NDArray[_Scalar]:
        missing = self._batch - len(windows) if self.device.type == "cuda" else 0
        return np.stack([*windows, *[windows[-1]] * missing])

    @torch.inference_mode()
    def _forward(self, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> Tensor:
        scores = self._network(self._transform_input(pixels, valid), self.halo)
        if not torch.isfinite(scores.sum(dtype=torch.float32)):
            raise ModelError(
                "the network",
                got=f"scores that are no numbers, in {self.settings.precision}",
                expected="finite scores for every pixel",
                fix="check its weights, normalisation and the scene's scale, or take --precision fp32",
            )
        if self._activation == "none":
            scores = scores.clamp(0, 1)
        if self._binary:  # add the first class: 1 − p, or the score 0, since softmax of (0, s) is the sigmoid of s
            first = 1 - scores if self._activation == "none" else torch.zeros_like(scores)
            scores = torch.cat([first, scores], dim=1)
        if self.device.type == "cuda":
            # Wait here, so that the network's time and errors are not those of the step that follows.
            torch.cuda.synchronize()
        return scores

    @torch.inference_mode()
    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probabilities (classes, H, W) of one window's scores, in float64 if the network runs in fp64."""
        scores = scores if self.settings.precision == "fp64" else scores.float()
        if self._activation == "softmax" or (self._binary and self._activation == "sigmoid"):
            return scores.softmax(0)
        return scores.sigmoid() if self._activation == "sigmoid" else scores

    def to_host(self, array: Tensor) -> NDArray[np.generic]:
        """Return the values of a tensor as a numpy array."""
        return array.cpu().numpy()

    @property
    def device_memory(self) -> int:
        """Peak bytes of torch on the CUDA device; 0 on a CPU, where they are part of the process's memory."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
