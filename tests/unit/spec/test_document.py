"""Documents of models beside STAC and its Machine Learning Model extension, and beside what the networks do."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pystac import Item, STACObjectType
from pystac.extensions.mlm import MLMExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.spec.document import read_model_spec, write_model_spec
from seamline.model.spec.errors import ModelError
from seamline.model.spec.spec import ModelSpec
from tests.support.foreign_networks import DESCRIBED, ForeignUNet, OneOutput, save_network
from tests.support.sample_data import find_shared
from tests.support.small_models import make_random_network, save_model

FRAMEWORKS = ("PyTorch", "ONNX")  # of the names that the extension lists
ARTIFACTS = ("safetensors.torch.save_file", "onnx.save", "torch.jit.save", "torch.export.save")


def make_foreign_unet(bilinear: bool = False) -> ForeignUNet:
    torch.manual_seed(0)
    return ForeignUNet(2, 3, 2, 1, bilinear).eval()


def _imported(name: str, bilinear: bool = False) -> Callable[[Path], ModelSpec]:
    return lambda d: import_model(save_network(make_foreign_unet(bilinear), d / name, 512), DESCRIBED, d)


def _fixed(folder: Path) -> ModelSpec:
    path = folder / "x.pt2"
    torch.export.save(torch.export.export(make_foreign_unet(), (torch.zeros(2, 2, 64, 64),)), path)
    return import_model(path, DESCRIBED, folder)


def _binary(folder: Path) -> ModelSpec:
    described = ModelDescription(("red", "odd band"), ("land", "open water"), "1 Ö", activation="none", license="MIT")
    return import_model(save_network(OneOutput(), folder / "x.pt"), described, folder)


def _embedded(folder: Path) -> ModelSpec:
    model = open_model("land-water-cloud")
    for name in ("model.json", model.spec.weights):
        (folder / name).write_bytes((model.folder / name).read_bytes())
    return model.spec


MODELS: dict[str, Callable[[Path], ModelSpec]] = {
    "the U-Net": lambda d: save_model(d, make_random_network()),
    "the embedded model": _embedded,
    "milesial": _imported("unet.pth"),
    "bilinear": _imported("unet.pth", bilinear=True),
    "ONNX": _imported("unet.onnx"),
    "TorchScript": _imported("unet.pt"),
    "torch.export": _imported("unet.pt2"),
    "one size": _fixed,
    "one output": _binary,
}


@pytest.fixture(scope="module", params=MODELS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, Path]:
    folder = tmp_path_factory.mktemp("model")
    return MODELS[request.param](folder), folder


def document(written: tuple[ModelSpec, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((written[1] / "model.json").read_text())
    return found


def test_a_document_is_valid_by_the_extensions_own_schemas(written: tuple[ModelSpec, Path]) -> None:
    """Of all extensions that it names; the files lie as <extension>/<version>/schema.json, as where they come from."""
    schemas, validator, item = find_shared("stac-schemas"), JsonSchemaSTACValidator(), document(written)
    for path in schemas.glob("*/*/schema.json"):
        uri = f"https://stac-extensions.github.io/{path.parent.relative_to(schemas)}/schema.json"
        validator.schema_cache[uri] = json.loads(path.read_text())
    for uri in item["stac_extensions"]:
        assert uri in validator.schema_cache  # nothing is fetched
        validator.validate_extension(item, STACObjectType.ITEM, "1.1.0", uri)


def test_a_document_is_valid_by_stac_and_readable_by_pystac(written: tuple[ModelSpec, Path]) -> None:
    spec, folder = written
    JsonSchemaSTACValidator().validate_core(document(written), STACObjectType.ITEM, "1.1.0")
    found = MLMExtension.ext(Item.from_file(folder / "model.json"))
    assert [c.description for c in found.output[0].classes] == [c.description or c.name for c in spec.classes]
    assert [band["name"] for band in found.properties["mlm:input"][0]["bands"]] == [band.name for band in spec.bands]


def test_a_document_keeps_the_extensions_rules(written: tuple[ModelSpec, Path]) -> None:
    """Those rules of MLM 1.5 and classification 2.0 that a document broke once, in our words."""
    item = document(written)
    properties, asset = item["properties"], item["assets"]["model"]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", properties["mlm:name"])
    (given,), (found,) = properties["mlm:input"], properties["mlm:output"]
    named = [band["name"] for band in properties["bands"]]
    assert given["input"]["dim_order"].count("bands") == 1  # as soon as there are bands
    assert [set(band) for band in given["bands"]] == [{"name"}] * len(named)
    assert [band["name"] for band in given["bands"]] == named
    assert len(given["value_scaling"]) == len(named) and given["resize_type"] is None
    names = [entry["name"] for entry in found["classification:classes"]]
    assert all(re.fullmatch("[0-9A-Za-z-_]+", name) for name in names) and len(set(names)) == len(names)
    assert all(entry["description"] for entry in found["classification:classes"])
    assert properties["mlm:framework"] in FRAMEWORKS and asset["mlm:artifact_type"] in ARTIFACTS
    assert "mlm:model" in asset["roles"]
    assert "mlm:accelerator" not in properties and properties["mlm:accelerator_constrained"] is False
    wavelengths = any("eo:center_wavelength" in band for band in properties["bands"])
    assert wavelengths == any("/eo/v2" in uri for uri in item["stac_extensions"])


def test_a_document_says_what_the_network_is(written: tuple[ModelSpec, Path]) -> None:
    spec, folder = written
    properties, asset = document(written)["properties"], document(written)["assets"]["model"]
    own = asset["href"].endswith(".safetensors")
    assert own == ("mlm:hyperparameters" in properties) == ("seamline:program" not in properties)
    assert asset["roles"][1] == ("mlm:weights" if own else "mlm:compiled")
    assert properties["mlm:framework"] == ("ONNX" if asset["href"].endswith(".onnx") else "PyTorch")
    assert properties["mlm:architecture"] == spec.architecture
    window = batch = -1
    if not own:
        window, batch = (spec.network.to_dict()[key] or -1 for key in ("window", "batch"))
    (given,), (found,) = properties["mlm:input"], properties["mlm:output"]
    assert given["input"]["shape"] == [batch, len(spec.bands), window, window]
    assert found["result"]["shape"] == [batch, spec.network.classes, window, window]
    assert [len(set(part["dim_order"])) for part in (given["input"], found["result"])] == [4, 4]
    assert (folder / asset["href"]).stat().st_size == asset["file:size"]
    assert read_model_spec(folder) == spec


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    spec = _imported("unet.pt")(tmp_path)
    properties = json.loads((tmp_path / "model.json").read_text())["properties"]
    assert (spec.architecture, properties["mlm:architecture"]) == ("unknown", "unknown")
    assert spec.license == "unknown" and "license" not in properties


def test_what_a_model_is_good_for_is_one_line(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network())
    assert "seamline:limits" not in (tmp_path / "model.json").read_text()
    limited = replace(spec, limits="good for water, not for snow")
    write_model_spec(limited, tmp_path)
    assert read_model_spec(tmp_path) == limited != spec
    for text in ("two\nlines", "x" * 501, None):
        with pytest.raises(ValueError, match=r"limits: got .* expected text of one line"):
            replace(spec, limits=text)


def test_unseen_classes_are_named_or_not(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network())
    assert spec.unseen is None and "seamline:unseen" not in (tmp_path / "model.json").read_text()
    for names in ((), (spec.classes[1].name,)):
        write_model_spec(replace(spec, unseen=names), tmp_path)
        assert read_model_spec(tmp_path).unseen == names
    for names in (("fog",), tuple(entry.name for entry in spec.classes)):
        with pytest.raises(ValueError, match=r"unseen: got .* expected some of the classes"):
            replace(spec, unseen=names)
    document = json.loads((tmp_path / "model.json").read_text())
    for wrong in ("cloud", ["fog"], [{}], 5, None):
        document["properties"]["seamline:unseen"] = wrong
        (tmp_path / "model.json").write_text(json.dumps(document))
        with pytest.raises(ModelError):
            read_model_spec(tmp_path)


def test_documents_with_wavelengths_in_the_input_are_read(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network())
    path = write_model_spec(spec, tmp_path)
    old = json.loads(path.read_text())
    old["properties"]["mlm:input"][0]["bands"] = old["properties"].pop("bands")
    for entry in old["properties"]["mlm:output"][0]["classification:classes"]:
        del entry["title"], entry["description"]
    path.write_text(json.dumps(old))
    assert read_model_spec(tmp_path) == spec


def test_a_model_folder_holds_files(small_model: Model, tmp_path: Path) -> None:
    """Opening a pipe waits until somebody writes to it."""
    for name in ("model.json", small_model.spec.weights):
        folder = shutil.copytree(small_model.folder, tmp_path / name)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ModelError, match=f"{name}: got a folder, pipe, socket or device, expected a file"):
            read_model_spec(folder)
