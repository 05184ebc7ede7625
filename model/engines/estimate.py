"""What a U-Net takes of memory and time, computed from its layers: for settings that leave nothing to measure.

Nothing is run. The memory is more than any engine was seen to take; runs correct it, and the time.
"""

from __future__ import annotations

from pathlib import Path

import torch

from seamline.model.engines.candidates import choose_default_settings
from seamline.model.engines.torch_engine import DTYPES, has_onednn
from seamline.model.engines.tune import read_device_memory, release_memory
from seamline.model.spec.config import EngineRequest, EngineSettings, UNetConfig
from seamline.model.spec.measurement import Measurement
from seamline.model.spec.spec import ModelSpec

_TENSORS = 12
"""Tensors of the full resolution and of the network's base width that are in memory at once. A forward has four; with
the copies of engines, which order channels and pad sizes, 4.8 to 8.8 were measured (``benchmarks/engines.py``)."""
_COLUMNS = 44
"""The same where torch writes the 3 × 3 neighbours of each pixel beside each other, for want of a better kernel."""
_ENDS_BYTES = 16
"""Bytes of a pixel for each band that comes in, and each class that goes out, of the copies of both."""
_ENGINE_BYTES = 2**28
"""Bytes that an engine takes in a process besides, once it has run."""
_WEIGHT_COPIES = 3
"""Copies of the weights while a network is loaded: as in the file, with layers fused, and as the engine wants them."""

_RATES = {"fp64": 4e9, "fp32": 6e10, "bf16": 1e11, "fp16": 1e11}
"""Multiplications a second of one thread of a CPU, by precision."""
_DEVICE_RATE = 2e13
"""Multiplications a second of a CUDA device."""


def estimate_measurement(spec: ModelSpec, folder: Path, request: EngineRequest, threads: int, edge: int) -> Measurement:
    """Estimate what a measurement would find for settings that the user fixed. Runs on a worker.

    Args:
        spec: a U-Net.
        folder: the model's folder.
        request: what the user fixes: all but the device.
        threads: threads of the network where the request says nothing.
        edge: edge of the windows in pixels.

    Returns:
        The settings, with an estimate of the time and the memory of such windows.

    Raises:
        ModelError: the network cannot run here as requested.
    """
    network = spec.network
    assert isinstance(network, UNetConfig)
    settings = choose_default_settings(network, request, request.threads or threads)
    weights = (folder / spec.weights).stat().st_size
    return Measurement(
        settings,
        {edge: _count_multiplications(network) / _estimate_rate(settings)},
        release_memory() + _ENGINE_BYTES + _WEIGHT_COPIES * weights,
        _estimate_pixel_bytes(network, settings),
        (),
        read_device_memory(settings),
        request.batch,
    )


def _estimate_pixel_bytes(network: UNetConfig, settings: EngineSettings) -> float:
    """Return the bytes that a forward takes for each pixel of its windows at most."""
    has_kernels = settings.device == "cuda" or settings.engine in ("onnxruntime", "openvino")
    plain = not has_kernels and not has_onednn(settings.precision)
    tensors = _TENSORS + (_COLUMNS if plain else 0)
    size = DTYPES[settings.precision].itemsize
    return tensors * network.base_width * size + _ENDS_BYTES * (network.in_channels + network.classes)


def _count_multiplications(network: UNetConfig) -> float:
    """Return the multiplications of a U-Net for each pixel that comes in, without what a crop saves."""
    total, inputs = float(network.base_width * network.classes), network.in_channels
    for level in range(network.depth + 1):
        width = network.base_width * 2**level
        work = 9 * (inputs + width) * width  # of the encoder
        if level < network.depth:
            work += 9 * 3 * width * width + 2 * width * width  # of the decoder, and the way up to it
        total += work / 4**level
        inputs = width
    return total


def _estimate_rate(settings: EngineSettings) -> float:
    if settings.device == "cuda":
        return _DEVICE_RATE
    return _RATES[settings.precision] * (settings.threads or torch.get_num_threads())
