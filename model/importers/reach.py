"""Measure what a plan must know of any network, by looking at what it does: its divisor, and how far it reaches.

Nothing is assumed but that the network maps (1, bands, N, N) to (1, outputs, N, N). What it does with noise is
compared between two places (is it the same, moved by so many pixels?) and between two surroundings (how deep into a
window can the world outside be seen?). float32 rounds away what is smaller than itself, and so does the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seamline.model.spec.errors import ModelError

WINDOW_EDGE = 512
"""Of the windows of a network that takes any size, in pixels; and twice of it for one that seems to reach farther."""
SHIFTS = (1, 2, 4, 8, 16, 32, 64)
ROUNDING_TOLERANCE = 1e-5
"""Of the spread of a network's scores: what differs less after a shift is rounding, not another phase of a pooling."""
LATTICE_RATIO = 2.0
"""A network that is nowhere exact: a shift is on the lattice if no other one halves the difference."""
FADING_RATIO = 100.0
"""What reaches far fades by orders of magnitude in a window twice as large, aligned corners' interpolation by half."""
TRIALS = 3


@dataclass(frozen=True)
class MeasuredReach:
    """``divisor``: shifts by it do not change what a network does; ``radius`` in pixels, ``None`` for unbounded."""

    divisor: int
    radius: int | None


def measure_reach(
    network: Callable[[Tensor], Tensor], channels: int, window: int | None = None, lattice: int = 1
) -> MeasuredReach:
    """Divisor and receptive radius of a network.

    A network whose windows do not agree with each other even on its lattice and far from their edges (squeeze and
    excitation, attention, interpolation that aligns corners) is unbounded. So is one that reaches farther than the
    windows measured show: 384 pixels of a network that takes any size, three eighths of the only size otherwise.

    Args:
        network: maps (1, channels, N, N) to (1, outputs, N, N).
        channels: input channels.
        window: the only N that it takes; ``None`` for any.
        lattice: what is known of the divisor before: a multiple of it is.

    Raises:
        ModelError: its scores are no numbers.
    """
    edge = window or WINDOW_EDGE // lattice * lattice
    differences = _measure_differences(network, channels, edge, lattice)
    if not all(map(math.isfinite, differences.values())):
        raise ModelError(
            "network", got="scores that are no numbers, for noise", expected="a number for each class and pixel",
            fix="export it again from weights that are finite",
        )  # fmt: skip
    least = min(differences.values())
    divisor = next(
        shift for shift, found in differences.items() if found < max(ROUNDING_TOLERANCE, LATTICE_RATIO * least)
    )
    radius = (
        measure_receptive_radius(network, channels, divisor, edge)
        if differences[divisor] < ROUNDING_TOLERANCE
        else None
    )
    if radius is None and window is None and (far := _find_far_divisor(network, channels, 2 * edge, differences)):
        return MeasuredReach(far, measure_receptive_radius(network, channels, far, 2 * edge))
    return MeasuredReach(divisor, radius)


def measure_receptive_radius(
    network: Callable[[Tensor], Tensor], channels: int, divisor: int, edge: int, dtype: torch.dtype = torch.float32
) -> int | None:
    """Pixels at the edge of a window on the pooling lattice whose outputs the world outside can change.

    Two images agree inside a square and differ outside of it; outputs inside that differ are within the receptive
    radius of the square's border. The square starts and stops on the lattice, as every window of a plan does: off the
    lattice the reach is larger by up to a divisor. ``None``, unbounded, if its middle changes.
    """
    margin = -(-(edge // 8) // divisor) * divisor
    inside = (..., slice(margin, edge - margin), slice(margin, edge - margin))
    inner, deepest = edge - 2 * margin, 0
    for trial in range(TRIALS):
        generator = torch.Generator().manual_seed(trial)
        same = torch.randn(1, channels, edge, edge, generator=generator, dtype=dtype)
        other = 4 * torch.randn(same.shape, generator=generator, dtype=dtype)
        other[inside] = same[inside]
        with torch.inference_mode():
            changed = (network(same) != network(other)).any(1)[0][inside[1:]]
        rows, cols = torch.nonzero(changed, as_tuple=True)
        if rows.numel():
            depths = torch.stack([rows, cols, inner - 1 - rows, inner - 1 - cols]).amin(0) + 1
            deepest = max(deepest, int(depths.max()))
    return None if 2 * deepest >= inner else deepest


def _measure_differences(
    network: Callable[[Tensor], Tensor], channels: int, edge: int, lattice: int
) -> dict[int, float]:
    """How much a window differs from one that is a shift away from it, by shift, on the lattice."""
    shifts = [shift for shift in SHIFTS if shift <= edge // 4 and shift % lattice == 0] or [lattice]
    image = _make_noise(channels, edge + max(shifts))
    return {shift: _measure_difference(network, image, edge, shift) for shift in shifts}


def _find_far_divisor(
    network: Callable[[Tensor], Tensor], channels: int, edge: int, narrow: dict[int, float]
) -> int | None:
    """The divisor of a network that only reaches farther than the windows showed whose differences are ``narrow``.

    The largest shift first: it is on every lattice, and a network that is unbounded is through with it.
    """
    image, divisor = _make_noise(channels, edge + max(narrow)), None
    for shift in sorted(narrow, reverse=True):
        most = (
            ROUNDING_TOLERANCE
            if narrow[shift] < ROUNDING_TOLERANCE
            else min(ROUNDING_TOLERANCE, narrow[shift] / FADING_RATIO)
        )
        try:
            difference = _measure_difference(network, image, edge, shift)
        except Exception:  # noqa: BLE001 - a program that was traced may fail at another size, each in its own way
            return None
        if difference >= most:
            break
        divisor = shift
    return divisor


def _measure_difference(network: Callable[[Tensor], Tensor], image: Tensor, edge: int, shift: int) -> float:
    """How much two windows, one ``shift`` pixels down and right of the other, differ in the middle of both."""
    with torch.inference_mode():
        here = network(image[..., :edge, :edge].contiguous())
        there = network(image[..., shift : shift + edge, shift : shift + edge].contiguous())
    start, stop = 3 * edge // 8, 5 * edge // 8  # of what both see
    ours = here[..., start + shift : stop + shift, start + shift : stop + shift]
    theirs = there[..., start:stop, start:stop]
    spread = float(ours.std()) or 1.0
    return float((ours - theirs).abs().mean()) / spread


def _make_noise(channels: int, edge: int) -> Tensor:
    """Noise on all scales, as in an image: a network that pools sees nothing of white noise in its depth."""
    image = noise = torch.randn(1, channels, edge, edge, generator=torch.Generator().manual_seed(0))
    for size in (4, 16, 64):
        coarse = torch.nn.functional.avg_pool2d(noise, size) * size
        image = image + torch.nn.functional.interpolate(coarse, size=noise.shape[-2:], mode="bilinear")
    return image / 2
