"""The project's own U-Net as an ONNX graph, run on the CPU by ONNX Runtime or OpenVINO."""

from __future__ import annotations

import torch
from torch import Tensor

from seamline.model.networks.onnx_graphs import Graph, export_unet, load_graph
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import EngineSettings


class OnnxUNet:
    """The U-Net as an ONNX graph in ONNX Runtime or OpenVINO, exported when the halo is known.

    Windows are run one by one: batches are no faster on a CPU, and so a run needs the graph for one shape only.
    """

    def __init__(self, network: UNet, settings: EngineSettings) -> None:
        self._network, self._settings = network, settings
        self._graphs: dict[int, Graph] = {}

    def __call__(self, x: Tensor, halo: int) -> Tensor:
        """Compute the scores of a batch of windows.

        Args:
            x: normalised windows (B, bands, H, W), float32, on the CPU.
            halo: pixels to leave out on every side of the result.

        Returns:
            Scores (B, outputs, H − 2·halo, W − 2·halo).
        """
        graph = self._load_graph(halo)
        return torch.cat([graph(window[None]) for window in x])

    def prepare(self, shape: tuple[int, ...], halo: int) -> None:
        """Export and compile the graph for batches of this shape (B, bands, H, W) before the first one is run."""
        self._load_graph(halo).prepare((1, *shape[1:]))

    def _load_graph(self, halo: int) -> Graph:
        if halo not in self._graphs:
            self._graphs[halo] = load_graph(export_unet(self._network, self._network.config, halo), self._settings)
        return self._graphs[halo]
