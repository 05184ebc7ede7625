"""Random fields that are pure functions of a seed and a pixel's position: hashing and fractal noise.

Every random number is a hash of the seed and a position on a lattice. So a field has no origin, and any window of it
can be rendered on its own. Noise is a sum of cubic B-splines with random weights on nested lattices. The weights of
each lattice are carried to the next finer one by the two-scale relation of the splines, so that all octaves together
cost little more than the finest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window

Field = NDArray[np.float32]
Bits = NDArray[np.uint64]
Integers = NDArray[np.int64]

_SPLINE_STD = 0.1384
"""Standard deviation of a cubic B-spline surface whose weights are uniform in (−1/2, 1/2)."""


def hash_keys(*keys: int | Integers | Bits) -> Bits:
    """Return 64 random bits for each combination of keys (whole numbers), broadcast against each other."""
    count = next((i for i, key in enumerate(keys) if isinstance(key, np.ndarray)), len(keys))
    state = np.asarray(_hash_scalars(*cast("tuple[int, ...]", keys[:count])))
    for key in keys[count:]:
        state = _mix(state ^ np.asarray(key, dtype=None if isinstance(key, np.ndarray) else np.int64).view(np.uint64))
    return state


@lru_cache(maxsize=4096)
def _hash_scalars(*keys: int) -> np.uint64:
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = _mix(state ^ np.array([key], dtype=np.int64).view(np.uint64))
    return np.uint64(state[0])


def _mix(state: Bits) -> Bits:
    """Apply one step of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195); the arithmetic wraps silently."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    shifted = np.empty_like(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= np.right_shift(state, np.uint64(shift), out=shifted)
        state *= np.uint64(factor)
    state ^= np.right_shift(state, np.uint64(31), out=shifted)
    return state


def uniform(bits: Bits, lane: int = 0) -> Field:
    """Return numbers in [0, 1) from 16 of the 64 bits.

    Args:
        bits: Random bits of any shape.
        lane: Which 16 bits to take, 0 to 3: four independent numbers.
    """
    parts: NDArray[np.uint16] = np.asarray(bits, order="C")[..., None].view(np.uint16)[..., lane]
    return parts.astype(np.float32) * np.float32(2**-16)


def smoothstep(low: float, high: float, values: Field) -> Field:
    """Return 0 below ``low``, 1 above ``high`` and a smooth rise in between (Hermite polynomial of degree 3).

    Args:
        low: Value up to which the result is 0.
        high: Value from which on the result is 1.
        values: Field of any shape.

    Returns:
        Field of the shape of ``values``.
    """
    t: Field = (values - np.float32(low)) * np.float32(1 / (high - low))
    np.clip(t, np.float32(0), np.float32(1), out=t)
    return t * t * (np.float32(3) - np.float32(2) * t)


def steepness(field: Field) -> Field:
    """Return the length of the gradient of a field (height, width), per pixel."""
    down, right = np.gradient(field)
    length: Field = np.sqrt(down * down + right * right)
    return length


@dataclass(frozen=True)
class Lattice:
    """The pixels of a window or, with a ``step`` above 1, a coarser lattice under them for smooth functions.

    ``rows`` (n,) and ``cols`` (m,) are positions in pixels. With step 1 they are the pixels themselves.
    """

    area: Window
    step: int = 1

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """Row positions in pixels, shape (n,): multiples of the step, so that neighbouring windows share them."""
        return self._positions(self.area.row, self.area.stop_row)

    @cached_property
    def cols(self) -> NDArray[np.float64]:
        """Column positions in pixels, shape (m,)."""
        return self._positions(self.area.col, self.area.stop_col)

    def _positions(self, start: int, stop: int) -> NDArray[np.float64]:
        if self.step == 1:
            return np.arange(start, stop, dtype=np.float64)
        # Cubic splines need one more knot before and two more knots behind the pixels.
        knots = np.arange(start // self.step - 1, (stop - 1) // self.step + 3, dtype=np.float64)
        return knots * self.step

    def upsample(self, values: Field) -> Field:
        """Interpolate values (n, m) of the lattice to the pixels of the window (height, width)."""
        rows = (np.arange(self.area.row, self.area.stop_row) - self.rows[0]) / self.step
        cols = (np.arange(self.area.col, self.area.stop_col) - self.cols[0]) / self.step
        return _evaluate_spline(values, rows, cols)


def fractal_noise(at: Lattice, spacing: float, octaves: int, *keys: int, gain: float = 0.5) -> Field:
    """Return fractal noise of mean 0 and standard deviation about 1 at the positions of a lattice.

    Args:
        at: Lattice with n × m positions.
        spacing: Pixels between the knots of the first octave; its features have about twice that size.
        octaves: Number of octaves; each has half the spacing of the one before.
        *keys: Seed and further numbers that tell the field from others.
        gain: Strength of each octave relative to the one before.

    Returns:
        Noise, shape (n, m).
    """
    finest = spacing / 2 ** (octaves - 1)
    # The lattice of every field starts elsewhere, so that the knots of two fields do not coincide.
    shift = hash_keys(*keys)
    rows = at.rows / finest + 2**octaves * float(uniform(shift))
    cols = at.cols / finest + 2**octaves * float(uniform(shift, 1))
    row, col = int(np.floor(rows[0])) - 1, int(np.floor(cols[0])) - 1
    bounds = (row, int(np.floor(rows[-1])) + 3), (col, int(np.floor(cols[-1])) + 3)
    power = (1 - gain ** (2 * octaves)) / (1 - gain**2)
    weights = _spline_weights(bounds, octaves, gain, keys) * np.float32(1 / (_SPLINE_STD * power**0.5))
    return _evaluate_spline(weights, rows - row, cols - col)


def noise_at(rows: NDArray[np.float64], cols: NDArray[np.float64], spacing: float, *keys: int) -> Field:
    """Return ``noise`` at scattered positions; sixteen look-ups each, so only meant for few positions.

    Args:
        rows: Row positions in pixels, any shape.
        cols: Column positions in pixels, the same shape.
        spacing: Pixels between the knots.
        *keys: Seed and further numbers that tell the field from others.

    Returns:
        Noise of the shape of ``rows``.
    """
    (row, down), (col, right) = _spline_taps(rows / spacing), _spline_taps(cols / spacing)
    top, left = int(row.min()), int(col.min())
    knot_rows, knot_cols = np.arange(top, row.max() + 4), np.arange(left, col.max() + 4)
    weights = uniform(hash_keys(*keys, knot_rows[:, None], knot_cols)) - np.float32(0.5)
    first = (row - top) * len(knot_cols) + (col - left)
    total = np.zeros(rows.shape, dtype=np.float32)
    for i, vertical in enumerate(down):
        across = sum(weights.take(first + (i * len(knot_cols) + j)) * tap for j, tap in enumerate(right))
        total += across * vertical
    return total * np.float32(1 / _SPLINE_STD)


def noise(at: Lattice, spacing: float, *keys: int) -> Field:
    """Return smooth noise of mean 0 and standard deviation about 1: ``fractal_noise`` with one octave.

    Args:
        at: Lattice with n × m positions.
        spacing: Pixels between the knots.
        *keys: Seed and further numbers that tell the field from others.

    Returns:
        Noise, shape (n, m).
    """
    return fractal_noise(at, spacing, 1, *keys)


def _spline_weights(
    bounds: tuple[tuple[int, int], tuple[int, int]], octaves: int, gain: float, keys: tuple[int, ...]
) -> Field:
    """Return the spline weights of all octaves on the finest lattice, for the knots [start, stop) of each axis."""
    rows, cols = (np.arange(start, stop) for start, stop in bounds)
    own = uniform(hash_keys(*keys, octaves, rows[:, None], cols)) - np.float32(0.5)
    if octaves == 1:
        return own
    (top, bottom), (left, right) = [(start // 2 - 1, (stop - 1) // 2 + 2) for start, stop in bounds]
    coarse = _spline_weights(((top, bottom), (left, right)), octaves - 1, gain, keys)
    fine = _refine(_refine(coarse).T).T
    first_row, first_col = bounds[0][0] - 2 * (top + 1), bounds[1][0] - 2 * (left + 1)
    return fine[first_row : first_row + len(rows), first_col : first_col + len(cols)] + own * np.float32(
        gain ** (octaves - 1)
    )


def _refine(weights: Field) -> Field:
    """Return the weights of the same cubic spline on a lattice twice as fine along rows, from the second knot on."""
    fine = np.empty((2 * len(weights) - 4, weights.shape[1]), dtype=np.float32)
    fine[0::2] = (weights[:-2] + 6 * weights[1:-1] + weights[2:]) * np.float32(1 / 8)
    fine[1::2] = (weights[1:-1] + weights[2:]) * np.float32(1 / 2)
    return fine


def _evaluate_spline(weights: Field, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Field:
    """Return the uniform cubic B-spline surface of ``weights`` at fractional knot positions rows × cols."""
    across = _evaluate_spline_rows(np.ascontiguousarray(weights.T), cols)
    return _evaluate_spline_rows(np.ascontiguousarray(across.T), rows)


def _evaluate_spline_rows(weights: Field, positions: NDArray[np.float64]) -> Field:
    first, taps = _spline_taps(positions)
    total = weights[first]
    total *= taps[0][:, None]
    part = np.empty_like(total)
    for offset in (1, 2, 3):
        np.take(weights, first + offset, axis=0, out=part, mode="clip")  # the default mode copies once more
        part *= taps[offset][:, None]
        total += part
    return total


def _spline_taps(positions: NDArray[np.float64]) -> tuple[NDArray[np.intp], list[Field]]:
    """Return the first of the four knots that reach each position, and the values of the four splines there."""
    knot = np.floor(positions)
    t: Field = (positions - knot).astype(np.float32)
    splines: tuple[Field, ...] = (
        (1 - t) ** 3,
        3 * t**3 - 6 * t**2 + 4,
        -3 * t**3 + 3 * t**2 + 3 * t + 1,
        t**3,
    )
    return knot.astype(np.intp) - 1, [spline * np.float32(1 / 6) for spline in splines]
