"""The U-Net beside its paper, the cropped decoder beside the plain one, the measured reach beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seamline.model.engines.input_transform import Place
from seamline.model.engines.runtime import DeviceBlock, Runtime
from seamline.model.engines.torch_engine import DTYPES, fuse_batch_norm, fuse_relu, has_onednn
from seamline.model.importers.reach import measure_receptive_radius
from seamline.model.networks import unet
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import EngineSettings, Precision, Radiometry, UNetConfig
from seamline.model.spec.errors import ModelError
from seamline.model.spec.measurement import Measurement
from tests.support.small_models import make_random_network, remove_cancellation, save_model


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
@pytest.mark.parametrize(("depth", "halo"), [(1, 8), (2, 24), (2, 64), (3, 48), (3, 8), (4, 96)])
def test_cropping_is_exact(upsampling: str, depth: int, halo: int) -> None:
    network = remove_cancellation(make_random_network(upsampling=upsampling, depth=depth))
    x = torch.rand(1, 2, 224, 256, dtype=torch.float64)
    with torch.inference_mode():
        plain, cropped = network(x)[..., halo:-halo, halo:-halo], network(x, halo)
    assert cropped.shape == plain.shape
    torch.testing.assert_close(cropped, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("upsampling", ["upconv", "bilinear"])
@pytest.mark.parametrize(("depth", "more"), [(1, 1), (2, 3), (3, 40), (4, 8)])
def test_cropping_unpadded_networks_is_exact(upsampling: str, depth: int, more: int) -> None:
    network = make_random_network(padding="valid", upsampling=upsampling, depth=depth, base_width=2).double()
    config, edge = network.config, 288 + 64 * (depth > 3)
    x = torch.rand(1, 2, edge, edge, dtype=torch.float64)
    inside = slice(config.trim, edge - config.trim)
    with torch.inference_mode():
        plain = network(x[..., inside, inside])[..., more:-more, more:-more]
        cropped = network(x, config.lost_border + more)
    torch.testing.assert_close(cropped, plain, rtol=0, atol=1e-12)


def test_cropping_leaves_out_all_that_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel more on any level of the decoder, and it can be seen; the encoder stays on its pooling lattice."""
    network = remove_cancellation(make_random_network(depth=3, base_width=2))
    x = torch.rand(1, 2, 144, 144, dtype=torch.float64)
    down, kept = unet._compute_crops(network.config, 48)
    assert (down, kept) == ([0, 0, 2, 2], [46, 21, 8])
    with torch.inference_mode():
        whole = network(x, 48)
        for level in range(3):
            deeper = [crop + (k == level) for k, crop in enumerate(kept)]
            monkeypatch.setattr(unet, "_compute_crops", lambda *_, deeper=deeper: (down, deeper))
            assert (network(x, 48) - whole).abs().max() > 1e-12


@pytest.mark.parametrize("upsampling", ["upconv", "bilinear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_measured_radius_is_exact_and_tight(upsampling: str, depth: int) -> None:
    """Outside of the radius nothing changes; one divisor less and something does."""
    network = make_random_network(upsampling=upsampling, depth=depth, norm="none").double()
    divisor = network.config.divisor
    radius = measure_receptive_radius(remove_cancellation(network), 2, divisor, 32 * divisor, torch.float64)
    assert radius is not None
    assert radius == network.config.receptive_radius
    halo = -(-radius // divisor) * divisor
    torch.manual_seed(1)
    whole = torch.rand(1, 2, 4 * halo, 4 * halo, dtype=torch.float64)
    with torch.inference_mode():
        truth = network(whole)
        window = network(whole[..., halo:, halo:])
    differs = (window - truth[..., halo:, halo:]).abs().amax((0, 1)) > 1e-12
    assert not differs[halo:, halo:].any()
    assert differs[halo - divisor :, :].any()


@pytest.mark.parametrize("upsampling", ["upconv", "bilinear"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_windows_of_unpadded_networks_agree_with_the_whole(upsampling: str, depth: int) -> None:
    network = make_random_network(padding="valid", upsampling=upsampling, depth=depth, base_width=2).double()
    config, divisor = network.config, network.config.divisor
    assert config.receptive_radius is not None
    halo, support = -(-config.receptive_radius // divisor) * divisor, 4 * divisor
    whole = torch.rand(1, 2, 2 * halo + 3 * support, 2 * halo + 3 * support, dtype=torch.float64)
    start, stop = support, 2 * support + 2 * halo
    with torch.inference_mode():
        truth = network(whole, halo)
        window = network(whole[..., start:stop, start:stop], halo)
    assert truth.shape[-1] == 3 * support and window.shape[-1] == support
    torch.testing.assert_close(window, truth[..., start : start + support, start : start + support], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="loses"):
        network(whole, config.lost_border - 1)


def test_global_statistics_are_unbounded() -> None:
    network = make_random_network(norm="group")
    assert measure_receptive_radius(network, 2, 4, 128) is None
    assert network.config.receptive_radius is None


def test_fusing_changes_nothing() -> None:
    network = make_random_network().double()
    x = torch.randn(1, 2, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        before = network(x)
        after = fuse_batch_norm(network)(x)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("halo", [0, 16])
def test_a_relu_in_the_convolutions_pass_changes_no_bit(norm: str, precision: Precision, halo: int) -> None:
    if not has_onednn(precision):
        pytest.skip(f"oneDNN has no {precision} on this CPU")

    def network() -> torch.nn.Module:
        plain = fuse_batch_norm(make_random_network(norm=norm, base_width=8))
        return plain.to(DTYPES[precision]).to(memory_format=torch.channels_last)

    joined = fuse_relu(network())
    x = torch.randn(2, 2, 64, 96).to(DTYPES[precision]).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(joined(x, halo), network()(x, halo))
    assert (norm == "group") == any(isinstance(module, torch.nn.ReLU) for module in joined.modules())


def test_larger_windows_go_in_smaller_batches_and_must_fit_the_device() -> None:
    found = Measurement(EngineSettings("cuda", batch=8), {512: 1e-8, 1024: 1e-8}, 0, 100.0, (), device_bytes=10**9)
    assert [found.settings_for(edge).batch for edge in (512, 768, 1024, 2048)] == [8, 3, 2, 1]
    assert found.fits(2048)
    assert not found.fits(4096)
    assert [found.chunk_bytes(edge) for edge in (512, 2048, 4096)] == [690_284_800, 480_569_600, 0]
    assert replace(found, device_bytes=0).chunk_bytes(512) == 0


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_every_precision_runs_on_every_cpu(tmp_path: Path, precision: Precision) -> None:
    spec = save_model(tmp_path, make_random_network())
    radiometry = Radiometry((1.0, 1.0), (0.0, 0.0), (None, None))
    runtime = Runtime(spec, tmp_path, EngineSettings(precision=precision), radiometry, halo=0)
    (scores,) = runtime.predict([np.ones((2, 16, 16), np.uint16)], [np.ones((16, 16), bool)])
    assert scores.shape == (3, 16, 16) and torch.isfinite(scores).all()


def test_a_runtime_scales_normalises_and_fills(tmp_path: Path) -> None:
    network = make_random_network()
    spec = save_model(tmp_path, network, fill=0.25)
    radiometry = Radiometry((0.5, 2.0), (1.0, -1.0), (None, 7.0))
    runtime = Runtime(spec, tmp_path, EngineSettings(precision="fp64"), radiometry, halo=0)
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
    spec = save_model(tmp_path, make_random_network())
    runtime = Runtime(
        spec, tmp_path, EngineSettings(), Radiometry((1.0, 1.0), (0.0, 0.0), (float("nan"), None)), halo=0
    )
    pixels = np.full((2, 16, 16), np.nan, np.float32)
    (found,) = runtime.predict([pixels], [np.zeros((16, 16), bool)])
    assert torch.isfinite(found).all()


def test_out_of_device_memory_halves_the_batch_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = save_model(tmp_path, make_random_network())
    runtime = Runtime(spec, tmp_path, EngineSettings(batch=4), Radiometry((1.0, 1.0), (0.0, 0.0), (None, None)), halo=0)
    pixels = [np.full((2, 16, 16), k, np.float32) for k in range(7)]
    valid = [np.ones((16, 16), bool)] * 7
    expected = list(runtime.predict(pixels, valid))
    forward, sizes = runtime._forward, []

    def small_device(block: DeviceBlock, places: Sequence[Place]) -> torch.Tensor:
        sizes.append(len(places))
        if len(places) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(block, places)

    monkeypatch.setattr(runtime, "_forward", small_device)
    found = list(runtime.predict(pixels, valid))
    assert sizes[:3] == [4, 2, 1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_cuda_without_a_device_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    spec = save_model(tmp_path, make_random_network())
    with pytest.raises(ModelError, match="take --device cpu"):
        Runtime(spec, tmp_path, EngineSettings(device="cuda"), Radiometry((1, 1), (0, 0), (None, None)), 0)
