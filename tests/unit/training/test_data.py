"""Windows and blocks of labelled images: what is read and what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seamline.model.spec.config import UNetConfig
from seamline.model.training.augmentation import Jitter, Warp
from seamline.model.training.data import (
    BLOCK_SIZE,
    IGNORE,
    Area,
    LabelledImage,
    read_window,
    sample_blocks,
    split_into_blocks,
)
from seamline.model.training.loop import train
from seamline.model.training.normalisation import Normalisation
from seamline.model.training.sampling import Survey, draw_windows
from seamline.model.training.validation import compute_context
from seamline.pipeline.geometry.window import mirror_indices
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff
from tests.support.small_recipes import make_recipe
from tests.support.striped_images import STILL, make_striped_image, make_training


class Watched:
    """An image that remembers the largest area that was read of it."""

    def __init__(self, image: LabelledImage) -> None:
        self.image, self.largest = image, 0
        self.name, self.weight, self.shape = image.name, image.weight, image.shape

    def pixels(self, area: Area) -> NDArray[np.float32]:
        return self._seen(self.image.pixels(area))

    def labels(self, area: Area) -> NDArray[np.uint8]:
        return self._seen(self.image.labels(area))

    def digest(self) -> str:
        return self.image.digest()

    def _seen(self, values: NDArray[Any]) -> NDArray[Any]:
        self.largest = max(self.largest, values.shape[-1] * values.shape[-2])
        return values


@given(st.integers(-60, 90), st.integers(-60, 90), st.integers(1, 90), st.integers(1, 90))
def test_a_window_that_overhangs_is_mirrored(top: int, left: int, height: int, width: int) -> None:
    image = make_striped_image(70, 80)
    padded = np.pad(image.image, [(0, 0), (200, 200), (200, 200)], mode="reflect")
    pixels, labels = read_window(image, top, left, height, width)
    np.testing.assert_array_equal(pixels, padded[:, 200 + top :][:, :height, 200 + left :][..., :width])
    assert labels.shape == pixels.shape[1:]


def test_training_mirrors_as_segmentation_does() -> None:
    image = make_striped_image(30, 40)
    pixels, _ = read_window(image, -17, -95, 80, 190)
    rows, cols = mirror_indices(-17, 63, 30), mirror_indices(-95, 95, 40)
    np.testing.assert_array_equal(pixels, image.image.take(rows, 1).take(cols, 2))


@given(st.integers(1, 120), st.integers(1, 120), st.integers(4, 80))
def test_blocks_partition_an_image(height: int, width: int, edge: int) -> None:
    seen = np.zeros((height, width), np.uint8)
    for rows, cols in split_into_blocks((height, width), edge):
        seen[rows, cols] += 1
        assert 0 < rows.stop - rows.start <= edge and 0 < cols.stop - cols.start <= edge
    assert (seen == 1).all()


def test_a_survey_counts_every_pixel_of_every_class() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, IGNORE], (700, 900)).astype(np.uint8)
    survey = Survey.from_image(LabelledImage("x", np.zeros((1, 700, 900), np.float32), mask), 4)
    assert survey.counts.sum(0).tolist() == [int((mask == k).sum()) for k in range(4)]
    assert survey.present.tolist() == [0, 1, 2]
    drawn = np.bincount([survey.draw_block(1, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, survey.counts[:, 1] / survey.counts[:, 1].sum(), atol=0.04)


def test_windows_from_files_are_those_from_memory(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "image.tif", make_noise(6, 200, 230), names=BAND_NAMES, nodata=0)
    write_geotiff(tmp_path / "labels.tif", np.random.default_rng(0).integers(0, 4, (1, 200, 230)).astype(np.uint8))
    source = {"kind": "labelled", "name": "a", "image": "image.tif", "labels": "labels.tif", "part": (0.1, 0, 1, 0.9)}
    found = make_recipe(sources=[source])
    (opened,), _ = found.sources[0].load(tmp_path, found.band_needs, None)
    (kept,), _ = found.load(tmp_path)
    assert isinstance(kept, LabelledImage) and not isinstance(opened, LabelledImage)
    drawn = []
    for image in (opened, kept):
        windows = draw_windows(
            [image], [Survey.from_image(image, 4)], 64, Jitter(), Warp(elastic=4), np.random.default_rng(5)
        )
        drawn.append([next(windows) for _ in range(6)])
    for (pixels, labels), (same_pixels, same_labels) in zip(*drawn, strict=True):
        np.testing.assert_array_equal(pixels, same_pixels)
        np.testing.assert_array_equal(labels, same_labels)


def test_half_of_the_windows_look_for_a_class() -> None:
    mask = np.zeros((2000, 2000), np.uint8)
    mask[1300:1304, 200:204] = 1
    image = LabelledImage("rare", np.zeros((1, 2000, 2000), np.float32), mask)
    windows = draw_windows([image], [Survey.from_image(image, 2)], 64, STILL, Warp(), np.random.default_rng(0))
    shares = [(next(windows)[1] == 1).any() for _ in range(400)]
    assert 0.17 < np.mean(shares) < 0.33  # a quarter: half of them, one of two classes


def test_no_more_is_read_than_windows_and_blocks() -> None:
    mask = np.zeros((900, 1300), np.uint8)
    mask[:, 650:] = 1
    image = Watched(LabelledImage("large", make_noise(2, *mask.shape).astype(np.float32), mask))
    config = UNetConfig(2, 2, depth=2, base_width=4)
    train(make_training(config, epochs=1, steps=2), [image], [image])
    assert 0 < image.largest <= (BLOCK_SIZE + 2 * compute_context(config)) ** 2
    assert image.largest < mask.size / 3


def test_the_bands_of_a_large_image_are_described_by_a_part_of_it() -> None:
    image = make_striped_image(1100, 1300)
    everything = Normalisation.from_images([image])
    np.testing.assert_allclose(everything.mean, image.image.mean((1, 2), dtype=np.float64), atol=1e-5)
    np.testing.assert_allclose(everything.std, image.image.std((1, 2), dtype=np.float64), atol=1e-5)
    assert len(sample_blocks(image, 64, 50)) == 50 and sample_blocks(image, 64, 50) == sample_blocks(image, 64, 50)
