"""What a U-Net is made of, and how it runs: plain values, for those who need no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

Precision = Literal["fp64", "fp32", "bf16", "fp16"]

CONV_REACH = 2
"""Two 3×3 convolutions look two pixels far."""
LIMITS = {"in_channels": 4096, "classes": 4096, "depth": 12, "base_width": 4096}
"""The most of anything in a U-Net; beyond it there is a mistake, and no memory for the network."""


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of. ``depth`` counts the poolings, so the divisor is ``2 ** depth``."""

    in_channels: int
    classes: int
    depth: int = 4
    base_width: int = 64
    padding: Literal["valid", "same"] = "same"
    upsampling: Literal["upconv", "bilinear"] = "upconv"
    norm: Literal["none", "batch", "group"] = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} of a U-Net: got {value!r}, expected a whole number from 1 to {most}")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of a U-Net: got {self.dropout!r}, expected 0 ≤ p < 1")
        choices = {
            "padding": ("valid", "same"),
            "upsampling": ("upconv", "bilinear"),
            "norm": ("none", "batch", "group"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} of a U-Net: got {getattr(self, name)!r}, expected one of {allowed}")

    @property
    def divisor(self) -> int:
        """Total downsampling: sizes of windows are multiples of it."""
        return 1 << self.depth

    @property
    def receptive_radius(self) -> int | None:
        """Pixels that the world outside of a window on the lattice can change at its edge; ``None``: unbounded.

        Followed through the network of padding "same": two 3×3 convolutions carry a change 2 pixels on, a
        pooling halves its depth and rounds up, an up-convolution doubles it, interpolation adds one pixel.
        Statistics over the whole window, as group normalisation's, know no bound.
        """
        if self.norm == "group":
            return None
        changed = CONV_REACH
        for _ in range(self.depth):
            changed = -(-changed // 2) + CONV_REACH
        for _ in range(self.depth):  # what comes up the U has come farther than what comes across
            changed = 2 * changed + (self.upsampling == "bilinear") + CONV_REACH
        return changed

    def to_dict(self) -> dict[str, int | float | str]:
        """The fields, as a model's document stores them."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How a network runs on one kind of device. Found by measuring (``model.tune``), not by guessing.

    ``threads`` are torch's threads in the worker's process; 0 leaves them as they are.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    batch: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision: got {self.precision!r}, expected one of {sorted(get_args(Precision))}")
        if self.batch < 1:
            raise ValueError(f"batch: got {self.batch}, expected at least 1")


@dataclass(frozen=True)
class Radiometry:
    """From digital numbers to what the model was trained on, per band: value = DN · scale + offset.

    ``nodata`` is the digital number that means "no data" in a band, ``None`` if none does.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    nodata: tuple[float | None, ...]
