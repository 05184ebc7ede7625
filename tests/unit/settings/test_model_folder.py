"""Model folders: read as written, and refused when document, weights and network do not belong together."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.document import read_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.spec.weights import list_tensor_shapes
from tests.support.small_models import make_random_network, save_model

CONFIGS = st.builds(
    UNetConfig,
    in_channels=st.integers(1, 4),
    classes=st.integers(1, 4),
    depth=st.integers(1, 3),
    base_width=st.integers(1, 9),
    padding=st.sampled_from(["valid", "same"]),
    upsampling=st.sampled_from(["upconv", "bilinear"]),
    norm=st.sampled_from(["none", "batch"]),
)


def test_a_model_folder_is_read_as_written(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network(), assumed_nodata=0.0, training_data=("here",))
    assert read_model_spec(tmp_path) == spec
    assert spec.summarize()["divisor"] == 4
    assert [entry["name"] for entry in spec.summarize()["classes"]] == ["c0", "c1", "c2"]


def test_the_document_is_a_stac_item_that_pystac_reads(tmp_path: Path) -> None:
    pystac = pytest.importorskip("pystac")
    save_model(tmp_path, make_random_network())
    item = pystac.Item.from_file(tmp_path / "model.json")
    assert item.properties["mlm:input"][0]["input"]["shape"] == [-1, 2, -1, -1]
    mlm = pytest.importorskip("pystac.extensions.mlm")
    extension = mlm.MLMExtension.ext(item)
    assert extension.mlm_name == "random"
    assert [c.name for c in extension.output[0].classes] == ["c0", "c1", "c2"]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the document, and let it vouch for the weights as they are now."""
    path, weights = folder / "model.json", folder / "model.safetensors"
    document = json.loads(path.read_text())
    document["assets"]["model"]["file:checksum"] = "1220" + hashlib.sha256(weights.read_bytes()).hexdigest()
    change(document)
    path.write_text(json.dumps(document))


def network(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["properties"]["mlm:hyperparameters"].update(changes)


def properties(**changes: object) -> Callable[[dict[str, Any]], object]:
    named = {f"seamline:{name}": value for name, value in changes.items()}
    return lambda document: document["properties"].update(named)


def classes(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["properties"]["mlm:output"][0]["classification:classes"]
    return found


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_model_spec(folder)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert "\n" not in str(caught.value)


@given(CONFIGS)
def test_shapes_are_known_without_the_network(config: UNetConfig) -> None:
    built = {name: tuple(tensor.shape) for name, tensor in UNet(config).state_dict().items()}
    assert list_tensor_shapes(config) == built


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["properties"].pop("mlm:input"), "mlm:input"),
        (
            lambda d: d["properties"].update({"mlm:architecture": "ResNeXt"}),
            "got 'ResNeXt', but the network is a U-Net",
        ),
        (lambda d: classes(d)[2].update(value=0), r"values of the classes are \[0, 1, 0\], expected 0 to 2, each once"),
        (lambda d: classes(d)[0].update(color_hint="#00ff0"), "color_hint '#00ff0' is not six hexadecimal digits"),
        (lambda d: d["properties"]["mlm:input"][0]["value_scaling"].pop(), "given 1 times for 2 bands"),
        (lambda d: d["assets"]["model"].pop("file:checksum"), "the file:checksum of the asset in model.json"),
        (network(padding="circular"), "padding of a U-Net: got 'circular'"),
        (network(base_width="4"), "base_width of a U-Net: got '4', expected a whole number from 1 to 4096"),
        (network(base_width=10**9), "base_width of a U-Net: got 1000000000"),
        (network(depth=99), "depth of a U-Net: got 99, expected a whole number from 1 to 12"),
        (network(dropout="no"), "dropout of a U-Net: got 'no'"),
        (network(base_width=8), r"encoder.0.0.weight of shape \(4, 2, 3, 3\) instead of \(8, 2, 3, 3\)"),
        (network(norm="none"), "no tensor encoder.0.0.bias"),
        (properties(divisor=16), "seamline:divisor 16, but the network's is 4"),
        (properties(receptive_radius=2), "receptive_radius: got 2, but the network's is 22"),
        (properties(receptive_radius="unbounded"), "receptive_radius: got None, but the network's is 22"),
        (properties(activation="Softmax"), "activation: got 'Softmax', expected softmax, sigmoid or none"),
        (properties(activation=None), "activation: got None, expected"),
        (properties(quantity="radiance"), "quantity: got 'radiance', expected"),
        (properties(fill="NaN"), "fill: got nan, expected"),
        (properties(assumed_nodata="0"), "assumed_nodata: got '0', expected"),
    ],
)
def test_a_document_that_would_mislead_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    save_model(tmp_path, make_random_network())
    edit(tmp_path, change)
    refused(tmp_path, message)


def test_a_folder_without_document_or_weights_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, make_random_network())
    weights, document = tmp_path / "model.safetensors", tmp_path / "model.json"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    refused(tmp_path, "SHA-256")
    weights.unlink()
    refused(tmp_path, "no such file")
    document.write_text("{")
    refused(tmp_path, "expected a STAC MLM document")
    document.unlink()
    refused(tmp_path, "no model.json in it")


def test_weights_are_never_code(tmp_path: Path) -> None:
    save_model(tmp_path, make_random_network())
    torch.save(print, tmp_path / "model.safetensors")
    edit(tmp_path, lambda document: None)
    refused(tmp_path, "a safetensors file")


def test_weights_of_another_network_or_without_numbers_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, make_random_network())
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "attention.weight": torch.zeros(1)}, path)
    edit(tmp_path, lambda document: None)
    refused(tmp_path, "tensor attention.weight, which the network has not")
    save_file({**tensors, "head.bias": torch.full((3,), float("nan"))}, path)
    edit(tmp_path, lambda document: None)
    refused(tmp_path, "head.bias, which is not finite")
