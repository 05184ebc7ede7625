"""Configuration of networks and of the engines that run them: plain values, importable without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Precision = Literal["fp64", "fp32", "bf16", "fp16"]

Engine = Literal["torch", "compiled", "onnxruntime", "openvino"]
"""What runs a network: torch, torch through its compiler, ONNX Runtime, OpenVINO."""

GRAPH_PRECISIONS: dict[str, tuple[Precision, ...]] = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
"""Precisions that the engines of ONNX graphs accept on any machine."""

ProgramFormat = Literal["onnx", "torchscript", "torch.export"]
Padding = Literal["valid", "same"]
Upsampling = Literal["upconv", "bilinear"]
Norm = Literal["none", "batch", "group"]

DOUBLE_CONV_RADIUS = 2
"""Receptive radius of two 3×3 convolutions, in pixels."""
MAX_SIZE = 4096
MAX_VALUES = {"in_channels": MAX_SIZE, "classes": MAX_SIZE, "depth": 12, "base_width": MAX_SIZE}
"""Upper limits of a U-Net's fields. Larger values are mistakes, and the network would not fit into memory."""


@dataclass(frozen=True)
class UNetConfig:
    """Configuration of a U-Net.

    Attributes:
        in_channels: input bands.
        classes: output channels.
        depth: number of poolings; the divisor is ``2 ** depth``.
        base_width: channels of the highest level; each level down has twice as many.
        padding: ``valid`` loses one pixel on every side of a 3×3 convolution, ``same`` pads with zeros.
        upsampling: a transposed convolution, or bilinear interpolation with a 1×1 convolution.
        norm: normalisation after each 3×3 convolution.
        dropout: share of the channels of the lowest level that training drops.
    """

    in_channels: int
    classes: int
    depth: int = 4
    base_width: int = 64
    padding: Padding = "same"
    upsampling: Upsampling = "upconv"
    norm: Norm = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, most in MAX_VALUES.items():
            _check_whole_number(f"{name} of a U-Net", getattr(self, name), most)
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout of a U-Net: got {self.dropout!r}, expected 0 ≤ p < 1")
        for name, allowed in (("padding", Padding), ("upsampling", Upsampling), ("norm", Norm)):
            _check_choice(f"{name} of a U-Net", getattr(self, name), get_args(allowed))
        if self.norm == "group" and self.base_width % self.norm_groups:
            raise ValueError(f"base_width of a U-Net with norm group: got {self.base_width}, expected up to 8 or n · 8")

    @property
    def norm_groups(self) -> int:
        """Groups of channels that group normalisation normalises together, the same number on every level."""
        return min(8, self.base_width)

    @property
    def divisor(self) -> int:
        """Total downsampling; heights and widths of windows are multiples of it."""
        return 1 << self.depth

    @property
    def lost_border(self) -> int:
        """Pixels that unpadded convolutions take off every side of a window on the pooling lattice; 0 if padded.

        This includes ``trim``. Without it the number is that of figure 1 of the paper, where 572 pixels become 388.
        """
        if self.padding == "same":
            return 0
        # In pixels of the scene: one double convolution on the way down and one up on each level, one at the bottom.
        double_convs = 2 * (self.divisor - 1) + self.divisor
        return DOUBLE_CONV_RADIUS * double_convs + self.trim

    @property
    def least_halo(self) -> int:
        """The smallest multiple of the divisor that covers the lost border, in pixels."""
        return math.ceil(self.lost_border / self.divisor) * self.divisor

    @property
    def trim(self) -> int:
        """Pixels to take off every side of a window on the pooling lattice before unpadded convolutions; 0 if padded.

        Every pooling then finds an even size: window − 2·trim ≡ −4 (mod divisor).
        """
        return 2 % (self.divisor // 2) if self.padding == "valid" else 0

    @property
    def receptive_radius(self) -> int | None:
        """How deep the world outside a window can change its outputs, in pixels; ``None`` if without bound.

        The window starts and stops on the pooling lattice. A change from outside travels inwards: two 3×3
        convolutions carry it 2 pixels on, a pooling halves its depth and rounds up, a transposed convolution doubles
        it, and all bilinear interpolations together add ``divisor − 1`` pixels. Unpadded convolutions remove the pixels
        that they would change, so that only the lost border and the interpolation count. Group normalisation uses
        statistics of the whole window, so it has no bound.
        """
        if self.norm == "group":
            return None
        interpolated = self.divisor - 1 if self.upsampling == "bilinear" else 0
        if self.padding == "valid":
            return self.lost_border + interpolated
        radius = DOUBLE_CONV_RADIUS
        for _ in range(self.depth):
            radius = math.ceil(radius / 2) + DOUBLE_CONV_RADIUS
        # The path through the bottom of the U reaches farther than the skip connections, so they need no account.
        for _ in range(self.depth):
            radius = 2 * radius + DOUBLE_CONV_RADIUS
        return radius + interpolated

    def to_dict(self) -> dict[str, int | float | str]:
        """Return the fields as they are stored in ``model.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Program:
    """Description of a network that comes as a program: (B, in_channels, H, W) float32 → scores (B, classes, H, W).

    Attributes:
        format: the program's file format.
        in_channels: input bands.
        classes: output channels.
        divisor: H and W are multiples of it; measured at import.
        window: the only H and W that the program takes; ``None`` for any.
        batch: the only B that the program takes; ``None`` for any.
        channels_last: whether its arrays are (B, H, W, channels).
    """

    format: ProgramFormat
    in_channels: int
    classes: int
    divisor: int
    window: int | None = None
    batch: int | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        _check_choice("format of a program", self.format, get_args(ProgramFormat))
        for name in ("in_channels", "classes", "divisor"):
            _check_whole_number(f"{name} of a program", getattr(self, name), MAX_SIZE)
        for name in ("window", "batch"):
            if getattr(self, name) is not None:
                _check_whole_number(f"{name} of a program", getattr(self, name), MAX_SIZE)
        if self.window is not None and self.window % self.divisor:
            raise ValueError(f"window of a program: got {self.window}, expected a multiple of {self.divisor}")

    @property
    def least_halo(self) -> int:
        """The smallest halo in pixels: 0, because outputs of programs have the size of their inputs."""
        return 0

    def to_dict(self) -> dict[str, int | str | bool | None]:
        """Return the fields as they are stored in ``model.json``."""
        return asdict(self)


@dataclass(frozen=True)
class EngineSettings:
    """How a network runs on one kind of device, as ``seamline.model.engines.tune`` measures it.

    Attributes:
        device: where the network computes.
        precision: type of its numbers.
        channels_last: whether tensors lie in memory as (B, H, W, channels).
        batch: windows in one call.
        threads: threads of the network in the worker's process; 0 leaves the number to the engine.
        engine: the framework that runs the network.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    batch: int = 1
    threads: int = 0
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, sorted(get_args(Precision)))
        _check_choice("engine", self.engine, sorted(get_args(Engine)))
        if self.batch < 1:
            raise ValueError(f"batch: got {self.batch}, expected at least 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineSettings:
        """Return settings from a JSON object that has exactly the fields of this version.

        Raises:
            ValueError: a field is missing, unknown or wrong, as when another version wrote the object.
        """
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"settings: got {', '.join(values)}")
        return cls(**values)


@dataclass(frozen=True)
class EngineRequest:
    """Engine settings that the user fixes; ``"auto"`` and ``None`` leave a setting to the measurement.

    Attributes:
        device: where the network computes.
        precision: type of its numbers.
        engine: the framework that runs the network.
        batch: windows in one call.
        threads: threads of the network in the worker's process.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto"] | Precision = "auto"
    engine: Literal["auto"] | Engine = "auto"
    batch: int | None = None
    threads: int | None = None

    def get_fixed_settings(self) -> dict[str, int | str]:
        """Return the settings that the user fixed, by name."""
        return {name: value for name, value in asdict(self).items() if value not in ("auto", None)}


@dataclass(frozen=True)
class Radiometry:
    """Conversion of digital numbers (DN) to the unit that the model was trained on: value = DN · scale + offset.

    Attributes:
        scale: factor of each band.
        offset: summand of each band.
        nodata: the digital number that means "no data" in each band; ``None`` if none does.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    nodata: tuple[float | None, ...]


def _check_whole_number(what: str, value: object, most: int) -> None:
    # The type is compared exactly, because True is an int as well.
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{what}: got {value!r}, expected a whole number from 1 to {most}")


def _check_choice(what: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what}: got {value!r}, expected one of {allowed}")
