"""``seamline model import``: somebody else's network becomes a model folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from seamline.model.importers.import_model import get_weights_name, read_network, write_model_folder
from seamline.model.spec.document import MODEL_FILENAME, read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import Activation, InputBand, ModelClass, ModelSpec, parse_color
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import check_writable

WAVELENGTHS = {
    "coastal": 0.443, "blue": 0.482, "green": 0.561, "red": 0.655, "rededge071": 0.705, "rededge075": 0.74,
    "rededge078": 0.783, "nir": 0.842, "nir08": 0.865, "nir09": 0.945, "cirrus": 1.375, "swir16": 1.61, "swir22": 2.2,
}  # fmt: skip
"""Centres of STAC's common bands in µm: they tell two near infrareds of a sensor apart, no more."""
PALETTE = (
    "#8fae5d", "#2b6fb3", "#c8553d", "#f2c14e", "#5b4a72", "#7fc8a9", "#a05195", "#6b705c", "#f28482", "#3d405b",
)  # fmt: skip
"""Colours of classes that were given none, in the order of their labels, over and over."""


@dataclass(frozen=True)
class ModelDescription:
    """What a file of weights does not say of its network.

    The network's input is (value · ``scale`` − ``mean``) / ``std``, band by band, where a value is a reflectance
    (0 to 1) or a digital number, as ``quantity`` has it. One ``mean`` or ``std`` stands for all bands.
    """

    bands: tuple[str, ...]
    classes: tuple[str, ...]
    name: str = ""
    colors: tuple[str, ...] = ()
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    quantity: Literal["reflectance", "dn"] = "reflectance"
    activation: Activation | None = None
    assumed_nodata: float | None = None
    license: str = "unknown"
    description: str = ""

    def __post_init__(self) -> None:
        checks = (
            (bool(self.bands), "--bands", self.bands, "a name for each input of the network"),
            (len(self.classes) >= 2, "--classes", self.classes, "at least two names, in the order of the outputs"),
            (isfinite(self.scale) and self.scale > 0, "--scale", self.scale, "a number above 0"),
            (len(self.mean) in (1, len(self.bands)), "--mean", self.mean, f"one number, or {len(self.bands)}"),
            (len(self.std) in (1, len(self.bands)), "--std", self.std, f"one number, or {len(self.bands)}"),
            (all(isfinite(v) for v in self.mean), "--mean", self.mean, "finite numbers"),
            (all(isfinite(v) and v > 0 for v in self.std), "--std", self.std, "numbers above 0"),
            (
                len(self.colors) in (0, len(self.classes))
                and all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in self.colors),
                "--colors", self.colors, f"{len(self.classes)} colours like #2b6fb3",
            ),
            (bool(re.fullmatch(r"[\w.+-]+", self.license)), "--license", self.license, "an SPDX name like CC-BY-4.0"),
        )  # fmt: skip
        for good, option, got, expected in checks:
            if not good:
                raise InputError(option, got=_format_value(got), expected=expected, fix="correct it")

    def input_bands(self) -> tuple[InputBand, ...]:
        """The bands, with mean and deviation in the unit of the value."""
        count = len(self.bands)
        means, stds = (values * (count // len(values)) for values in (self.mean, self.std))
        return tuple(
            InputBand(band, WAVELENGTHS.get(band), mean / self.scale, std / self.scale)
            for band, mean, std in zip(self.bands, means, stds, strict=True)
        )

    def model_classes(self) -> tuple[ModelClass, ...]:
        """The classes in label order, each with a colour."""
        colors = self.colors or tuple(PALETTE[label % len(PALETTE)] for label in range(len(self.classes)))
        return tuple(ModelClass(name, parse_color(color)) for name, color in zip(self.classes, colors, strict=True))


def import_model(file: Path, described: ModelDescription, out: Path, overwrite: bool = False) -> ModelSpec:
    """Measure the network in ``file`` (or a folder) and write the model folder ``out``; returns what is known of it.

    Raises:
        ModelError: the file cannot be used, or does not fit its description.
        InputError: the folder cannot be written, or holds a model that is not to be replaced (``overwrite``).
    """
    if (out / MODEL_FILENAME).exists() and not overwrite:
        raise InputError(
            f"--out {out}", got="a model that is there already", expected="a folder without one",
            fix="choose another, or give --overwrite",
        )  # fmt: skip
    found = read_network(file, len(described.bands))
    check_writable(out, f"--out {out}")
    outputs = found.network.classes
    if outputs != len(described.classes) and not (outputs == 1 and len(described.classes) == 2):
        raise ModelError(
            f"network {file}",
            got=f"{len(described.classes)} names in --classes",
            expected=f"{outputs}, as the network has outputs" if outputs > 1 else "2: of the rest, and of its output",
            fix="name the class of each output, in the network's order",
        )
    try:
        spec = ModelSpec(
            name=described.name or re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "imported",
            version="1",
            bands=described.input_bands(),
            classes=described.model_classes(),
            network=found.network,
            receptive_radius=found.receptive_radius,
            architecture=found.architecture,
            activation=described.activation or found.activation or ("sigmoid" if outputs == 1 else "softmax"),
            quantity=described.quantity,
            assumed_nodata=described.assumed_nodata,
            license=described.license,
            description=described.description or f"imported from {file.name}",
            weights=get_weights_name(found.network),
        )
    except ValueError as error:
        raise ModelError(
            f"network {file}", got=error, expected="names and numbers that fit it", fix="correct them"
        ) from error
    write_model_folder(found, spec, out)
    return read_model_spec(out)


def _format_value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
