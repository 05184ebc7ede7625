"""U-Net of Ronneberger, Fischer and Brox (2015), with the paper's unpadded convolutions or with padded ones.

Read it beside figure 1 of the paper (arXiv:1505.04597). One level of the U, from outside to inside::

    x ──► double conv ──► skip ─────────────────────────► crop ──► concat ──► double conv ──►
               └─► max pool 2×2 ─► (next level) ─► up 2×2 ────────────┘

``padding="valid"`` is the paper's network: each 3×3 convolution loses one pixel on every side, so that an image of 572
pixels gives scores of 388. ``padding="same"`` pads with zeros and keeps the size; near the edge the zeros change the
scores, so the caller adds a halo around the pixels it wants, and ``UNet.forward`` crops the halo away and computes as
little as possible of it.

Shapes are (batch, channels, height, width). C is the base width; each level down has twice as many channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seamline.model.spec.config import DOUBLE_CONV_RADIUS, UNetConfig


class DoubleConv(nn.Sequential):
    """Twice a 3×3 convolution, a normalisation and a ReLU.

    (B, inputs, H, W) → (B, outputs, H, W), or (B, outputs, H − 4, W − 4) if unpadded.
    """

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            padding = 1 if config.padding == "same" else 0
            # A normalisation adds a bias of its own.
            layers.append(nn.Conv2d(channels, outputs, kernel_size=3, padding=padding, bias=config.norm == "none"))
            if config.norm == "batch":
                layers.append(nn.BatchNorm2d(outputs))
            elif config.norm == "group":
                layers.append(nn.GroupNorm(config.norm_groups, outputs))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class UpBlock(nn.Sequential):
    """Twice the size and half the channels: (B, 2C, H, W) → (B, C, 2H, 2W)."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        if config.upsampling == "upconv":
            super().__init__(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        else:
            super().__init__(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(channels, channels // 2, kernel_size=1),
            )


class UNet(nn.Module):
    """Encoder, decoder and skip connections; the outputs are logits of every class."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_width * 2**level for level in range(config.depth + 1)]  # C, 2C, … 2^depth·C
        inputs = [config.in_channels, *widths[:-1]]
        # The names of these attributes are those of the tensors in weight files.
        self.encoder = nn.ModuleList(DoubleConv(i, o, config) for i, o in zip(inputs, widths, strict=True))
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
        """Return the logits of an image without its halo.

        With padded convolutions the result equals the whole forward, cropped by ``halo`` pixels on every side. What
        the crop removes is not computed where no remaining pixel depends on it (``_compute_crops``).

        Unpadded convolutions remove ``config.lost_border`` pixels of the halo by themselves. Without a halo they
        return what they leave of an image of a size that the paper allows: 572 → 388.

        Args:
            x: image (B, in_channels, H, W); H and W are multiples of the divisor.
            halo: pixels to remove from every side.

        Returns:
            Logits (B, classes, H − 2·halo, W − 2·halo).

        Raises:
            ValueError: the halo is smaller than the border that unpadded convolutions lose.
        """
        config = self.config
        if halo and halo < config.lost_border:
            raise ValueError(f"halo {halo} of a network that loses {config.lost_border} pixels on every side")
        if config.padding == "valid" and halo:
            x = _crop(x, config.trim)
            halo -= config.lost_border
        encoder_crops, decoder_crops = _compute_crops(config, halo)

        # Down to the bottom of the U. ``cropped`` counts what was cropped from every side of x, in pixels of its level.
        cropped = 0
        skips: list[tuple[Tensor, int]] = []
        for level in range(config.depth):
            x = _crop(x, encoder_crops[level] - cropped)
            x = self.encoder[level](x)  # (B, 2^level·C, H/2^level, W/2^level), less the crop
            cropped = encoder_crops[level]
            skips.append((x, cropped))
            x = F.max_pool2d(x, 2)
            cropped //= 2

        x = _crop(x, encoder_crops[-1] - cropped)
        x = self.dropout(x)
        x = self.encoder[-1](x)  # (B, 2^depth·C, H/2^depth, W/2^depth), less the crop
        x = self.dropout(x)
        cropped = encoder_crops[-1]

        # And up again.
        for level in reversed(range(config.depth)):
            x = self.up[level](x)  # (B, 2^level·C, H/2^level, W/2^level), less the crop
            cropped *= 2
            crop = max(cropped, decoder_crops[level])
            x = _crop(x, crop - cropped)
            skip, skip_cropped = skips.pop()
            skip = _crop(skip, crop - skip_cropped) if config.padding == "same" else _crop_to_size(skip, x)
            x = torch.cat([skip, x], dim=1)  # (B, 2·2^level·C, ·, ·)
            x = self.decoder[level](x)  # (B, 2^level·C, ·, ·)
            cropped = crop

        logits: Tensor = self.head(_crop(x, halo - cropped))  # (B, classes, H − 2·halo, W − 2·halo)
        return logits


def _compute_crops(config: UNetConfig, halo: int) -> tuple[list[int], list[int]]:
    """Compute what each level need not compute, because no output inside the halo depends on it.

    Args:
        config: the network.
        halo: pixels that are removed from every side of the output; of an unpadded network those that are left over
            when its convolutions have removed theirs.

    Returns:
        Pixels to crop from every side of the input of each level of the encoder, the bottom last, and of each level
        of the decoder, in pixels of the level. The crops of the encoder keep x on the pooling lattice.
    """
    if config.padding == "valid":
        return [0] * (config.depth + 1), _compute_unpadded_decoder_crops(config, halo)
    interpolated = 1 if config.upsampling == "bilinear" else 0
    # Pixels around the output that each level of the decoder reads; the bottom of the U is the last.
    decoder_margins = [DOUBLE_CONV_RADIUS]
    for _ in range(config.depth):
        decoder_margins.append((decoder_margins[-1] + 1) // 2 + interpolated + DOUBLE_CONV_RADIUS)
    # Pixels around the output that each level of the encoder reads: twice those of the level below, and its own radius.
    encoder_margins = [decoder_margins[-1]]
    for _ in range(config.depth):
        encoder_margins.insert(0, 2 * encoder_margins[0] + DOUBLE_CONV_RADIUS)

    encoder_crops = []
    for level, margin in enumerate(encoder_margins):
        lattice = 1 << (config.depth - level)
        encoder_crops.append(max(0, (halo >> level) - margin) // lattice * lattice)
    decoder_crops = [max(0, (halo >> level) - margin) for level, margin in enumerate(decoder_margins[:-1])]
    return encoder_crops, decoder_crops


def _compute_unpadded_decoder_crops(config: UNetConfig, halo: int) -> list[int]:
    interpolated = 1 if config.upsampling == "bilinear" else 0
    crops = [halo]
    while len(crops) < config.depth:
        crops.append(max(0, crops[-1] // 2 - interpolated))
    return crops


def _crop_to_size(x: Tensor, target: Tensor) -> Tensor:
    """Crop the middle of ``x`` to the height and width of ``target``."""
    columns = (x.shape[-1] - target.shape[-1]) // 2
    rows = (x.shape[-2] - target.shape[-2]) // 2
    return _crop(x, columns, rows)


def _crop(x: Tensor, columns: int, rows: int | None = None) -> Tensor:
    """Remove columns from the left and right side, and rows (default: as many) from the top and the bottom."""
    rows = columns if rows is None else rows
    if columns == 0 and rows == 0:
        return x
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]
