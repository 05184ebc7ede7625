"""The grid of a map: what it refuses, which pixels and chunks it has, which of them a scene touches."""

from __future__ import annotations

from collections.abc import Iterator
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
from seamline.pipeline.geometry import map_grid
from seamline.pipeline.geometry.grid import CrsLink, find_period
from seamline.pipeline.geometry.map_grid import CHUNK, MapGrid, list_touched_chunks
from seamline.pipeline.geometry.tiling import Index

FULL_DISC = "+proj=geos +h=35785831 +lon_0=0 +sweep=y"


def north_up(crs: str, x: float, y: float, edge: float, size: int = 1000) -> GeoBox:
    return GeoBox((size, size), Affine(edge, 0, x, 0, -edge, y), crs)


def turned(crs: str, x: float, y: float, edge: float, degrees: float) -> GeoBox:
    transform = Affine.translation(x, y) @ Affine.rotation(degrees) @ Affine.scale(edge, -edge)
    return GeoBox((900, 1100), transform, crs)


CASES: dict[str, tuple[str, float, list[GeoBox]]] = {
    "UTM in a neighbour's zone": ("EPSG:32633", 100, [north_up("EPSG:32632", 7e5, 5.5e6, 110)]),
    "UTM in degrees": ("EPSG:4326", 0.001, [turned("EPSG:32633", 4e5, 6e6, 100, 30)]),
    "degrees in UTM": ("EPSG:32633", 100, [north_up("EPSG:4326", 12, 61, 0.001)]),
    "equal areas of Europe": (
        "EPSG:3035",
        100,
        [north_up("EPSG:32633", 4e5, 6e6, 100), north_up("EPSG:4326", 9, 50, 0.001)],
    ),
    "both sides of the antimeridian": (
        "EPSG:4326",
        0.001,
        [north_up("EPSG:32760", 7e5, 8e6, 100), north_up("EPSG:32701", 2e5, 8e6, 100)],
    ),
    "both sides on a cylinder": (
        "EPSG:3857",
        100,
        [north_up("EPSG:32760", 7e5, 8e6, 100), north_up("EPSG:32701", 2e5, 8e6, 100)],
    ),
    "around the pole, in degrees": ("EPSG:4326", 0.05, [north_up("EPSG:3995", -4e5, 6e5, 1000)]),
    "beside the pole, in degrees": ("EPSG:4326", 0.05, [north_up("EPSG:3995", 1e4, 6e5, 1000, 500)]),
    "degrees around the pole": ("EPSG:3031", 1000, [GeoBox((200, 3600), Affine(0.1, 0, 0, 0, -0.1, -70), "EPSG:4326")]),
    "a pole on a map around the other one": ("EPSG:3995", 5000, [north_up("EPSG:3031", 1e5, 9e5, 1000)]),
    "the whole world": ("EPSG:3995", 6e4, [GeoBox((160, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")]),
    "the world in equal areas": ("EPSG:6933", 1e4, [GeoBox((1800, 3600), Affine(0.1, 0, 0, 0, -0.1, 90), "EPSG:4326")]),
    "a full disc": ("EPSG:4326", 0.05, [north_up(FULL_DISC, -5.5e6, 5.5e6, 11000)]),
    "degrees from 0° to 360°": (
        "EPSG:4326",
        0.01,
        [GeoBox((300, 800), Affine(0.01, 0, 355, 0, -0.01, 5), "EPSG:4326")],
    ),
    "grads": ("EPSG:4807", 0.002, [north_up("EPSG:2154", 6e5, 6.8e6, 100)]),
}


def project(scene: GeoBox, crs: CRS, col: NDArray[Any], row: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where points of a scene, in pixels, are in another CRS; those on Earth only."""
    x, y = Transformer.from_crs(scene.crs.proj, crs.proj, always_xy=True).transform(*(scene.transform @ (col, row)))
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def count_outside(grid: MapGrid, x: NDArray[Any], y: NDArray[Any]) -> int:
    """How many places are not on a map, on any turn around the Earth."""
    period, edge = find_period(grid.crs), grid.resolution
    inside = np.zeros(x.shape, bool)
    slack = (
        edge if period and abs(grid.width * edge - period) < edge else 1e-9 * edge
    )  # where a whole turn meets itself
    for turn in (-1, 0, 1) if period else (0,):
        col, row = (x + turn * period) / edge - grid.left, -y / edge - grid.top
        inside |= (col >= -slack / edge) & (col <= grid.width + slack / edge) & (row >= 0) & (row <= grid.height)
    return int((~inside).sum())


@pytest.mark.parametrize("name", CASES)
def test_a_map_of_scenes_holds_all_of_them(name: str) -> None:
    crs, resolution, scenes = CASES[name]
    grid = MapGrid.from_scenes(crs, resolution, scenes)
    assert grid == MapGrid.from_scenes(crs, resolution, scenes[::-1])
    rng = np.random.default_rng(0)
    for scene in scenes:
        side = np.concatenate([[0, 1], rng.random(300)])
        share = np.stack(np.meshgrid(side, side)).reshape(2, -1)
        assert count_outside(grid, *project(scene, grid.crs, share[0] * scene.width, share[1] * scene.height)) == 0


HUGE = {"a pole on a map around the other one"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - HUGE - {"the world in equal areas"}))
def test_a_map_of_scenes_has_whole_chunks_of_the_lattice_and_few_in_vain(name: str) -> None:
    crs, resolution, scenes = CASES[name]
    grid = MapGrid.from_scenes(crs, resolution, scenes)
    if abs(grid.width * resolution - find_period(grid.crs)) > resolution:
        assert grid.left % CHUNK == grid.width % CHUNK == 0
    assert grid.top % CHUNK == grid.height % CHUNK == 0
    touched = {chunk for scene in scenes for chunk in list_touched_chunks(grid, scene)}
    for axis in (0, 1):  # the outer ones may hold less than a pixel of a scene
        places = {chunk[axis] for chunk in touched}
        assert min(places) <= 1 and max(places) >= max(chunk[axis] for chunk in grid.chunks) - 1


def test_a_map_across_the_antimeridian_is_as_short_as_its_scenes() -> None:
    for name, widest in (("both sides of the antimeridian", 4096), ("both sides on a cylinder", 4608)):
        grid = MapGrid.from_scenes(*CASES[name])
        turn = find_period(grid.crs)
        assert (
            grid.width <= widest and grid.left * grid.resolution < turn / 2 < (grid.left + grid.width) * grid.resolution
        )


def test_a_map_around_the_earth_shows_no_place_twice() -> None:
    around = MapGrid.from_scenes("EPSG:4326", 0.1, [GeoBox((600, 3600), Affine(0.1, 0, 0, 0, -0.1, 30), "EPSG:4326")])
    assert (around.left, around.width) == (-1800, 3600)
    assert (around.top, around.height) == (-512, 1024)
    world = MapGrid.from_scenes("EPSG:3857", 10_000, [GeoBox((600, 3600), Affine(0.1, 0, 0, 0, -0.1, 30), "EPSG:4326")])
    assert world.width * world.resolution <= 2 * 20037508.35


def test_a_map_that_grows_keeps_its_chunks() -> None:
    scenes = [north_up("EPSG:32633", 3e5 + 4e4 * number, 6e6, 50) for number in range(4)]
    small, large = (MapGrid.from_scenes("EPSG:32633", 50, scenes[:count]) for count in (2, 4))
    keys = [
        {(grid.top // CHUNK + chunk.row, grid.left // CHUNK + chunk.col) for chunk in grid.chunks}
        for grid in (small, large)
    ]
    assert keys[0] < keys[1]


@pytest.mark.parametrize(
    ("crs", "resolution", "bounds", "said"),
    [
        (None, 10, (0, 0, 1, 1), "CRS of the map: got none"),
        ("EPSG:1", 10, (0, 0, 1, 1), "expected a CRS that PROJ knows"),
        ("no CRS", 10, (0, 0, 1, 1), "expected a CRS that PROJ knows"),
        ("EPSG:5773", 10, (0, 0, 1, 1), "EGM96 height, expected a projected or geographic CRS"),
        ("EPSG:4978", 10, (0, 0, 1, 1), "expected a projected or geographic CRS in two dimensions"),
        ("EPSG:4979", 1e-4, (0, 0, 1, 1), "in two dimensions"),
        ("EPSG:32633", 0, (0, 0, 1, 1), "resolution: got 0, expected a length above 0"),
        ("EPSG:32633", -10, (0, 0, 1, 1), "resolution: got -10"),
        ("EPSG:32633", float("nan"), (0, 0, 1, 1), "resolution: got nan"),
        ("EPSG:32633", float("inf"), (0, 0, 1, 1), "resolution: got inf"),
        ("EPSG:4326", 10, (0, 0, 1, 1), "got 10 degree, expected at most 1 degree: the CRS WGS 84 is not in metres"),
        ("EPSG:4807", 10, (0, 0, 1, 1), "got 10 grad"),
        ("EPSG:32633", 10, (500, 0, 400, 100), "expected xmin < xmax and ymin < ymax"),
        ("EPSG:32633", 10, (500, 0, 500, 100), "expected xmin < xmax and ymin < ymax"),
        ("EPSG:32633", 10, (500, 0, float("inf"), 100), "all finite"),
        ("EPSG:4326", 1e-4, (5e5, 5e6, 5.1e5, 5.1e6), "at most 360 and y up to 90 degree"),
        ("EPSG:4326", 1e-2, (-180, 0, 181, 80), "at most 360"),
        ("EPSG:3857", 1e3, (-2.1e7, 0, 2.1e7, 1e6), "once around the Earth"),
        ("EPSG:32633", 0.01, (0, 0, 1e6, 1e6), "size of the map: got 100000000 × 100000000 pixels of 0.01 metre"),
        ("EPSG:32633", 1e-9, (5e5, 5e6, 5e5 + 1e-6, 5e6 + 1e-6), "2^31 from the origin"),
    ],
)
def test_what_can_be_no_map_is_refused(crs: Any, resolution: float, bounds: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        MapGrid.from_bounds(crs, resolution, bounds)
    assert said in str(error.value)


def test_scenes_that_can_be_on_no_map_are_refused() -> None:
    there = north_up("EPSG:32633", 4e5, 6e6, 100)
    for crs, scenes, said in [
        ("EPSG:32633", [], "got no scenes"),
        ("EPSG:32633", [GeoBox((5, 5), Affine.identity(), None)], "CRS of a scene: got none"),
        ("EPSG:3035", [there, north_up(FULL_DISC, 5e6, 5e6, 100)], "a CRS in which every scene has a place"),
        ("EPSG:3857", [north_up("EPSG:3995", -4e5, 6e5, 1000)], "a pole has no place"),
    ]:
        with pytest.raises(InputError, match=said):
            MapGrid.from_scenes(crs, 100, scenes)
    with pytest.raises(InputError, match="at least one pixel"):
        MapGrid(CRS("EPSG:32633"), 10, 0, 0, 0, 5)


@given(
    st.sampled_from([10, 0.1, 1 / 3, 30]),
    st.tuples(st.integers(-9000, 9000), st.integers(1, 999), st.integers(-9000, 9000), st.integers(1, 999)),
    st.tuples(*[st.sampled_from([0, 0.2, 0.5, 0.9])] * 4),
)
def test_bounds_are_rounded_outward_to_whole_pixels(edge: float, pixels: Any, part: Any) -> None:
    left, width, top, height = pixels
    bounds = (
        (left + part[0]) * edge,
        -(top + height + part[1]) * edge,
        (left + width + part[2]) * edge,
        -(top + part[3]) * edge,
    )
    grid = MapGrid.from_bounds(
        "EPSG:32633", edge, bounds if bounds[2] > bounds[0] and bounds[3] > bounds[1] else (0, 0, edge, edge)
    )
    if bounds[2] > bounds[0] and bounds[3] > bounds[1]:
        assert (grid.left, grid.top) == (left, top)
        assert (grid.left + grid.width, grid.top + grid.height) == (
            left + width + (part[2] > 0),
            top + height + (part[1] > 0),
        )
    assert grid.geobox.shape == (grid.height, grid.width)
    x, y = grid.geobox.transform @ (0, 0)
    assert (x, y) == pytest.approx((grid.left * edge, -grid.top * edge))


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_chunks_partition_a_map(width: int, height: int) -> None:
    grid = MapGrid(CRS("EPSG:32633"), 10, -7, 12, width, height)
    covered = np.zeros((height, width), np.uint8)
    for chunk in grid.chunks:
        covered[grid.window_of(chunk).to_slices()] += 1
    assert (covered == 1).all() and grid.chunks == sorted(grid.chunks)


def find_touched(grid: MapGrid, scene: GeoBox, chunk: int) -> set[Index]:
    """Chunks with the centre of a pixel in a scene, pixel by pixel."""
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.geobox.transform @ (col, row)
    transformer = Transformer.from_crs(grid.crs.proj, scene.crs.proj, always_xy=True)
    there, north = transformer.transform(x, y)
    back, south = transformer.transform(there, north, direction="INVERSE")
    period, here = find_period(scene.crs), find_period(grid.crs)
    with np.errstate(invalid="ignore"):
        off = np.abs(back - x)
        known = (np.minimum(off, np.abs(off - here)) < grid.resolution) & (np.abs(south - y) < grid.resolution)
        found = np.zeros(col.shape, bool)
        for turn in range(-2, 3) if period else (0,):
            at_col, at_row = ~scene.transform @ (there + turn * period, north)
            found |= known & (at_col >= 0) & (at_col < scene.width) & (at_row >= 0) & (at_row < scene.height)
    return {Index(int(at_row), int(at_col)) for at_row, at_col in np.unique(np.argwhere(found) // chunk, axis=0)}


@pytest.fixture()
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(map_grid, "CHUNK", 16)
    monkeypatch.setattr(map_grid, "_SMALLEST", 2)
    yield 16


@pytest.mark.parametrize("name", sorted(CASES.keys() - HUGE))
def test_no_touched_chunk_is_missed(name: str, small_chunks: int) -> None:
    crs, resolution, scenes = CASES[name]
    grid = MapGrid.from_scenes(crs, resolution * 6, scenes)
    for scene in scenes:
        touched, expected = list_touched_chunks(grid, scene), find_touched(grid, scene, small_chunks)
        assert touched == sorted(set(touched)) and set(touched) <= set(grid.chunks)
        assert expected <= set(touched)
        assert len(touched) <= 1.3 * len(expected) + 12


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["EPSG:4326", "EPSG:3857", "EPSG:3995", "EPSG:3031", "EPSG:6933", "EPSG:32601", "+proj=sinu", "+proj=moll"]
    ),
    st.sampled_from(["EPSG:4326", "EPSG:3857", "EPSG:3995", "EPSG:32660", FULL_DISC]),
    st.integers(0, 2**32 - 1),
)
def test_no_touched_chunk_is_missed_anywhere(crs: str, scene_crs: str, seed: int) -> None:
    """Maps and scenes at any places of CRS of the world; a pixel is up to a degree, a scene down to one pixel."""
    rng = np.random.default_rng(seed)

    def draw(name: str) -> tuple[float, float, float]:
        unit = 1.0 if name == "EPSG:4326" else 1e5
        centre = {"EPSG:32601": (5, 0), "EPSG:32660": (5, 0)}.get(name, (0, 0))
        reach = 3 if "326" in name and name != "EPSG:4326" else 50
        tall = reach if name != "EPSG:4326" else 60
        x, y = centre[0] + rng.uniform(-3 * reach, 3 * reach), centre[1] + rng.uniform(-tall, tall)
        return x * unit, y * unit, unit * 10 ** rng.uniform(-2, 0)

    x, y, edge = draw(crs)
    size = rng.integers(1, 180, 2)
    grid = MapGrid(CRS(crs), edge, int(x / edge), int(-y / edge), int(size[0]), int(size[1]))
    if rng.random() < 0.6:  # a scene that is there
        col, row = rng.random(2) * size
        place = Transformer.from_crs(crs, scene_crs, always_xy=True).transform(*(grid.geobox.transform @ (col, row)))
        where = (*place, draw(scene_crs)[2]) if np.isfinite(place).all() else draw(scene_crs)
    else:
        where = draw(scene_crs)
    transform = (
        Affine.translation(*where[:2])
        @ Affine.rotation(rng.choice([0, 0, 33, 170]))
        @ Affine.scale(where[2], -where[2])
    )
    scene = GeoBox(tuple(int(side) for side in rng.integers(1, 300, 2)), transform, scene_crs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_grid, "CHUNK", 16)
        patch.setattr(map_grid, "_SMALLEST", 2)
        touched = set(list_touched_chunks(grid, scene))
    assert find_touched(grid, scene, 16) <= touched


def test_few_places_are_looked_at_on_a_large_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of 10¹⁰ pixels and a scene of 10⁸."""
    looked_at = 0
    transform = CrsLink.transform

    def count(link: CrsLink, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        nonlocal looked_at
        looked_at += x.size
        return transform(link, x, y)

    monkeypatch.setattr(CrsLink, "transform", count)
    grid = MapGrid(CRS("EPSG:32633"), 10, 0, -600_000, 100_000, 100_000)
    touched = list_touched_chunks(grid, north_up("EPSG:32632", 699_960, 5_500_020, 10, 10_980))
    assert 450 < len(touched) < 600 and looked_at < 50_000
