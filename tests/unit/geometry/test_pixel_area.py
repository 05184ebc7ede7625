"""Areas of pixels beside polygons on the ellipsoid."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.geometry.pixel_area import (
    PixelAreas,
    _find_nearest,
    iter_row_bands,
    measure_pixel_area,
    measure_pixel_areas,
)
from seamline.pipeline.geometry.window import Window


def turned(degrees: float) -> Affine:
    """Pixels of a hundredth of a degree."""
    return Affine.translation(12, 60) @ Affine.rotation(degrees) @ Affine.scale(0.01, -0.01)


GRIDS = {
    "geographic": GeoBox((2000, 900), Affine(0.01, 0, 12, 0, -0.01, 75), "EPSG:4326"),
    "turned by 30°": GeoBox((1000, 1500), turned(30), "EPSG:4326"),
    "turned by 90°": GeoBox((1000, 1500), turned(90), "EPSG:4326"),
    "UTM": GeoBox((1100, 1300), Affine(500, 0, 200_000, 0, -500, 6_000_000), "EPSG:32633"),
    "around the North Pole": GeoBox((1200, 1200), Affine(5000, 0, -3e6, 0, -5000, 3e6), "EPSG:3995"),
    "around the South Pole": GeoBox((900, 1100), Affine(3500, 2000, -3e6, 1500, -3000, 2e6), "EPSG:3031"),
    "Web Mercator": GeoBox((1900, 800), Affine(10000, 0, -2e6, 0, -10000, 9.5e6), "EPSG:3857"),
    "equal areas": GeoBox((1300, 900), Affine(1000, 0, -1e6, 0, -1000, 6e6), "EPSG:6933"),
    "feet": GeoBox((70, 40), Affine(3000, 0, 700_000, 0, -3000, 3_000_000), "EPSG:2249"),
    "grads": GeoBox((400, 300), Affine(1000, 0, 600_000, 0, -1000, 2_200_000), "EPSG:27572"),
    "across the antimeridian": GeoBox((500, 900), Affine(0.02, 0, 172, 0, -0.02, -10), "EPSG:4326"),
    "two pixels": GeoBox((1, 2), Affine(0.02, 0, 12, 0, -0.02, 61), "EPSG:4326"),
}


def of_a_polygon(grid: GeoBox, row: int, col: int) -> float:
    crs = grid.crs.proj
    corners = [grid.transform @ (col + right, row + down) for right, down in ((0, 0), (1, 0), (1, 1), (0, 1))]
    to_radians = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    unit = crs.geodetic_crs.axis_info[0].unit_conversion_factor
    lon, lat = np.degrees(np.asarray(to_radians.transform(*np.transpose(corners))) * unit)
    return abs(crs.get_geod().geometry_area_perimeter(shapely.Polygon(np.column_stack([lon, lat])))[0])


@pytest.mark.parametrize("name", GRIDS)
def test_areas_of_pixels_are_those_of_polygons(name: str) -> None:
    grid = GRIDS[name]
    areas = measure_pixel_areas(grid)
    assert areas is not None
    height, width = grid.shape
    rng = np.random.default_rng(0)
    places = [(0, 0), (height - 1, 0), (0, width - 1), (height - 1, width - 1), (height // 2, width // 2)]
    for row, col in [*places, *zip(rng.integers(height, size=60), rng.integers(width, size=60), strict=True)]:
        expected = of_a_polygon(grid, int(row), int(col))
        assert areas.for_window(Window(row, col, 1, 1))[:][0, 0] == pytest.approx(expected, rel=1e-4)
        assert measure_pixel_area(grid, row, col) == pytest.approx(expected, rel=2e-6)


def test_pixels_far_below_a_metre_have_areas() -> None:
    """Where the last digits of degrees are coarse beside a pixel."""
    areas = measure_pixel_areas(GeoBox((500, 400), Affine(0.01, 0, 1e6, 0, -0.01, 2e6), "EPSG:3995"))
    coarse = measure_pixel_areas(GeoBox((5, 4), Affine(1, 0, 1e6, 0, -1, 2e6), "EPSG:3995"))
    assert areas is not None and coarse is not None
    np.testing.assert_allclose(areas[:].sum(), coarse[:].sum(), rtol=1e-4)


def test_there_is_no_area_without_a_place() -> None:
    grid = GeoBox((20, 30), Affine.identity(), None)
    assert measure_pixel_areas(grid) is None and measure_pixel_area(grid, 3, 4) is None


def test_beyond_the_edge_of_the_earth_areas_go_on() -> None:
    """A picture of the whole disc; its pixels in the middle are 3 km wide."""
    disc = "+proj=geos +h=35785831 +lon_0=0 +sweep=y"
    areas = measure_pixel_areas(GeoBox((3666, 3666), Affine(3000, 0, -5.5e6, 0, -3000, 5.5e6), disc))
    assert areas is not None
    assert np.isfinite(areas[:8]).all() and areas[1833:1834][0, 1833] == pytest.approx(9e6, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(GRIDS)), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_areas_do_not_depend_on_windows_and_sums_are_exact(name: str, height: int, width: int, seed: int) -> None:
    grid = GRIDS[name]
    rng = np.random.default_rng(seed)
    whole = GeoBox((min(height, grid.shape[0]), min(width, grid.shape[1])), grid.transform, grid.crs)
    areas = measure_pixel_areas(whole)
    assert areas is not None
    everything = areas[:]
    row, col = (int(rng.integers(size)) for size in whole.shape)
    window = Window(
        row, col, *(int(rng.integers(1, size + 1)) for size in (whole.shape[0] - row, whole.shape[1] - col))
    )
    np.testing.assert_array_equal(areas.for_window(window)[:], everything[window.to_slices()])
    flat = everything.ravel()
    assert (
        flat.sum()
        == np.cumsum(rng.permutation(flat))[-1]
        == sum(everything[rows].sum() for rows in iter_row_bands(*whole.shape))
    )


def test_exact_sums_of_a_large_scene() -> None:
    """Rounding changes little, and sums of many in any order are the same."""
    areas = PixelAreas(np.array([[90.0, 95.3], [99.7, 100.1]]), (50_000, 60_000), Window(0, 0, 50_000, 60_000))
    some = areas.for_window(Window(20_000, 30_000, 300, 4000))[:]
    share = (np.arange(20_000, 20_300) / 49_999)[:, None], np.arange(30_000, 34_000) / 59_999
    plain = (90 + 5.3 * share[1]) * (1 - share[0]) + (99.7 + 0.4 * share[1]) * share[0]
    np.testing.assert_allclose(some, plain, rtol=1e-6)
    assert (some % areas.unit == 0).all() and areas.unit * 2**53 > 3e9 * 100
    flat = some.ravel()
    assert np.cumsum(flat)[-1] == np.cumsum(flat[::-1])[-1] == flat.sum()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_places_without_an_area_take_that_of_the_nearest(share: float) -> None:
    known = np.random.default_rng(3).random((23, 31)) < share
    nodes, unknown = np.argwhere(known), np.argwhere(~known)
    distances = ((unknown[:, None] - nodes[None]) ** 2).sum(-1)
    assert np.array_equal(_find_nearest(known), distances.argmin(1))  # of several the first
