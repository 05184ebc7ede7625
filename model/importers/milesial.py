"""Read weights of milesial's Pytorch-UNet (github.com/milesial/Pytorch-UNet), whose names tell the network.

The names go down the levels ``inc``, ``down1``, … and up again ``up1``, …, ``outc``. The variant with transposed
convolutions is the project's own U-Net under other names. The bilinear variant is another network: it is half as wide
at the bottom and aligns corners, so that its interpolation depends on the size of the window and the place in it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seamline.model.spec.config import UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.spec.weights import list_tensor_shapes

CONV_NORM_POSITIONS = ((0, 1), (3, 4))
"""Positions of each convolution and of the normalisation after it in a double convolution."""
FIRST_TENSOR, LAST_TENSOR = "inc.double_conv.0.weight", "outc.conv.weight"


def convert_state_dict(tensors: dict[str, Tensor], path: Path) -> tuple[UNetConfig, dict[str, Tensor]] | BilinearUNet:
    """Turn the weights of a Pytorch-UNet into a network that computes the same.

    Depth, width, bands and classes follow from the tensors.

    Args:
        tensors: the state_dict.
        path: its file, for error messages.

    Returns:
        Configuration and weights of the project's U-Net, or the bilinear variant as a network.

    Raises:
        ModelError: the tensors are not those of a Pytorch-UNet.
    """
    tensors = _strip_prefix(tensors)
    first, last = tensors.get(FIRST_TENSOR), tensors.get(LAST_TENSOR)
    if first is None or last is None:
        raise _not_milesial_error(path, f"tensors {', '.join(list(tensors)[:3])}, …")
    depth = len({match[1] for name in tensors if (match := re.match(r"down(\d+)\.", name))})
    try:
        if not any(re.fullmatch(r"up\d+\.up\.weight", name) for name in tensors):
            return BilinearUNet(tensors, depth)
        config = UNetConfig(first.shape[1], last.shape[0], depth=depth, base_width=first.shape[0])
        weights = _rename_tensors(tensors, depth)
    except KeyError as error:
        raise _not_milesial_error(path, f"no tensor {error.args[0]}") from None
    for name, shape in list_tensor_shapes(config).items():
        if tuple(weights[name].shape) != shape:
            raise _not_milesial_error(path, f"{name} of shape {tuple(weights[name].shape)} instead of {shape}")
    return config, weights


class BilinearUNet(nn.Module):
    """The bilinear variant, built from its tensors.

    (B, bands, H, W) → scores (B, classes, H, W); H and W are multiples of 2^depth.
    """

    def __init__(self, tensors: dict[str, Tensor], depth: int) -> None:
        super().__init__()
        self.depth = depth
        for block in _list_blocks(depth):
            for name, tensor in _rename_double_conv(tensors, block, block).items():
                self.register_buffer(_get_buffer_name(name), tensor)
        for part in ("weight", "bias"):
            self.register_buffer(_get_buffer_name(f"outc.conv.{part}"), tensors[f"outc.conv.{part}"].float())

    @property
    def bands(self) -> int:
        """Input channels."""
        return int(self.get_buffer(_get_buffer_name(FIRST_TENSOR)).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of every class."""
        blocks = _list_blocks(self.depth)
        skips = [self._apply_double_conv(x, blocks[0])]
        for block in blocks[1 : self.depth + 1]:
            skips.append(self._apply_double_conv(F.max_pool2d(skips[-1], 2), block))
        x = skips.pop()
        for block in blocks[self.depth + 1 :]:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self._apply_double_conv(torch.cat([skips.pop(), x], dim=1), block)
        return F.conv2d(x, self.get_buffer("outc_conv_weight"), self.get_buffer("outc_conv_bias"))

    def _apply_double_conv(self, x: Tensor, block: str) -> Tensor:
        for conv, norm in CONV_NORM_POSITIONS:
            x = F.conv2d(x, self.get_buffer(_get_buffer_name(f"{block}.{conv}.weight")), padding=1)
            mean, var, weight, bias = (
                self.get_buffer(_get_buffer_name(f"{block}.{norm}.{part}"))
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.relu(F.batch_norm(x, mean, var, weight, bias))
        return x


def _list_blocks(depth: int) -> list[str]:
    """Return the names of the double convolutions in the order in which they are computed."""
    down = [f"down{level}.maxpool_conv.1.double_conv" for level in range(1, depth + 1)]
    return ["inc.double_conv", *down, *(f"up{level}.conv.double_conv" for level in range(1, depth + 1))]


def _get_buffer_name(name: str) -> str:
    # Torch allows no dots in names of buffers.
    return name.replace(".", "_")


def _rename_tensors(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return the tensors under the names of the project's U-Net."""
    weights: dict[str, Tensor] = {}
    encoders, decoders = _list_blocks(depth)[: depth + 1], _list_blocks(depth)[depth + 1 :]
    for level, block in enumerate(encoders):
        weights |= _rename_double_conv(tensors, block, f"encoder.{level}")
    for level, block in enumerate(reversed(decoders)):  # up1 is the deepest
        weights |= _rename_double_conv(tensors, block, f"decoder.{level}")
        weights |= _rename_conv(tensors, f"up{depth - level}.up", f"up.{level}.0")
    return weights | _rename_conv(tensors, "outc.conv", "head")


def _rename_conv(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """Return weight and bias of a convolution under another name, in float32."""
    return {f"{new}.{part}": tensors[f"{old}.{part}"].float().contiguous() for part in ("weight", "bias")}


def _rename_double_conv(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """Return the tensors of a double convolution under another name, in float32."""
    weights: dict[str, Tensor] = {}
    for conv, norm in CONV_NORM_POSITIONS:
        weights[f"{new}.{conv}.weight"] = tensors[f"{old}.{conv}.weight"].float().contiguous()
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{new}.{norm}.{part}"] = tensors[f"{old}.{norm}.{part}"].float().contiguous()
        # Only training reads the counter, so any value will do.
        weights[f"{new}.{norm}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
        # Older versions add a bias before the normalisation. The project's network has none; a mean that is smaller by
        # the bias has the same effect.
        if (bias := tensors.get(f"{old}.{conv}.bias")) is not None:
            weights[f"{new}.{norm}.running_mean"] = weights[f"{new}.{norm}.running_mean"] - bias.float()
    return weights


def _strip_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that wrappers such as DataParallel or Lightning put before every name."""
    for name in tensors:
        if name.endswith(FIRST_TENSOR):
            prefix = name.removesuffix(FIRST_TENSOR)
            return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _not_milesial_error(path: Path, got: str) -> ModelError:
    return ModelError(
        f"network {path}",
        got=got,
        expected="the state_dict of a Pytorch-UNet (milesial), the only one whose names tell the network",
        fix="save the network itself, with torch.export.save or torch.onnx.export",
    )
