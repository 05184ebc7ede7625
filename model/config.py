"""What a U-Net is made of, and how it runs: plain values, for those who need no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

Precision = Literal["fp64", "fp32", "bf16", "fp16"]


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
        for name in ("in_channels", "classes", "depth", "base_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of a U-Net: got {getattr(self, name)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of a U-Net: got {self.dropout}, expected 0 ≤ p < 1")
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
