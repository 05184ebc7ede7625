"""ModelSpec: what other rooms must know of a model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from seamline.model.spec.config import Program, UNetConfig

MAX_CLASSES = 255
"""Class labels that fit into a byte, 0 to 254; 255 is nodata."""
UNET_ARCHITECTURE = "U-Net"
UNKNOWN = "unknown"
"""Stands for an architecture or a license that nobody stated."""
_LONGEST_DESCRIPTION = 10_000
"""Characters of a description; names have less."""
Activation = Literal["softmax", "sigmoid", "none"]
"""The function from scores to probabilities; ``none``: the network returns probabilities."""


@dataclass(frozen=True)
class InputBand:
    """A band that the network reads.

    Attributes:
        name: STAC common name where there is one.
        wavelength: centre wavelength in µm; ``None`` if it is not known.
        mean: mean of the training data, in the unit of the model's input.
        std: standard deviation of the training data, in the same unit.
    """

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


@dataclass(frozen=True)
class ModelClass:
    """A class that the network knows. Its label is its position in ``ModelSpec.classes``.

    Attributes:
        name: the name for people.
        color: red, green and blue, 0 to 255.
        description: a sentence, or empty.
    """

    name: str
    color: tuple[int, int, int]
    description: str = ""

    def __post_init__(self) -> None:
        _check_text("name of a class", self.name)
        _check_text(f"description of class {self.name!r}", self.description, least=0, most=_LONGEST_DESCRIPTION)


@dataclass(frozen=True)
class ModelSpec:
    """A model without its weights.

    Attributes:
        name: the name for people.
        version: the version of the model.
        bands: what the network reads, in the order of its input channels.
        classes: what it tells apart, in the order of their labels.
        network: the project's U-Net, or a program.
        receptive_radius: pixels that an input pixel reaches in the output; ``None`` if without bound.
        activation: from scores to probabilities.
        quantity: unit of the input: reflectance, or digital numbers (dn). A scale that a scene declares, or that the
            user gives, applies to both; for dn no scale is assumed.
        fill: value, after normalisation, of pixels without data.
        assumed_nodata: digital number that means "outside the footprint" in scenes that declare no nodata.
        license: SPDX identifier, or ``UNKNOWN``.
        description: a sentence, or empty.
        limits: what the model is good for and what not, in one line; empty if nobody stated it.
        training_data: names or addresses of the training data.
        unseen: names of the classes that say that the ground was not seen, such as cloud; they do not vote where scenes
            are fused to a map. ``None``: nobody stated it.
        weights: name of the file of weights in the model folder.
        architecture: name for people; ``UNKNOWN`` for programs that do not tell it.
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
    limits: str = ""
    training_data: tuple[str, ...] = ()
    unseen: tuple[str, ...] | None = None
    weights: str = "model.safetensors"
    architecture: str = UNET_ARCHITECTURE

    def __post_init__(self) -> None:
        for field in ("name", "version", "license", "weights", "architecture"):
            _check_text(field, getattr(self, field))
        _check_text("description", self.description, least=0, most=_LONGEST_DESCRIPTION)
        _check_text("limits", self.limits, least=0)
        self._check_channels()
        self._check_unique_names()
        self._check_unseen()
        self._check_values()
        self._check_network()

    def _check_channels(self) -> None:
        """Refuse bands and classes that do not match the network's channels."""
        if len(self.bands) != self.network.in_channels:
            raise ValueError(f"{len(self.bands)} bands for a network of {self.network.in_channels} input channels")
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(
                f"{len(self.classes)} classes: label {MAX_CLASSES} is nodata, so there are at most {MAX_CLASSES}"
            )
        if len(self.classes) != self.network.classes and not self.is_binary:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.network.classes} outputs")
        if self.network.classes == 1 and (not self.is_binary or self.activation == "softmax"):
            raise ValueError(
                f"one output, {len(self.classes)} classes and activation {self.activation}: a network of one output "
                "tells two classes apart, by sigmoid or none"
            )

    def _check_unique_names(self) -> None:
        for kind, names in (("bands", [b.name for b in self.bands]), ("classes", [c.name for c in self.classes])):
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind} have the same name: {names}")

    def _check_unseen(self) -> None:
        """Refuse unseen classes that are no classes, or all of them."""
        names = [c.name for c in self.classes]
        if self.unseen is not None and (set(self.unseen) - set(names) or set(self.unseen) == set(names)):
            raise ValueError(f"unseen: got {self.unseen!r}, expected some of the classes {', '.join(names)}")

    def _check_values(self) -> None:
        nodata = self.assumed_nodata
        nodata_is_possible = nodata is None or (isinstance(nodata, int | float) and abs(nodata) < 1e300)
        checks = (
            ("activation", self.activation in get_args(Activation), "softmax, sigmoid or none"),
            ("quantity", self.quantity in ("reflectance", "dn"), "reflectance or dn"),
            ("fill", math.isfinite(self.fill), "a finite number"),
            ("assumed_nodata", nodata_is_possible, "a number that pixels can have, or null"),
            ("training_data", all(isinstance(text, str) for text in self.training_data), "texts"),
        )
        for field, is_valid, expected in checks:
            if not is_valid:
                raise ValueError(f"{field}: got {getattr(self, field)!r}, expected {expected}")

    def _check_network(self) -> None:
        """Refuse an architecture or a receptive radius that contradicts the project's own U-Net."""
        radius = self.receptive_radius
        if isinstance(self.network, UNetConfig):
            if self.architecture != UNET_ARCHITECTURE:
                raise ValueError(f"architecture: got {self.architecture!r}, but the network is a {UNET_ARCHITECTURE}")
            if radius != self.network.receptive_radius:
                raise ValueError(
                    f"receptive_radius: got {radius}, but the network's is {self.network.receptive_radius}"
                )
        if radius is not None and not radius >= 0:
            raise ValueError(f"receptive_radius: got {radius}, expected at least 0, or unbounded")

    @property
    def is_binary(self) -> bool:
        """Whether the network has one output for two classes: the probability of the second."""
        return self.network.classes == 1 and len(self.classes) == 2

    @property
    def divisor(self) -> int:
        """Total downsampling of the network."""
        return self.network.divisor

    @property
    def exact_halo(self) -> int | None:
        """The smallest halo in pixels with which tiles equal the whole scene; ``None`` if none does."""
        if self.receptive_radius is None:
            return None
        return math.ceil(self.receptive_radius / self.divisor) * self.divisor

    def summarize(self) -> dict[str, Any]:
        """Return plain values for ``seamline model inspect --json``."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "limits": self.limits,
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
            "unseen": None if self.unseen is None else list(self.unseen),
        }


def parse_color(text: str) -> tuple[int, int, int]:
    """Return red, green and blue (0 to 255) of ``RRGGBB`` or ``#RRGGBB``.

    Raises:
        ValueError: the text is not of this form.
    """
    if not re.fullmatch("#?[0-9A-Fa-f]{6}", text):
        raise ValueError(f"color_hint {text!r} is not six hexadecimal digits, RRGGBB")
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _check_text(what: str, text: object, least: int = 1, most: int = 500) -> None:
    """Refuse what is not a printable text of one line with at least and at most so many characters."""
    if not (isinstance(text, str) and least <= len(text) <= most and text.isprintable()):
        raise ValueError(f"{what}: got {text!r}, expected text of one line, at most {most} characters")
