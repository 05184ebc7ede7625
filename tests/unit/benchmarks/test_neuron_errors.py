"""Errors of the ISBI 2012 challenge: by brute force, and where it is known what they must be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from benchmarks.neuron_errors import (
    NEIGHBOURS,
    compute_pixel_error,
    compute_rand_error,
    compute_warping_error,
    compute_wrong_share,
    find_mismatches,
    list_simple_points,
)

ERRORS = (compute_warping_error, compute_rand_error, compute_pixel_error, compute_wrong_share)
EDGE = 48


def cells(at: int = 24) -> np.ndarray:
    """Four neurites, with membranes of two pixels between them, one of which runs up and down at a column."""
    inside = np.ones((EDGE, EDGE), bool)
    inside[:, at : at + 2] = inside[20:22] = False
    return inside


def probability(inside: np.ndarray) -> np.ndarray:
    return np.where(inside, 0.97, 0.03)


@pytest.mark.parametrize("error", ERRORS)
def test_a_perfect_prediction_has_no_error(error: Callable[..., float]) -> None:
    assert error([cells(), cells(7)], [probability(cells()), probability(cells(7))]) == 0


def test_a_shifted_membrane_is_wrong_by_pixels_alone() -> None:
    shifted = [cells()], [probability(cells(25))]
    assert compute_warping_error(*shifted) == 0
    assert compute_wrong_share(*shifted) == pytest.approx(2 * 46 / EDGE**2)  # a column in, one out, but for two rows
    assert 0 < compute_pixel_error(*shifted) < compute_wrong_share(*shifted)
    assert compute_rand_error(*shifted) > 0
    assert compute_warping_error([cells()], [probability(cells(29))]) > 0  # so far that they do not touch


def test_a_gap_that_joins_two_neurites_is_wrong_in_topology() -> None:
    broken = cells()
    broken[5, 24:26] = True
    found = [cells()], [probability(broken)]
    # Of two pixels, one is all that keeps them apart.
    assert compute_warping_error(*found) == pytest.approx(1 / EDGE**2)
    first, second = 20 * 24, 20 * 22
    rest = (26 * 24, 26 * 22)
    true = sum(n * (n - 1) // 2 for n in (first, second, *rest))
    assert compute_rand_error(*found) == pytest.approx(1 - 2 * true / (2 * true + first * second))


def test_a_membrane_too_many_and_a_hole_are_wrong_in_topology() -> None:
    parted, holed = cells(), cells()
    parted[10, :24] = False
    holed[8:11, 8:11] = False
    assert find_mismatches(cells(), probability(parted), 0.5).sum() == 1
    assert find_mismatches(cells(), probability(holed), 0.5).sum() == 9  # none of them touches a membrane
    assert compute_warping_error([cells()], [probability(parted)]) > 0
    assert compute_rand_error([cells()], [probability(parted)]) > 0


def test_the_best_threshold_counts_and_it_is_one_for_all_slices() -> None:
    truth, sure = cells(), probability(cells())
    faint = sure.copy()
    faint[5, 24:26] = 0.55  # a gap at 0.5, none at 0.6
    for error in ERRORS:
        assert error([truth], [faint]) == 0
        assert error([truth, truth], [faint, np.where(truth, 0.58, 0.03)]) > 0


def test_simple_points_change_no_number_of_components() -> None:
    """Held against counting on the whole neighbourhood, with the pixel in and out, in a world that goes on around."""
    for code, simple in enumerate(list_simple_points()):
        around = np.zeros((3, 3), bool)
        for bit, (row, col) in enumerate(NEIGHBOURS):
            around[1 + row, 1 + col] = code >> bit & 1
        with_it, without = around.copy(), around.copy()
        with_it[1, 1] = True
        numbers = [
            (ndimage.label(inside)[1], ndimage.label(~inside, np.ones((3, 3)))[1]) for inside in (with_it, without)
        ]
        assert simple == (numbers[0] == numbers[1]), code


@given(st.integers(0, 2**32 - 1))
def test_warping_keeps_the_topology_and_never_makes_it_worse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.standard_normal((20, 24)), 1.5) > 0
    predicted = ndimage.gaussian_filter(rng.standard_normal((20, 24)), 1.2) + 0.5
    wrong = find_mismatches(truth, predicted, 0.5)
    warped = (predicted > 0.5) ^ wrong
    assert not (wrong & (truth == (predicted > 0.5))).any()
    for image, other, structure in ((truth, warped, None), (~truth, ~warped, np.ones((3, 3)))):
        padded = [np.pad(part, 1, constant_values=structure is not None) for part in (image, other)]
        assert ndimage.label(padded[0], structure)[1] == ndimage.label(padded[1], structure)[1]


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.9))
def test_rand_error_counts_pairs(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    truth, inside = rng.random((2, 7, 8)) < density
    predicted = probability(inside)
    true_labels, labels = ndimage.label(truth)[0], ndimage.label(inside)[0]
    true = found = both = 0
    for one, other in combinations(np.flatnonzero(truth), 2):
        a = true_labels.flat[one] == true_labels.flat[other]
        b = labels.flat[one] == labels.flat[other] != 0
        true, found, both = true + a, found + b, both + (a and b)
    everything = truth.sum() * (truth.sum() - 1) // 2
    scores = [2 * both / (true + found) if true + found else 1.0]
    scores.append(2 * true / (true + everything) if true + everything else 1.0)  # at threshold 0 all is one neurite
    scores.append(0.0 if true else 1.0)  # at threshold 1 nothing is one
    assert compute_rand_error([truth], [predicted]) == pytest.approx(1 - max(scores))
