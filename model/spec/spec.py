"""What the pipeline must know of a model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from seamline.model.spec.config import Program, UNetConfig

MAX_CLASSES = 255
"""Labels that a raster of bytes has for classes; the last byte, 255, is nodata."""
UNET_ARCHITECTURE, UNKNOWN = "U-Net", "unknown"
Activation = Literal["softmax", "sigmoid", "none"]
"""From the network's output to probabilities; ``none``: they are probabilities already."""


def _check_text(what: str, text: object, least: int = 1) -> None:
    if not (isinstance(text, str) and len(text) >= least and text.isprintable()):
        raise ValueError(f"{what}: got {text!r}, expected text of one line")


@dataclass(frozen=True)
class InputBand:
    """A band the network reads: ``name`` (STAC common name where there is one), centre wavelength in µm,
    and mean and standard deviation of the training data in the unit of the model's input."""

    name: str
    wavelength: float | None
    mean: float
    std: float

    def __post_init__(self) -> None:
        _check_text("name of a band", self.name)
        wave = self.wavelength
        if wave is not None and not (isinstance(wave, int | float) and math.isfinite(wave) and wave > 0):
            raise ValueError(f"band {self.name!r}: wavelength {wave!r}, expected µm above 0, or none")
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"band {self.name!r}: mean {self.mean} and std {self.std} must be finite, std > 0")


def parse_color(text: str) -> tuple[int, int, int]:
    """Red, green and blue of ``RRGGBB``, with or without a # before it."""
    if not re.fullmatch("#?[0-9A-Fa-f]{6}", text):
        raise ValueError(f"color_hint {text!r} is not six hexadecimal digits, RRGGBB")
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


@dataclass(frozen=True)
class ModelClass:
    """A class the network knows: its name and its colour (R, G, B; 0 to 255). Its label is its position."""

    name: str
    color: tuple[int, int, int]
    description: str = ""

    def __post_init__(self) -> None:
        _check_text("name of a class", self.name)
        _check_text(f"description of class {self.name!r}", self.description, least=0)


@dataclass(frozen=True)
class ModelSpec:
    """A model, as far as anything outside of it must know it.

    ``measure_receptive_radius`` is how many pixels an input pixel reaches in the output, measured; ``None`` stands for
    unbounded. ``fill`` is the value, after normalisation, of pixels without data. ``assumed_nodata`` is the
    digital number that means "outside the footprint" in scenes that declare nothing. ``architecture`` is for people;
    of programs it may not be known.
    """

    name: str
    version: str
    bands: tuple[InputBand, ...]
    classes: tuple[ModelClass, ...]
    network: UNetConfig | Program
    receptive_radius: int | None
    activation: Activation = "softmax"
    quantity: Literal["reflectance", "dn"] = "reflectance"
    fill: float = 0.0
    assumed_nodata: float | None = None
    license: str = "Apache-2.0"
    description: str = ""
    training_data: tuple[str, ...] = ()
    weights: str = "model.safetensors"
    architecture: str = UNET_ARCHITECTURE

    def __post_init__(self) -> None:
        for field in ("name", "version", "license", "description", "weights", "architecture"):
            _check_text(field, getattr(self, field), least=0 if field == "description" else 1)
        if len(self.bands) != self.network.in_channels:
            raise ValueError(f"{len(self.bands)} bands for a network of {self.network.in_channels} input channels")
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(
                f"{len(self.classes)} classes: label {MAX_CLASSES} is nodata, so there are at most {MAX_CLASSES}"
            )
        if len(self.classes) != self.network.classes and not self.binary:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.network.classes} outputs")
        if self.network.classes == 1 and (not self.binary or self.activation == "softmax"):
            raise ValueError(
                f"one output, {len(self.classes)} classes and activation {self.activation}: a network of one output "
                "tells two classes apart, by sigmoid or none"
            )
        for kind, names in (("bands", [b.name for b in self.bands]), ("classes", [c.name for c in self.classes])):
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind} have the same name: {names}")
        nodata = self.assumed_nodata
        checks = (
            (self.activation in get_args(Activation), "activation", "softmax, sigmoid or none"),
            (self.quantity in ("reflectance", "dn"), "quantity", "reflectance or dn"),
            (math.isfinite(self.fill), "fill", "a finite number"),
            (
                nodata is None or (isinstance(nodata, int | float) and abs(nodata) < 1e300),
                "assumed_nodata",
                "a number that pixels can have, or null",
            ),
            (all(isinstance(text, str) for text in self.training_data), "training_data", "texts"),
        )
        for good, field, expected in checks:
            if not good:
                raise ValueError(f"{field}: got {getattr(self, field)!r}, expected {expected}")
        if isinstance(self.network, UNetConfig) and self.architecture != UNET_ARCHITECTURE:
            raise ValueError(f"architecture: got {self.architecture!r}, but the network is a {UNET_ARCHITECTURE}")
        radius = self.receptive_radius
        if isinstance(self.network, UNetConfig) and radius != self.network.receptive_radius:
            raise ValueError(f"receptive_radius: got {radius}, but the network's is {self.network.receptive_radius}")
        if radius is not None and not radius >= 0:
            raise ValueError(f"receptive_radius: got {radius}, expected at least 0, or unbounded")

    @property
    def binary(self) -> bool:
        """Whether the network has one output for two classes: the probability of the second."""
        return self.network.classes == 1 and len(self.classes) == 2

    @property
    def divisor(self) -> int:
        """Total downsampling of the network."""
        return self.network.divisor

    @property
    def exact_halo(self) -> int | None:
        """The smallest halo on the lattice that makes tiling invisible; ``None`` if no halo does."""
        if self.receptive_radius is None:
            return None
        return math.ceil(self.receptive_radius / self.divisor) * self.divisor

    def summarize(self) -> dict[str, Any]:
        """What ``seamline model inspect --json`` prints."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "bands": [{"name": b.name, "wavelength": b.wavelength, "mean": b.mean, "std": b.std} for b in self.bands],
            "classes": [
                {"label": label, "name": c.name, "color": list(c.color), "description": c.description}
                for label, c in enumerate(self.classes)
            ],
            "divisor": self.divisor,
            "receptive_radius": "unbounded" if self.receptive_radius is None else self.receptive_radius,
            "activation": self.activation,
            "quantity": self.quantity,
            "fill": self.fill,
            "assumed_nodata": self.assumed_nodata,
            "architecture": self.architecture,
            "network": self.network.to_dict(),
            "license": self.license,
            "training_data": list(self.training_data),
        }
