"""Weights of milesial's Pytorch-UNet (github.com/milesial/Pytorch-UNet); their names tell the network.

Down the levels ``inc``, ``down1``, … and up again ``up1``, …, ``outc``. Where it upsamples by transposed convolutions
it is the project's own U-Net under other names. Its bilinear variant is another network: half as wide at the bottom,
and it aligns corners, so that what it interpolates depends on the size of the window and the place in it.
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
"""Positions of the convolutions in a double convolution, and of the normalisations after them."""


def convert_state_dict(tensors: dict[str, Tensor], path: Path) -> tuple[UNetConfig, dict[str, Tensor]] | BilinearUNet:
    """The project's U-Net that computes the same, as configuration and weights; or the bilinear variant.

    Depth, widths, bands and classes are read off the tensors.

    Raises:
        ModelError: the tensors are not those of a Pytorch-UNet.
    """
    tensors = _strip_prefix(tensors)
    first, last = tensors.get("inc.double_conv.0.weight"), tensors.get("outc.conv.weight")
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
    """The bilinear variant, made of its tensors: (B, bands, H, W) → (B, classes, H, W); H, W multiples of 2^depth."""

    def __init__(self, tensors: dict[str, Tensor], depth: int) -> None:
        super().__init__()
        self.depth = depth
        for place in _list_blocks(depth):
            for name, tensor in _rename_double_conv(tensors, place, place).items():
                self.register_buffer(_get_buffer_name(name), tensor)
        for part in ("weight", "bias"):
            self.register_buffer(_get_buffer_name(f"outc.conv.{part}"), tensors[f"outc.conv.{part}"].float())

    @property
    def bands(self) -> int:
        """Input channels."""
        return int(self.get_buffer(_get_buffer_name("inc.double_conv.0.weight")).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every class."""
        places = _list_blocks(self.depth)
        skips = [self._apply_double_conv(x, places[0])]
        for place in places[1 : self.depth + 1]:
            skips.append(self._apply_double_conv(F.max_pool2d(skips[-1], 2), place))
        x = skips.pop()
        for place in places[self.depth + 1 :]:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self._apply_double_conv(torch.cat([skips.pop(), x], dim=1), place)
        return F.conv2d(x, self.get_buffer("outc_conv_weight"), self.get_buffer("outc_conv_bias"))

    def _apply_double_conv(self, x: Tensor, place: str) -> Tensor:
        for conv, norm in CONV_NORM_POSITIONS:
            x = F.conv2d(x, self.get_buffer(_get_buffer_name(f"{place}.{conv}.weight")), padding=1)
            mean, var, weight, bias = (
                self.get_buffer(_get_buffer_name(f"{place}.{norm}.{part}"))
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.relu(F.batch_norm(x, mean, var, weight, bias))
        return x


def _list_blocks(depth: int) -> list[str]:
    """Names of the double convolutions, in the order in which an image meets them."""
    down = [f"down{level}.maxpool_conv.1.double_conv" for level in range(1, depth + 1)]
    return ["inc.double_conv", *down, *(f"up{level}.conv.double_conv" for level in range(1, depth + 1))]


def _get_buffer_name(name: str) -> str:
    return name.replace(".", "_")


def _rename_tensors(tensors: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The tensors under the names of the project's U-Net."""
    weights: dict[str, Tensor] = {}
    encoders, decoders = _list_blocks(depth)[: depth + 1], _list_blocks(depth)[depth + 1 :]
    for level, place in enumerate(encoders):
        weights |= _rename_double_conv(tensors, place, f"encoder.{level}")
    for level, place in enumerate(reversed(decoders)):  # up1 is the deepest
        weights |= _rename_double_conv(tensors, place, f"decoder.{level}")
        up = f"up{depth - level}.up"
        weights |= {f"up.{level}.0.{part}": tensors[f"{up}.{part}"].float().contiguous() for part in ("weight", "bias")}
    return weights | {f"head.{part}": tensors[f"outc.conv.{part}"].float().contiguous() for part in ("weight", "bias")}


def _rename_double_conv(tensors: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """The tensors of a double convolution, in float32, under another name."""
    weights: dict[str, Tensor] = {}
    for conv, norm in CONV_NORM_POSITIONS:
        weights[f"{ours}.{conv}.weight"] = tensors[f"{theirs}.{conv}.weight"].float().contiguous()
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{ours}.{norm}.{part}"] = tensors[f"{theirs}.{norm}.{part}"].float().contiguous()
        weights[f"{ours}.{norm}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)  # counts nothing here
        # Older versions add a bias before the normalisation, which takes it off again with the mean.
        if (bias := tensors.get(f"{theirs}.{conv}.bias")) is not None:
            weights[f"{ours}.{norm}.running_mean"] = weights[f"{ours}.{norm}.running_mean"] - bias.float()
    return weights


def _strip_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers (DataParallel, Lightning) put before every name."""
    for name in tensors:
        if name.endswith("inc.double_conv.0.weight"):
            prefix = name.removesuffix("inc.double_conv.0.weight")
            return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _not_milesial_error(path: Path, got: str) -> ModelError:
    return ModelError(
        f"network {path}",
        got=got,
        expected="the state_dict of a Pytorch-UNet (milesial), the only one whose names tell the network",
        fix="save the network itself, with torch.export.save or torch.onnx.export",
    )
