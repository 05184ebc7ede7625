"""Networks from elsewhere: they compute the same in a model folder, and their reach is found by looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.importers.import_model import convert_module, read_network
from seamline.model.importers.reach import MeasuredReach, measure_reach
from seamline.model.spec.config import Program
from seamline.model.spec.errors import ModelError
from seamline.pipeline.common.errors import InputError
from tests.support.foreign_networks import (
    DESCRIBED,
    ForeignUNet,
    OneOutput,
    make_foreign_unet,
    make_windows,
    predict_in_folder,
    save_network,
)
from tests.support.small_models import make_random_network


class Faint(torch.nn.Module):
    """Two poolings deeper than its scores tell, joined without padding: it takes multiples of 8 only."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        fine = torch.nn.functional.max_pool2d(x, 2)
        deep = torch.nn.functional.interpolate(torch.nn.functional.max_pool2d(fine, 4), scale_factor=4.0)
        return torch.nn.functional.interpolate(fine + 1e-8 * deep, scale_factor=2.0)


def test_a_divisor_that_scores_do_not_tell_is_found_by_size(tmp_path: Path) -> None:
    torch.jit.script(Faint()).save(str(tmp_path / "x.pt"))
    described = ModelDescription(("red", "nir"), ("land", "water"))
    spec = import_model(tmp_path / "x.pt", described, tmp_path / "model")
    assert spec.divisor == 8
    with pytest.raises(ModelError, match=r"the network: got .*, expected windows of 44 × 44 to run"):
        predict_in_folder(spec, tmp_path / "model", make_windows(44))
    with pytest.raises(InputError, match="got a model that is there already"):
        import_model(tmp_path / "x.pt", described, tmp_path / "model")


@pytest.mark.parametrize("depth", [1, 3])
def test_the_measured_reach_is_the_known_one(tmp_path: Path, depth: int) -> None:
    torch.manual_seed(2)
    network = make_random_network(depth=depth, norm="none")
    spec = import_model(save_network(network, tmp_path / "x.pt"), DESCRIBED, tmp_path / "model")
    assert (spec.divisor, spec.receptive_radius) == (2**depth, network.config.receptive_radius)


class Far(nn.Module):
    """Looks 248 pixels far, on a lattice of 8: more than windows of 512 can show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, dilation=31, padding=31)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(F.max_pool2d(x, 8)), scale_factor=8.0)


def test_a_far_reach_is_not_taken_for_an_unbounded_one() -> None:
    torch.manual_seed(0)
    assert measure_reach(Far(), 2) == MeasuredReach(8, 248)
    assert measure_reach(Far(), 2, lattice=16) == MeasuredReach(16, 248)
    assert measure_reach(Far(), 2, window=512).radius is None


def test_statistics_over_the_window_are_found(tmp_path: Path) -> None:
    spec = import_model(
        save_network(make_random_network(norm="group"), tmp_path / "x.pt"), DESCRIBED, tmp_path / "model"
    )
    assert spec.receptive_radius is None


def test_a_network_of_one_size_and_batch(tmp_path: Path) -> None:
    exported = torch.export.export(make_foreign_unet(), (torch.zeros(2, 2, 64, 64),))
    torch.export.save(exported, tmp_path / "x.pt2")
    spec = import_model(tmp_path / "x.pt2", DESCRIBED, tmp_path / "model")
    assert isinstance(spec.network, Program) and (spec.network.window, spec.network.batch) == (64, 2)
    with torch.inference_mode():
        expected = make_foreign_unet()(torch.from_numpy(make_windows())).softmax(1)
    torch.testing.assert_close(predict_in_folder(spec, tmp_path / "model", make_windows()), expected, rtol=0, atol=1e-5)


def test_one_output_tells_two_classes(tmp_path: Path) -> None:
    path = save_network(OneOutput(), tmp_path / "x.pt")
    spec = import_model(path, ModelDescription(("red", "nir"), ("land", "water")), tmp_path / "model")
    assert (spec.is_binary, spec.activation, spec.divisor, spec.receptive_radius) == (True, "sigmoid", 1, 0)
    found = predict_in_folder(spec, tmp_path / "model", make_windows())
    water = torch.from_numpy(4 * make_windows()[:, 0] - 2).sigmoid()
    torch.testing.assert_close(found, torch.stack([1 - water, water], 1), rtol=0, atol=1e-6)


def test_scale_mean_and_std_stand_in_the_unit_of_the_values(tmp_path: Path) -> None:
    path = save_network(OneOutput(), tmp_path / "x.pt")
    described = ModelDescription(("red", "nir"), ("a", "b"), scale=255, mean=(100, 90), std=(50, 40), activation="none")
    spec = import_model(path, described, tmp_path / "model")
    pixels = np.full((1, 2, 8, 8), 0.4, np.float32)
    value = 4 * (0.4 * 255 - 100) / 50 - 2
    water = predict_in_folder(spec, tmp_path / "model", pixels)[0, 1, 0, 0]
    assert water == pytest.approx(np.clip(value, 0, 1), abs=1e-6)
    described = ModelDescription(("red", "nir"), ("a", "b"), scale=255, mean=(100, 90), std=(50, 40), unseen=("b",))
    spec = import_model(path, described, tmp_path / "model", overwrite=True)
    assert spec.unseen == ("b",)
    water = predict_in_folder(spec, tmp_path / "model", pixels)[0, 1, 0, 0]
    assert water == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-5)


# --- what is refused -------------------------------------------------------------------------------------


class Larger(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0)


def _state(path: Path, tensors: object) -> Path:
    torch.save(tensors, path)
    return path


REFUSED = {
    "no file": (lambda d: d / "none.pt", "no such file"),
    "a pickle with code": (
        lambda d: _state(d / "x.pt", make_foreign_unet()),
        "a pickle that would run code .* torch.export",
    ),
    "text": (lambda d: d / "text.pt", "expected ONNX, TorchScript, a torch.export program or a state_dict"),
    "no tensors": (lambda d: _state(d / "x.pth", {"a": 1}), "no tensors by name"),
    "another network": (lambda d: _state(d / "x.pth", {"conv.weight": torch.zeros(1)}), "got tensors conv.weight"),
    "half a network": (
        lambda d: _state(d / "x.pth", {k: v for k, v in make_foreign_unet().state_dict().items() if "down2" not in k}),
        "instead of|no tensor",
    ),
    "another size": (lambda d: save_network(Larger(), d / "x.pt"), r"an output of shape \(1, 2, 1024, 1024\)"),
    "bands": (
        lambda d: save_network(ForeignUNet(4, 3, 4, 1, False).eval(), d / "x.pth"),
        "got 2 bands in --bands, expected 4, as the network has inputs",
    ),
    "classes": (
        lambda d: save_network(ForeignUNet(2, 5, 4, 1, False).eval(), d / "x.pth"),
        "got 3 names in --classes, expected 5, as the network has outputs",
    ),
    "an empty folder": (lambda d: d, "a folder without config.json and model.safetensors"),
    "no onnx": (lambda d: d / "text.onnx", "a graph that ONNX Runtime runs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.onnx").write_text("hello")
    make, message = REFUSED[case]
    with pytest.raises(ModelError, match=message) as caught:
        import_model(make(tmp_path), DESCRIBED, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": ()}, "--bands"),
        ({"classes": ("a",)}, "--classes: got a, expected at least two"),
        ({"scale": 0.0}, "--scale: got 0.0"),
        ({"mean": (1.0, 2.0, 3.0)}, "--mean: got 1.0,2.0,3.0, expected one number, or 2"),
        ({"std": (0.0,)}, "--std: got 0.0, expected numbers above 0"),
        ({"colors": ("red", "green", "blue")}, "--colors"),
        ({"unseen": ("fog",)}, "--unseen: got fog, expected some of the classes a,b,c, or none"),
        ({"unseen": ("a", "b", "c")}, "--unseen"),
    ],
)
def test_a_description_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelDescription(**{"bands": ("red", "nir"), "classes": ("a", "b", "c"), **changes})


def test_what_a_program_says_of_too_few_bands_is_told_once(tmp_path: Path) -> None:
    torch.jit.script(nn.Conv2d(4, 2, 3, padding=1).eval()).save(tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"^network .*: got RuntimeError: .* have 4 channels, but got 2") as told:
        read_network(tmp_path / "net.pt", 2)
    assert str(told.value).count("got ") == 2 and "on an image of 2 × 512 × 512" in str(told.value)


class Choosy(nn.Module):
    """Its forward depends on values, which no exported program can."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_exported_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ModelError, match="let no Python of the network's forward depend on values of tensors"
    ) as caught:
        convert_module(Choosy(), 2)
    assert capfd.readouterr() == ("", "") and "\n" not in str(caught.value)
