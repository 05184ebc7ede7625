"""Polygons of windows, joined, are those of the whole raster."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage

from pipeline.classes import NODATA
from pipeline.grid import Window
from pipeline.polygons import Pieces, Region, pieces, regions, straightened


def blobs(height: int, width: int, smooth: float, classes: int, seed: int) -> NDArray[np.uint8]:
    """Labels in regions of about ``smooth`` pixels, with holes of nodata."""
    rng = np.random.default_rng(seed)
    fields = rng.random((classes, height, width))
    if smooth:
        fields = ndimage.gaussian_filter(fields, (0, smooth, smooth))
    labels = fields.argmax(0).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.03] = NODATA
    return labels


def windows(labels: NDArray[np.uint8], chunk: int, weights: NDArray[np.float64]) -> Iterator[Pieces]:
    height, width = labels.shape
    for row in range(0, height, chunk):
        for col in range(0, width, chunk):
            window = Window(row, col, min(chunk, height - row), min(chunk, width - col))
            rows, cols = window.slices()
            yield pieces(window, labels[rows, cols], np.arange(height)[rows] + 1.0, weights[rows, cols])


def shape_of(label: int, polygon: shapely.Polygon) -> tuple[int, bytes]:
    return label, polygon.normalize().wkb


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 33), st.sampled_from([0, 1, 3]), st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_joined_pieces_are_the_polygons_of_the_whole(
    height: int, width: int, chunk: int, smooth: float, classes: int, seed: int
) -> None:
    labels = blobs(height, width, smooth, classes, seed)
    weights = np.random.default_rng(seed).random(labels.shape)
    found = list(regions(windows(labels, chunk, weights), width))
    whole = [
        shape_of(int(value), straightened(shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:])))
        for shape, value in shapes(labels, mask=labels != NODATA, connectivity=4)
    ]
    assert sorted(shape_of(region.label, region.geometry) for region in found) == sorted(whole)
    for region in found:
        assert region.geometry.is_valid and region.geometry.area == region.pixels
    known = labels != NODATA
    np.testing.assert_allclose(sum(region.confidence for region in found), weights[known].sum())
    np.testing.assert_allclose(sum(region.area for region in found), (known.sum(1) * (np.arange(height) + 1.0)).sum())


def test_a_region_leaves_the_memory_when_it_ends() -> None:
    labels = np.zeros((400, 64), np.uint8)
    labels[:, 32:] = 1
    labels[np.arange(400) % 20 == 0] = 2  # bands across: no region is higher than 19 rows
    seen: list[Region] = []
    for region in regions(windows(labels, 16, np.ones(labels.shape)), 64):
        seen.append(region)
        if len(seen) == 5:
            break
    assert len(seen) == 5 and all(region.geometry.bounds[3] <= 48 for region in seen)
