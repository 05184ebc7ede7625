"""The U-Net beside its paper, the cropped decoder beside the plain one, the measured reach beside the truth."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import Radiometry, Settings, UNetConfig
from model.errors import ModelError
from model.measurement import Measurement
from model.reach import receptive_radius
from model.runtime import DTYPES, Runtime, fused, rectified
from model.spec import read_document
from model.unet import UNet
from tests.models import saved_model


def random_network(**config: object) -> UNet:
    """A network whose normalisation does something."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(**{"in_channels": 2, "classes": 3, "depth": 2, "base_width": 4, **config}))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def test_sizes_of_the_papers_figure_1() -> None:
    network = UNet(UNetConfig(1, 2, padding="valid", norm="none", base_width=64))
    sizes = {}
    network.encoder[0].register_forward_hook(lambda m, i, o: sizes.update(first=o.shape))
    network.encoder[4].register_forward_hook(lambda m, i, o: sizes.update(bottom=o.shape))
    with torch.inference_mode():
        out = network.eval()(torch.zeros(1, 1, 572, 572))
    assert sizes["first"] == (1, 64, 568, 568)
    assert sizes["bottom"] == (1, 1024, 28, 28)
    assert out.shape == (1, 2, 388, 388)


@pytest.mark.parametrize("upsampling", ["upconv", "bilinear"])
@pytest.mark.parametrize(("depth", "halo"), [(1, 8), (2, 24), (3, 48), (3, 8)])
def test_cropping_the_decoder_is_exact(upsampling: str, depth: int, halo: int) -> None:
    network = random_network(upsampling=upsampling, depth=depth).double()
    x = torch.randn(1, 2, 160, 192, dtype=torch.float64)
    with torch.inference_mode():
        plain, cropped = network(x)[..., halo:-halo, halo:-halo], network(x, halo)
    assert cropped.shape == plain.shape
    torch.testing.assert_close(cropped, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("upsampling", ["upconv", "bilinear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_measured_radius_is_exact_and_tight(upsampling: str, depth: int) -> None:
    """Outside of the radius nothing changes; one divisor less and something does."""
    network = random_network(upsampling=upsampling, depth=depth, norm="none").double()
    divisor = network.config.divisor
    radius = receptive_radius(network, 2, divisor, limit=128)
    assert radius is not None
    halo = -(-radius // divisor) * divisor
    torch.manual_seed(1)
    whole = torch.rand(1, 2, 4 * halo, 4 * halo, dtype=torch.float64)
    with torch.inference_mode():
        truth = network(whole)
        window = network(whole[..., halo:, halo:])
    differs = (window - truth[..., halo:, halo:]).abs().amax((0, 1)) > 1e-12
    assert not differs[halo:, halo:].any()
    assert differs[halo - divisor :, :].any()


def test_global_statistics_are_unbounded() -> None:
    assert receptive_radius(random_network(norm="group"), 2, 4, limit=64) is None


def test_fusing_changes_nothing() -> None:
    network = random_network().double()
    x = torch.randn(1, 2, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        before = network(x)
        after = fused(network)(x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("halo", [0, 16])
def test_a_relu_in_the_convolutions_pass_changes_no_bit(norm: str, precision: str, halo: int) -> None:
    def network() -> torch.nn.Module:
        plain = fused(random_network(norm=norm, base_width=8))
        return plain.to(DTYPES[precision]).to(memory_format=torch.channels_last)

    joined = rectified(network())
    x = torch.randn(2, 2, 64, 96).to(DTYPES[precision]).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(joined(x, halo), network()(x, halo))
    assert (norm == "group") == any(isinstance(module, torch.nn.ReLU) for module in joined.modules())


def test_larger_windows_go_in_smaller_batches_and_must_fit_the_device() -> None:
    found = Measurement(Settings("cuda", batch=8), {512: 1e-8, 1024: 1e-8}, 0, 100.0, (), device_bytes=10**9)
    assert [found.settings_for(edge).batch for edge in (512, 768, 1024, 2048)] == [8, 3, 2, 1]
    assert found.fits(2048)
    assert not found.fits(4096)


def test_a_model_folder_is_read_as_written(tmp_path: Path) -> None:
    spec = saved_model(tmp_path, random_network(), assumed_nodata=0.0, training_data=("here",))
    assert read_document(tmp_path) == spec
    assert spec.summary()["divisor"] == 4
    assert [entry["name"] for entry in spec.summary()["classes"]] == ["c0", "c1", "c2"]


def test_the_document_is_a_stac_item_that_pystac_reads(tmp_path: Path) -> None:
    pystac = pytest.importorskip("pystac")
    saved_model(tmp_path, random_network())
    item = pystac.Item.from_file(tmp_path / "model.json")
    assert item.properties["mlm:input"][0]["input"]["shape"] == [-1, 2, -1, -1]
    mlm = pytest.importorskip("pystac.extensions.mlm")
    extension = mlm.MLMExtension.ext(item)
    assert extension.mlm_name == "random"
    assert [c.name for c in extension.output[0].classes] == ["c0", "c1", "c2"]


def broken(folder: Path, how: str) -> None:
    document = json.loads((folder / "model.json").read_text())
    weights = folder / "model.safetensors"
    if how == "no document":
        (folder / "model.json").unlink()
    elif how == "not json":
        (folder / "model.json").write_text("{")
    elif how == "no bands":
        del document["properties"]["mlm:input"]
    elif how == "other weights":
        weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    elif how == "no weights":
        weights.unlink()
    elif how == "unknown architecture":
        document["properties"]["mlm:architecture"] = "ResNeXt"
    elif how == "a class twice":
        document["properties"]["mlm:output"][0]["classification:classes"][2]["value"] = 0
    elif how == "unknown network":
        document["properties"]["mlm:hyperparameters"]["padding"] = "circular"
    if how in ("no bands", "unknown network", "unknown architecture", "a class twice"):
        (folder / "model.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no document", "no model.json in it"),
        ("not json", "expected a STAC MLM document"),
        ("no bands", "mlm:input"),
        ("other weights", "SHA-256"),
        ("no weights", "no such file"),
        ("unknown architecture", "'ResNeXt' is not known"),
        ("a class twice", r"values of the classes are \[0, 1, 0\], expected 0 to 2, each once"),
        ("unknown network", "padding of a U-Net: got 'circular'"),
    ],
)
def test_a_broken_model_is_refused(tmp_path: Path, how: str, message: str) -> None:
    saved_model(tmp_path, random_network())
    broken(tmp_path, how)
    with pytest.raises(ModelError, match=message) as caught:
        read_document(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation", "Softmax"),
        ("activation", None),
        ("quantity", "radiance"),
        ("fill", "NaN"),
        ("assumed_nodata", "0"),
    ],
)
def test_a_document_that_would_mislead_is_refused(tmp_path: Path, field: str, value: str | None) -> None:
    saved_model(tmp_path, random_network())
    path = tmp_path / "model.json"
    document = json.loads(path.read_text())
    document["properties"][f"seamline:{field}"] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=rf"{field}: got '?(?i:{value})'?, expected"):
        read_document(tmp_path)


def test_weights_are_never_code(tmp_path: Path) -> None:
    saved_model(tmp_path, random_network())
    torch.save(print, tmp_path / "model.safetensors")
    document = json.loads((tmp_path / "model.json").read_text())
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    document["assets"]["model"]["file:checksum"] = "1220" + digest
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="a safetensors file"):
        Runtime(read_document(tmp_path), tmp_path, Settings(), Radiometry((1, 1), (0, 0), (None, None)), 0)


def test_a_runtime_scales_normalises_and_fills(tmp_path: Path) -> None:
    network = random_network()
    spec = saved_model(tmp_path, network, fill=0.25)
    radiometry = Radiometry((0.5, 2.0), (1.0, -1.0), (None, 7.0))
    runtime = Runtime(spec, tmp_path, Settings(precision="fp64"), radiometry, halo=0)
    pixels = np.random.default_rng(0).integers(0, 9, (2, 16, 16)).astype(np.uint16)
    valid = np.ones((16, 16), bool)
    valid[:3] = False
    x = np.stack([(pixels[0] * 0.5 + 1 - 0.1) / 0.2, (pixels[1] * 2.0 - 1 - 0.1) / 0.2])
    x[:, ~valid] = 0.25
    x[1, pixels[1] == 7] = 0.25
    with torch.inference_mode():
        expected = network.double()(torch.from_numpy(x)[None]).softmax(1)[0]
    (scores,) = runtime.predict([pixels], [valid])
    found = runtime.probabilities(scores)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_nan_is_filled_too(tmp_path: Path) -> None:
    spec = saved_model(tmp_path, random_network())
    runtime = Runtime(spec, tmp_path, Settings(), Radiometry((1.0, 1.0), (0.0, 0.0), (float("nan"), None)), halo=0)
    pixels = np.full((2, 16, 16), np.nan, np.float32)
    (found,) = runtime.predict([pixels], [np.zeros((16, 16), bool)])
    assert torch.isfinite(found).all()


def test_out_of_device_memory_halves_the_batch_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = saved_model(tmp_path, random_network())
    runtime = Runtime(spec, tmp_path, Settings(batch=4), Radiometry((1.0, 1.0), (0.0, 0.0), (None, None)), halo=0)
    pixels = [np.full((2, 16, 16), k, np.float32) for k in range(7)]
    valid = [np.ones((16, 16), bool)] * 7
    expected = list(runtime.predict(pixels, valid))
    forward, sizes = runtime._forward, []

    def small_device(pixels: np.ndarray, valid: np.ndarray) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(pixels, valid)

    monkeypatch.setattr(runtime, "_forward", small_device)
    found = list(runtime.predict(pixels, valid))
    assert sizes[:3] == [4, 2, 1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_cuda_without_a_device_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    spec = saved_model(tmp_path, random_network())
    with pytest.raises(ModelError, match="take --device cpu"):
        Runtime(spec, tmp_path, Settings(device="cuda"), Radiometry((1, 1), (0, 0), (None, None)), 0)
