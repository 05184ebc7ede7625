"""Warps and turns move pixels and labels together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from seamline.model.training.augmentation import Warp, turn_randomly
from seamline.model.training.data import IGNORE
from seamline.model.training.sampling import Survey, draw_windows
from tests.support.striped_images import STILL, make_striped_image


def test_no_warp_changes_nothing() -> None:
    image = make_striped_image(64, 64)
    pixels, labels = Warp()(image.image, image.mask, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(pixels, image.image)
    np.testing.assert_array_equal(labels, image.mask)


@pytest.mark.parametrize("warp", [Warp(elastic=6), Warp(rotation=180), Warp(zoom=0.3), Warp(5, 30, 0.2)], ids=repr)
def test_a_warp_samples_pixels_and_labels_at_the_same_places(warp: Warp) -> None:
    size, margin = 96, warp.compute_margin(96)
    image = make_striped_image(size + 2 * margin, size + 2 * margin)
    pixels, labels = warp(image.image, image.mask, size, np.random.default_rng(3))
    places = warp._draw_coordinates(size, np.random.default_rng(3)) + (size + 2 * margin - 1) / 2
    across, down = np.moveaxis(places, -1, 0)
    for found, whole in zip(pixels, image.image, strict=True):
        oracle = ndimage.map_coordinates(whole, [down, across], order=1, mode="mirror")
        inside = (np.abs(places - (size + 2 * margin - 1) / 2) < size / 2 + margin - 1).all(-1)
        assert inside.mean() > 0.8
        np.testing.assert_allclose(found[inside], oracle[inside], atol=2e-3)
    nearest = ndimage.map_coordinates(image.mask, [down, across], order=0, mode="mirror")
    assert (labels == nearest).mean() > 0.98
    assert not (labels == image.mask[margin:-margin, margin:-margin]).all()


def test_what_has_no_data_teaches_nothing_when_warped() -> None:
    image = make_striped_image(200, 200)
    image.image[:, :, 100:] = np.nan
    windows = draw_windows([image], [Survey.from_image(image, 2)], 64, STILL, Warp(elastic=8), np.random.default_rng(0))
    for _ in range(20):
        pixels, labels = next(windows)
        np.testing.assert_array_equal(labels == IGNORE, ~np.isfinite(pixels).all(0))


def test_a_window_is_turned_eight_ways() -> None:
    pixels = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    seen = {turn_randomly(pixels, pixels[0], np.random.default_rng(k))[0].tobytes() for k in range(200)}
    assert len(seen) == 8
