"""The networks that a runtime can run: the project's own, and programs of other frameworks.

Each maps normalised windows (batch, bands, H, W) on its device to scores (batch, outputs, H − 2·halo, W − 2·halo).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seamline.model.networks.onnx_graphs import (
    Graph,
    export_unet,
    has_packages,
    list_openvino_precisions,
    load_graph,
    not_installed_error,
)
from seamline.model.networks.torch_programs import load_program
from seamline.model.networks.unet import DoubleConv, UNet
from seamline.model.spec.config import Engine, EngineSettings, Precision, Program, UNetConfig
from seamline.model.spec.errors import ModelError, get_first_line
from seamline.model.spec.spec import ModelSpec

Network = Callable[[Tensor, int], Tensor]
Net = TypeVar("Net", bound=nn.Module)

DTYPES: dict[Precision, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def open_network(spec: ModelSpec, folder: Path, settings: EngineSettings) -> Network:
    """The model's network on the device of the settings, in their engine, precision and layout.

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


def list_engines(network: UNetConfig | Program, device: str) -> tuple[Engine, ...]:
    """What can run a network on a device, the plain way first; installed or not."""
    if isinstance(network, UNetConfig):
        return ("torch", "compiled") if device == "cuda" else ("torch", "compiled", "onnxruntime", "openvino")
    if network.format != "onnx":
        return ("torch",)
    return ("onnxruntime",) if device == "cuda" else ("onnxruntime", "openvino")


def is_installed(network: UNetConfig | Program, engine: Engine) -> bool:
    """Whether the packages are there with which an engine runs a network."""
    return has_packages(engine, converts=isinstance(network, UNetConfig))


def list_precisions(network: UNetConfig | Program, engine: Engine, device: str) -> tuple[Precision, ...]:
    """The precisions in which an engine that is installed runs a network well, float32 before the reduced ones."""
    if isinstance(network, Program) or engine == "onnxruntime":
        return ("fp32",)
    if engine == "openvino":
        return list_openvino_precisions()
    if device == "cuda":
        return "fp32", "bf16", "fp16"
    return ("fp32", "bf16") if has_onednn("bf16") else ("fp32",)


def check_engine(network: UNetConfig | Program, settings: EngineSettings) -> None:
    """Refuse an engine that does not run the network, or not in the precision of the settings."""
    engine, precision = settings.engine, settings.precision
    if engine not in (runners := list_engines(network, settings.device)):
        kind = "the project's own networks" if isinstance(network, UNetConfig) else f"{network.format} programs"
        raise ModelError(
            "--engine", got=engine, expected=f"{' or '.join(runners)}, which run {kind} on {settings.device}",
            fix="take one of them, or auto",
        )  # fmt: skip
    if not is_installed(network, engine):
        raise not_installed_error(engine)
    if isinstance(network, UNetConfig) and engine in ("torch", "compiled"):
        return  # any precision, on any machine, if slowly
    if precision not in (able := list_precisions(network, engine, settings.device)):
        kind = "networks are run here" if isinstance(network, UNetConfig) else f"{network.format} programs are run"
        raise ModelError(
            "--precision",
            got=precision,
            expected=f"{' or '.join(able)}, in which {kind} by {engine}",
            fix="leave it to be measured",
        )


def get_input_dtype(settings: EngineSettings) -> torch.dtype:
    """Of what a network is given: graphs convert float32 by themselves."""
    return DTYPES[settings.precision] if settings.engine in ("torch", "compiled") else torch.float32


# --- the project's own ----------------------------------------------------------------------------------


def _open_unet(spec: ModelSpec, folder: Path, settings: EngineSettings) -> Network:
    network = load_unet(spec, folder)
    network = fuse_batch_norm(network.double() if settings.precision == "fp64" else network)
    if settings.engine in ("onnxruntime", "openvino"):
        return OnnxUNet(network, settings)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    ready = network.to(settings.device, DTYPES[settings.precision])
    ready = ready.to(memory_format=layout)  # type: ignore[call-overload]
    if settings.engine == "compiled":
        return CompiledUNet(ready)
    return fuse_relu(ready) if settings.device == "cpu" and has_onednn(settings.precision) else ready


class CompiledUNet:
    """The own U-Net through torch's compiler, once for windows of all sizes."""

    def __init__(self, network: nn.Module) -> None:
        self._network = torch.compile(network, dynamic=True)

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """(B, bands, H, W) → (B, outputs, H − 2·halo, W − 2·halo)."""
        try:
            y: Tensor = self._network(x, halo)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # of the compiler, of which there are several
            raise ModelError(
                "--engine",
                got=f"compiled, {get_first_line(error)}",
                expected="a network that torch compiles, and a C++ compiler on a CPU",
                fix="take another --engine",
            ) from error
        return y


class OnnxUNet:
    """The own U-Net as an ONNX graph in another engine, on the CPU, converted when the halo is known.

    Windows go one by one: batches bring nothing on a CPU, and so a graph is compiled for one shape in a run.
    """

    def __init__(self, network: UNet, settings: EngineSettings) -> None:
        self._network, self._settings = network, settings
        self._graphs: dict[int, Graph] = {}

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """(B, bands, H, W) → (B, outputs, H − 2·halo, W − 2·halo)."""
        graph = self._graph(halo)
        return torch.cat([graph(window[None]) for window in x])

    def prepare(self, shape: tuple[int, ...], halo: int) -> None:
        """Do for windows of this shape what needs to be done once."""
        self._graph(halo).prepare((1, *shape[1:]))

    def _graph(self, halo: int) -> Graph:
        if halo not in self._graphs:
            self._graphs[halo] = load_graph(export_unet(self._network, self._network.config, halo), self._settings)
        return self._graphs[halo]


def load_unet(spec: ModelSpec, folder: Path) -> UNet:
    """The spec's network with its weights, in evaluation mode, on the CPU in float32."""
    assert isinstance(spec.network, UNetConfig)  # programs have no other weights
    network = UNet(spec.network)
    network.load_state_dict(load_file(folder / spec.weights))
    return network.eval()


def fuse_batch_norm(network: Net) -> Net:
    """The network with each batch normalisation folded into the convolution before it (in place)."""
    for module in network.modules():
        if isinstance(module, DoubleConv):
            layers = list(module.children())
            for position, (conv, norm) in enumerate(pairwise(layers)):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[position] = fuse_conv_bn_eval(conv, norm)
                    module[position + 1] = nn.Identity()
    return network


class ConvReLU(nn.Module):
    """A convolution that writes its result through a ReLU: one pass over memory less, the same bits (oneDNN)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, H, W)."""
        conv = self.conv
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "relu", [], ""
        )
        return y


def has_onednn(precision: Precision) -> bool:
    """Whether this CPU's convolutions in ``precision`` are oneDNN's; bf16 wants AVX-512, without it torch crawls."""
    if not (torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return False
    if precision == "bf16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision == "fp32"


def enable_mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 where the device has kernels for it, otherwise float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or has_onednn("bf16"))


def fuse_relu(network: nn.Module) -> nn.Module:
    """The network with each convolution before a ReLU as one step (in place), for CPUs that have oneDNN.

    The ReLUs of a U-Net are a seventh of its time on a CPU: they compute nothing and read and write everything.
    """
    for module in network.modules():
        if isinstance(module, DoubleConv):
            steps = [layer for layer in module if not isinstance(layer, nn.Identity)]
            joined: list[nn.Module] = []
            for layer in steps:
                if isinstance(layer, nn.ReLU) and joined and isinstance(joined[-1], nn.Conv2d):
                    joined[-1] = ConvReLU(joined[-1])
                else:
                    joined.append(layer)
            del module[:]
            module.extend(joined)
    return network


# --- programs -------------------------------------------------------------------------------------------


class TorchProgram:
    """A TorchScript module or a ``torch.export`` program; computes everything and throws the halo away."""

    def __init__(self, module: Callable[[Tensor], Tensor], program: Program, settings: EngineSettings) -> None:
        self._module = module.to(settings.device) if isinstance(module, nn.Module) else module
        self.program = program

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """(B, bands, H, W) → (B, outputs, H − 2·halo, W − 2·halo)."""
        return _run_program(self._module, self.program, x, halo)


class OnnxProgram:
    """An ONNX graph of somebody else, in ONNX Runtime or OpenVINO."""

    def __init__(self, graph: Path | bytes, program: Program, settings: EngineSettings) -> None:
        self._graph = load_graph(graph, settings)
        self.program = program

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """(B, bands, H, W) → (B, outputs, H − 2·halo, W − 2·halo)."""
        return _run_program(self._graph, self.program, x, halo)

    def prepare(self, shape: tuple[int, ...], halo: int) -> None:
        """Do for windows of this shape what needs to be done once."""
        batch, bands, height, width = shape
        batch = self.program.batch or batch
        self._graph.prepare((batch, height, width, bands) if self.program.channels_last else (batch, *shape[1:]))


def _run_program(module: Callable[[Tensor], Tensor], program: Program, x: Tensor, halo: int) -> Tensor:
    """Call a program with its axes and its batch size; the last batch is filled up with its last window."""
    x = x.movedim(1, -1) if program.channels_last else x
    size = program.batch or len(x)
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part
        try:
            parts.append(module(filled)[: len(part)])
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # of the framework; there is no list
            raise ModelError(
                "the network", got=(str(error).strip().splitlines() or [type(error).__name__])[-1][:200],
                expected=f"windows of {x.shape[-2]} × {x.shape[-1]} to run",
                fix="take another --window, or export it with free height and width",
            ) from error  # fmt: skip
    y = torch.cat(parts)
    return crop_halo(y.movedim(-1, 1) if program.channels_last else y, halo)


def crop_halo(y: Tensor, halo: int) -> Tensor:
    """Without ``halo`` pixels on every side."""
    return y[..., halo : y.shape[-2] - halo, halo : y.shape[-1] - halo] if halo else y
