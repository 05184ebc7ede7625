"""The choice of an engine: which engines and precisions can run a network, and opening the network in one of them.

A network maps normalised windows (batch, bands, H, W) on its device to scores (batch, outputs, H − 2·halo,
W − 2·halo). The engines themselves are in ``torch_engine`` (torch and its compiler), ``onnx_engine`` (ONNX Runtime and
OpenVINO) and ``programs`` (networks of other frameworks).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from seamline.model.engines.onnx_engine import OnnxUNet
from seamline.model.engines.programs import OnnxProgram, TorchProgram
from seamline.model.engines.torch_engine import DTYPES, fuse_batch_norm, has_onednn, load_unet, prepare_unet
from seamline.model.networks.onnx_graphs import has_packages, list_openvino_precisions, not_installed_error
from seamline.model.networks.torch_programs import load_program
from seamline.model.spec.config import Engine, EngineSettings, Precision, Program, UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec

Network = Callable[[Tensor, int], Tensor]
"""A function of windows (batch, bands, H, W) and a halo that returns (batch, outputs, H − 2·halo, W − 2·halo)."""


def open_network(spec: ModelSpec, folder: Path, settings: EngineSettings) -> Network:
    """Load a model's network on its device, in its engine, precision and memory layout.

    Args:
        spec: the description of the model.
        folder: the model's folder, which holds the weights or the program.
        settings: engine, device, precision, layout and threads.

    Returns:
        The network, ready to be called.

    Raises:
        ModelError: the network cannot be run as the settings ask, or the engine is not installed.
    """
    check_engine(spec.network, settings)
    if isinstance(spec.network, UNetConfig):
        return _open_unet(spec, folder, settings)
    path = folder / spec.weights
    if spec.network.format == "onnx":
        return OnnxProgram(path, spec.network, settings)
    return TorchProgram(load_program(path, spec.network.format), spec.network, settings)


def _open_unet(spec: ModelSpec, folder: Path, settings: EngineSettings) -> Network:
    network = load_unet(spec, folder)
    network = fuse_batch_norm(network.double() if settings.precision == "fp64" else network)
    if settings.engine in ("onnxruntime", "openvino"):
        return OnnxUNet(network, settings)
    return prepare_unet(network, settings)


def list_engines(network: UNetConfig | Program, device: str) -> tuple[Engine, ...]:
    """Return the engines that can run a network on a device, installed or not, the plainest first."""
    if isinstance(network, UNetConfig):
        return ("torch", "compiled") if device == "cuda" else ("torch", "compiled", "onnxruntime", "openvino")
    if network.format != "onnx":
        return ("torch",)
    return ("onnxruntime",) if device == "cuda" else ("onnxruntime", "openvino")


def is_installed(network: UNetConfig | Program, engine: Engine) -> bool:
    """Whether the packages are installed that an engine needs to run a network."""
    return has_packages(engine, converts=isinstance(network, UNetConfig))


def list_precisions(network: UNetConfig | Program, engine: Engine, device: str) -> tuple[Precision, ...]:
    """Return the precisions in which an engine runs a network at full speed here, float32 before the reduced ones.

    Args:
        network: the U-Net's configuration, or the description of a program.
        engine: an engine that is installed.
        device: ``"cpu"`` or ``"cuda"``.
    """
    if isinstance(network, Program) or engine == "onnxruntime":
        return ("fp32",)
    if engine == "openvino":
        return list_openvino_precisions()
    if device == "cuda":
        return "fp32", "bf16", "fp16"
    return ("fp32", "bf16") if has_onednn("bf16") else ("fp32",)


def check_engine(network: UNetConfig | Program, settings: EngineSettings) -> None:
    """Check that the engine of the settings is installed and runs the network in their precision.

    Raises:
        ModelError: it does not.
    """
    engine, precision = settings.engine, settings.precision
    possible = list_engines(network, settings.device)
    if engine not in possible:
        kind = "the project's own networks" if isinstance(network, UNetConfig) else f"{network.format} programs"
        raise ModelError(
            "--engine",
            got=engine,
            expected=f"{' or '.join(possible)}, which run {kind} on {settings.device}",
            fix="take one of them, or auto",
        )
    if not is_installed(network, engine):
        raise not_installed_error(engine)
    if isinstance(network, UNetConfig) and engine in ("torch", "compiled"):
        return  # torch runs any precision on any machine, some of them slowly
    precisions = list_precisions(network, engine, settings.device)
    if precision not in precisions:
        kind = "networks are run here" if isinstance(network, UNetConfig) else f"{network.format} programs are run"
        raise ModelError(
            "--precision",
            got=precision,
            expected=f"{' or '.join(precisions)}, in which {kind} by {engine}",
            fix="leave it to be measured",
        )


def get_input_dtype(settings: EngineSettings) -> torch.dtype:
    """Return the dtype of the network's input: graphs take float32 and convert it themselves."""
    return DTYPES[settings.precision] if settings.engine in ("torch", "compiled") else torch.float32
