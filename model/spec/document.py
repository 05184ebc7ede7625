"""Read and write ``model.json``, the document in a model folder.

The document is a STAC item with the Machine Learning Model extension (MLM 1.5), and lies beside the weights that it
names. Values for which MLM has a field stand in that field; the others have the prefix ``seamline:``. Reading the
folder runs no code from it.
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
_MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
_CLASSIFICATION_SCHEMA = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
_EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
_FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_SHA256_PREFIX = "1220"
"""Multihash: SHA-256 (12) of 32 bytes (20), as the file extension writes checksums."""


@dataclass(frozen=True)
class _WeightsAsset:
    """How MLM describes a file of weights or a program.

    Attributes:
        framework: the framework that reads it.
        artifact_type: the function that wrote it.
        media_type: its media type.
        role: whether it is weights that need a network, or a whole network.
    """

    framework: str
    artifact_type: str
    media_type: str
    role: str = "mlm:compiled"


_WEIGHTS_ASSETS: dict[ProgramFormat | None, _WeightsAsset] = {
    None: _WeightsAsset("PyTorch", "safetensors.torch.save_file", "application/vnd.safetensors", "mlm:weights"),
    "onnx": _WeightsAsset("ONNX", "onnx.save", "application/octet-stream; framework=onnx"),
    "torchscript": _WeightsAsset("PyTorch", "torch.jit.save", "application/octet-stream; framework=pytorch"),
    "torch.export": _WeightsAsset("PyTorch", "torch.export.save", "application/zip; framework=pytorch"),
}
"""By the format of a program; ``None`` stands for weights of the project's own U-Net."""


def compute_file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- writing --------------------------------------------------------------------------------------------


def write_model_spec(spec: ModelSpec, folder: Path) -> Path:
    """Write ``model.json`` beside the weights that already lie in ``folder``, and return its path."""
    weights = folder / spec.weights
    asset = _WEIGHTS_ASSETS[_get_program_format(spec)]
    optics = [_EO_SCHEMA] if any(band.wavelength is not None for band in spec.bands) else []
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_MLM_SCHEMA, _CLASSIFICATION_SCHEMA, _FILE_SCHEMA, *optics],
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
                # STAC allows bands in an item's properties only if an asset has bands, too.
                "bands": [{"name": band.name} for band in spec.bands],
                "file:size": weights.stat().st_size,
                "file:checksum": _SHA256_PREFIX + compute_file_digest(weights),
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
        "mlm:framework": _WEIGHTS_ASSETS[_get_program_format(spec)].framework,
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
        **({"seamline:limits": spec.limits} if spec.limits else {}),
        **({} if spec.unseen is None else {"seamline:unseen": list(spec.unseen)}),
    }


def _get_program_format(spec: ModelSpec) -> ProgramFormat | None:
    return spec.network.format if isinstance(spec.network, Program) else None


def _build_input(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": f"{len(spec.bands)} bands of {spec.quantity}",
        "bands": [{"name": band.name} for band in spec.bands],
        "input": _describe_images(spec, "bands", len(spec.bands)),
        "value_scaling": [{"type": "z-score", "mean": band.mean, "stddev": band.std} for band in spec.bands],
        "resize_type": None,
    }


def _build_output(spec: ModelSpec) -> dict[str, Any]:
    whose = "of the second class; the first has the rest" if spec.is_binary else "of each class"
    what = "probability" if spec.activation == "none" else f"score, whose {spec.activation} is the probability,"
    return {
        "name": "class probabilities" if spec.activation == "none" else "class scores",
        "description": f"{what} {whose}",
        "tasks": ["semantic-segmentation"],
        "result": _describe_images(spec, "class", spec.network.classes),
        "classification:classes": [_build_class(label, c) for label, c in enumerate(spec.classes)],
    }


def _build_class(label: int, model_class: ModelClass) -> dict[str, Any]:
    # MLM 1.5 refers to version 1.1 of the classification extension, which requires a description; version 2.0
    # requires names for machines. The entry satisfies both.
    return {
        "value": label,
        "name": _make_class_name(model_class.name, label),
        "title": model_class.name,
        "color_hint": "{:02X}{:02X}{:02X}".format(*model_class.color),
        "description": model_class.description or model_class.name,
    }


def _make_mlm_name(name: str) -> str:
    """Return the name in the form that MLM's schema requires: ASCII, a letter first, at least three characters."""
    plain = re.sub(r"[^a-zA-Z0-9_.\-\s]+", "-", name).strip("-_. ")
    return plain if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", plain) else f"model {plain or 0}"


def _make_class_name(name: str, label: int) -> str:
    """Return the name of a class for machines, as the classification extension requires it.

    A name with other characters than letters, digits, spaces, hyphens and underscores is replaced by one of the label.
    """
    plain = re.sub(r"[ _]+", "-", name)
    return plain if re.fullmatch(r"[0-9A-Za-z-]+", plain) else f"class-{label}"


def _describe_images(spec: ModelSpec, channel_axis: str, channels: int) -> dict[str, Any]:
    """Describe an array that goes into or comes out of the network; −1 stands for an axis of any length."""
    edge, batch, order = -1, -1, ["batch", channel_axis, "height", "width"]
    if isinstance(spec.network, Program):
        edge, batch = spec.network.window or -1, spec.network.batch or -1
        if spec.network.channels_last:
            order = ["batch", "height", "width", channel_axis]
    sizes = {"batch": batch, channel_axis: channels, "height": edge, "width": edge}
    return {"shape": [sizes[axis] for axis in order], "dim_order": order, "data_type": "float32"}


# --- reading --------------------------------------------------------------------------------------------


def read_model_spec(folder: Path) -> ModelSpec:
    """Read ``model.json`` of a model folder, and check the digest and the tensors of the weights against it.

    Raises:
        ModelError: there is no such folder or document, a field is missing or wrong, or the weights are not those
            that the document describes.
    """
    path = folder / MODEL_FILENAME
    document = _load_json(path)
    try:
        spec = _parse_spec(document)
        asset = document["assets"]["model"]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"model document {path}",
            got=f"{type(error).__name__}: {error}",
            expected="the fields that seamline writes",
            fix="compare it with the document of an embedded model",
        ) from error
    _refuse_other_than_file(folder / spec.weights)
    _check_digest(folder / spec.weights, asset)
    if isinstance(spec.network, UNetConfig):
        check_weights(folder / spec.weights, spec.network)
    return spec


def _load_json(path: Path) -> Any:
    folder = path.parent
    _refuse_other_than_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"model folder {folder}",
            got="no model.json in it" if folder.is_dir() else "no such folder",
            expected="a folder with model.json (STAC MLM) and its weights, or the name of an embedded model",
            fix="check --model, or write the folder with `seamline train`",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"model document {path}", got=error, expected="a STAC MLM document", fix="write the folder again"
        ) from error


def _refuse_other_than_file(path: Path) -> None:
    """Refuse a folder, pipe, socket or device, whose reading might never end; what is not there is passed over."""
    if path.exists() and not path.is_file():
        raise ModelError(
            f"{path}", got="a folder, pipe, socket or device", expected="a file", fix="write the model folder again"
        )


def _parse_spec(document: Mapping[str, Any]) -> ModelSpec:
    properties = document["properties"]
    (inputs,), (outputs,) = properties["mlm:input"], properties["mlm:output"]
    radius = properties["seamline:receptive_radius"]
    network = _parse_network(properties)
    bands = _parse_bands(properties.get("bands", inputs["bands"]), inputs["value_scaling"])
    classes = outputs["classification:classes"]
    labels = [int(c["value"]) for c in classes]
    if sorted(labels) != list(range(len(labels))):
        raise ValueError(f"the values of the classes are {labels}, expected 0 to {len(labels) - 1}, each once")
    return ModelSpec(
        name=properties["title"],
        version=properties["version"],
        bands=bands,
        classes=tuple(_parse_class(c) for c in sorted(classes, key=lambda c: int(c["value"]))),
        network=network,
        receptive_radius=None if radius == "unbounded" else int(radius),
        activation=properties["seamline:activation"],
        quantity=properties["seamline:quantity"],
        fill=float(properties["seamline:fill"]),
        assumed_nodata=properties["seamline:assumed_nodata"],
        license=properties.get("license", UNKNOWN),
        description=properties.get("description", ""),
        limits=properties.get("seamline:limits", ""),
        training_data=tuple(properties["seamline:training_data"]),
        unseen=tuple(properties["seamline:unseen"]) if "seamline:unseen" in properties else None,
        weights=Path(document["assets"]["model"]["href"]).name,
        architecture=properties["mlm:architecture"],
    )


def _parse_network(properties: Mapping[str, Any]) -> UNetConfig | Program:
    network: UNetConfig | Program
    if "seamline:program" in properties:
        network = Program(**properties["seamline:program"])
    else:
        network = UNetConfig(**properties["mlm:hyperparameters"])
    if properties["seamline:divisor"] != network.divisor:
        raise ValueError(f"seamline:divisor {properties['seamline:divisor']}, but the network's is {network.divisor}")
    return network


def _parse_bands(bands: list[Mapping[str, Any]], scaling: list[Mapping[str, Any]]) -> tuple[InputBand, ...]:
    if len(bands) != len(scaling):
        raise ValueError(f"value_scaling is given {len(scaling)} times for {len(bands)} bands")
    return tuple(
        InputBand(band["name"], band.get("eo:center_wavelength"), float(norm["mean"]), float(norm["stddev"]))
        for band, norm in zip(bands, scaling, strict=True)
    )


def _parse_class(entry: Mapping[str, Any]) -> ModelClass:
    name = entry.get("title", entry["name"])
    description = entry.get("description", name)
    return ModelClass(name, parse_color(entry["color_hint"]), "" if description == name else description)


def _check_digest(path: Path, asset: Mapping[str, Any]) -> None:
    """Refuse a file of weights whose digest is not that of the document."""
    if not path.is_file():
        raise ModelError(
            f"weights {path}", got="no such file", expected="the file that model.json names", fix="restore it"
        )
    digest, named = _SHA256_PREFIX + compute_file_digest(path), asset.get("file:checksum")
    if digest == named:
        return
    if isinstance(named, str):
        expected = f"{named[4:16]}…, {asset.get('file:size')} bytes as in model.json"
    else:
        expected = "the file:checksum of the asset in model.json, which has none"
    raise ModelError(
        f"weights {path}",
        got=f"SHA-256 {digest[4:16]}…, {path.stat().st_size} bytes",
        expected=expected,
        fix="restore the file that the document was written for; it is broken or another one",
    )
