"""Random fields that are pure functions of a seed and a pixel's position: hashing, fractal noise, cells.

Every random number is a hash of (seed, lattice position), so a field has no beginning, and any window of it
can be drawn by itself. Noise is a sum of cubic B-splines with random weights on nested lattices; each
lattice's weights are carried to the next finer one by the splines' two-scale relation, so that all octaves
together cost little more than the finest.
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

# Standard deviation of a cubic B-spline surface whose weights are uniform in (−1/2, 1/2).
_SPLINE_STD = 0.1384


def hash_keys(*keys: int | Integers | Bits) -> Bits:
    """64 random bits for each combination of the keys (whole numbers), broadcast against each other."""
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
    """A step of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195); arrays wrap silently."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    shifted = np.empty_like(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= np.right_shift(state, np.uint64(shift), out=shifted)
        state *= np.uint64(factor)
    state ^= np.right_shift(state, np.uint64(31), out=shifted)
    return state


def uniform(bits: Bits, lane: int = 0) -> Field:
    """A number in [0, 1) out of 16 of the 64 bits; ``lane`` 0 to 3 gives four independent numbers."""
    parts: NDArray[np.uint16] = np.asarray(bits, order="C")[..., None].view(np.uint16)[..., lane]
    return parts.astype(np.float32) * np.float32(2**-16)


def smoothstep(low: float, high: float, values: Field) -> Field:
    """0 below ``low``, 1 above ``high``, a smooth rise between."""
    t: Field = (values - np.float32(low)) * np.float32(1 / (high - low))
    np.clip(t, np.float32(0), np.float32(1), out=t)
    return t * t * (np.float32(3) - np.float32(2) * t)


def steepness(field: Field) -> Field:
    """The length of the gradient of (height, width), per pixel."""
    down, right = np.gradient(field)
    length: Field = np.sqrt(down * down + right * right)
    return length


@dataclass(frozen=True)
class Lattice:
    """The pixels of a window, or (``step`` > 1) a coarser lattice under it for smooth functions."""

    area: Window
    step: int = 1

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """Row positions in pixels, (n,); multiples of the step, so that neighbouring windows share them."""
        return self._positions(self.area.row, self.area.stop_row)

    @cached_property
    def cols(self) -> NDArray[np.float64]:
        """Column positions in pixels, (m,)."""
        return self._positions(self.area.col, self.area.stop_col)

    def _positions(self, start: int, stop: int) -> NDArray[np.float64]:
        if self.step == 1:
            return np.arange(start, stop, dtype=np.float64)
        # One knot more on each side and another beyond, as cubic splines need.
        knots = np.arange(start // self.step - 1, (stop - 1) // self.step + 3, dtype=np.float64)
        return knots * self.step

    def upsample(self, values: Field) -> Field:
        """Values (n, m) on a coarse lattice to the window's pixels (height, width)."""
        rows = (np.arange(self.area.row, self.area.stop_row) - self.rows[0]) / self.step
        cols = (np.arange(self.area.col, self.area.stop_col) - self.cols[0]) / self.step
        return _evaluate_spline(values, rows, cols)


def fractal_noise(at: Lattice, spacing: float, octaves: int, *keys: int, gain: float = 0.5) -> Field:
    """Fractal noise (n, m) of mean 0 and standard deviation about 1 at the lattice's positions.

    The first octave has one knot every ``spacing`` pixels, hence features of about twice that; each further
    octave is twice as fine and ``gain`` times as strong.
    """
    finest = spacing / 2 ** (octaves - 1)
    # Every field's lattice starts elsewhere, so that the knots of two fields do not coincide.
    shift = hash_keys(*keys)
    rows, cols = (
        at.rows / finest + 2**octaves * float(uniform(shift)),
        at.cols / finest + 2**octaves * float(uniform(shift, 1)),
    )
    row, col = int(np.floor(rows[0])) - 1, int(np.floor(cols[0])) - 1
    bounds = (row, int(np.floor(rows[-1])) + 3), (col, int(np.floor(cols[-1])) + 3)
    power = (1 - gain ** (2 * octaves)) / (1 - gain**2)
    weights = _spline_weights(bounds, octaves, gain, keys) * np.float32(1 / (_SPLINE_STD * power**0.5))
    return _evaluate_spline(weights, rows - row, cols - col)


def noise_at(rows: NDArray[np.float64], cols: NDArray[np.float64], spacing: float, *keys: int) -> Field:
    """:func:`noise` at scattered positions of any shape: sixteen look-ups each, so for few positions."""
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
    """Smooth noise (n, m) of mean 0 and standard deviation about 1: :func:`fractal` with one octave."""
    return fractal_noise(at, spacing, 1, *keys)


def _spline_weights(
    bounds: tuple[tuple[int, int], tuple[int, int]], octaves: int, gain: float, keys: tuple[int, ...]
) -> Field:
    """Spline weights of all octaves on the finest lattice, knots [start, stop) of each axis."""
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
    """The same cubic spline on a lattice twice as fine (along rows); starts at the second knot."""
    fine = np.empty((2 * len(weights) - 4, weights.shape[1]), dtype=np.float32)
    fine[0::2] = (weights[:-2] + 6 * weights[1:-1] + weights[2:]) * np.float32(1 / 8)
    fine[1::2] = (weights[1:-1] + weights[2:]) * np.float32(1 / 2)
    return fine


def _evaluate_spline(weights: Field, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Field:
    """The uniform cubic B-spline surface of ``weights`` at fractional knot positions rows × cols."""
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
    """The first of the four knots that reach a position on a knot lattice, and each one's spline there."""
    knot = np.floor(positions)
    t: Field = (positions - knot).astype(np.float32)
    splines: tuple[Field, ...] = (
        (1 - t) ** 3,
        3 * t**3 - 6 * t**2 + 4,
        -3 * t**3 + 3 * t**2 + 3 * t + 1,
        t**3,
    )
    return knot.astype(np.intp) - 1, [spline * np.float32(1 / 6) for spline in splines]


@dataclass(frozen=True)
class VoronoiCells:
    """For each pixel the nearest of scattered sites (a Voronoi mosaic) and where in its cell it lies."""

    key: Bits  # (sites,) random bits of each site
    index: NDArray[np.intp]  # (height, width) the nearest site
    second: NDArray[np.intp]  # (height, width) the second nearest
    down: Field  # (height, width) pixels below the nearest site
    right: Field  # (height, width) pixels right of it
    border: Field  # (height, width) about the pixels to the border with the second nearest site's cell


def scatter_sites(rows: Field, cols: Field, spacing: float, *keys: int) -> tuple[Bits, Field, Field]:
    """One jittered site per square of ``spacing`` pixels around the positions: random bits, rows, columns."""
    low = [int(np.floor(axis.min() / spacing)) - 2 for axis in (rows, cols)]
    high = [int(np.floor(axis.max() / spacing)) + 3 for axis in (rows, cols)]
    i, j = (axis.ravel() for axis in np.mgrid[low[0] : high[0], low[1] : high[1]])
    key = hash_keys(*keys, i, j)
    row, col = ((n + 0.1 + 0.8 * uniform(key, lane)) * spacing for lane, n in enumerate((i, j)))
    return key, row.astype(np.float32), col.astype(np.float32)


def distance_bounds(rows: Field, cols: Field, site_rows: Field, site_cols: Field) -> tuple[Field, Field]:
    """For each site bounds on its distance to any of the positions: at least, at most."""
    spans = [(site - axis.min(), site - axis.max()) for site, axis in ((site_rows, rows), (site_cols, cols))]
    least = np.hypot(*(np.maximum(0, np.maximum(-low, high)) for low, high in spans))
    return least, np.hypot(*(np.maximum(abs(low), abs(high)) for low, high in spans))


def voronoi_cells(rows: Field, cols: Field, spacing: float, *keys: int) -> VoronoiCells:
    """The Voronoi cells of :func:`sites` at (maybe warped) positions ``rows``, ``cols`` (height, width)."""
    key, site_rows, site_cols = scatter_sites(rows, cols, spacing, *keys)
    closest, farthest = distance_bounds(rows, cols, site_rows, site_cols)
    # Of all others no pixel here can have a nearest or second nearest site.
    near = np.flatnonzero(closest <= np.partition(farthest, 1)[1])
    if len(near) > 256:
        raise ValueError(f"cells of {spacing} pixels are too small for {rows.shape[0]}×{rows.shape[1]} pixels")
    # Floats of one sign sort as their bits do; the lowest eight bits carry the site's place in ``near``
    # instead of a precision that nobody needs, so that minimum and maximum keep distance and site together.
    first = np.full(rows.shape, np.iinfo(np.int32).max, dtype=np.int32)
    second = first
    for place, site in enumerate(near):
        down, right = rows - site_rows[site], cols - site_cols[site]
        packed = (down * down + right * right).view(np.int32) & np.int32(~255) | np.int32(place)
        second = np.minimum(second, np.maximum(first, packed))
        first = np.minimum(first, packed)
    index, following = near[first & 255], near[second & 255]
    border = (np.sqrt(second.view(np.float32)) - np.sqrt(first.view(np.float32))) * np.float32(0.5)
    return VoronoiCells(key, index, following, rows - site_rows[index], cols - site_cols[index], border)
