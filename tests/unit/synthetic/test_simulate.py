"""The simulated scene: the same pixels in every window, plausible in content, complete as files."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.synthetic.landscape import render_surface
from seamline.pipeline.synthetic.noise import (
    Field,
    Lattice,
    _evaluate_spline,
    _refine,
    fractal_noise,
    hash_keys,
    noise,
    noise_at,
    uniform,
)
from seamline.pipeline.synthetic.simulate import ACQUISITION_TIME, BANDS, CLASSES, SCALE, SimulatedBlock, Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation
from seamline.pipeline.synthetic.voronoi import scatter_sites, voronoi_cells

FAR = 1 << 24
LAND, WATER, CLOUD, SHADOW = (label.value for label in CLASSES)


@cache
def _big() -> SimulatedBlock:
    return Simulation(900, 700).render_block(Window(0, 0, 900, 700))


@cache
def _sample() -> SimulatedBlock:
    """Every second tile of 4096² pixels, side by side."""
    simulation = Simulation(4096, 4096)
    tiles = [
        simulation.render_block(Window(row, col, 256, 256))
        for row in range(0, 4096, 512)
        for col in range(256 * (row // 512 % 2), 4096, 512)
    ]
    return np.concatenate([tile[0] for tile in tiles], axis=2), np.concatenate([tile[1] for tile in tiles], axis=1)


@settings(max_examples=12, deadline=None)
@given(st.integers(-40, 880), st.integers(-40, 680), st.integers(1, 60), st.integers(1, 60))
def test_any_window_is_the_same_cut_out_of_a_bigger_one(row: int, col: int, height: int, width: int) -> None:
    numbers, labels = _big()
    window = Window(row, col, height, width)
    scene = Window(0, 0, *labels.shape)
    part = window.intersection(scene)
    expected = np.zeros((6, height, width), np.uint16), np.full((height, width), NODATA, np.uint8)
    if part.pixel_count:
        here = part.relative_to(window).to_slices()
        expected[0][:, *here], expected[1][here] = numbers[:, *part.to_slices()], labels[part.to_slices()]
    got = Simulation(*labels.shape).render_block(window)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_the_size_of_the_scene_moves_only_the_swath() -> None:
    window = Window(300, 330, 200, 200)
    (small, small_labels), (large, large_labels) = (
        Simulation(*size).render_block(window) for size in ((600, 520), (1000, 30_000))
    )
    both = (small_labels != NODATA) & (large_labels != NODATA)
    assert both.any() and (small_labels == NODATA).any() and not (large_labels == NODATA).any()
    np.testing.assert_array_equal(small[:, both], large[:, both])


def test_seeds_differ() -> None:
    window = Window(300, 300, 64, 64)
    first, second = (Simulation(900, 900, seed).render_block(window)[0] for seed in (0, 1))
    assert np.mean(first == second) < 0.1


@settings(max_examples=25, deadline=None)
@given(
    st.integers(-FAR, FAR),
    st.integers(-FAR, FAR),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(3, 900),
    st.integers(1, 7),
)
def test_noise_does_not_see_its_window(row: int, col: int, down: int, right: int, spacing: float, octaves: int) -> None:
    whole = fractal_noise(Lattice(Window(row, col, 64, 72)), spacing, octaves, 3)
    part = fractal_noise(Lattice(Window(row + down, col + right, 13, 21)), spacing, octaves, 3)
    np.testing.assert_allclose(part, whole[down : down + 13, right : right + 21], atol=2e-4)


@pytest.mark.parametrize(("spacing", "octaves", "gain"), [(4, 1, 0.5), (16, 4, 0.5), (9, 3, 0.8)])
def test_noise_is_standardised_and_has_no_lattice(spacing: float, octaves: int, gain: float) -> None:
    field = fractal_noise(Lattice(Window(0, 0, 800, 900)), spacing, octaves, 5, gain=gain)
    assert abs(field.mean()) < 0.05 and abs(field.std() - 1) < 0.06
    assert 0.85 < np.diff(field, axis=0).std() / np.diff(field, axis=1).std() < 1.15


def test_scattered_noise_is_the_spline_of_the_same_weights() -> None:
    rows, cols = np.mgrid[-3:4:0.37, 5:11:0.41]
    weights = uniform(hash_keys(7, np.arange(-6, 8)[:, None], np.arange(2, 16))) - np.float32(0.5)
    expected = _evaluate_spline(weights, rows[:, 0] + 6, cols[0] - 2)
    got = noise_at(rows * 10, cols * 10, 10, 7)
    np.testing.assert_allclose(got / got.std(), expected / expected.std(), atol=1e-4)


def test_refining_the_weights_keeps_the_spline() -> None:
    weights = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    rows, cols = np.linspace(2, 8.9, 40), np.linspace(1, 6.9, 30)
    fine = _refine(weights)
    np.testing.assert_allclose(
        _evaluate_spline(fine, 2 * rows - 2, cols), _evaluate_spline(weights, rows, cols), atol=1e-5
    )


def test_coarse_lattice_carries_smooth_fields() -> None:
    area = Window(-37, 1001, 90, 70)
    coarse = Lattice(area, 8)
    direct = noise(Lattice(area), 300, 1)
    assert np.abs(coarse.upsample(noise(coarse, 300, 1)) - direct).max() < 0.02


@pytest.mark.parametrize("origin", [(0, 0), (-5000, 123_456)])
def test_cells_are_those_of_a_search_tree(origin: tuple[int, int]) -> None:
    rows, cols = (axis.astype(np.float32) for axis in np.mgrid[:150, :130])
    rows, cols = rows + np.float32(origin[0]), cols + np.float32(origin[1])
    found = voronoi_cells(rows, cols, 60, 9)
    key, site_rows, site_cols = scatter_sites(rows, cols, 60, 9)
    distance, index = cKDTree(np.c_[site_rows, site_cols]).query(np.dstack([rows, cols]), k=2)
    clear = distance[..., 1] - distance[..., 0] > 0.05
    np.testing.assert_array_equal(found.key[found.index][clear], key[index[..., 0]][clear])
    np.testing.assert_allclose(found.border, (distance[..., 1] - distance[..., 0]) / 2, atol=0.05)


def _overlap(area: Window, shift: int) -> tuple[Field, Field]:
    near = render_surface(area, 0)[0]
    far = render_surface(area.shift(shift, shift), 0)[0]
    return near[:, shift + 1 : -1, shift + 1 : -1], far[:, 1 : -shift - 1, 1 : -shift - 1]


@pytest.mark.parametrize(("row", "col"), [(1500, 700), (39_000, 20_000)])
def test_tiles_of_the_ground_meet_without_a_seam(row: int, col: int) -> None:
    """A tile's own arithmetic may round otherwise at a bound, in a few pixels, and nowhere else."""
    near, far = _overlap(Window(row, col, 120, 120), 40)
    differing = np.abs(near - far).max(axis=0) > 5e-4
    assert differing.mean() < 2e-3


def test_every_class_is_there_and_everywhere() -> None:
    _, labels = _sample()
    share = {value: np.mean(labels == value) for value in (LAND, WATER, CLOUD, SHADOW, NODATA)}
    assert 0.12 < share[WATER] < 0.25, share
    assert 0.10 < share[CLOUD] < 0.20, share
    assert 0.04 < share[SHADOW] < 0.10, share
    assert 0.01 < share[NODATA] < 0.08, share
    assert sum(share.values()) == pytest.approx(1)
    tiles = labels.reshape(256, -1, 256).swapaxes(0, 1)
    for value in (LAND, WATER, CLOUD, SHADOW):
        assert np.mean((tiles == value).any(axis=(1, 2))) > 0.4, CLASSES[value].name


def test_reflectances_are_plausible() -> None:
    numbers, labels = _sample()
    assert not numbers[:, labels == NODATA].any() and numbers[:, labels != NODATA].min() >= 1
    blue, green, red, nir, swir, _ = (
        {value: float(np.median(band[labels == value])) * SCALE for value in (LAND, WATER, CLOUD, SHADOW)}
        for band in numbers
    )
    assert 0.2 < nir[LAND] < 0.45 and 0.03 < red[LAND] < 0.15
    assert nir[WATER] < 0.05 and swir[WATER] < 0.03 and blue[WATER] > red[WATER] > nir[WATER]
    assert green[WATER] > nir[WATER] and green[LAND] < nir[LAND]  # the water index NDWI has the right sign
    assert 0.4 < blue[CLOUD] < 0.9 and abs(blue[CLOUD] - red[CLOUD]) < 0.1
    assert nir[SHADOW] < 0.6 * nir[LAND] and numbers.max() * SCALE < 1.3


def test_harsh_ground_is_land_where_there_was_land() -> None:
    window = Window(0, 0, 700, 700)
    (plain, labels), (harsh, same) = (
        Simulation(900, 700, seed=101, harsh=h).render_block(window) for h in (False, True)
    )
    np.testing.assert_array_equal(labels, same)
    differing = (plain != harsh).any(axis=0)
    assert 0.05 < differing.mean() < 0.5 and not differing[labels == NODATA].any()
    assert differing[labels == WATER].mean() < 0.5 * differing[labels == LAND].mean()  # its banks mix with the ground
    numbers, land = harsh * SCALE, differing & (labels == LAND)
    assert np.mean(numbers[3, land] < 0.1) > 0.02 and np.mean(numbers[0, land] > 0.3) > 0.02  # dark, and bright
    part = Window(310, 150, 90, 130)
    np.testing.assert_array_equal(
        Simulation(900, 700, seed=101, harsh=True).render_block(part)[0], harsh[:, *part.to_slices()]
    )


def test_shadows_lie_where_the_sun_casts_them() -> None:
    simulation = Simulation(4096, 4096)
    down, right = simulation.shadow_shift
    assert down < 0 and right < 0  # the sun stands in the south-east
    window = Window(1536, 1024, 256, 256)
    shadow = simulation.render_block(window)[1] == SHADOW
    casting = simulation.render_block(window.shift(-down, -right))[1] == CLOUD
    assert shadow.sum() > 1000
    assert casting[shadow].mean() > 0.9
    assert casting[simulation.render_block(window)[1] <= WATER].mean() < 0.05


def test_files_hold_the_blocks_and_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, shares, digests = Simulation(700, 530, seed=4, pixel_size=20), list[float](), set[str]()
    for workers in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda workers=workers: workers)
        scene = tmp_path / f"{workers}" / "scene.tif"
        truth = write_simulation(simulation, scene, shares.append)
        digests.add(hashlib.sha256(scene.read_bytes() + truth.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert sorted(path.name for path in scene.parent.iterdir()) == ["scene.tif", "scene_truth.tif"]
    assert truth == scene.with_name("scene_truth.tif") and shares[-1] == 1 and sorted(shares[:4]) == shares[:4]
    numbers, labels = simulation.render_block(Window(0, 0, 700, 530))
    with rasterio.open(scene) as image, rasterio.open(truth) as mask:
        np.testing.assert_array_equal(image.read(), numbers)
        np.testing.assert_array_equal(mask.read(1), labels)
        for raster in (image, mask):
            assert (raster.crs.to_epsg(), raster.transform) == (32632, simulation.grid.affine)
            assert raster.block_shapes[0] == (512, 512)
            assert raster.tags()["SIMULATED"] == "YES" and raster.tags()["SIMULATION_SEED"] == "4"
            assert raster.tags()["ACQUISITION_DATETIME"] == ACQUISITION_TIME
        assert image.descriptions == BANDS and image.nodata == 0
        assert [use.name for use in image.colorinterp[:3]] == ["blue", "green", "red"]
        assert set(image.scales) == {SCALE} and set(image.offsets) == {0.0}
        assert mask.nodata == NODATA
        assert {c.value: mask.colormap(1)[c.value][:3] for c in CLASSES} == {c.value: c.color for c in CLASSES}


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def fail(share: float) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_simulation(Simulation(60, 60), tmp_path / "scene.tif", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0, "width": 5}, r"scene of this size: got 0×5, expected at least 1×1"),
        ({"height": 5, "width": 2**31}, r"scene of this size: got 5×2147483648, expected .* at most 2³¹ − 1 on a side"),
        ({"height": 5, "width": 5, "seed": -1}, r"seed: got -1"),
        ({"height": 5, "width": 5, "pixel_size": 0.0}, r"pixel size: got 0.0, expected metres"),
    ],
)
def test_impossible_scenes_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Simulation(**arguments)  # type: ignore[arg-type]


def _folder(place: Path) -> Path:
    (place / "scene.tif").mkdir()
    return place / "scene.tif"


def _folder_of_truth(place: Path) -> Path:
    (place / "scene_truth.tif").mkdir()
    return place / "scene.tif"


def _below_a_file(place: Path) -> Path:
    (place / "file").touch()
    return place / "file" / "scene.tif"


def _unnamed(place: Path) -> Path:
    return Path()


def _nowhere(place: Path) -> Path:
    return Path("/proc/none/scene.tif")


TARGETS = {
    _folder: r"--out: got .*scene\.tif, a folder, expected",
    _folder_of_truth: r"--out: got .*scene_truth\.tif, a folder, expected",
    _below_a_file: r"--out .*scene\.tif: got .*(exists|directory) \(.*file.*\), expected",
    _unnamed: r"--out: got \., a folder, expected",
    _nowhere: r"--out /proc/none/scene\.tif: got No such file or directory \(/proc/none\), expected",
}


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
def test_a_scene_that_cannot_be_written_is_refused_at_once(make: Callable[[Path], Path], tmp_path: Path) -> None:
    shares: list[float] = []
    with pytest.raises(InputError, match=TARGETS[make]):
        write_simulation(Simulation(60, 60), make(tmp_path), shares.append)
    assert not shares


def test_a_disk_that_is_too_small_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 2**20))
    with pytest.raises(
        InputError, match=r"disk of --out .*: got 1.0 MiB free, expected 7.2 MiB for a scene of 1000×1000"
    ):
        write_simulation(Simulation(1000, 1000), tmp_path / "scene.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [120, 200, 700])
def test_a_disk_that_fills_up_leaves_no_scene(size: int, tmp_path: Path) -> None:
    """GDAL says nothing of what it could not write while it closed the file, nor may it say so later."""
    write_simulation(Simulation(20, 20), other := tmp_path / "other" / "scene.tif")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with rasterio.open(other) as opened:
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, limits[1]))  # fails a write as a full disk does
        try:
            with pytest.raises(InputError, match=r"--out .*scene\.tif: got .*, expected .* free some space"):
                write_simulation(Simulation(size, size), tmp_path / "scene.tif")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert opened.colorinterp
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
