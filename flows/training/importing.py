"""Import a network that was made elsewhere as a model folder (``seamline model import``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from torch import nn

from seamline.flows.settings.model_folder import refuse_existing_model
from seamline.flows.training.model_defaults import WAVELENGTHS, get_default_color, make_model_name
from seamline.model.importers.import_model import (
    convert_module,
    get_weights_name,
    read_network,
    write_model_folder,
)
from seamline.model.importers.probe import ImportedNetwork
from seamline.model.spec.document import read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import Activation, InputBand, ModelClass, ModelSpec, parse_color
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import check_writable

_LEAST_SPAN = 0.01
"""A network's inputs for reflectances of 0 and 1 differ by more: from 1 to 10,000, or what a deviation makes of it."""


@dataclass(frozen=True)
class ModelDescription:
    """What a file of weights does not say about its network.

    The input of the network is (value · ``scale`` − ``mean``) / ``std`` for each band.

    Attributes:
        bands: Name of each input band.
        classes: Name of each class, in the order of the network's outputs.
        name: Name of the model; empty for one that is made of the file's name.
        colors: Colour of each class as #rrggbb; empty for those of a palette.
        scale: Factor from a value to the unit of ``mean`` and ``std``.
        mean: One number for all bands, or one for each.
        std: One number for all bands, or one for each; above 0.
        quantity: Whether a value is a reflectance (0 to 1) or a digital number.
        activation: From outputs to probabilities; None for what the file says or the number of outputs suggests.
        assumed_nodata: Digital number outside of the footprint in scenes that declare no nodata value.
        license: SPDX name.
        description: Text for people; empty for one that names the file.
        limits: What the network is good for and what not, in one line; may be empty.
        unseen: Names of the classes that say that the ground was not seen, such as cloud; None for nothing said.
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
    limits: str = ""
    unseen: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        bands, classes = len(self.bands), len(self.classes)
        _check(bands > 0, "--bands", self.bands, "a name for each input of the network")
        _check(classes >= 2, "--classes", self.classes, "at least two names, in the order of the outputs")
        is_unseen_known = self.unseen is None or set(self.unseen) < set(self.classes)
        _check(is_unseen_known, "--unseen", self.unseen, f"some of the classes {','.join(self.classes)}, or none")
        _check(isfinite(self.scale) and self.scale > 0, "--scale", self.scale, "a number above 0")
        _check(len(self.mean) in (1, bands), "--mean", self.mean, f"one number, or {bands}")
        _check(len(self.std) in (1, bands), "--std", self.std, f"one number, or {bands}")
        _check(all(isfinite(v) for v in self.mean), "--mean", self.mean, "finite numbers")
        _check(all(isfinite(v) and v > 0 for v in self.std), "--std", self.std, "numbers above 0")
        are_colors = all(re.fullmatch("#[0-9a-fA-F]{6}", color) for color in self.colors)
        _check(
            are_colors and len(self.colors) in (0, classes), "--colors", self.colors, f"{classes} colours like #2b6fb3"
        )
        is_license = bool(re.fullmatch(r"[\w.+-]+", self.license))
        _check(is_license, "--license", self.license, "an SPDX name like CC-BY-4.0")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is likely to be a mistake, a line each."""
        span = self.scale / min(self.std)
        if self.quantity == "dn" or span >= _LEAST_SPAN:
            return ()
        return (
            f"with scale {self.scale:g} the network sees reflectances of 0 to 1 within {span:g}: leave scale at 1 where"
            " it takes reflectances, or say that it takes digital numbers (quantity dn)",
        )

    def build_input_bands(self) -> tuple[InputBand, ...]:
        """Return the input bands, with mean and standard deviation in the unit of the value."""
        count = len(self.bands)
        means, stds = (values * (count // len(values)) for values in (self.mean, self.std))
        return tuple(
            InputBand(band, WAVELENGTHS.get(band), mean / self.scale, std / self.scale)
            for band, mean, std in zip(self.bands, means, stds, strict=True)
        )

    def build_model_classes(self) -> tuple[ModelClass, ...]:
        """Return the classes in label order, each with a colour."""
        colors = self.colors or tuple(get_default_color(label) for label in range(len(self.classes)))
        return tuple(ModelClass(name, parse_color(color)) for name, color in zip(self.classes, colors, strict=True))


def import_model(file: Path, description: ModelDescription, out: Path, overwrite: bool = False) -> ModelSpec:
    """Read a network, measure its divisor and reach, and write it as a model folder.

    Args:
        file: File or folder of the network.
        description: What the file does not say.
        out: The model folder to write.
        overwrite: Replace a model that is in the folder.

    Returns:
        The spec as it was read back from the model folder.

    Raises:
        ModelError: the file cannot be used, or does not fit its description.
        InputError: the folder cannot be written, or holds a model and ``overwrite`` is False.
    """
    if not overwrite:
        refuse_existing_model(out)
    imported = read_network(file, len(description.bands))
    check_writable(out, f"--out {out}")
    spec = _build_spec(imported, description, f"network {file}", file.stem, f"imported from {file.name}")
    write_model_folder(imported, spec, out)
    return read_model_spec(out)


def import_module(module: nn.Module, description: ModelDescription, out: Path) -> ModelSpec:
    """Measure the divisor and reach of a network in memory, and write it as a model folder.

    Args:
        module: Maps (B, bands, H, W) float32 to scores (B, outputs, H, W); it is not changed.
        description: What the module does not say.
        out: The model folder to write.

    Returns:
        The spec as it was read back from the model folder.

    Raises:
        ModelError: the module cannot be used, or does not fit its description.
    """
    imported, name = convert_module(module, len(description.bands)), type(module).__name__
    spec = _build_spec(imported, description, f"network {name}", name, f"made of the module {name}")
    write_model_folder(imported, spec, out)
    return read_model_spec(out)


def _build_spec(
    imported: ImportedNetwork, description: ModelDescription, what: str, name: str, origin: str
) -> ModelSpec:
    """Return the spec of an imported network; ``what``, ``name`` and ``origin`` are used where nothing is described."""
    outputs = imported.network.classes
    # A network of one output tells two classes apart: its output is the score of the second one.
    if outputs != len(description.classes) and not (outputs == 1 and len(description.classes) == 2):
        raise ModelError(
            what,
            got=f"{len(description.classes)} names in --classes",
            expected=f"{outputs}, as the network has outputs" if outputs > 1 else "2: of the rest, and of its output",
            fix="name the class of each output, in the network's order",
        )
    try:
        return ModelSpec(
            name=description.name or make_model_name(name, default="imported"),
            version="1",
            bands=description.build_input_bands(),
            classes=description.build_model_classes(),
            network=imported.network,
            receptive_radius=imported.receptive_radius,
            architecture=imported.architecture,
            activation=description.activation or imported.activation or ("sigmoid" if outputs == 1 else "softmax"),
            quantity=description.quantity,
            assumed_nodata=description.assumed_nodata,
            license=description.license,
            description=description.description or origin,
            limits=description.limits,
            unseen=description.unseen,
            weights=get_weights_name(imported.network),
        )
    except ValueError as error:
        raise ModelError(what, got=error, expected="names and numbers that fit it", fix="correct them") from error


def _check(good: bool, option: str, got: object, expected: str) -> None:
    if not good:
        text = ",".join(map(str, got)) if isinstance(got, tuple) else str(got)
        raise InputError(option, got=text, expected=expected, fix="correct it")
