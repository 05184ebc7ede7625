"""Polygons that overlap: an area is what any part covers, a hole what any hole covers, however they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from seamline.pipeline.analysis.zone_file import read_zones
from seamline.pipeline.geometry.area_mask import repair_polygons
from seamline.pipeline.scenes.aoi import read_aoi, read_area

PENTAGRAM = [(0, 3), (1.8, -2.4), (-2.9, 0.9), (2.9, 0.9), (-1.8, -2.4), (0, 3)]
CENTRES = np.stack(np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5), axis=-1).reshape(-1, 2)


@st.composite
def boxes(draw: st.DrawFn, largest: int) -> list[shapely.Polygon]:
    corner, size = st.integers(2, 17 - largest), st.integers(1, largest)
    found = draw(st.lists(st.tuples(corner, corner, size, size), min_size=1, max_size=4))
    return [shapely.box(x, y, x + width, y + height) for x, y, width, height in found]


def _are_in_any(parts: list[shapely.Polygon]) -> np.ndarray:
    return np.any([shapely.contains_xy(part, *CENTRES.T) for part in parts], axis=0)


@given(boxes(8))
def test_parts_that_overlap_are_united(parts: list[shapely.Polygon]) -> None:
    repaired = repair_polygons(shapely.MultiPolygon(parts))
    assert repaired.is_valid
    np.testing.assert_array_equal(shapely.contains_xy(repaired, *CENTRES.T), _are_in_any(parts))


@given(boxes(6))
def test_holes_that_overlap_stay_holes(holes: list[shapely.Polygon]) -> None:
    repaired = repair_polygons(shapely.Polygon(shapely.box(0, 0, 20, 20).exterior, [hole.exterior for hole in holes]))
    assert repaired.is_valid
    np.testing.assert_array_equal(shapely.contains_xy(repaired, *CENTRES.T), ~_are_in_any(holes))


@pytest.mark.parametrize(
    ("shape", "covered"),
    [
        (shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3)]), 7),
        (shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2), (0, 0)]), 2),
        (shapely.Polygon(PENTAGRAM), 10.2),
    ],
)
def test_one_file_is_one_area_as_zone_and_as_area_of_interest(
    tmp_path: Path, shape: shapely.Geometry, covered: float
) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(shapely.to_geojson(shape))
    grid = GeoBox.from_bbox((-5, -5, 5, 5), "EPSG:4326", resolution=0.1)
    (zone,) = read_zones(path).geometries
    areas = [zone.area, shapely.from_wkt(read_aoi(path, grid)).area, read_area(path, CRS("EPSG:4326")).area]
    assert areas == pytest.approx([covered] * 3, rel=1e-3)
