"""Places of a map's pixels in scenes, beside pyproj for every pixel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.grid import CrsLink, SceneLocator
from seamline.pipeline.geometry.map_grid import MapGrid, list_touched_chunks
from seamline.pipeline.geometry.warp import NOWHERE, POSITION_PARTS, _interpolate, locate_pixels
from seamline.pipeline.geometry.window import Window

ERROR = 0.01 + 0.5 / POSITION_PARTS


def north_up(crs: str, x: float, y: float, edge: float, size: int = 5000) -> GeoBox:
    return GeoBox((size, size), Affine(edge, 0, x, 0, -edge, y), crs)


def turned(crs: str, x: float, y: float, edge: float) -> GeoBox:
    transform = Affine.translation(x, y) @ Affine.rotation(30) @ Affine.scale(edge, -edge)
    return GeoBox((4000, 4000), transform, crs)


# CRS of the map, its resolution, scene, a place in the middle of the windows in the CRS of the map
CASES: dict[str, tuple[str, float, GeoBox, tuple[float, float]]] = {
    "UTM, the neighbour's zone": ("EPSG:32633", 10, north_up("EPSG:32632", 7e5, 5.5e6, 10), (2.9e5, 5.48e6)),
    "UTM, degrees": ("EPSG:32633", 10, north_up("EPSG:4326", 12, 50, 1e-4), (3e5, 5.52e6)),
    "degrees, UTM": ("EPSG:4326", 1e-4, north_up("EPSG:32633", 3e5, 5.5e6, 10), (12.4, 49.5)),
    "LAEA, UTM": ("EPSG:3035", 10, north_up("EPSG:32633", 3e5, 5.5e6, 10), (4.495e6, 2.93e6)),
    "Web Mercator at 80°": ("EPSG:3857", 50, north_up("EPSG:32633", 4.7e5, 8.9e6, 10), (1.67e6, 1.5538e7)),
    "a pole, degrees": (
        "EPSG:3995",
        100,
        GeoBox((1000, 36000), Affine(0.01, 0, -180, 0, -0.01, 90), "EPSG:4326"),
        (0, 0),
    ),
    "the other pole, degrees from 0°": (
        "EPSG:3031",
        100,
        GeoBox((1000, 36000), Affine(0.01, 0, 0, 0, -0.01, -80), "EPSG:4326"),
        (0, 0),
    ),
    "degrees, over the pole": ("EPSG:4326", 1e-3, north_up("EPSG:3995", -25e3, 25e3, 10), (30, 89.9)),
    "a whole hemisphere, coarsely": ("EPSG:3857", 10_000, north_up("EPSG:3995", -3e6, 3e6, 2000, 3000), (1e5, 1.2e7)),
    "antimeridian, from the west": ("EPSG:4326", 1e-4, north_up("EPSG:32760", 7.9e5, 8e6, 10), (180, -18.2)),
    "antimeridian, from the east": ("EPSG:32701", 10, north_up("EPSG:4326", 179.8, -17.9, 1e-4), (182_400, 8.01e6)),
    "antimeridian, in degrees": ("EPSG:4326", 1e-4, north_up("EPSG:4326", 179.8, -17.9, 1e-4), (-179.9, -18.1)),
    "antimeridian on a cylinder": ("EPSG:32701", 10, north_up("EPSG:3857", 2.002e7, -2e6, 10), (182_400, 8.01e6)),
    "a turned scene": ("EPSG:32633", 10, turned("EPSG:32632", 7e5, 5.5e6, 10), (3.0e5, 5.5e6)),
    "the same CRS": ("EPSG:32633", 10, north_up("EPSG:32633", 3e5, 5.5e6, 7), (3.1e5, 5.49e6)),
    "a turned scene of the same CRS": ("EPSG:32633", 10, turned("EPSG:32633", 3e5, 5.5e6, 7), (3.1e5, 5.49e6)),
    "a full disc": (
        "EPSG:4326",
        0.05,
        north_up("+proj=geos +h=35785831 +lon_0=0 +sweep=y", -5.5e6, 5.5e6, 3000, 3667),
        (70, 20),
    ),
    "the edge of a map of the world": ("+proj=moll", 5000, north_up("EPSG:4326", -180, 80, 0.05, 3000), (-1.7e7, 2e6)),
}


def make(name: str, size: int = 700) -> tuple[MapGrid, GeoBox]:
    crs, resolution, scene, (x, y) = CASES[name]
    return MapGrid(
        CRS(crs), resolution, round(x / resolution) - size // 2, round(-y / resolution) - size // 2, size, size
    ), scene


def locate_each(grid: MapGrid, window: Window, scene: GeoBox) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows and columns in scene pixels; not finite where the CRS of the map has no place, or not that one."""
    col, row = np.meshgrid(
        np.arange(window.col, window.stop_col) + grid.left + 0.5,
        np.arange(window.row, window.stop_row) + grid.top + 0.5,
    )
    x, y = col * grid.resolution, -row * grid.resolution
    if scene.crs != grid.crs:
        transformer = Transformer.from_crs(grid.crs.proj, scene.crs.proj, always_xy=True)
        there, north = transformer.transform(x, y)
        back, south = transformer.transform(there, north, direction="INVERSE")
        with np.errstate(invalid="ignore"):
            east = (back - x + 180) % 360 - 180 if grid.crs.geographic else back - x
            lost = ~(np.hypot(east, south - y) < grid.resolution)
        x, y = np.where(lost, np.nan, there), np.where(lost, np.nan, north)
    period = 360 if scene.crs.geographic else 2 * np.pi * 6378137 if scene.crs == "EPSG:3857" else 0
    if period:
        middle, _ = scene.transform @ (scene.width / 2, scene.height / 2)
        x = x - period * np.round((x - middle) / period)
    at_col, at_row = ~scene.transform @ (x, y)
    return at_row, at_col


@pytest.mark.parametrize("name", CASES)
def test_positions_are_those_of_pyproj(name: str) -> None:
    grid, scene = make(name)
    for window in (Window(0, 0, 700, 250), Window(310, 300, 90, 400)):
        rows, cols = locate_pixels(grid, window, scene)
        assert rows.dtype == cols.dtype == np.int32 and rows.shape == cols.shape == window.shape
        there = rows != NOWHERE
        assert ((cols != NOWHERE) == there).all() and there.any()
        row, col = locate_each(grid, window, scene)
        assert np.abs(rows / POSITION_PARTS - row)[there].max() <= ERROR
        assert np.abs(cols / POSITION_PARTS - col)[there].max() <= ERROR
        assert (rows[there] // POSITION_PARTS).max() < scene.height and (
            cols[there] // POSITION_PARTS
        ).max() < scene.width
        with np.errstate(invalid="ignore"):
            inner = (row >= ERROR) & (col >= ERROR) & (row < scene.height - ERROR) & (col < scene.width - ERROR)
        assert there[inner].all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_positions_do_not_depend_on_the_window(name: str, data: st.DataObject) -> None:
    grid, scene = make(name, 260)

    def draw() -> Window:
        row, col = data.draw(st.integers(0, 250)), data.draw(st.integers(0, 250))
        return Window(row, col, data.draw(st.integers(1, 260 - row)), data.draw(st.integers(1, 260 - col)))

    # The other window belongs to a map of another extent.
    one, other, rows, cols = draw(), draw(), data.draw(st.integers(-99, 99)), data.draw(st.integers(-99, 99))
    moved = MapGrid(grid.crs, grid.resolution, grid.left - cols, grid.top - rows, 500, 500)
    first = locate_pixels(grid, one, scene)
    second = locate_pixels(moved, other.shift(rows, cols), scene)
    common = one.intersection(other)
    for here, there in zip(first, second, strict=True):
        if common.pixel_count:
            np.testing.assert_array_equal(
                here[common.relative_to(one).to_slices()], there[common.relative_to(other).to_slices()]
            )


@given(
    st.fractions(1, 40, max_denominator=16),
    st.fractions(1, 40, max_denominator=16),
    st.tuples(st.fractions(-500, 500, max_denominator=64), st.fractions(-500, 500, max_denominator=64)),
)
def test_positions_in_the_same_crs_are_exact(
    edge: Fraction, scene_edge: Fraction, origin: tuple[Fraction, Fraction]
) -> None:
    x, y = 500_000 + origin[0], 6_000_000 + origin[1]
    scene = GeoBox((60, 50), Affine(float(scene_edge), 0, float(x), 0, -float(scene_edge), float(y)), "EPSG:32633")
    grid = MapGrid(CRS("EPSG:32633"), float(edge), int(x / edge) - 5, int(-y / edge) - 5, 40, 40)
    rows, cols = locate_pixels(grid, Window(0, 0, 40, 40), scene)
    half = Fraction(1, 2)
    row = [(-(grid.top + number + half) * edge - y) / -scene_edge * 64 + half for number in range(40)]
    col = [((grid.left + number + half) * edge - x) / scene_edge * 64 + half for number in range(40)]
    # What lies within a millionth of the middle between two parts may be rounded up.
    low = [np.array([at // 1 for at in axis], np.int64) for axis in (row, col)]
    high = [np.array([(at + Fraction(1, 10**5)) // 1 for at in axis], np.int64) for axis in (row, col)]
    there = rows != NOWHERE
    for positions, least, most in ((rows, low[0][:, None], high[0][:, None]), (cols, low[1], high[1])):
        assert ((positions >= least) & (positions <= most))[there].all()
    inside = (low[0] >= 0) & (high[0] < 64 * 60)
    assert there[np.ix_(inside, (low[1] >= 0) & (high[1] < 64 * 50))].all()


class Waves:
    """Stands for a transformer whose CRS bends as a sine: in blocks of 64 pixels on both sides of their middle."""

    def __init__(self, height: float, length: float) -> None:
        self.height, self.length = height, length

    def transform(
        self, x: NDArray[Any], y: NDArray[Any], direction: str = "FORWARD"
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        sign = 1 if direction == "FORWARD" else -1
        return x + sign * self.height * np.sin(2 * np.pi * x / self.length), y


@pytest.mark.parametrize("length", [40, 64, 90, 128, 256, 1000])
@pytest.mark.parametrize("height", [0.012, 0.1, 3])
def test_bends_are_seen_wherever_they_are_in_a_block(height: float, length: float) -> None:
    waves: Any = Waves(height, length)
    link = CrsLink(waves, 0, 0, 1e9, False, 1)
    locator = SceneLocator(1, link, GeoBox((300, 300), Affine(1, 0, 0, 0, -1, 0), "EPSG:32633"))
    rows, cols = _interpolate(locator, Window(0, 0, 200, 200))
    at = np.arange(200) + 0.5
    assert np.abs(cols - waves.transform(at, at)[0]).max() <= 0.0125
    np.testing.assert_allclose(rows, np.broadcast_to(at[:, None], rows.shape), atol=1e-9)


def test_where_the_map_is_not_on_earth_there_is_no_scene() -> None:
    """PROJ gives the corners of a sinusoidal map the places of the other side of the world."""
    scene = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    grid = MapGrid.from_bounds("+proj=sinu +R=6371007.181", 50_000, (-2e7, -1e7, 2e7, 1e7))
    rows, _ = locate_pixels(grid, Window(0, 0, grid.height, grid.width), scene)
    x, y = grid.geobox.transform @ np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    limit = 6371007.181 * np.pi * np.cos(y / 6371007.181)
    part = 111_320 / POSITION_PARTS
    assert (rows[np.abs(x) < limit - part] != NOWHERE).all() and (rows[np.abs(x) > limit + 1] == NOWHERE).all()


def test_few_places_are_given_to_proj(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to_proj = 0
    transform = CrsLink.transform

    def count(link: CrsLink, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        nonlocal given_to_proj
        given_to_proj += x.size
        return transform(link, x, y)

    monkeypatch.setattr(CrsLink, "transform", count)
    grid, scene = make("UTM, the neighbour's zone")
    locate_pixels(grid, Window(0, 0, 512, 512), scene)
    assert given_to_proj <= 13 * 9 * 9


def test_pixels_of_chunks_that_are_not_touched_are_nowhere() -> None:
    crs, resolution, scene, _ = CASES["a turned scene"]
    grid = MapGrid.from_scenes(crs, resolution * 4, [scene])
    touched = set(list_touched_chunks(grid, scene))
    for chunk in grid.chunks:
        if (locate_pixels(grid, grid.window_of(chunk), scene)[0] != NOWHERE).any():
            assert chunk in touched


def test_threads_get_the_same_positions() -> None:
    grid, scene = make("a turned scene")
    windows = [Window(row, 0, 100, 300) for row in range(0, 600, 100)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda window: locate_pixels(grid, window, scene)[0], windows))
    np.testing.assert_array_equal(np.concatenate(found), locate_pixels(grid, Window(0, 0, 600, 300), scene)[0])


def test_scenes_without_a_place_are_refused() -> None:
    grid, _ = make("the same CRS")
    for scene, said in [
        (GeoBox((5, 5), Affine.identity(), None), "CRS of a scene: got none"),
        (GeoBox((5, 2**26), Affine.identity(), "EPSG:32633"), "at most 33554431 pixels a side"),
        (GeoBox((5, 5), Affine.identity(), "+proj=longlat +a=1737400 +b=1737400"), "two CRS that PROJ can transform"),
    ]:
        with pytest.raises(InputError, match=said):
            locate_pixels(grid, Window(0, 0, 5, 5), scene)
