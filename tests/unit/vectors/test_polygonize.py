"""Polygons of windows, joined, are those of the whole raster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.vectors.polygonize import Pieces, trace_pieces
from seamline.pipeline.vectors.regions import Region, join_regions, remove_collinear_points
from seamline.pipeline.vectors.sieve import resolve_shared_regions, sieve_window, summarize_window
from seamline.pipeline.vectors.simplify import Simplification
from tests.support.small_rasters import make_blobs


def cut(labels: NDArray[np.uint8], chunk: int) -> list[Window]:
    height, width = labels.shape
    return [
        Window(row, col, min(chunk, height - row), min(chunk, width - col))
        for row in range(0, height, chunk)
        for col in range(0, width, chunk)
    ]


def areas_of(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of pixels that grow to the south and the east."""
    return np.add.outer(np.arange(len(labels)) + 1.0, np.arange(labels.shape[1]))


def windows(
    labels: NDArray[np.uint8], chunk: int, weights: NDArray[np.float64], tolerance: float = 0
) -> Iterator[Pieces]:
    padded = np.pad(labels, 1, constant_values=NODATA)
    for window in cut(labels, chunk):
        rows, cols = window.to_slices()
        around = padded[rows.start : rows.stop + 2, cols.start : cols.stop + 2]
        simplification = Simplification(tolerance, around) if tolerance else None
        areas = areas_of(labels)[rows, cols]
        yield trace_pieces(window, labels[rows, cols], areas, weights[rows, cols], simplification)


def shape_of(label: int, polygon: shapely.Polygon) -> tuple[int, bytes]:
    return label, polygon.normalize().wkb


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 33),
    st.sampled_from([0, 1, 3]),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_joined_pieces_are_the_polygons_of_the_whole(
    height: int, width: int, chunk: int, smooth: float, classes: int, seed: int
) -> None:
    labels = make_blobs(height, width, smooth, classes, seed)
    weights = np.random.default_rng(seed).random(labels.shape)
    found = list(join_regions(windows(labels, chunk, weights), width))
    whole = [
        shape_of(
            int(value), remove_collinear_points(shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]))
        )
        for shape, value in shapes(labels, mask=labels != NODATA, connectivity=4)
    ]
    assert sorted(shape_of(region.label, region.geometry) for region in found) == sorted(whole)
    for region in found:
        assert region.geometry.is_valid and region.geometry.area == region.pixels
    known = labels != NODATA
    np.testing.assert_allclose(sum(region.confidence for region in found), weights[known].sum())
    np.testing.assert_allclose(sum(region.area for region in found), areas_of(labels)[known].sum())


def test_a_region_leaves_the_memory_when_it_ends() -> None:
    labels = np.zeros((400, 64), np.uint8)
    labels[:, 32:] = 1
    labels[np.arange(400) % 20 == 0] = 2  # bands across: no region is higher than 19 rows
    seen: list[Region] = []
    for region in join_regions(windows(labels, 16, np.ones(labels.shape)), 64):
        seen.append(region)
        if len(seen) == 5:
            break
    assert len(seen) == 5 and all(region.geometry.bounds[3] <= 48 for region in seen)


def test_pieces_come_back_from_their_file(tmp_path: Path) -> None:
    labels = make_blobs(40, 50, 2, 3, 7)
    for part in [*windows(labels, 20, np.ones(labels.shape)), *windows(np.full((4, 4), NODATA, np.uint8), 4, labels)]:
        part.save(tmp_path / "part.npz")
        again = Pieces.load(tmp_path / "part.npz")
        assert again.window == part.window and (shapely.equals_exact(again.geometries, part.geometries)).all()
        for name in ("labels", "pixels", "area", "confidence", "inner"):
            np.testing.assert_array_equal(getattr(again, name), getattr(part, name))
        for side, numbers in part.edges.items():
            np.testing.assert_array_equal(again.edges[side], numbers)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(3, 33),
    st.sampled_from([0, 1, 3]),
    st.integers(1, 5),
    st.floats(0.3, 6),
    st.integers(0, 2**32 - 1),
)
def test_simplified_regions_leave_no_gaps(
    height: int, width: int, chunk: int, smooth: float, classes: int, tolerance: float, seed: int
) -> None:
    labels = make_blobs(height, width, smooth, classes, seed)
    weights = np.ones(labels.shape)
    exact = join_regions(windows(labels, chunk, weights), width)
    found = list(join_regions(windows(labels, chunk, weights, tolerance), width, simplified=True))
    assert sorted((r.label, r.pixels, r.area) for r in found) == sorted((r.label, r.pixels, r.area) for r in exact)
    # With a class in place of nodata everything is covered, once; the others are the same.
    filled = np.where(labels == NODATA, 9, labels).astype(np.uint8)
    everything = list(join_regions(windows(filled, chunk, weights, tolerance), width, simplified=True))
    polygons = np.array([region.geometry for region in everything])
    assert shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == labels.size
    assert shapely.coverage_union_all(polygons).equals(shapely.box(0, 0, width, height))
    known = [shape_of(region.label, region.geometry) for region in everything if region.label != 9]
    assert sorted(known) == sorted(shape_of(region.label, region.geometry) for region in found)


def plainly_sieved(labels: NDArray[np.uint8], area: NDArray[np.float64], minimum: float) -> NDArray[np.uint8]:
    """The rule of ``seamline.pipeline.vectors.sieve`` on the whole raster, pixel by pixel."""
    while True:
        numbers, count, of = np.zeros(labels.shape, int), 0, {}
        for label in np.unique(labels[labels != NODATA]).tolist():
            found, more = ndimage.label(labels == label)
            numbers[found > 0] = found[found > 0] + count
            of |= {count + k + 1: label for k in range(more)}
            count += more
        sizes = {number: float((area * (numbers == number)).sum()) for number in of}
        borders: dict[int, Counter[int]] = {number: Counter() for number in of}
        for (row, col), number in np.ndenumerate(numbers):
            for place in ((row + 1, col), (row, col + 1)):
                if place[0] < len(labels) and place[1] < labels.shape[1]:
                    other = int(numbers[place])
                    if number and other and number != other:
                        borders[int(number)][other] += 1
                        borders[other][int(number)] += 1
        after = labels.copy()
        for number in of:
            if sizes[number] < minimum:
                large = [
                    (-n, -sizes[other], of[other]) for other, n in borders[number].items() if sizes[other] >= minimum
                ]
                if large:
                    after[numbers == number] = min(large)[2]
        if (after == labels).all():
            return labels
        labels = after


def sieved_by_windows(
    labels: NDArray[np.uint8], area: NDArray[np.float64], minimum: float, chunk: int
) -> NDArray[np.uint8]:
    while True:
        parts = [(window.to_slices(), window) for window in cut(labels, chunk)]
        notes = [summarize_window(window, labels[at], area[at], minimum) for at, window in parts]
        verdicts, small = resolve_shared_regions(notes, labels.shape[1], minimum)
        after = labels.copy()
        for (at, _), verdict in zip(parts, verdicts, strict=True):
            after[at] = sieve_window(labels[at], area[at], verdict, minimum)
        if (after == labels).all():
            return labels
        assert small
        labels = after


# A pixel in the middle of a window touches a region twice, whose parts come together only outside of the window.
@example(height=24, width=25, chunk=3, smooth=0.7, classes=3, minimum=5, seed=25)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 26),
    st.integers(1, 26),
    st.integers(1, 17),
    st.sampled_from([0, 0.7, 1.5]),
    st.integers(1, 5),
    st.sampled_from([1, 2, 5, 12, 40]),
    st.integers(0, 2**32 - 1),
)
def test_the_sieve_is_that_of_the_whole_raster(
    height: int, width: int, chunk: int, smooth: float, classes: int, minimum: int, seed: int
) -> None:
    labels = make_blobs(height, width, smooth, classes, seed)
    area = 1 + np.arange(height)[:, None] // 8 / 4 + np.arange(width) // 5 / 2
    expected = plainly_sieved(labels, area, minimum)
    np.testing.assert_array_equal(sieved_by_windows(labels, area, minimum, chunk), expected)
    np.testing.assert_array_equal(expected == NODATA, labels == NODATA)
