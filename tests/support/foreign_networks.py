"""Networks as other projects train and save them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seamline.flows.training.importing import ModelDescription
from seamline.model.engines.runtime import Runtime
from seamline.model.spec.config import EngineSettings, Program, Radiometry
from seamline.model.spec.spec import ModelSpec

DESCRIBED = ModelDescription(bands=("red", "nir"), classes=("land", "water", "cloud"))


class DoubleConvolution(nn.Module):
    """A double convolution under the names that Pytorch-UNet gives it."""

    def __init__(self, inputs: int, outputs: int, middle: int) -> None:
        super().__init__()
        layers = []
        for before, after in ((inputs, middle), (middle, outputs)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class ForeignUNet(nn.Module):
    """A network whose state_dict has the names and shapes of Pytorch-UNet's."""

    def __init__(self, bands: int, classes: int, width: int, depth: int, bilinear: bool) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        if bilinear:
            widths[-1] //= 2
        self.depth, self.bilinear = depth, bilinear
        self.inc = DoubleConvolution(bands, width, width)
        for level in range(1, depth + 1):
            down = nn.Module()
            down.maxpool_conv = nn.Sequential(
                nn.MaxPool2d(2), DoubleConvolution(widths[level - 1], widths[level], widths[level])
            )
            setattr(self, f"down{level}", down)
            up, skip, below = nn.Module(), widths[depth - level], widths[depth - level + 1]
            if bilinear:
                out = skip // 2 if level < depth else skip
                below = widths[-1] if level == 1 else widths[depth - level + 1] // 2
                up.conv = DoubleConvolution(skip + below, out, (skip + below) // 2)
            else:
                up.up = nn.ConvTranspose2d(below, skip, 2, 2)
                up.conv = DoubleConvolution(2 * skip, skip, skip)
            setattr(self, f"up{level}", up)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.inc(x)]
        for level in range(1, self.depth + 1):
            skips.append(getattr(self, f"down{level}").maxpool_conv(skips[-1]))
        x = skips.pop()
        for level in range(1, self.depth + 1):
            up = getattr(self, f"up{level}")
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True) if self.bilinear else up.up(x)
            x = up.conv(torch.cat([skips.pop(), x], 1))
        return self.outc.conv(x)


class OneOutput(nn.Module):
    """Brightness of the first band, for a sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * x[:, :1] - 2


def make_foreign_unet(bilinear: bool = False, depth: int = 2) -> ForeignUNet:
    torch.manual_seed(0)
    return ForeignUNet(2, 3, 8, depth, bilinear).eval()


def save_network(network: nn.Module, path: Path, edge: int = 64) -> Path:
    """Write ``network`` in the format that the name of the file asks for."""
    example = torch.zeros(2, 2, edge, edge)
    match path.suffix:
        case ".pth":
            torch.save(network.state_dict(), path)
        case ".pt":
            torch.jit.trace(network, example).save(str(path))
        case ".pt2":
            size = 8 * torch.export.Dim("rows", min=2, max=512), 8 * torch.export.Dim("cols", min=2, max=512)
            shapes = ({0: torch.export.Dim("batch", min=1, max=64), 2: size[0], 3: size[1]},)
            torch.export.save(torch.export.export(network, (torch.zeros(2, 2, 32, 48),), dynamic_shapes=shapes), path)
        case ".onnx":
            pytest.importorskip("onnx")
            axes = {"image": {0: "batch", 2: "rows", 3: "cols"}, "scores": {0: "batch", 2: "rows", 3: "cols"}}
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=False,
                input_names=["image"],
                output_names=["scores"],
                dynamic_axes=axes,
            )
    return path


def make_windows(edge: int = 64, count: int = 3) -> np.ndarray:
    """Return noise (count, bands, edge, edge)."""
    return np.random.default_rng(1).standard_normal((count, 2, edge, edge)).astype(np.float32)


def predict_in_folder(spec: ModelSpec, folder: Path, pixels: np.ndarray, halo: int = 0) -> Tensor:
    """Return the probabilities of windows, computed by the model in a folder."""
    onnx = isinstance(spec.network, Program) and spec.network.format == "onnx"
    settings = EngineSettings(batch=2, engine="onnxruntime" if onnx else "torch")
    runtime = Runtime(spec, folder, settings, Radiometry((1.0, 1.0), (0.0, 0.0), (None, None)), halo)
    valid = np.ones(pixels.shape[-2:], bool)
    scores = runtime.predict(list(pixels), [valid] * len(pixels))
    return torch.stack([runtime.probabilities(of_window) for of_window in scores])
