"""Covered shares of pixels are those that shapely finds by cutting a zone with every pixel."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox

from seamline.pipeline.analysis.coverage import BandCoverage, ZoneEdges
from seamline.pipeline.analysis.zone_areas import sum_zone_areas
from seamline.pipeline.analysis.zone_place import ZonePlacer
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.area_mask import list_polygons
from seamline.pipeline.geometry.pixel_area import PixelAreas, measure_pixel_areas
from seamline.pipeline.geometry.window import Window

HEIGHT, WIDTH = 9, 11
GRID = GeoBox((HEIGHT, WIDTH), Affine(1, 0, 0, 0, -1, 0), "EPSG:32632")  # pixels are coordinates, exactly
PIXELS = shapely.box(
    *(np.indices((HEIGHT, WIDTH))[::-1].reshape(2, -1)), *(1 + np.indices((HEIGHT, WIDTH))[::-1].reshape(2, -1))
)
NUMBERS = st.one_of(st.integers(-4, 14).map(float), st.integers(-4 * 64, 14 * 64).map(lambda part: part / 64))
RINGS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=9)


@st.composite
def draw_zones(draw: st.DrawFn) -> shapely.MultiPolygon:
    """Polygons with holes and several parts, in pixels (column, row); edges lie on borders of pixels, too.

    Each ring runs either way round, which GEOS calls valid.
    """
    shapes = [shapely.make_valid(shapely.Polygon(ring)) for ring in draw(st.lists(RINGS, min_size=1, max_size=3))]
    union = shapely.union_all(shapes)
    hole = shapely.make_valid(shapely.Polygon(draw(RINGS)))
    # Of slivers that rounding leaves, GEOS cuts whole pixels; so corners lie on a lattice.
    parts = list_polygons(shapely.set_precision(shapely.difference(union, hole), 1 / 64))
    ways = iter(draw(st.lists(st.booleans(), min_size=sum(1 + len(part.interiors) for part in parts), max_size=99)))

    def turn(ring: shapely.LinearRing) -> shapely.LinearRing:
        return ring.reverse() if next(ways) else ring

    return shapely.MultiPolygon(
        [shapely.Polygon(turn(part.exterior), [turn(ring) for ring in part.interiors]) for part in parts]
    )


def place(zone: shapely.MultiPolygon, grid: GeoBox = GRID) -> ZoneEdges | None:
    """Edges of a zone in pixels, by way of the grid's CRS."""
    on_earth = shapely.transform(zone, lambda points: np.stack(grid.pix2wld(*points.T), axis=-1))
    return ZonePlacer(grid, grid.crs).place(on_earth, "zone")


def read_coverage(edges: ZoneEdges | None, rows: int, cols: int) -> np.ndarray:
    """Covered shares of all pixels, read in blocks."""
    found = np.zeros((HEIGHT, WIDTH))
    for top in range(0, HEIGHT if edges else 0, rows):
        band = BandCoverage(edges, (top, min(HEIGHT, top + rows)), WIDTH)
        for left in range(0, WIDTH, cols):
            stop = min(WIDTH, left + cols)
            if (shares := band.read(left, stop)) is not None:
                first, last = max(left, band.first_col), min(stop, band.stop_col)
                found[band.first_row : band.stop_row, first:last] = shares
    return found


@settings(max_examples=60)
@given(draw_zones(), st.integers(1, HEIGHT), st.integers(1, WIDTH))
def test_shares_are_those_of_every_pixel_cut_by_itself(zone: shapely.MultiPolygon, rows: int, cols: int) -> None:
    expected = shapely.area(shapely.intersection(PIXELS, zone)).reshape(HEIGHT, WIDTH)
    found = read_coverage(place(zone), rows, cols)
    assert np.abs(found - expected).max() < 1e-11
    assert np.array_equal(read_coverage(place(zone), HEIGHT, WIDTH), found), "blocks change nothing"


@pytest.mark.parametrize("is_hole_turned", [False, True])
@pytest.mark.parametrize("is_turned", [False, True])
def test_rings_may_run_either_way(is_turned: bool, is_hole_turned: bool) -> None:
    ring = [(1, 1), (1, 6), (7, 6), (7, 1)][:: -1 if is_turned else 1]
    hole = [(2, 2), (2, 4), (5, 4), (5, 2)][:: -1 if is_hole_turned else 1]
    zone = shapely.MultiPolygon([shapely.Polygon(ring, [hole])])
    assert zone.is_valid
    found = read_coverage(place(zone), 4, 4)
    assert found.sum() == 30 - 6 and found[1:6, 1:2].all() and not found[2:4, 2:5].any()


class Raster:
    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def read(self, window: Window) -> np.ndarray:
        return self.labels[window.to_slices()]


LABELS = arrays(np.uint8, (HEIGHT, WIDTH), elements=st.sampled_from([0, 1, 7, NODATA]))


@settings(max_examples=300)
@given(draw_zones(), st.lists(LABELS, min_size=1, max_size=3), st.integers(1, 12))
def test_areas_are_those_of_every_pixel(zone: shapely.MultiPolygon, labels: list[np.ndarray], block: int) -> None:
    areas = measure_pixel_areas(GRID)
    assert areas is not None
    edges = place(zone)
    found = sum_zone_areas(list(map(Raster, labels)), areas, {5: edges} if edges else {}, [7, 0, 1], block)
    shares = shapely.area(shapely.intersection(PIXELS, zone)).reshape(HEIGHT, WIDTH) * areas[0:HEIGHT]
    expected = [[shares[raster == value].sum() for value in (7, 0, 1)] for raster in labels]
    assert np.allclose(found.get(5, np.zeros((len(labels), 3))), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, WIDTH * 64), st.integers(0, HEIGHT * 64)), min_size=1, max_size=8),
    LABELS,
    st.integers(1, 12),
)
def test_zones_that_part_the_plane_sum_to_the_raster(
    points: list[tuple[int, int]], labels: np.ndarray, block: int
) -> None:
    """Voronoi cells: every pixel belongs to some of them, altogether once."""
    frame = shapely.box(-5, -5, WIDTH + 5, HEIGHT + 5)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.MultiPoint([*(np.array(points) / 64), (-3, -3), (20, 20)]), extend_to=frame)
    )
    areas = measure_pixel_areas(GRID)
    assert areas is not None
    zones = {number: edges for number, cell in enumerate(cells) if (edges := place(shapely.MultiPolygon([cell])))}
    sums = sum(sum_zone_areas([Raster(labels)], areas, zones, [0, 1, 7], block).values())
    expected = [areas[0:HEIGHT][labels == value].sum() for value in (0, 1, 7)]
    assert np.allclose(sums[0], expected, rtol=1e-9, atol=1e-9)


def test_sums_do_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(0)
    size = 700
    grid = GeoBox((size, size), GRID.transform, GRID.crs)
    areas, labels = measure_pixel_areas(grid), rng.integers(0, 3, (size, size), dtype=np.uint8)
    assert areas is not None
    zones = {
        number: place(shapely.MultiPolygon([shapely.Point(*center).buffer(radius)]), grid)
        for number, (*center, radius) in enumerate(rng.uniform((0, 0, 1), (size, size, 200), (20, 3)))
    }
    one = sum_zone_areas([Raster(labels)], areas, zones, [0, 1, 2], size)
    for block in (64, 333):
        other = sum_zone_areas([Raster(labels)], areas, zones, [0, 1, 2], block)
        assert all(np.allclose(other[zone], one[zone], rtol=1e-12, atol=0) for zone in zones)


def test_only_blocks_with_zones_are_read() -> None:
    read: list[Window] = []

    class Watched(Raster):
        def read(self, window: Window) -> np.ndarray:
            read.append(window)
            return np.zeros(window.shape, np.uint8)

    areas = PixelAreas.from_constant(1.0, (100_000, 100_000))
    zone = ZoneEdges(np.array([[10.5, 90_000, 10.5, 90_002], [12, 90_002, 12, 90_000]], float))
    found = sum_zone_areas([Watched(np.empty(0))], areas, {0: zone}, [0])
    assert found[0].tolist() == [[3.0]]
    assert read == [Window(90_000, 10, 2, 2)]
