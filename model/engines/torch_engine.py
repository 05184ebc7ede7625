"""The project's own U-Net in torch: its weights, layers fused for inference, reduced precisions, torch's compiler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from seamline.model.devices.graphs import GraphedNetwork, get_cuda_recorder
from seamline.model.networks.unet import DoubleConv, UNet
from seamline.model.spec.config import EngineSettings, Precision, UNetConfig
from seamline.model.spec.errors import ModelError, get_first_line
from seamline.model.spec.spec import ModelSpec

log = logging.getLogger("seamline.torch_engine")

_Module = TypeVar("_Module", bound=nn.Module)

_RunConvReLU = Callable[[nn.Conv2d, Tensor], Tensor]

_CUDNN_TOLERANCES = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}
"""Precisions in which cuDNN runs a convolution with its ReLU, and how far scores may be from those of both one by one:
a share of the largest score. Reduced precisions round a sum and its bias once instead of twice, in every layer."""

DTYPES: dict[Precision, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def load_unet(spec: ModelSpec, folder: Path) -> UNet:
    """Return the model's U-Net with its weights, in evaluation mode, on the CPU in float32."""
    assert isinstance(spec.network, UNetConfig)  # programs have no separate weights
    with torch.device("meta"):  # without memory, so that no random weights are drawn only to be replaced
        network = UNet(spec.network)
    network.load_state_dict(load_file(folder / spec.weights), assign=True)
    return network.float().eval()


def prepare_unet(network: UNet, settings: EngineSettings) -> Callable[[Tensor, int], Tensor]:
    """Move a U-Net to its device, precision and memory layout, and fuse or compile it there.

    Args:
        network: the U-Net after ``fuse_batch_norm``; it is changed in place.
        settings: device, precision and layout; the engine is ``torch`` or ``compiled``.

    Returns:
        A function of windows (B, bands, H, W) and a halo that returns scores (B, outputs, H − 2·halo, W − 2·halo).
    """
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    moved: UNet = network.to(settings.device, DTYPES[settings.precision])
    moved = moved.to(memory_format=layout)  # type: ignore[call-overload]
    if settings.engine == "compiled":
        return CompiledUNet(moved)
    if settings.device == "cpu":
        return fuse_relu(moved) if has_onednn(settings.precision) else moved
    return GraphedNetwork(fuse_relu_on_cuda(moved, settings.precision), get_cuda_recorder())


class CompiledUNet:
    """The U-Net through torch's compiler, compiled once for windows of all sizes."""

    def __init__(self, network: nn.Module) -> None:
        self._network = torch.compile(network, dynamic=True)

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """Compute the scores of a batch of windows.

        Args:
            x: normalised windows (B, bands, H, W).
            halo: pixels to leave out on every side of the result.

        Returns:
            Scores (B, outputs, H − 2·halo, W − 2·halo).

        Raises:
            ModelError: torch cannot compile the network here, for instance without a C++ compiler.
        """
        try:
            y: Tensor = self._network(x, halo)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # torch's compiler has several classes of errors
            raise ModelError(
                "--engine",
                got=f"compiled, {get_first_line(error)}",
                expected="a network that torch compiles, and a C++ compiler on a CPU",
                fix="take another --engine",
            ) from error
        return y


def fuse_batch_norm(network: _Module) -> _Module:
    """Fold each batch normalisation into the convolution before it, in place, and return the network."""
    for module in network.modules():
        if isinstance(module, DoubleConv):
            layers = list(module.children())
            for position, (conv, norm) in enumerate(pairwise(layers)):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    assert norm.running_mean is not None and norm.running_var is not None
                    conv.weight, conv.bias = fuse_conv_bn_weights(
                        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                    )
                    module[position + 1] = nn.Identity()
    return network


class ConvReLU(nn.Module):
    """A convolution and the ReLU after it in one pass over memory.

    Attributes:
        conv: the convolution.
        run: computes both of a tensor (B, in, H, W).
    """

    def __init__(self, conv: nn.Conv2d, run: _RunConvReLU) -> None:
        super().__init__()
        self.conv, self.run = conv, run

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W)."""
        return self.run(self.conv, x)


def _run_by_onednn(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a convolution and a ReLU by oneDNN; the result has the same bits."""
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, "relu", [], ""
    )
    return y


def _run_by_cudnn(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a convolution and a ReLU by cuDNN, which adds the bias before it rounds."""
    y: Tensor = torch.cudnn_convolution_relu(  # the stride comes before the padding
        x, conv.weight, conv.bias, conv.stride, tuple(map(int, conv.padding)), conv.dilation, conv.groups
    )
    return y


def _run_one_by_one(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a convolution, then a ReLU."""
    y: Tensor = conv(x)
    return y.relu_()


def fuse_relu(network: _Module, run: _RunConvReLU = _run_by_onednn) -> _Module:
    """Replace each convolution and the ReLU after it by one ``ConvReLU``, in place, and return the network.

    The ReLUs of a U-Net take a seventh of its time on a CPU: they read and write every activation and compute almost
    nothing.

    Args:
        network: the network, after ``fuse_batch_norm``.
        run: computes both; by oneDNN for CPUs for which ``has_onednn`` is true.
    """
    for module in network.modules():
        if isinstance(module, DoubleConv):
            layers = [layer for layer in module if not isinstance(layer, nn.Identity)]
            fused: list[nn.Module] = []
            for layer in layers:
                if isinstance(layer, nn.ReLU) and fused and isinstance(fused[-1], nn.Conv2d):
                    fused[-1] = ConvReLU(fused[-1], run)
                else:
                    fused.append(layer)
            del module[:]
            module.extend(fused)
    return network


@torch.inference_mode()
def fuse_relu_on_cuda(network: UNet, precision: Precision, run: _RunConvReLU = _run_by_cudnn) -> UNet:
    """Fuse convolutions and ReLUs where the installed torch and cuDNN do both right, in place, and return the network.

    torch's operator for it is not documented, and lets cuDNN take algorithms that add in an order that varies. So it is
    tried on one window: it must give nearly what the layers give one by one, and twice the same.

    Args:
        network: the network on its device, after ``fuse_batch_norm``.
        precision: what it computes in.
        run: computes both.
    """
    if precision not in _CUDNN_TOLERANCES:
        return network
    parameter = next(network.parameters())
    edge = 4 * network.config.divisor + 2 * network.config.lost_border
    x = torch.randn(1, network.config.in_channels, edge, edge, generator=torch.Generator().manual_seed(0))
    x = x.to(parameter.device, parameter.dtype)
    fused = fuse_relu(network, _run_one_by_one)
    expected = fused(x)
    _set_run(fused, run)
    try:
        found, again = fused(x), fused(x)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if torch.equal(found, again) and difference <= _CUDNN_TOLERANCES[precision]:
            return fused
        log.warning("cuDNN's convolution with ReLU differs by %g from both one by one: not taken", difference)
    except (RuntimeError, AttributeError) as error:
        log.warning("cuDNN's convolution with ReLU does not run here: %s", get_first_line(error))
    _set_run(fused, _run_one_by_one)
    return fused


def _set_run(network: nn.Module, run: _RunConvReLU) -> None:
    """Let all convolutions with ReLU of a network be computed by a function."""
    for module in network.modules():
        if isinstance(module, ConvReLU):
            module.run = run


def has_onednn(precision: Precision) -> bool:
    """Whether this CPU runs convolutions of a precision by oneDNN.

    In bf16 oneDNN needs AVX-512; without it torch falls back to loops that are many times slower than float32.
    """
    if not (torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return False
    if precision == "bf16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision == "fp32"


def enable_mixed_precision(device: torch.device) -> torch.autocast:
    """Return a context in which torch computes in bf16 if the device has kernels for it, otherwise in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or has_onednn("bf16"))
