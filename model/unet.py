"""The U-Net of Ronneberger, Fischer and Brox (2015), and the same-size network of today, as one class.

Read it with figure 1 of the paper (arXiv:1505.04597) beside you. One level of the U, from outside to inside::

    x ──► double conv ──► skip ─────────────────────────► crop ──► concat ──► double conv ──►
               └─► max pool 2×2 ─► (next level) ─► up 2×2 ────────────┘

``padding="valid"`` is the paper's: each 3×3 convolution loses one pixel on every side, 572 in gives 388 out.
``padding="same"`` keeps the size, and pays with an edge in which zeros take part; the caller reads a halo and
throws it away. Then the decoder need not compute what is thrown away: see ``UNet.forward``.

Shapes are (batch, channels, height, width); ``C`` is the base width, doubled on every level down.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import CONV_REACH, UNetConfig


class DoubleConv(nn.Sequential):
    """(3×3 convolution, normalisation, ReLU) twice: (B, in, H, W) → (B, out, H, W), or H − 4, W − 4 if valid."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers.append(
                nn.Conv2d(
                    channels,
                    outputs,
                    kernel_size=3,
                    padding=1 if config.padding == "same" else 0,
                    bias=config.norm == "none",
                )
            )
            if config.norm == "batch":
                layers.append(nn.BatchNorm2d(outputs))
            elif config.norm == "group":
                layers.append(nn.GroupNorm(config.groups, outputs))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Up(nn.Sequential):
    """Twice the size, half the channels: (B, 2C, H, W) → (B, C, 2H, 2W)."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        if config.upsampling == "upconv":
            super().__init__(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        else:
            super().__init__(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(channels, channels // 2, kernel_size=1),
            )


class UNet(nn.Module):
    """Contracting path, expanding path, copy-and-crop between them; logits for every class."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_width * 2**level for level in range(config.depth + 1)]  # C, 2C, … 2^depth·C
        inputs = [config.in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            DoubleConv(i, o, config) for i, o in zip(inputs, widths, strict=True)
        )  # the last is the bottom of the U
        self.dropout = nn.Dropout2d(config.dropout)
        self.up = nn.ModuleList(Up(width, config) for width in widths[1:])
        self.decoder = nn.ModuleList(DoubleConv(2 * width, width, config) for width in widths[:-1])
        self.head = nn.Conv2d(config.base_width, config.classes, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        # He et al. (2015), as section 3 of the paper asks: standard deviation sqrt(2 / inputs of a neuron).
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, halo: int = 0) -> Tensor:
        """Logits (B, classes, H − 2·halo, W − 2·halo) of an image (B, in_channels, H, W).

        H and W are multiples of the divisor. ``halo`` > 0 is the plain forward, cropped by so many pixels on
        every side, without computing what the crop throws away: each level of the decoder works on the part that
        the outputs look at (``_margin``). Exact, because the far reach of the network lies in the deep levels and
        in the encoder, which stay whole.

        Unpadded convolutions lose ``lost_border`` of the halo by themselves. Without a halo they return what
        they leave of an image of a size that the paper allows: 572 → 388.
        """
        config = self.config
        if halo and halo < config.lost_border:
            raise ValueError(f"halo {halo} of a network that loses {config.lost_border} pixels on every side")
        if config.padding == "valid" and halo:
            return _cropped(self.forward(_cropped(x, config.trim)), halo - config.lost_border)
        skips: list[Tensor] = []
        for encode in self.encoder[:-1]:
            x = encode(x)  # (B, 2^l·C, H/2^l, W/2^l)
            skips.append(x)
            x = F.max_pool2d(x, 2)  # (B, 2^l·C, H/2^(l+1), W/2^(l+1))
        x = self.dropout(self.encoder[-1](self.dropout(x)))  # (B, 2^depth·C, H/2^depth, W/2^depth)
        outer = 0  # what is already cropped from x on every side, in pixels of x's level
        for level in reversed(range(config.depth)):
            x = self.up[level](x)  # (B, 2^l·C, ·, ·): twice the size
            outer *= 2
            skip = skips.pop()
            keep = max(outer, _crop_at(level, halo))  # cropped from now on, in pixels of this level
            x = _cropped(x, keep - outer)
            outer = keep
            if config.padding == "valid":
                skip = _cropped(skip, (skip.shape[-1] - x.shape[-1]) // 2, (skip.shape[-2] - x.shape[-2]) // 2)
            else:
                skip = _cropped(skip, keep)
            x = torch.cat([skip, x], dim=1)  # (B, 2·2^l·C, ·, ·)
            x = self.decoder[level](x)  # (B, 2^l·C, ·, ·)
        x = _cropped(x, halo - outer)
        logits: Tensor = self.head(x)  # (B, classes, H − 2·halo, W − 2·halo)
        return logits


def _margin(level: int) -> int:
    """Pixels around the output that level ``level`` of the decoder must compute, in its own pixels.

    The outermost level looks 2 pixels far (two 3×3 convolutions); a level below must deliver half of what the
    level above reads, rounded up, plus one pixel where bilinear upsampling interpolates, plus its own 2.
    """
    margin = CONV_REACH
    for _ in range(level):
        margin = (margin + 1) // 2 + 1 + CONV_REACH
    return margin


def _crop_at(level: int, halo: int) -> int:
    """What level ``level`` of the decoder may leave out on every side when ``halo`` pixels are thrown away."""
    return max(0, halo // 2**level - _margin(level)) if halo else 0


def _cropped(x: Tensor, columns: int, rows: int | None = None) -> Tensor:
    """``x`` without so many columns at the left and right, and rows (default: as many) at the top and bottom."""
    rows = columns if rows is None else rows
    if columns == 0 and rows == 0:
        return x
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]
