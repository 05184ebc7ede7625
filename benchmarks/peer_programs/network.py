"""What the programs of `peers.py` share: their settings, the network they run, reading a scene, writing labels.

It runs in the environments of the peers, which know torch and rasterio but not Seamline.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

MODEL = "land-water-cloud"
"""The embedded model that all rows run."""
NODATA = 255
"""Label of pixels without data."""


@dataclass(frozen=True)
class Settings:
    """How a peer runs the network.

    Attributes:
        precision: "fp32" or "bf16", of the layers; numbers go in and scores come out in float32.
        channels_last: Whether activations are channels-last.
        threads: Torch's threads; 0 leaves them as torch sets them.
        window: Edge of a window in pixels; 0 is the peer's default, or what its documentation shows where it has none.
        margin: Pixels on every side of a window whose scores are thrown away, in peers that can do so.
    """

    precision: str = "fp32"
    channels_last: bool = False
    threads: int = 0
    window: int = 0
    margin: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r}: fp32 or bf16")
        if min(self.threads, self.window, self.margin) < 0:
            raise ValueError(f"threads, window and margin are not negative: {self}")


@dataclass(frozen=True)
class Normalisation:
    """How digital numbers become the network's input: number × factor + summand, the fill where a band has no data.

    Attributes:
        factors: By band.
        summands: By band.
        nodata: Number of pixels without data by band; NaN if there is none.
        fill: Input where there is no data.
        divisor: Height and width that the layers take are multiples of it.
    """

    factors: tuple[float, ...]
    summands: tuple[float, ...]
    nodata: tuple[float, ...]
    fill: float
    divisor: int


class Network(nn.Module):
    """A network for digital numbers of any height and width, with its normalisation inside; counts its pixels.

    Attributes:
        pixels: Pixels that went through the network until now.
    """

    def __init__(self, layers: nn.Module, normalisation: Normalisation, settings: Settings) -> None:
        super().__init__()
        self._dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.layers = layers.to(dtype=self._dtype).to(memory_format=self._format)
        self._normalisation = normalisation
        self.pixels = 0

    def to(self, *_arguments: object, **_options: object) -> Network:
        """Return the network unchanged: its precision is that of its settings, whatever a peer moves it to."""
        return self

    def forward(self, numbers: Tensor) -> Tensor:
        """Map digital numbers (B, bands, H, W) to scores (B, classes, H, W) in float32."""
        height, width = numbers.shape[-2:]
        self.pixels += numbers.shape[0] * height * width
        x = self._normalise(numbers)
        rows, columns = (-extent % self._normalisation.divisor for extent in (height, width))
        if rows or columns:
            x = F.pad(x, (0, columns, 0, rows), mode="reflect")
        scores: Tensor = self.layers(x.to(self._dtype, memory_format=self._format))
        return scores[..., :height, :width].float()

    def _normalise(self, numbers: Tensor) -> Tensor:
        x = torch.empty(numbers.shape, dtype=torch.float32)
        how = self._normalisation
        for band, (factor, summand, nodata) in enumerate(zip(how.factors, how.summands, how.nodata, strict=True)):
            values = numbers[:, band].to(torch.float32)
            x[:, band] = (values * factor).add_(summand).masked_fill_(values == nodata, how.fill)
        return x


def save_layers(layers: nn.Module, normalisation: Normalisation, path: Path) -> None:
    """Write a module of torch's own layers and the normalisation before it; it is loaded without its source."""
    torch.save({"layers": layers, "normalisation": vars(normalisation)}, path)


def load_network(path: Path, settings: Settings) -> Network:
    """Return the network that ``save_layers`` wrote, in evaluation mode, and set torch's threads."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    stored = torch.load(path, weights_only=False)  # written by this benchmark itself
    return Network(stored["layers"].eval(), Normalisation(**stored["normalisation"]), settings)


def read_scene(path: Path) -> NDArray[np.generic]:
    """Return all digital numbers of a raster (bands, height, width)."""
    with rasterio.open(path) as raster:
        numbers: NDArray[np.generic] = raster.read()
    return numbers


def write_labels(labels: NDArray[np.uint8], scene: Path, out: Path) -> None:
    """Write labels (height, width) on the grid of a scene as a tiled, compressed GeoTIFF."""
    with rasterio.open(scene) as raster:
        grid = {"crs": raster.crs, "transform": raster.transform}
    height, width = labels.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": "uint8"}
    with rasterio.open(out, "w", driver="GTiff", tiled=True, compress="lzw", **shape, **grid) as raster:
        raster.write(labels, 1)


def pick_classes(scores: Tensor) -> NDArray[np.uint8]:
    """Return the class of the highest score (classes, height, width) of each pixel, class by class.

    torch's own argmax over the first axis takes several times as long on a CPU.
    """
    best, labels = scores[0].clone(), torch.zeros(scores.shape[1:], dtype=torch.uint8)
    for value in range(1, len(scores)):
        labels[scores[value] > best] = value
        torch.maximum(best, scores[value], out=best)
    return labels.numpy()


def define_missing_operators() -> None:
    """Let torchvision be imported beside a torch that its compiled operators were not built for.

    That is so with a torchvision for CUDA beside a torch for CPUs. Only networks that detect objects call these
    operators, so it is enough to declare their names, one after the other, until the import succeeds.
    """
    declared: set[str] = set()
    while True:
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            operator = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if operator is None or operator[1] in declared:
                raise
            declared.add(operator[1])
            torch.library.define(f"torchvision::{operator[1]}", "(Tensor x, Tensor y, float z) -> Tensor")


Segment = Callable[[Path, Network, Settings, Path], None]
"""Segments a scene (first path) with a network and writes its labels (second path)."""


def run_program(segment: Segment) -> None:
    """Run a peer as its program is called: ``SCENE NETWORK OUT SETTINGS``, the last as JSON; print what was counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scene", type=Path)
    parser.add_argument("network", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", type=json.loads)
    arguments = parser.parse_args()
    settings = Settings(**arguments.settings)
    network = load_network(arguments.network, settings)
    with torch.inference_mode():
        segment(arguments.scene, network, settings, arguments.out)
    print(json.dumps({"network_pixels": network.pixels}))
