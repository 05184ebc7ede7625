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

from seamline.model.spec.config import DOUBLE_CONV_RADIUS, UNetConfig


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


class UpBlock(nn.Sequential):
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
        self.up = nn.ModuleList(UpBlock(width, config) for width in widths[1:])
        self.decoder = nn.ModuleList(DoubleConv(2 * width, width, config) for width in widths[:-1])
        self.head = nn.Conv2d(config.base_width, config.classes, kernel_size=1)
        self._initialise_weights()

    def _initialise_weights(self) -> None:
        # He et al. (2015), as section 3 of the paper asks: standard deviation sqrt(2 / inputs of a neuron).
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, halo: int = 0) -> Tensor:
        """Logits (B, classes, H − 2·halo, W − 2·halo) of an image (B, in_channels, H, W).

        H and W are multiples of the divisor. ``halo`` > 0 is the plain forward, cropped by so many pixels on
        every side, without computing what the crop throws away: each level works on the part that the outputs
        look at (``_margins``). Exact; of the encoder it leaves out little, since the halo is there for what its
        deep levels see.

        Unpadded convolutions lose ``lost_border`` of the halo by themselves. Without a halo they return what
        they leave of an image of a size that the paper allows: 572 → 388.
        """
        config = self.config
        if halo and halo < config.lost_border:
            raise ValueError(f"halo {halo} of a network that loses {config.lost_border} pixels on every side")
        if config.padding == "valid" and halo:
            x, halo = _crop(x, config.trim), halo - config.lost_border
        down, kept = _compute_crops(config, halo)
        skips: list[tuple[Tensor, int]] = []
        cut = 0  # what is already cropped from x on every side, in pixels of x's level
        for level, encode in enumerate(self.encoder[:-1]):
            x, cut = encode(_crop(x, down[level] - cut)), down[level]  # (B, 2^l·C, H/2^l, W/2^l) less the crop
            skips.append((x, cut))
            x, cut = F.max_pool2d(x, 2), cut // 2
        x, cut = _crop(x, down[-1] - cut), down[-1]
        x = self.dropout(self.encoder[-1](self.dropout(x)))  # (B, 2^depth·C, H/2^depth, W/2^depth)
        for level in reversed(range(config.depth)):
            x, cut = self.up[level](x), 2 * cut  # (B, 2^l·C, ·, ·): twice the size
            keep = max(cut, kept[level])
            x = _crop(x, keep - cut)
            skip, skipped = skips.pop()
            if config.padding == "valid":
                skip = _crop(skip, (skip.shape[-1] - x.shape[-1]) // 2, (skip.shape[-2] - x.shape[-2]) // 2)
            else:
                skip = _crop(skip, keep - skipped)
            x, cut = self.decoder[level](torch.cat([skip, x], dim=1)), keep  # (B, 2·2^l·C, ·, ·) → (B, 2^l·C, ·, ·)
        logits: Tensor = self.head(_crop(x, halo - cut))  # (B, classes, H − 2·halo, W − 2·halo)
        return logits


def _compute_crops(config: UNetConfig, halo: int) -> tuple[list[int], list[int]]:
    """What may be left out on every side when ``halo`` pixels of the output are: of the input of each level of the
    encoder, the bottom last, and of the decoder, in pixels of the level. What the encoder leaves out stays on the
    pooling lattice.

    Unpadded convolutions take their own margin; there ``halo`` is what is left over of it.
    """
    depth, interpolated = config.depth, int(config.upsampling == "bilinear")
    if config.padding == "valid":
        left = [halo]
        while len(left) < depth:
            left.append(max(0, left[-1] // 2 - interpolated))
        return [0] * (depth + 1), left
    margins = [DOUBLE_CONV_RADIUS]  # around the output, of what each level of the decoder and the bottom read
    while len(margins) <= depth:
        margins.append(-(-margins[-1] // 2) + interpolated + DOUBLE_CONV_RADIUS)
    seen = margins[-1:]  # of what each level of the encoder reads: what the one below does, twice, and its own reach
    for _ in range(depth):
        seen.insert(0, 2 * seen[0] + DOUBLE_CONV_RADIUS)
    lattice = [1 << (depth - level) for level in range(depth + 1)]
    down = [max(0, (halo >> level) - seen[level]) // lattice[level] * lattice[level] for level in range(depth + 1)]
    return down, [max(0, (halo >> level) - margins[level]) for level in range(depth)]


def _crop(x: Tensor, columns: int, rows: int | None = None) -> Tensor:
    """``x`` without so many columns at the left and right, and rows (default: as many) at the top and bottom."""
    rows = columns if rows is None else rows
    if columns == 0 and rows == 0:
        return x
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]
