"""How far labels depend on their surroundings, measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seamline.flows.runs.measuring import _choose_context_sizes
from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.engines.context_meter import ContextMeter
from seamline.model.spec.config import EngineRequest, Radiometry
from seamline.model.spec.spec import ModelSpec
from seamline.pipeline.planning.memory import Raster
from seamline.pipeline.planning.tilings import PlanOptions, Reach, candidate_halos, choose_halo
from tests.support.small_models import make_random_network, save_model

LADDER = (0, 4, 8, 16, 20, 24, 32)
RASTER = Raster(2000, 2000, 2, 2, 3)


def changed(spec: ModelSpec, folder: Path, tried: tuple[int, ...], edge: int, around: int) -> dict[int, float]:
    radiometry = Radiometry((1.0, 1.0), (0.0, 0.0), (None, None))
    n = edge + 2 * around
    pixels = np.random.default_rng(0).standard_normal((2, n, n)).astype(np.float32)
    meter = ContextMeter(spec, folder, radiometry, EngineRequest("cpu"), 1)
    return meter((pixels, np.ones((n, n), bool)), edge, tried)


def by_hand(network: nn.Module, spec: ModelSpec, edge: int, around: int, margin: int) -> float:
    """Labels of a forward of everything, and of the window in the middle, farther than the margin from its edge."""
    n = edge + 2 * around
    pixels = np.random.default_rng(0).standard_normal((2, n, n)).astype(np.float32)
    mean, std = (torch.tensor([getattr(b, key) for b in spec.bands])[:, None, None] for key in ("mean", "std"))
    x = ((torch.from_numpy(pixels) - mean) / std)[None]
    with torch.inference_mode():
        wide = network(x).argmax(1)[0, around : around + edge, around : around + edge]
        own = network(x[..., around : around + edge, around : around + edge].contiguous()).argmax(1)[0]
    return float((wide != own)[margin : edge - margin, margin : edge - margin].float().mean())


def test_nothing_is_known_of_a_sample_without_data(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network(norm="group"))
    meter = ContextMeter(spec, tmp_path, Radiometry((1.0, 1.0), (0.0, 0.0), (None, None)), EngineRequest("cpu"), 1)
    pixels, valid = np.ones((2, 192, 192), np.float32), np.zeros((192, 192), bool)
    assert meter((pixels, valid), 128, LADDER) == {}
    valid[34, 34] = True  # two pixels from the window's edge
    assert set(meter((pixels, valid), 128, LADDER)) == {0}
    assert choose_halo({}, Reach(1, None)) == Reach(1, None).unbounded_halo


@pytest.mark.parametrize("norm", ["none", "group"])
def test_the_curve_is_that_of_the_definition_and_ends_at_the_reach(tmp_path: Path, norm: str) -> None:
    network = make_random_network(norm=norm)
    spec = save_model(tmp_path, network)
    found = changed(spec, tmp_path, LADDER, 128, 32)
    assert found == pytest.approx({margin: by_hand(network, spec, 128, 32, margin) for margin in LADDER}, abs=1e-4)
    if norm == "none":
        assert spec.receptive_radius == 22 and found[24] == found[32] == 0 < found[16] < found[0]
    else:
        assert found[32] > 0


def test_of_an_unpadded_network_what_it_loses_is_no_context(tmp_path: Path) -> None:
    spec = save_model(tmp_path, make_random_network(padding="valid", upsampling="bilinear", norm="none"))
    least, exact = spec.network.least_halo, spec.exact_halo
    found = changed(spec, tmp_path, (least, exact), 128, 32)
    assert exact > least and found[least] > 0 == found[exact]


class Edges(nn.Module):
    """Three labels by the mean over 2·``radius`` + 1 pixels around each, on windows of one size."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2 * radius + 1, 1, radius)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        return torch.cat([y, -y.sum(1, keepdim=True)], 1)


def test_windows_of_one_size_are_compared_with_their_neighbours(tmp_path: Path) -> None:
    exported = torch.export.export(Edges(5).eval(), (torch.zeros(1, 2, 64, 64),))
    torch.export.save(exported, tmp_path / "x.pt2")
    described = ModelDescription(("red", "nir"), ("a", "b", "c"))
    spec = import_model(tmp_path / "x.pt2", described, tmp_path / "model")
    assert spec.network.to_dict()["window"] == 64
    found = changed(spec, tmp_path / "model", (0, 2, 4, 5, 8), 64, 16)
    assert found[0] > found[2] > found[4] > found[5] == found[8] == 0


@pytest.mark.parametrize(
    ("curve", "halo"),
    [
        ({0: 0.2, 32: 0.05, 64: 0.01, 128: 0.004}, 128),  # it falls to the end
        ({0: 0.2, 32: 0.05, 64: 0.0009, 128: 0.0001}, 64),  # one in a thousand
        ({0: 0.2, 32: 0.05, 64: 0.02, 128: 0.018}, 64),  # no better after it
        ({0: 0.0, 8: 0.0, 16: 0.0, 32: 0.0}, 16),  # of one class: never none
        ({}, 64),
    ],
)
def test_the_least_margin_after_which_labels_settle_is_the_halo(curve: dict[int, float], halo: int) -> None:
    assert choose_halo(curve, Reach(32, None)) == halo


def test_margins_are_those_that_a_plan_can_have() -> None:
    assert candidate_halos(RASTER, PlanOptions(), Reach(16, 96)) == (0, 16, 32, 64, 96)
    assert candidate_halos(RASTER, PlanOptions(halo=48), Reach(16, 96)) == (0, 16, 32, 48, 64, 96)
    assert candidate_halos(RASTER, PlanOptions(), Reach(16, 112, least_halo=96)) == (96, 112)
    assert candidate_halos(RASTER, PlanOptions(), Reach(32, None)) == (0, 32, 64, 128)
    assert candidate_halos(RASTER, PlanOptions(), Reach(32, None, window=256)) == (0, 32, 64)
    assert candidate_halos(RASTER, PlanOptions(window=256), Reach(32, None)) == (0, 32, 64)
    assert candidate_halos(RASTER, PlanOptions(window=256, overlap=96), Reach(32, None)) == (
        0,
        32,
    )  # no stride is left for 64
    for reach in (Reach(16, 96), Reach(32, None), Reach(32, None, window=256)):
        tried = candidate_halos(RASTER, PlanOptions(), reach)
        edge, around = _choose_context_sizes(tried, reach)
        assert edge > 2 * max(tried) and around >= max(tried) and around % reach.divisor == 0
