"""Folders that segmentation-models-pytorch saved: they compute the same where it is not installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.engines.runtime import Runtime
from seamline.model.importers import smp as smp_module
from seamline.model.spec.config import EngineSettings, Program, Radiometry
from seamline.model.spec.errors import ModelError

if find_spec("segmentation_models_pytorch") is None:
    pytest.skip("no segmentation-models-pytorch: pip install 'seamline[smp]'", allow_module_level=True)

DESCRIBED = ModelDescription(bands=("red", "nir"), classes=("land", "water", "cloud"))
TINY: dict[str, Any] = {"encoder_name": "resnet18", "encoder_depth": 3, "decoder_channels": (16, 8, 4)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return smp_module._import_library(tmp_path_factory.mktemp("smp"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that are measured in a quarter of the time, and still show a radius of 71."""
    monkeypatch.setattr("seamline.model.importers.reach._WINDOW_EDGE", 256)


def network_of(library: ModuleType, name: str = "Unet", **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = getattr(library, name)(
        **{**TINY, "encoder_weights": None, "in_channels": 2, "classes": 3, **arguments}
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize(
    ("arguments", "radius", "window"),
    [
        ({}, 71, None),
        ({"encoder_name": "efficientnet-b0", "aux_params": {"classes": 2}}, None, None),  # squeeze and excitation
        # It pools to one pixel, of which there is no export of free sizes.
        ({"name": "PAN", "encoder_depth": 4, "decoder_channels": 8}, None, 256),
    ],
)
def test_a_saved_network_computes_the_same_without_the_library(
    tmp_path: Path,
    library: ModuleType,
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    radius: int | None,
    window: int | None,
) -> None:
    network = network_of(library, **arguments)
    network.save_pretrained(tmp_path / "saved")
    spec = import_model(tmp_path / "saved", DESCRIBED, tmp_path / "model")
    assert isinstance(spec.network, Program) and spec.network.window == window
    assert (spec.divisor % 8, spec.receptive_radius) == (0, radius)
    assert spec.activation == "softmax"
    assert spec.architecture.startswith(type(network).__name__)
    for name in ("segmentation_models_pytorch", "timm", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    edge = window or 96
    image = torch.randn(2, 2, edge, edge)
    with torch.inference_mode():
        expected = network(image)
        expected = (expected[0] if isinstance(expected, tuple) else expected)[..., 8:-8, 8:-8]
    runtime = Runtime(spec, tmp_path / "model", EngineSettings(batch=2), Radiometry((1, 1), (0, 0), (None, None)), 8)
    found = torch.stack(list(runtime.predict(list(image.numpy()), [np.ones((edge, edge), bool)] * 2)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_outputs_that_are_probabilities_are_known(tmp_path: Path, library: ModuleType, small: None) -> None:
    network_of(library, activation="sigmoid").save_pretrained(tmp_path / "saved")
    assert import_model(tmp_path / "saved", DESCRIBED, tmp_path / "model").activation == "none"
    assert [smp_module.get_activation({"activation": told}) for told in ("softmax2d", "identity", None)] == [
        "none",
        None,
        None,
    ]


def config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda d: (d / "config.json").unlink(), "a folder without config.json and model.safetensors"),
    "no JSON": (lambda d: (d / "config.json").write_text("{"), "expected a configuration of segmentation-models"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), "expected a configuration of segmentation-models"),
    "somebody else's": (lambda d: (d / "config.json").write_text('{"model_type": "bert"}'), "with _model_class"),
    "no class of theirs": (config(_model_class="create_model"), "_model_class 'create_model', expected one of Unet"),
    "no class at all": (config(_model_class=["Unet"]), "expected one of Unet"),
    "an address": (config(encoder_name="tu-hf-hub:somebody/something"), "the plain name of an encoder"),
    "a path": (config(encoder_name="../x"), "the plain name of an encoder"),
    "no encoder": (config(encoder_name="resnet19"), "expected configuration and weights of a Unet"),
    "an argument for timm": (config(checkpoint_path="x.pth"), "checkpoint_path, which Unet has not"),
    "other bands": (config(in_channels=3), "expected configuration and weights of a Unet"),
    "deep JSON": (lambda d: (d / "config.json").write_text("[" * 100_000), "RecursionError"),
    "more than its weights": (config(decoder_channels=[10**9] * 5), "numbers beyond those of its weights"),
    "more depth": (config(encoder_depth=10**6), "numbers beyond those of its weights"),
    "no safetensors": (lambda d: torch.save({}, d / "model.safetensors"), "expected a safetensors file"),
    "half the weights": (
        weights(lambda t: {k: v for k, v in t.items() if "decoder" not in k}),
        "Missing key.*save it again",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_saved_network_is_refused_in_one_line(tmp_path: Path, library: ModuleType, case: str) -> None:
    network_of(library).save_pretrained(tmp_path / "saved")
    change, message = REFUSED[case]
    change(tmp_path / "saved")
    with pytest.raises(ModelError, match=message) as caught:
        import_model(tmp_path / "saved", DESCRIBED, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_bands_must_be_as_many(tmp_path: Path, library: ModuleType) -> None:
    network_of(library).save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match="got 1 bands in --bands, expected 2"):
        import_model(tmp_path / "saved", ModelDescription(("red",), ("a", "b", "c")), tmp_path / "model")


def test_a_missing_library_is_named(tmp_path: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    network_of(library).save_pretrained(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ModelError, match=r"pip install 'seamline\[smp\]'") as caught:
        import_model(tmp_path / "saved", DESCRIBED, tmp_path / "model")
    assert "\n" not in str(caught.value)
