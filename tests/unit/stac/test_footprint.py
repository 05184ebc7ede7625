"""Footprints on maps of the world and beyond their edges, compared with the places of single pixels."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.stac.footprint import compute_bbox, compute_footprint

EDGE = 90
WORLD = {
    "+proj=moll +lon_0={} +datum=WGS84": (18.1e6, 9.1e6),
    "+proj=sinu +lon_0={} +R=6371007.181": (20_015_109, 10_007_554),
    "+proj=robin +lon_0={} +datum=WGS84": (17.1e6, 8.7e6),
    "+proj=eqearth +lon_0={} +datum=WGS84": (17.3e6, 8.4e6),
    "+proj=eck4 +lon_0={} +datum=WGS84": (17e6, 8.5e6),
    "+proj=igh +lon_0={} +datum=WGS84": (20e6, 8.7e6),
    "+proj=eqc +lon_0={} +datum=WGS84": (20_037_508, 10_018_754),
    "+proj=merc +lon_0={} +datum=WGS84": (20_037_508, 20_037_508),
    "+proj=laea +lat_0=90 +lon_0={} +datum=WGS84": (9_036_842, 9_036_842),
    "+proj=laea +lon_0={} +datum=WGS84": (12.75e6, 12.75e6),
    "+proj=aeqd +lat_0=-90 +lon_0={} +datum=WGS84": (20.1e6, 20.1e6),
    "+proj=ortho +lat_0=40 +lon_0={} +ellps=WGS84": (6.4e6, 6.4e6),
    "+proj=geos +h=35785831 +lon_0={} +sweep=y +ellps=WGS84": (5.5e6, 5.5e6),
    "+proj=longlat +datum=WGS84": (180.0, 90.0),
}
"""Projections of the world with their central meridian, and half of their width and height."""


def make_grid(crs: str, half: tuple[float, float], middle: tuple[float, float] = (0, 0)) -> GeoBox:
    size_x, size_y = 2 * half[0] / EDGE, 2 * half[1] / EDGE
    return GeoBox((EDGE, EDGE), Affine(size_x, 0, middle[0] - half[0], 0, -size_y, middle[1] + half[1]), crs)


def locate_pixels(grid: GeoBox, period: float = 0) -> NDArray[np.float64]:
    """Return longitude and latitude (n, 2) of the middles of all pixels on Earth: PROJ finds them again there."""
    transformer = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True)
    col, row = np.meshgrid(np.arange(EDGE) + 0.5, np.arange(EDGE) + 0.5)
    x, y = grid.pix2wld(col.ravel(), row.ravel())
    lon, lat = transformer.transform(x, y)
    again_x, again_y = transformer.transform(lon, lat, direction="INVERSE")
    with np.errstate(invalid="ignore"):
        east = again_x - x
        east -= period * np.round(east / period) if period else 0
        is_on_earth = np.hypot(east, again_y - y) < 1e-4 * (360 if grid.crs.geographic else 4e7)
    lon = (np.asarray(lon)[is_on_earth] + 180) % 360 - 180
    return np.column_stack([lon, np.asarray(lat)[is_on_earth].clip(-90, 90)])


def to_unit_vectors(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(degrees).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def check_footprint(grid: GeoBox, period: float = 0) -> None:
    """Pixels lie in the footprint, and what lies deep in the footprint is near a pixel."""
    pixels = locate_pixels(grid, period)
    outline = compute_footprint(grid)
    if not len(pixels):
        assert outline is None or outline.area < 100
        return
    assert outline is not None and outline.is_valid
    west, south, east, north = outline.bounds
    assert west >= -180 and south >= -90 and east <= 180 and north <= 90
    box_west, _, box_east, _ = compute_bbox(outline)
    in_box = (pixels[:, 0] >= box_west - 0.5) & (pixels[:, 0] <= box_east + 0.5)
    if box_west > box_east:
        in_box = (pixels[:, 0] >= box_west - 0.5) | (pixels[:, 0] <= box_east + 0.5)
    assert in_box.mean() > 0.98
    assert shapely.contains_xy(outline.buffer(0.5), pixels).mean() > 0.98
    assert all(part.exterior.is_ccw for part in shapely.get_parts(outline))
    lon, lat = np.meshgrid(np.arange(-178.5, 180, 3), np.arange(-88.5, 90, 3))
    places = np.column_stack([lon.ravel(), lat.ravel()])
    places = places[shapely.contains_xy(outline, places)]
    if len(places):
        nearest = (to_unit_vectors(places) @ to_unit_vectors(pixels).T).max(axis=1)
        assert (np.degrees(np.arccos(nearest.clip(-1, 1))) > 8).mean() < 0.02


@pytest.mark.parametrize("lon_0", [0, 150, -100])
@pytest.mark.parametrize("projection", WORLD)
def test_the_footprint_of_a_map_of_the_world(projection: str, lon_0: int) -> None:
    half = WORLD[projection]
    check_footprint(make_grid(projection.format(lon_0), half), period=2 * half[0] if "merc" in projection else 0)


@settings(max_examples=150, deadline=None)
@given(
    projection=st.sampled_from(sorted(WORLD)),
    lon_0=st.integers(-180, 180),
    middle=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    share=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
)
@example("+proj=laea +lat_0=90 +lon_0={} +datum=WGS84", 180, (0.25, 0.25), (0.25, 0.25))  # a corner is the pole
def test_the_footprint_of_part_of_a_map_also_over_its_edge(
    projection: str, lon_0: int, middle: tuple[float, float], share: tuple[float, float]
) -> None:
    half = WORLD[projection]
    is_cylinder = any(name in projection for name in ("merc", "eqc", "longlat"))
    move = (middle[0] * half[0], middle[1] * half[1] * (1 - share[1]))  # never beyond a pole, where nothing is
    own = (share[0] * half[0], share[1] * half[1])
    check_footprint(make_grid(projection.format(lon_0), own, move), period=2 * half[0] if is_cylinder else 0)
