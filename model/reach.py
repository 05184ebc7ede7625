"""Measure how far an input pixel reaches in a network's output, by looking, not by formula."""

from __future__ import annotations

import copy

import torch
from torch import nn


def receptive_radius(network: nn.Module, channels: int, divisor: int, limit: int = 512) -> int | None:
    """Pixels at the edge of a window on the pooling lattice whose outputs the world outside can change.

    ``None`` stands for unbounded. Two images agree (zero) inside a square and differ (one) outside of it; the
    outputs inside that differ lie within the receptive radius of the square's border. The square starts and
    stops on the lattice, as every window of a plan does: off the lattice the reach is larger by up to a
    divisor. In the probed copy all weights are positive, there is no bias, batch normalisation and ReLU are the
    identity, so that no path from input to output cancels, dies in a ReLU or is lost in rounding.

    Args:
        network: maps (1, channels, H, W) to (1, classes, H, W); H and W multiples of ``divisor``.
        channels: input channels.
        divisor: total downsampling.
        limit: the largest radius worth looking for, in pixels; above it, the reach counts as unbounded.
    """
    probe = _without_cancellation(network)
    margin = -(-64 // divisor) * divisor
    inner = -(-2 * limit // divisor) * divisor
    depth = _changed_depth(probe, channels, margin, inner)
    return None if 2 * depth >= inner else depth


def _changed_depth(probe: nn.Module, channels: int, margin: int, inner: int) -> int:
    """How deep into a square of ``inner``² pixels outputs change when the ``margin`` around it does."""
    size = inner + 2 * margin
    same = torch.zeros(1, channels, size, size, dtype=torch.float64)
    other = torch.ones_like(same)
    other[..., margin:-margin, margin:-margin] = 0.0
    with torch.inference_mode():
        changed = (probe(same) != probe(other)).any(1)[0, margin:-margin, margin:-margin]
    rows, cols = torch.nonzero(~changed, as_tuple=True)
    if rows.numel() == 0:
        return inner
    return max(int(rows.min()), int(cols.min()), inner - 1 - int(rows.max()), inner - 1 - int(cols.max()))


def _without_cancellation(network: nn.Module) -> nn.Module:
    """A float64 copy with positive weights, without biases, batch statistics and ReLUs."""
    probe = copy.deepcopy(network).double().eval()
    for module in probe.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan = module.weight[0].numel()
            nn.init.constant_(module.weight, 1.0 / fan)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Identity())
    return probe
