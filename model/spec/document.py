"""How a model stands in its folder.

``model.json``, a STAC item with the Machine Learning Model extension (MLM 1.4), lies beside the weights it names.
Everything that MLM has a field for stands in that field; the rest has the prefix ``seamline:``. Nothing in the folder
is code, and reading it runs none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seamline.model.spec.config import Program, ProgramFormat, UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import UNKNOWN, InputBand, ModelClass, ModelSpec, parse_color
from seamline.model.spec.weights import check_weights

MODEL_FILENAME = "model.json"
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
CLASSIFICATION_SCHEMA = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"


@dataclass(frozen=True)
class WeightsAsset:
    """What MLM calls a file of weights; ``role``: they want a network, or are one."""

    framework: str
    artifact_type: str
    media_type: str
    role: str = "mlm:compiled"


WEIGHTS_ASSETS: dict[ProgramFormat | None, WeightsAsset] = {
    None: WeightsAsset("PyTorch", "safetensors.torch.save_file", "application/vnd.safetensors", "mlm:weights"),
    "onnx": WeightsAsset("ONNX", "onnx.save", "application/octet-stream; framework=onnx"),
    "torchscript": WeightsAsset("PyTorch", "torch.jit.save", "application/octet-stream; framework=pytorch"),
    "torch.export": WeightsAsset("PyTorch", "torch.export.save", "application/zip; framework=pytorch"),
}
"""By the format of a program; None: weights of the project's own U-Net."""


def compute_file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_model_spec(spec: ModelSpec, folder: Path) -> Path:
    """Write ``model.json`` beside the weights that already lie in ``folder``; returns its path."""
    weights = folder / spec.weights
    asset = WEIGHTS_ASSETS[_get_program_format(spec)]
    optics = [EO_SCHEMA] if any(band.wavelength is not None for band in spec.bands) else []
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM_SCHEMA, CLASSIFICATION_SCHEMA, FILE_SCHEMA, *optics],
        "id": spec.name,
        "geometry": None,
        "properties": _build_properties(spec),
        "links": [],
        "assets": {
            "model": {
                "href": f"./{spec.weights}",
                "title": "weights" if asset.role == "mlm:weights" else "network",
                "type": asset.media_type,
                "roles": ["mlm:model", asset.role],
                "mlm:artifact_type": asset.artifact_type,
                "bands": [{"name": band.name} for band in spec.bands],  # STAC: else the item may have none either
                "file:size": weights.stat().st_size,
                "file:checksum": "1220" + compute_file_digest(weights),
            }
        },
    }
    path = folder / MODEL_FILENAME
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _build_properties(spec: ModelSpec) -> dict[str, Any]:
    return {
        "datetime": None,
        "start_datetime": "1984-01-01T00:00:00Z",
        "end_datetime": "2100-01-01T00:00:00Z",
        "title": spec.name,
        **({"description": spec.description} if spec.description else {}),
        "version": spec.version,
        **({} if spec.license == UNKNOWN else {"license": spec.license}),
        "bands": [
            {"name": band.name} | ({} if band.wavelength is None else {"eo:center_wavelength": band.wavelength})
            for band in spec.bands
        ],
        "mlm:name": _make_mlm_name(spec.name),
        "mlm:architecture": spec.architecture,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": WEIGHTS_ASSETS[_get_program_format(spec)].framework,
        "mlm:pretrained": True,
        "mlm:accelerator_constrained": False,
        "mlm:input": [_build_input(spec)],
        "mlm:output": [_build_output(spec)],
        "mlm:hyperparameters" if isinstance(spec.network, UNetConfig) else "seamline:program": spec.network.to_dict(),
        "seamline:receptive_radius": "unbounded" if spec.receptive_radius is None else spec.receptive_radius,
        "seamline:divisor": spec.divisor,
        "seamline:activation": spec.activation,
        "seamline:quantity": spec.quantity,
        "seamline:fill": spec.fill,
        "seamline:assumed_nodata": spec.assumed_nodata,
        "seamline:training_data": list(spec.training_data),
    }


def _get_program_format(spec: ModelSpec) -> ProgramFormat | None:
    return spec.network.format if isinstance(spec.network, Program) else None


def _build_input(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": f"{len(spec.bands)} bands of {spec.quantity}",
        "bands": [{"name": band.name} for band in spec.bands],
        "input": _describe_images(spec, "channel", len(spec.bands)),
        "value_scaling": [{"type": "z-score", "mean": band.mean, "stddev": band.std} for band in spec.bands],
        "resize_type": None,
    }


def _build_output(spec: ModelSpec) -> dict[str, Any]:
    whose = "of the second class; the first has the rest" if spec.binary else "of each class"
    what = "probability" if spec.activation == "none" else f"score, whose {spec.activation} is the probability,"
    return {
        "name": "class probabilities" if spec.activation == "none" else "class scores",
        "description": f"{what} {whose}",
        "tasks": ["semantic-segmentation"],
        "result": _describe_images(spec, "class", spec.network.classes),
        "classification:classes": [
            # MLM 1.4 wants classes of the extension's version 1.1, with a description; 2.0 wants names for machines.
            {
                "value": label,
                "name": _make_class_name(c.name, label),
                "title": c.name,
                "color_hint": "{:02X}{:02X}{:02X}".format(*c.color),
                "description": c.description or c.name,
            }
            for label, c in enumerate(spec.classes)
        ],
    }


def _make_mlm_name(name: str) -> str:
    """The name as MLM's schema wants it: a letter first, at least three characters, of ASCII."""
    plain = re.sub(r"[^a-zA-Z0-9_.\-\s]+", "-", name).strip("-_. ")
    return plain if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", plain) else f"model {plain or 0}"


def _make_class_name(name: str, label: int) -> str:
    """The name of a class as the classification extension wants it; with its label where something is left out."""
    plain = re.sub(r"[ _]+", "-", name)
    return plain if re.fullmatch(r"[0-9A-Za-z-]+", plain) else f"class-{label}"


def _describe_images(spec: ModelSpec, layers: str, count: int) -> dict[str, Any]:
    """What goes into or comes out of the network: batches of images, of any size (-1) where the network allows."""
    edge = spec.network.window or -1 if isinstance(spec.network, Program) else -1
    batch = spec.network.batch or -1 if isinstance(spec.network, Program) else -1
    sizes = {"batch": batch, layers: count, "height": edge, "width": edge}
    order = ["batch", layers, "height", "width"]
    if isinstance(spec.network, Program) and spec.network.channels_last:
        order = ["batch", "height", "width", layers]
    return {"shape": [sizes[axis] for axis in order], "dim_order": order, "data_type": "float32"}


def read_model_spec(folder: Path) -> ModelSpec:
    """Read ``model.json`` of a model folder and check the weights' digest and tensors against it.

    Raises:
        ModelError: no such folder or document, a field that is missing or wrong, weights that are not those
            that the document describes.
    """
    path = folder / MODEL_FILENAME
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
        spec = _parse_spec(document)
        asset = document["assets"]["model"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"model document {path}",
            got=f"{type(error).__name__}: {error}",
            expected="the fields that seamline writes",
            fix="compare it with the document of an embedded model",
        ) from error
    _check_digest(folder / spec.weights, asset)
    if isinstance(spec.network, UNetConfig):
        check_weights(folder / spec.weights, spec.network)
    return spec


def _parse_spec(document: Mapping[str, Any]) -> ModelSpec:
    properties = document["properties"]
    (inputs,), (outputs,) = properties["mlm:input"], properties["mlm:output"]
    radius = properties["seamline:receptive_radius"]
    network: UNetConfig | Program
    if "seamline:program" in properties:
        network = Program(**properties["seamline:program"])
    else:
        network = UNetConfig(**properties["mlm:hyperparameters"])
    if properties["seamline:divisor"] != network.divisor:
        raise ValueError(f"seamline:divisor {properties['seamline:divisor']}, but the network's is {network.divisor}")
    bands, scaling = properties.get("bands", inputs["bands"]), inputs["value_scaling"]
    if len(bands) != len(scaling):
        raise ValueError(f"value_scaling is given {len(scaling)} times for {len(bands)} bands")
    labels = [int(c["value"]) for c in outputs["classification:classes"]]
    if sorted(labels) != list(range(len(labels))):
        raise ValueError(f"the values of the classes are {labels}, expected 0 to {len(labels) - 1}, each once")
    return ModelSpec(
        name=properties["title"],
        version=properties["version"],
        bands=tuple(
            InputBand(band["name"], band.get("eo:center_wavelength"), float(norm["mean"]), float(norm["stddev"]))
            for band, norm in zip(bands, scaling, strict=True)
        ),
        classes=tuple(
            _parse_class(c) for c in sorted(outputs["classification:classes"], key=lambda c: int(c["value"]))
        ),
        network=network,
        receptive_radius=None if radius == "unbounded" else int(radius),
        activation=properties["seamline:activation"],
        quantity=properties["seamline:quantity"],
        fill=float(properties["seamline:fill"]),
        assumed_nodata=properties["seamline:assumed_nodata"],
        license=properties.get("license", UNKNOWN),
        description=properties.get("description", ""),
        training_data=tuple(properties["seamline:training_data"]),
        weights=Path(document["assets"]["model"]["href"]).name,
        architecture=properties["mlm:architecture"],
    )


def _parse_class(entry: Mapping[str, Any]) -> ModelClass:
    name = entry.get("title", entry["name"])
    description = entry.get("description", name)
    return ModelClass(name, parse_color(entry["color_hint"]), "" if description == name else description)


def _check_digest(path: Path, asset: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ModelError(
            f"weights {path}", got="no such file", expected="the file that model.json names", fix="restore it"
        )
    digest, named = "1220" + compute_file_digest(path), asset.get("file:checksum")
    if digest != named:
        raise ModelError(
            f"weights {path}",
            got=f"SHA-256 {digest[4:16]}…, {path.stat().st_size} bytes",
            expected=f"{named[4:16]}…, {asset.get('file:size')} bytes as in model.json"
            if isinstance(named, str)
            else "the file:checksum of the asset in model.json, which has none",
            fix="restore the file that the document was written for; it is broken or another one",
        )
