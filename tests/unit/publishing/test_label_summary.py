"""What publishing knows of the labels does not depend on the areas that they are taken from."""

from __future__ import annotations

import random

import numpy as np
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.publishing.label_summary import LabelSummary, join_thinned_labels, summarize_labels
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.footprint import join_hulls

CLASSES = [LabelClass(value, f"class {value}", (9, 9, 9)) for value in (0, 1, 7)]


def summarize_areas(labels: np.ndarray, areas: object, step: int, edge: int) -> list[LabelSummary]:
    height, width = labels.shape
    windows = [
        Window(row, col, min(edge, height - row), min(edge, width - col))
        for row in range(0, height, edge)
        for col in range(0, width, edge)
    ]
    summaries = [summarize_labels(areas, step, window, labels[window.to_slices()]) for window in windows]
    return random.Random(edge).sample(summaries, len(summaries))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    step=st.integers(1, 40),
    edge=st.integers(1, 100),
    share=st.floats(0, 1),
    crs=st.sampled_from(["EPSG:32633", "EPSG:4326", None]),
)
def test_summaries_of_areas_are_those_of_the_whole(
    seed: int, shape: tuple[int, int], step: int, edge: int, share: float, crs: str | None
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < share, rng.choice([0, 1, 7], shape), NODATA).astype(np.uint8)
    transform = Affine(0.3, 0, 11, 0, -0.3, 70) if crs == "EPSG:4326" else Affine(9000, 0, 2e5, 0, -9000, 6e6)
    areas = measure_pixel_areas(GeoBox(shape, transform, crs))
    summaries = summarize_areas(labels, areas, step, edge)
    table = compute_class_areas([summary.counts for summary in summaries], CLASSES)
    assert [row.pixels for row in table] == [(labels == value).sum() for value in (0, 1, 7)]
    if areas is None:
        assert {row.area_m2 for row in table} == {None}
    else:
        each = np.asarray(areas[:])
        # Equal to the last bit, in whatever order they are summed.
        assert [row.area_m2 for row in table] == [each[labels == value].sum() for value in (0, 1, 7)]
    np.testing.assert_array_equal(join_thinned_labels(summaries), labels[::step, ::step])
    hull = join_hulls([summary.corners for summary in summaries])
    row, col = np.nonzero(labels != NODATA)
    if not row.size:
        assert hull is None
        return
    squares = shapely.box(col, row, col + 1, row + 1)
    whole = join_hulls([summarize_labels(None, step, Window(0, 0, *shape), labels).corners])
    assert hull is not None and whole is not None
    assert hull.equals(shapely.union_all(squares).convex_hull)
    assert list(hull.exterior.coords) == list(whole.exterior.coords)
