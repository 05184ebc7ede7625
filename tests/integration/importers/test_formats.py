"""A network in each format that can be imported: it computes the same in a model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seamline.flows.training.importing import import_model
from seamline.model.spec.config import Program, UNetConfig
from tests.support.foreign_networks import DESCRIBED, make_foreign_unet, make_windows, predict_in_folder, save_network


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pt2", ".onnx"])
def test_a_network_computes_the_same_in_a_model_folder(tmp_path: Path, suffix: str, bilinear: bool) -> None:
    network = make_foreign_unet(bilinear)
    spec = import_model(save_network(network, tmp_path / f"x{suffix}", 512), DESCRIBED, tmp_path / "model")
    assert isinstance(spec.network, UNetConfig if suffix == ".pth" and not bilinear else Program)
    divisor = 8 if suffix == ".pt2" else 4  # as it is exported, it takes multiples of 8
    assert (spec.divisor, spec.receptive_radius) == (divisor, None if bilinear else 22)
    with torch.inference_mode():
        whole = network(torch.from_numpy(make_windows())).softmax(1)
    for halo in (0, 16):
        expected = whole[..., halo : 64 - halo, halo : 64 - halo]
        found = predict_in_folder(spec, tmp_path / "model", make_windows(), halo)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
