"""What the pipeline must know of a model, and how it stands in the model's folder.

A model is a folder: ``model.json``, a STAC item with the Machine Learning Model extension (MLM 1.4), beside
the weights it names. Everything that MLM has a field for stands in that field; the rest has the prefix
``seamline:``. Nothing in the folder is code, and reading it runs none.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from model.config import UNetConfig
from model.errors import ModelError
from model.weights import check_weights

DOCUMENT = "model.json"
ARCHITECTURE = "U-Net"
LABELS = 255
"""Labels that a raster of bytes has for classes; the last byte, 255, is nodata."""
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
CLASSIFICATION_SCHEMA = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

Activation = Literal["softmax", "sigmoid", "none"]
"""From the network's output to probabilities; ``none``: they are probabilities already."""


@dataclass(frozen=True)
class InputBand:
    """A band the network reads: ``name`` (STAC common name where there is one), centre wavelength in µm,
    and mean and standard deviation of the training data in the unit of the model's input."""

    name: str
    wavelength: float | None
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"band {self.name!r}: mean {self.mean} and std {self.std} must be finite, std > 0")


@dataclass(frozen=True)
class ModelClass:
    """A class the network knows: its name and its colour (R, G, B; 0 to 255). Its label is its position."""

    name: str
    color: tuple[int, int, int]
    description: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A model, as far as anything outside of it must know it.

    ``receptive_radius`` is how many pixels an input pixel reaches in the output, measured; ``None`` stands for
    unbounded. ``fill`` is the value, after normalisation, of pixels without data. ``assumed_nodata`` is the
    digital number that means "outside the footprint" in scenes that declare nothing.
    """

    name: str
    version: str
    bands: tuple[InputBand, ...]
    classes: tuple[ModelClass, ...]
    network: UNetConfig
    receptive_radius: int | None
    activation: Activation = "softmax"
    quantity: Literal["reflectance", "dn"] = "reflectance"
    fill: float = 0.0
    assumed_nodata: float | None = None
    license: str = "Apache-2.0"
    description: str = ""
    training_data: tuple[str, ...] = ()
    weights: str = "model.safetensors"

    def __post_init__(self) -> None:
        if len(self.bands) != self.network.in_channels:
            raise ValueError(f"{len(self.bands)} bands for a network of {self.network.in_channels} input channels")
        if len(self.classes) > LABELS:
            raise ValueError(f"{len(self.classes)} classes: label {LABELS} is nodata, so there are at most {LABELS}")
        if len(self.classes) != self.network.classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.network.classes} outputs")
        for kind, names in (("bands", [b.name for b in self.bands]), ("classes", [c.name for c in self.classes])):
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind} have the same name: {names}")
        nodata = self.assumed_nodata
        checks = (
            (self.activation in get_args(Activation), "activation", "softmax, sigmoid or none"),
            (self.quantity in ("reflectance", "dn"), "quantity", "reflectance or dn"),
            (math.isfinite(self.fill), "fill", "a finite number"),
            (nodata is None or isinstance(nodata, int | float), "assumed_nodata", "a number, or null"),
        )
        for good, field, expected in checks:
            if not good:
                raise ValueError(f"{field}: got {getattr(self, field)!r}, expected {expected}")
        reach = self.network.receptive_radius
        if self.receptive_radius != reach:
            raise ValueError(f"receptive_radius: got {self.receptive_radius}, but the network's is {reach}")

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

    def summary(self) -> dict[str, Any]:
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
            "network": self.network.to_dict(),
            "license": self.license,
            "training_data": list(self.training_data),
        }


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_document(spec: ModelSpec, folder: Path) -> Path:
    """Write ``model.json`` beside the weights that already lie in ``folder``; returns its path."""
    weights = folder / spec.weights
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM_SCHEMA, CLASSIFICATION_SCHEMA, FILE_SCHEMA],
        "id": spec.name,
        "geometry": None,
        "properties": _properties(spec),
        "links": [],
        "assets": {
            "model": {
                "href": f"./{spec.weights}",
                "title": "weights",
                "type": "application/vnd.safetensors",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors.torch.save_file",
                "file:size": weights.stat().st_size,
                "file:checksum": "1220" + file_digest(weights),
            }
        },
    }
    path = folder / DOCUMENT
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _properties(spec: ModelSpec) -> dict[str, Any]:
    return {
        "datetime": None,
        "start_datetime": "1984-01-01T00:00:00Z",
        "end_datetime": "2100-01-01T00:00:00Z",
        "title": spec.name,
        "description": spec.description,
        "version": spec.version,
        "license": spec.license,
        "mlm:name": spec.name,
        "mlm:architecture": ARCHITECTURE,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:pretrained": True,
        "mlm:accelerator_constrained": False,
        "mlm:input": [_input(spec)],
        "mlm:output": [_output(spec)],
        "mlm:hyperparameters": spec.network.to_dict(),
        "seamline:receptive_radius": "unbounded" if spec.receptive_radius is None else spec.receptive_radius,
        "seamline:divisor": spec.divisor,
        "seamline:activation": spec.activation,
        "seamline:quantity": spec.quantity,
        "seamline:fill": spec.fill,
        "seamline:assumed_nodata": spec.assumed_nodata,
        "seamline:training_data": list(spec.training_data),
    }


def _input(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": f"{len(spec.bands)} bands of {spec.quantity}",
        "bands": [
            {"name": band.name} | ({} if band.wavelength is None else {"eo:center_wavelength": band.wavelength})
            for band in spec.bands
        ],
        "input": _images("bands", len(spec.bands)),
        "value_scaling": [{"type": "z-score", "mean": band.mean, "stddev": band.std} for band in spec.bands],
        "resize_type": None,
    }


def _output(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": "class scores",
        "tasks": ["semantic-segmentation"],
        "result": _images("classes", len(spec.classes)),
        "classification:classes": [
            {
                "value": label,
                "name": c.name,
                "color_hint": "{:02X}{:02X}{:02X}".format(*c.color),
                **({"description": c.description} if c.description else {}),
            }
            for label, c in enumerate(spec.classes)
        ],
    }


def _images(layers: str, count: int) -> dict[str, Any]:
    """What goes into or comes out of the network: batches of any size, images of any size."""
    return {"shape": [-1, count, -1, -1], "dim_order": ["batch", layers, "height", "width"], "data_type": "float32"}


def read_document(folder: Path) -> ModelSpec:
    """Read ``model.json`` of a model folder and check the weights' digest and tensors against it.

    Raises:
        ModelError: no such folder or document, a field that is missing or wrong, weights that are not those
            that the document describes.
    """
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"model folder {folder}",
            got="no model.json in it" if folder.is_dir() else "no such folder",
            expected="a folder with model.json (STAC MLM) and its weights, or the name of an embedded model",
            fix="check --model, or write the folder with `seamline train`",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model document {path}", got=error, expected="a STAC MLM document", fix="write the folder again"
        ) from error
    try:
        spec = _spec(document)
        asset = document["assets"]["model"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelError(
            f"model document {path}",
            got=f"{type(error).__name__}: {error}",
            expected="the fields that seamline writes",
            fix="compare it with the document of an embedded model",
        ) from error
    _check_digest(folder / spec.weights, asset)
    check_weights(folder / spec.weights, spec.network)
    return spec


def _spec(document: Mapping[str, Any]) -> ModelSpec:
    properties = document["properties"]
    (inputs,), (outputs,) = properties["mlm:input"], properties["mlm:output"]
    radius = properties["seamline:receptive_radius"]
    if properties["mlm:architecture"] != ARCHITECTURE:
        raise ValueError(f"mlm:architecture {properties['mlm:architecture']!r} is not known, only {ARCHITECTURE!r} is")
    network = UNetConfig(**properties["mlm:hyperparameters"])
    if properties["seamline:divisor"] != network.divisor:
        raise ValueError(f"seamline:divisor {properties['seamline:divisor']}, but the network's is {network.divisor}")
    bands, scaling = inputs["bands"], inputs["value_scaling"]
    if len(bands) != len(scaling):
        raise ValueError(f"value_scaling is given {len(scaling)} times for {len(bands)} bands")
    labels = [int(c["value"]) for c in outputs["classification:classes"]]
    if sorted(labels) != list(range(len(labels))):
        raise ValueError(f"the values of the classes are {labels}, expected 0 to {len(labels) - 1}, each once")
    return ModelSpec(
        name=properties["mlm:name"],
        version=properties["version"],
        bands=tuple(
            InputBand(band["name"], band.get("eo:center_wavelength"), float(norm["mean"]), float(norm["stddev"]))
            for band, norm in zip(bands, scaling, strict=True)
        ),
        classes=tuple(
            ModelClass(c["name"], _color(c["color_hint"]), c.get("description", ""))
            for c in sorted(outputs["classification:classes"], key=lambda c: int(c["value"]))
        ),
        network=network,
        receptive_radius=None if radius == "unbounded" else int(radius),
        activation=properties["seamline:activation"],
        quantity=properties["seamline:quantity"],
        fill=float(properties["seamline:fill"]),
        assumed_nodata=properties["seamline:assumed_nodata"],
        license=properties["license"],
        description=properties["description"],
        training_data=tuple(properties["seamline:training_data"]),
        weights=Path(document["assets"]["model"]["href"]).name,
    )


def _color(hint: str) -> tuple[int, int, int]:
    if not re.fullmatch("[0-9A-Fa-f]{6}", hint):
        raise ValueError(f"color_hint {hint!r} is not six hexadecimal digits, RRGGBB")
    red, green, blue = bytes.fromhex(hint)
    return red, green, blue


def _check_digest(path: Path, asset: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ModelError(
            f"weights {path}", got="no such file", expected="the file that model.json names", fix="restore it"
        )
    digest, named = "1220" + file_digest(path), asset.get("file:checksum")
    if digest != named:
        raise ModelError(
            f"weights {path}",
            got=f"SHA-256 {digest[4:16]}…, {path.stat().st_size} bytes",
            expected=f"{named[4:16]}…, {asset.get('file:size')} bytes as in model.json"
            if isinstance(named, str)
            else "the file:checksum of the asset in model.json, which has none",
            fix="restore the file that the document was written for; it is broken or another one",
        )
