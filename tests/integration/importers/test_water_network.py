"""Somebody else's trained water network, from its file of tensors to labels that equal one forward of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.training.importing import ModelDescription, import_model
from seamline.model.spec.config import Program
from seamline.model.spec.errors import ModelError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.scenes.scene import read_block
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES

WEIGHTS = "landsat578-water/watnet_l578.pth"
DESCRIBED = ModelDescription(BAND_NAMES, ("land", "water"), "landsat578-water", activation="none", license="MIT")


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class WaterNetwork(nn.Module):
    """(B, 6, H, W) of surface reflectance → (B, 1, H, W), probability of water. Its names are those of the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.down_conv1, self.down_conv2 = block(6, 16), block(16, 32)
        self.down_conv3, self.down_conv4 = block(32, 64), block(64, 128)
        self.up_conv1, self.up_conv2, self.up_conv3 = block(192, 64), block(96, 48), block(64, 32)
        self.outp = nn.Sequential(nn.Conv2d(32, 1, 3, padding=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        pooled = []
        for down in (self.down_conv1, self.down_conv2, self.down_conv3, self.down_conv4):
            x = F.avg_pool2d(down(x), 2)
            pooled.append(x)
        x = pooled.pop()
        for up in (self.up_conv1, self.up_conv2, self.up_conv3):
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), pooled.pop()], 1))
        return self.outp(F.interpolate(x, scale_factor=2.0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    built = WaterNetwork()
    built.load_state_dict(torch.load(find_shared(WEIGHTS), weights_only=True))
    return built.eval()


def exported(network: nn.Module, path: Path) -> Path:
    """The network as a file, of any batch, and heights and widths that are multiples of 16."""
    example = torch.zeros(2, 6, 64, 96)
    height, width = 16 * torch.export.Dim("rows", min=2, max=512), 16 * torch.export.Dim("cols", min=2, max=512)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64), 2: height, 3: width},)
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)
    else:
        pytest.importorskip("onnx")
        axes = {"image": {0: "batch", 2: "rows", 3: "cols"}}
        torch.onnx.export(network, (example,), path, dynamo=False, input_names=["image"], dynamic_axes=axes)
    return path


def whole_scene(network: nn.Module, halo: int) -> tuple[np.ndarray, np.ndarray]:
    """Probability of water of one forward of the whole scene, mirrored by the halo; and where there is data."""
    with rasterio.open(find_shared(MANAUS)) as file:
        numbers = file.read().astype(np.float64)
    valid = (numbers > 0).any(0)
    reflectance = np.where(numbers > 0, numbers * 2.75e-5 - 0.2, 0).astype(np.float32)
    height, width = valid.shape
    pad = [(halo, halo + -(extent + 2 * halo) % 16) for extent in (height, width)]
    image = torch.from_numpy(np.pad(reflectance, [(0, 0), *pad], mode="reflect"))[None]
    with torch.inference_mode():
        water = network(image)[0, 0].numpy()
    return water[halo : halo + height, halo : halo + width], valid


def test_its_tensors_alone_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"down_conv1.0.weight.*torch.export.save or torch.onnx.export") as caught:
        import_model(find_shared(WEIGHTS), DESCRIBED, tmp_path / "model")
    assert "\n" not in str(caught.value) and not (tmp_path / "model").exists()


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_real_scene_equals_one_forward_of_it(tmp_path: Path, cluster: Any, network: nn.Module, suffix: str) -> None:
    spec = import_model(exported(network, tmp_path / f"water{suffix}"), DESCRIBED, tmp_path / "model")
    assert isinstance(spec.network, Program) and (spec.divisor, spec.network.window, spec.is_binary) == (16, None, True)
    # Down the levels a change reaches 1, 2, 2, 2 pixels, halved and rounded up by each pooling; up 3, 7, 15, 31.
    halo = 32
    assert (spec.receptive_radius, spec.exact_halo) == (31, halo)
    model = open_model(tmp_path / "model")
    scene = open_input(find_shared(MANAUS), model, SegmentOptions())
    options = SegmentOptions(cluster=cluster(2), window=256, overlap=0)
    result = segment(find_shared(MANAUS), model.folder, tmp_path / "out", options, RunObserver())
    with rasterio.open(result.folder / "segmentation.tif") as file:
        labels = file.read(1)
    water, valid = whole_scene(network, halo)
    np.testing.assert_array_equal(read_block(scene, Window(0, 0, *scene.grid.shape)).valid, valid)
    doubtful = np.abs(water - 0.5) < 1e-5  # rounding, not tiling, decides there
    assert doubtful.sum() < 5
    np.testing.assert_array_equal(labels[~doubtful], np.where(valid, water > 0.5, 255)[~doubtful])
    assert (labels == 1).sum() / valid.sum() == pytest.approx(0.39, abs=0.02)
