"""Zones in any CRS lie on a raster where pyproj says, whatever turns around the Earth lie between."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from seamline.pipeline.analysis.zone_areas import sum_zone_areas
from seamline.pipeline.analysis.zone_place import ZonePlacer, measure_zone
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.window import Window

DEGREES = CRS("EPSG:4326")


class Land:
    """A raster that has label 0 everywhere."""

    def read(self, window: Window) -> np.ndarray:
        return np.zeros(window.shape, np.uint8)


def cover(grid: GeoBox, zone: shapely.Geometry, crs: CRS = DEGREES) -> float:
    """The area in m² of the pixels that a zone covers, partly where it does."""
    parts = zone.geoms if isinstance(zone, shapely.MultiPolygon) else [zone]
    edges = ZonePlacer(grid, crs).place(shapely.MultiPolygon(list(parts)), "zone")
    areas = measure_pixel_areas(grid)
    assert areas is not None
    return 0.0 if edges is None else float(sum_zone_areas([Land()], areas, {0: edges}, [0])[0][0, 0])


def grid_of(crs: str, x: float, y: float, resolution: float, height: int = 200, width: int = 240) -> GeoBox:
    return GeoBox((height, width), Affine(resolution, 0, x, 0, -resolution, y), crs)


GRIDS = {
    "UTM": (grid_of("EPSG:32632", 500_000, 5_300_000, 100), shapely.box(9.05, 47.7, 9.2, 47.8)),
    "turned": (
        GeoBox((200, 240), Affine(100, 0, 500_000, 0, -100, 5_300_000) @ Affine.rotation(20), "EPSG:32632"),
        shapely.box(9.1, 47.7, 9.2, 47.75),
    ),
    "across 180° east": (grid_of("EPSG:4326", 179.0, 10.0, 0.01), shapely.box(179.5, 9, 179.9, 9.5)),
    "across 180° west": (grid_of("EPSG:4326", -181.0, 10.0, 0.01), shapely.box(179.5, 9, 179.9, 9.5)),
    "beyond 180°": (grid_of("EPSG:4326", 179.0, 10.0, 0.01), shapely.box(-179.9, 9, -179.5, 9.5)),
    "UTM across 180°": (grid_of("EPSG:32601", 166_000, 1_100_000, 1000), shapely.box(-180, 9, -179.5, 9.5)),
    "in halves": (
        grid_of("EPSG:32601", 166_000, 1_100_000, 1000),
        shapely.MultiPolygon([shapely.box(-180, 9, -179.5, 9.5), shapely.box(179.98, 9, 180, 9.5)]),
    ),
    "in one piece": (grid_of("EPSG:32601", 100_000, 1_100_000, 1000), shapely.box(179.9, 9, 180.5, 9.5)),
    "around the pole": (grid_of("EPSG:3413", -1e6, 1e6, 10_000), shapely.box(-180, 85, 180, 90)),
    "near the pole": (grid_of("EPSG:3413", -1e6, 1e6, 10_000), shapely.box(100, 84, 179, 88)),
    "the world": (grid_of("EPSG:4326", -180, 90, 1, 180, 360), shapely.box(-20, -30, 60, 40)),
    "the world, across 180°": (grid_of("EPSG:4326", -180, 90, 1, 180, 360), shapely.box(160, -30, 200, 40)),
    "Web Mercator across 180°": (
        grid_of("EPSG:3857", 19_900_000, 1_100_000, 1000, 250, 300),
        shapely.MultiPolygon([shapely.box(179.5, 8.5, 180, 9), shapely.box(-180, 8.5, -179.5, 9)]),
    ),
    "equal area": (grid_of("EPSG:6933", -17_000_000, 7_000_000, 100_000, 140, 340), shapely.box(-20, -30, 60, 40)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_pixels_in_a_zone_have_its_area(name: str) -> None:
    grid, zone = GRIDS[name]
    expected = measure_zone(shapely.MultiPolygon(list(getattr(zone, "geoms", [zone]))), DEGREES)
    assert cover(grid, zone) == pytest.approx(expected, rel=2e-4)


def test_a_projected_zone_lies_on_both_ends_of_a_map_of_the_world() -> None:
    zone, crs = shapely.box(100_000, 1_000_000, 300_000, 1_100_000), CRS("EPSG:32601")
    expected = measure_zone(shapely.MultiPolygon([zone]), crs)
    assert cover(grid_of("EPSG:4326", -180, 90, 0.25, 720, 1440), zone, crs) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("corner", [(-730_000, 1_100_000), (-1_100_000, 730_000), (-1e6, 1e6)])
def test_all_sides_of_a_pole_are_near_a_raster_around_it(corner: tuple[float, float]) -> None:
    grid = grid_of("EPSG:3413", *corner, 10_000, 180, 180)
    for west in range(-180, 180, 30):
        zone = shapely.box(west, 86, west + 30, 90)
        assert cover(grid, zone) == pytest.approx(measure_zone(shapely.MultiPolygon([zone]), DEGREES), rel=2e-4)


def test_edges_bend_as_they_do_in_the_crs_of_the_raster() -> None:
    """Along a parallel the edge of a box in degrees is a curve in UTM; brute force over points on it."""
    grid = grid_of("EPSG:32633", 200_000, 8_000_000, 1000, 600, 600)
    zone = shapely.box(9, 68, 21, 70)
    dense = shapely.segmentize(zone, 0.001)
    to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
    flat = shapely.transform(dense, lambda points: np.stack(to_utm.transform(*points.T), axis=-1))
    expected = shapely.area(shapely.intersection(flat, grid.extent.geom)) / 1e6
    placed = ZonePlacer(grid, DEGREES).place(shapely.MultiPolygon([zone]), "zone")
    assert placed is not None
    shares = sum_zone_areas([Land()], measure_constant(grid), {0: placed}, [0])[0][0, 0]
    assert shares == pytest.approx(expected, abs=0.02 * 4 * 600 / 10)
    straight = shapely.transform(zone, lambda points: np.stack(to_utm.transform(*points.T), axis=-1))
    assert abs(shapely.area(shapely.intersection(straight, grid.extent.geom)) / 1e6 - expected) > 100


def measure_constant(grid: GeoBox):
    from seamline.pipeline.geometry.pixel_area import PixelAreas

    return PixelAreas.from_constant(1.0, grid.shape)


def test_neighbours_cut_a_common_edge_in_the_same_way() -> None:
    grid = grid_of("EPSG:32633", 200_000, 8_000_000, 1000, 600, 600)
    both = [shapely.box(9, 68, 15, 70), shapely.Polygon([(15, 70), (15, 68), (21, 68), (21, 70)])]
    whole, parts = cover(grid, shapely.union_all(both)), [cover(grid, part) for part in both]
    assert sum(parts) == pytest.approx(whole, rel=1e-12)


def test_far_zones_are_nowhere() -> None:
    grid = GRIDS["UTM"][0]
    zones = [shapely.MultiPolygon([shapely.box(*bounds)]) for bounds in ((100, -40, 110, -30), (9.05, 47.7, 9.2, 47.8))]
    placer = ZonePlacer(grid, DEGREES)
    assert placer.list_near([*zones, shapely.MultiPolygon()]) == [1]
    assert placer.place(zones[0], "far") is None
    assert placer.place(shapely.MultiPolygon([shapely.box(8.9, 47.7, 8.999, 47.8)]), "beside") is None


def test_zones_of_the_whole_earth_are_cut_to_what_is_near() -> None:
    """A country that reaches where UTM is not defined."""
    assert cover(GRIDS["UTM"][0], shapely.box(-180, -90, 180, 90)) == pytest.approx(200 * 240 * 1e4, rel=2e-3)


def test_a_zone_around_a_pole_is_refused_on_a_cylinder() -> None:
    polar = shapely.MultiPolygon([shapely.Point(0, 0).buffer(1e6)])
    with pytest.raises(InputError, match="zone arctic: got a pole in it"):
        ZonePlacer(GRIDS["the world"][0], CRS("EPSG:3413")).place(polar, "arctic")


def test_areas_of_zones_are_those_on_the_ellipsoid() -> None:
    earth = 510_065_621_724_000
    assert measure_zone(shapely.MultiPolygon([shapely.box(-180, -90, 180, 90)]), DEGREES) == pytest.approx(
        earth, rel=1e-6
    )
    assert measure_zone(shapely.MultiPolygon([shapely.box(-180, 0, 180, 90)]), DEGREES) == pytest.approx(
        earth / 2, rel=1e-6
    )
    polar = shapely.Point(0, 0).buffer(1e6, quad_segs=256)
    lon, lat = Transformer.from_crs(3413, 4326, always_xy=True).transform(*shapely.get_coordinates(polar).T)
    expected = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
    ring = shapely.Polygon(polar.exterior, [shapely.Point(0, 0).buffer(1e5, quad_segs=256).exterior])
    hole = measure_zone(shapely.MultiPolygon([shapely.Polygon(ring.interiors[0])]), CRS("EPSG:3413"))
    assert measure_zone(shapely.MultiPolygon([ring]), CRS("EPSG:3413")) == pytest.approx(expected - hole, rel=1e-6)
    assert measure_zone(shapely.MultiPolygon(), DEGREES) == 0
