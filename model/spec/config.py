"""What a U-Net is made of, and how it runs: plain values, for those who need no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Precision = Literal["fp64", "fp32", "bf16", "fp16"]

Engine = Literal["torch", "compiled", "onnxruntime", "openvino"]
"""What runs a network: torch, torch through its compiler, ONNX Runtime, OpenVINO."""

GRAPH_PRECISIONS: dict[str, tuple[Precision, ...]] = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
"""What the engines of graphs can be asked for, on any machine."""

ProgramFormat = Literal["onnx", "torchscript", "torch.export"]

DOUBLE_CONV_RADIUS = 2
"""Two 3×3 convolutions look two pixels far."""
MAX_SIZE = 4096
MAX_VALUES = {"in_channels": MAX_SIZE, "classes": MAX_SIZE, "depth": 12, "base_width": MAX_SIZE}
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
        for name, most in MAX_VALUES.items():
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

        if self.norm == "group" and self.base_width % self.groups:
            raise ValueError(f"base_width of a U-Net with norm group: got {self.base_width}, expected up to 8 or n · 8")

    @property
    def groups(self) -> int:
        """Groups of channels that are normalised together on every level."""
        return min(8, self.base_width)

    @property
    def divisor(self) -> int:
        """Total downsampling: sizes of windows are multiples of it."""
        return 1 << self.depth

    @property
    def lost_border(self) -> int:
        """Pixels that a window loses on every side by unpadded convolutions; figure 1 of the paper: 572 → 388.

        Of a window on the lattice ``trim`` more, since not every size comes out even.
        """
        if self.padding == "same":
            return 0
        double_convs = 2 * (self.divisor - 1) + self.divisor  # of every level twice, of the bottom once, in pixels
        return DOUBLE_CONV_RADIUS * double_convs + self.trim

    @property
    def least_halo(self) -> int:
        """The smallest halo on the lattice that covers the lost border."""
        return math.ceil(self.lost_border / self.divisor) * self.divisor

    @property
    def trim(self) -> int:
        """Pixels to take off every side of a window on the lattice before unpadded convolutions: then each pooling
        finds an even size, window − 2·trim ≡ −4 (mod divisor)."""
        return 2 % (self.divisor // 2) if self.padding == "valid" else 0

    @property
    def receptive_radius(self) -> int | None:
        """Pixels that the world outside of a window on the lattice can change at its edge; ``None``: unbounded.

        Followed through the network: two 3×3 convolutions carry a change 2 pixels on, a pooling halves its depth
        and rounds up, an up-convolution doubles it, interpolation adds one pixel. Unpadded convolutions lose those
        pixels instead, all but the interpolated ones. Statistics over the window, as group normalisation's, know
        no bound.
        """
        if self.norm == "group":
            return None
        interpolated = self.divisor - 1 if self.upsampling == "bilinear" else 0
        if self.padding == "valid":
            return self.lost_border + interpolated
        changed = DOUBLE_CONV_RADIUS
        for _ in range(self.depth):
            changed = -(-changed // 2) + DOUBLE_CONV_RADIUS
        for _ in range(self.depth):  # what comes up the U has come farther than what comes across
            changed = 2 * changed + DOUBLE_CONV_RADIUS
        return changed + interpolated

    def to_dict(self) -> dict[str, int | float | str]:
        """The fields, as a model's document stores them."""
        return asdict(self)


@dataclass(frozen=True)
class Program:
    """A network that is brought as a program: (B, in_channels, H, W) float32 → scores (B, classes, H, W).

    ``divisor`` is measured. ``window`` is the only H and W that it takes, ``batch`` the only B; ``None`` stands for
    any. ``channels_last``: its arrays are (B, H, W, channels).
    """

    format: ProgramFormat
    in_channels: int
    classes: int
    divisor: int
    window: int | None = None
    batch: int | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.format not in get_args(ProgramFormat):
            raise ValueError(f"format of a program: got {self.format!r}, expected one of {get_args(ProgramFormat)}")
        for name in ("in_channels", "classes", "divisor", "window", "batch"):
            value = getattr(self, name)
            if (value is not None or name in ("in_channels", "classes", "divisor")) and not (
                type(value) is int and 1 <= value <= MAX_SIZE
            ):
                raise ValueError(f"{name} of a program: got {value!r}, expected a whole number from 1 to {MAX_SIZE}")
        if self.window is not None and self.window % self.divisor:
            raise ValueError(f"window of a program: got {self.window}, expected a multiple of {self.divisor}")

    @property
    def least_halo(self) -> int:
        """Its windows lose no border."""
        return 0

    def to_dict(self) -> dict[str, int | str | bool | None]:
        """The fields, as a model's document stores them."""
        return asdict(self)


@dataclass(frozen=True)
class EngineSettings:
    """How a network runs on one kind of device. Found by measuring (``seamline.model.engines.tune``), not by guessing.

    ``threads`` are those of the network in the worker's process; 0 leaves them to the engine.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    batch: int = 1
    threads: int = 0
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        for name, allowed in (("precision", get_args(Precision)), ("engine", get_args(Engine))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {sorted(allowed)}")
        if self.batch < 1:
            raise ValueError(f"batch: got {self.batch}, expected at least 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineSettings:
        """Of a JSON object that has all of the fields: what another version wrote is no settings.

        Raises:
            ValueError: a field is missing, unknown or wrong.
        """
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"settings: got {', '.join(values)}")
        return cls(**values)


@dataclass(frozen=True)
class EngineRequest:
    """What a user fixes of the settings; ``"auto"`` and ``None`` are left to be measured."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto"] | Precision = "auto"
    engine: Literal["auto"] | Engine = "auto"
    batch: int | None = None
    threads: int | None = None

    def get_fixed_settings(self) -> dict[str, int | str]:
        """The settings that are fixed, by name."""
        return {name: value for name, value in asdict(self).items() if value not in ("auto", None)}


@dataclass(frozen=True)
class Radiometry:
    """From digital numbers to what the model was trained on, per band: value = DN · scale + offset.

    ``nodata`` is the digital number that means "no data" in a band, ``None`` if none does.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    nodata: tuple[float | None, ...]
