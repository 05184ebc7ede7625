"""Model folders that the tests write."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.spec import InputBand, ModelClass, ModelSpec


def save_model(folder: Path, network: UNet, names: Sequence[str] = (), **changes: object) -> ModelSpec:
    """Write a model folder for ``network``; its bands are called ``names``, or b0, b1, …"""
    config = network.config
    names = names or [f"b{k}" for k in range(config.in_channels)]
    spec = ModelSpec(
        name="random",
        version="1",
        bands=tuple(InputBand(name, 0.5 + k / 4, 0.1, 0.2) for k, name in enumerate(names)),
        classes=tuple(ModelClass(f"c{k}", (k, 2 * k, 255 - k)) for k in range(config.classes)),
        network=config,
        receptive_radius=config.receptive_radius,
        **changes,
    )
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / spec.weights)
    write_model_spec(spec, folder)
    return spec


def make_random_network(**config: object) -> UNet:
    """A network whose normalisation does something."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(**{"in_channels": 2, "classes": 3, "depth": 2, "base_width": 4, **config}))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def remove_cancellation(network: nn.Module) -> nn.Module:
    """A float64 copy with positive weights, without biases, statistics and ReLUs: no path cancels or dies."""
    probe = copy.deepcopy(network).double().eval()
    for module in probe.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return probe
