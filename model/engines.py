"""The networks that a runtime can run: the project's own, and programs of other frameworks.

Each maps normalised windows (batch, bands, H, W) on its device to scores (batch, outputs, H − 2·halo, W − 2·halo).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.config import Precision, Program, Settings, UNetConfig
from model.errors import ModelError
from model.spec import ModelSpec
from model.unet import DoubleConv, UNet

Network = Callable[[Tensor, int], Tensor]

DTYPES: dict[Precision, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def open_network(spec: ModelSpec, folder: Path, settings: Settings) -> Network:
    """The model's network on the device of the settings, in their precision and layout.

    Raises:
        ModelError: a program cannot be run as the settings ask, or its framework is not installed.
    """
    if isinstance(spec.network, UNetConfig):
        return _unet(spec, folder, settings)
    if settings.precision != "fp32":
        raise ModelError(
            "--precision",
            got=settings.precision,
            expected=f"fp32, in which {spec.network.format} programs are run",
            fix="leave it to be measured",
        )
    path = folder / spec.weights
    if spec.network.format == "onnx":
        return OnnxProgram(path, spec.network, settings)
    return TorchProgram(load_program(path, spec.network.format), spec.network, settings)


def precisions(network: UNetConfig | Program, device: str) -> tuple[Precision, ...]:
    """The reduced precisions that are worth a trial on a device."""
    if isinstance(network, Program):
        return ()
    if device == "cuda":
        return "bf16", "fp16"
    return ("bf16",) if has_onednn("bf16") else ()


# --- the project's own ----------------------------------------------------------------------------------


def _unet(spec: ModelSpec, folder: Path, settings: Settings) -> Network:
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    network = load_network(spec, folder)
    if settings.precision == "fp64":
        network = network.double()
    ready = fused(network).to(settings.device, DTYPES[settings.precision])
    ready = ready.to(memory_format=layout)  # type: ignore[call-overload]
    return rectified(ready) if settings.device == "cpu" and has_onednn(settings.precision) else ready


def load_network(spec: ModelSpec, folder: Path) -> UNet:
    """The spec's network with its weights, in evaluation mode, on the CPU in float32."""
    assert isinstance(spec.network, UNetConfig)  # programs have no other weights
    network = UNet(spec.network)
    network.load_state_dict(load_file(folder / spec.weights))
    return network.eval()


def fused(network: nn.Module) -> nn.Module:
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


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 where the device has kernels for it, otherwise float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or has_onednn("bf16"))


def rectified(network: nn.Module) -> nn.Module:
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

    def __init__(self, module: Callable[[Tensor], Tensor], program: Program, settings: Settings) -> None:
        self._module = module.to(settings.device) if isinstance(module, nn.Module) else module
        self.program = program

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """(B, bands, H, W) → (B, outputs, H − 2·halo, W − 2·halo)."""
        return _run(self._module, self.program, x, halo)


def load_program(path: Path, form: str) -> Callable[[Tensor], Tensor]:
    """A program of PyTorch, ready to be called. Neither format holds Python code that loading would run."""
    if form == "torchscript":
        module: Callable[[Tensor], Tensor] = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        return module
    exported: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return exported


class OnnxProgram:
    """An ONNX graph in ONNX Runtime, on the CPU or a CUDA device."""

    def __init__(self, path: Path, program: Program, settings: Settings) -> None:
        self._session = onnx_session(path, settings)
        self._input = self._session.get_inputs()[0].name
        self.program = program

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """(B, bands, H, W) → (B, outputs, H − 2·halo, W − 2·halo)."""
        return _run(self._infer, self.program, x, halo)

    def _infer(self, x: Tensor) -> Tensor:
        (y, *_) = self._session.run(None, {self._input: x.cpu().contiguous().numpy()})
        return torch.from_numpy(y).to(x.device)


def _run(module: Callable[[Tensor], Tensor], program: Program, x: Tensor, halo: int) -> Tensor:
    """Call a program with its axes and its batch size; the last batch is filled up with its last window."""
    x = x.movedim(1, -1) if program.channels_last else x
    size = program.batch or len(x)
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part
        parts.append(module(filled)[: len(part)])
    y = torch.cat(parts)
    return cropped(y.movedim(-1, 1) if program.channels_last else y, halo)


def onnx_session(path: Path, settings: Settings) -> Any:
    """An ONNX Runtime session of a graph.

    Raises:
        ModelError: ONNX Runtime is not installed, or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ModelError(
            f"network {path}", got="no ONNX Runtime", expected="it, to run ONNX", fix="pip install 'seamline[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = 3
    # Threads that wait must not take the core from the one that reads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CUDAExecutionProvider"] if settings.device == "cuda" else []
    try:
        return onnxruntime.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes, of which there are many
        raise ModelError(
            f"network {path}", got=error, expected="a graph that ONNX Runtime runs", fix="export it again"
        ) from error


def cropped(y: Tensor, halo: int) -> Tensor:
    """Without ``halo`` pixels on every side."""
    return y[..., halo : y.shape[-2] - halo, halo : y.shape[-1] - halo] if halo else y
