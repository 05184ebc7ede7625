"""Measure the divisor and the receptive radius of any network from its outputs for noise.

The only assumption is that the network maps (1, bands, N, N) to (1, outputs, N, N). The divisor is found by moving a
window by a few pixels and comparing the outputs; the radius by changing the surroundings of a window and looking how
deep its outputs change. Effects that are smaller than the rounding of float32 are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seamline.model.spec.errors import ModelError

Network = Callable[[Tensor], Tensor]

_WINDOW_EDGE = 512
"""Edge in pixels of the windows of a network that takes any size; doubled for one that seems to reach farther."""
_SHIFTS = (1, 2, 4, 8, 16, 32, 64)
"""Candidates for the divisor, in pixels."""
_ROUNDING_TOLERANCE = 1e-5
"""Differences after a shift below this, relative to the spread of the scores, are rounding, not another phase."""
_LATTICE_RATIO = 2.0
"""For a network that is exact at no shift: a shift is on the lattice if no other shift halves the difference."""
_FADING_RATIO = 100.0
"""In a window twice as large, the differences of a network that reaches far fade by orders of magnitude; those of one
that aligns corners only halve."""
_TRIALS = 3


@dataclass(frozen=True)
class MeasuredReach:
    """Divisor and receptive radius in pixels; the radius is ``None`` if the network is unbounded."""

    divisor: int
    radius: int | None


def choose_edge(lattice: int) -> int:
    """Return the edge of the windows for a network that takes multiples of ``lattice``, in pixels."""
    return _WINDOW_EDGE // lattice * lattice


def measure_reach(network: Network, channels: int, window: int | None = None, lattice: int = 1) -> MeasuredReach:
    """Measure the divisor and the receptive radius of a network.

    A network is unbounded if its windows disagree even on its lattice and far from their edges, as with squeeze and
    excitation, attention, or interpolation that aligns corners. It also counts as unbounded if it reaches farther than
    the windows can show: 384 pixels for a network that takes any size, otherwise three eighths of the window.

    Args:
        network: maps (1, channels, N, N) to (1, outputs, N, N).
        channels: input channels.
        window: the only N that it takes; ``None`` for any.
        lattice: a known divisor of the network's divisor.

    Returns:
        The divisor and the radius.

    Raises:
        ModelError: the scores are not finite numbers.
    """
    edge = window or choose_edge(lattice)
    differences = _measure_differences(network, channels, edge, lattice)
    if not all(map(math.isfinite, differences.values())):
        raise ModelError(
            "network",
            got="scores that are no numbers, for noise",
            expected="a number for each class and pixel",
            fix="export it again from weights that are finite",
        )
    least = min(differences.values())
    tolerance = max(_ROUNDING_TOLERANCE, _LATTICE_RATIO * least)
    divisor = next(shift for shift, difference in differences.items() if difference < tolerance)
    radius = None
    if differences[divisor] < _ROUNDING_TOLERANCE:
        radius = measure_receptive_radius(network, channels, divisor, edge)
    if radius is None and window is None:
        far_divisor = _find_far_divisor(network, channels, 2 * edge, differences)
        if far_divisor is not None:
            return MeasuredReach(far_divisor, measure_receptive_radius(network, channels, far_divisor, 2 * edge))
    return MeasuredReach(divisor, radius)


def measure_receptive_radius(
    network: Network, channels: int, divisor: int, edge: int, dtype: torch.dtype = torch.float32
) -> int | None:
    """Measure how deep the world outside a window can change its outputs.

    Two images agree inside a square and differ outside of it. The outputs inside the square that differ lie within the
    receptive radius of its border. The square starts and stops on the pooling lattice, as the windows of a plan do;
    elsewhere the reach is larger by up to a divisor.

    Args:
        network: maps (1, channels, edge, edge) to (1, outputs, edge, edge).
        channels: input channels.
        divisor: the network's divisor.
        edge: edge of the images in pixels.
        dtype: type of their numbers.

    Returns:
        The radius in pixels, or ``None`` for an unbounded network, which changes even the middle of the square.
    """
    margin = math.ceil((edge // 8) / divisor) * divisor
    inside = (..., slice(margin, edge - margin), slice(margin, edge - margin))
    inner, deepest = edge - 2 * margin, 0
    for trial in range(_TRIALS):
        generator = torch.Generator().manual_seed(trial)
        image = torch.randn(1, channels, edge, edge, generator=generator, dtype=dtype)
        other = 4 * torch.randn(image.shape, generator=generator, dtype=dtype)
        other[inside] = image[inside]
        with torch.inference_mode():
            changed = (network(image) != network(other)).any(1)[0][inside[1:]]
        rows, cols = torch.nonzero(changed, as_tuple=True)
        if rows.numel():
            depths = torch.stack([rows, cols, inner - 1 - rows, inner - 1 - cols]).amin(0) + 1
            deepest = max(deepest, int(depths.max()))
    return None if 2 * deepest >= inner else deepest


def _measure_differences(network: Network, channels: int, edge: int, lattice: int) -> dict[int, float]:
    """Return for each shift on the lattice, in rising order, how much outputs differ after it."""
    shifts = [shift for shift in _SHIFTS if shift <= edge // 4 and shift % lattice == 0] or [lattice]
    image = _make_noise(channels, edge + max(shifts))
    return {shift: _measure_difference(network, image, edge, shift) for shift in shifts}


def _find_far_divisor(network: Network, channels: int, edge: int, narrow: dict[int, float]) -> int | None:
    """Find the divisor of a network whose reach was too long for narrower windows.

    The largest shift is tried first: it is on every lattice, so an unbounded network is recognised at once.

    Args:
        network: maps (1, channels, N, N) to (1, outputs, N, N).
        channels: input channels.
        edge: edge of the wider windows in pixels.
        narrow: shift → difference in the narrower windows.

    Returns:
        The divisor, or ``None`` for a network that is unbounded or fails at this size.
    """
    image, divisor = _make_noise(channels, edge + max(narrow)), None
    for shift in sorted(narrow, reverse=True):
        tolerance = _ROUNDING_TOLERANCE
        if narrow[shift] >= _ROUNDING_TOLERANCE:
            tolerance = min(_ROUNDING_TOLERANCE, narrow[shift] / _FADING_RATIO)
        try:
            difference = _measure_difference(network, image, edge, shift)
        except Exception:  # noqa: BLE001 - traced programs fail at other sizes with errors of any class
            return None
        if difference >= tolerance:
            break
        divisor = shift
    return divisor


def _measure_difference(network: Network, image: Tensor, edge: int, shift: int) -> float:
    """Return how much the outputs of two windows differ in the middle of both.

    The second window lies ``shift`` pixels down and right of the first. The result is the mean absolute difference,
    divided by the standard deviation of the outputs.
    """
    with torch.inference_mode():
        here = network(image[..., :edge, :edge].contiguous())
        there = network(image[..., shift : shift + edge, shift : shift + edge].contiguous())
    start, stop = 3 * edge // 8, 5 * edge // 8
    ours = here[..., start + shift : stop + shift, start + shift : stop + shift]
    theirs = there[..., start:stop, start:stop]
    spread = float(ours.std()) or 1.0
    return float((ours - theirs).abs().mean()) / spread


def _make_noise(channels: int, edge: int) -> Tensor:
    """Return noise of several scales (1, channels, edge, edge); pooling averages white noise away."""
    image = noise = torch.randn(1, channels, edge, edge, generator=torch.Generator().manual_seed(0))
    for size in (4, 16, 64):
        coarse = F.avg_pool2d(noise, size) * size
        image = image + F.interpolate(coarse, size=noise.shape[-2:], mode="bilinear")
    return image / 2
