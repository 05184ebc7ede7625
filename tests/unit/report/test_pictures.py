"""Previews and pictures of plans: stretch, colours, scale and north."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.map_scale import map_scale, round_length
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels
from seamline.pipeline.report.plan_picture import write_plan_picture
from seamline.pipeline.report.preview import Caption, decimate_labels, stretch, write_preview
from tests.support.sample_data import MANAUS, find_shared

CLASSES = [LabelClass(0, "land", (200, 180, 120)), LabelClass(1, "water", (30, 90, 200))]
SHARES = {"land": 0.75, "water": 0.25}
UTM = Affine(30, 0, 600000, 0, -30, 9700000)


def caption(
    shape: tuple[int, int], crs: str | None = "EPSG:32720", transform: Affine = UTM, title: str = "a scene"
) -> Caption:
    return Caption(title, "date unknown", GeoBox(shape, transform, crs))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("shape", "size"), [((300, 200), 100), ((300, 200), 300), ((7, 1001), 500), ((1, 1), 10)])
def test_decimated_labels_are_every_nth(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    labels = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    grid = GeoBox(shape, Affine(30, 0, 600000, 0, -30, 9700000), "EPSG:32620")
    create_store(tmp_path / "s.zarr", grid, CLASSES, ZarrLayout(64), title="a scene")
    write_labels(tmp_path / "s.zarr", Window(0, 0, *shape), labels)
    small = decimate_labels(open_labels(tmp_path / "s.zarr"), size)
    step = -(-max(shape) // size)
    np.testing.assert_array_equal(small, labels[::step, ::step])
    assert max(small.shape) <= size


def test_stretch_spreads_the_valid_pixels_of_a_real_scene() -> None:
    with rasterio.open(find_shared(MANAUS)) as scene:
        pixels, valid = scene.read([3, 2, 1]).astype(np.float32), scene.dataset_mask() > 0
    valid[:50] = False
    picture = stretch(np.where(valid, pixels, np.nan), valid, rgb=False)
    assert picture.shape == (*valid.shape, 3)
    assert picture.dtype == np.uint8
    assert (picture[~valid] == 0).all()
    for band in range(3):
        shown = picture[..., band][valid]
        assert (shown == 0).mean() == pytest.approx(0.02, abs=0.01)
        assert 0.01 < (shown == 255).mean() < 0.2
        order = np.argsort(pixels[band][valid], kind="stable")
        assert (np.diff(shown[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("haze", [0.0, 0.04])
def test_what_is_grey_is_grey_and_what_is_green_green(haze: float) -> None:
    """Shadows, roofs and forest, as they are and through haze that is the brighter the shorter the wave."""
    rng = np.random.default_rng(0)
    grey, forest = rng.uniform(0.02, 0.5, (1, 20, 100)), rng.uniform(0.02, 0.06, (1, 80, 100))
    if haze:  # which shadows tell from colours
        grey[:, :6] = 0.02
    truth = np.concatenate([grey.repeat(3, axis=0), np.concatenate([forest, 2 * forest, forest])], axis=1)
    pixels = truth + haze * np.array([0.5, 1, 2])[:, np.newaxis, np.newaxis]
    picture = stretch(pixels, np.ones(pixels.shape[1:], bool), rgb=True).astype(int)
    assert np.ptp(picture[:20], axis=2).max() <= 12  # of all that is grey
    red, green, blue = np.moveaxis(picture[20:], 2, 0)
    assert (green >= red).all() and (green >= blue).all()
    assert green.mean() > 1.5 * red.mean()


@pytest.mark.parametrize("rgb", [True, False])
def test_stretch_shows_the_ground_under_bright_clouds(rgb: bool) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0.02, 0.12, (3, 100, 100))
    pixels[:, :30] = 0.8
    picture = stretch(pixels, np.ones((100, 100), bool), rgb=rgb)
    assert (picture[:30] == 255).all()
    assert picture[30:].mean() > 40


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_stretch_of_a_flat_or_empty_scene_is_finite(value: float) -> None:
    assert stretch(np.full((3, 4, 5), value), np.ones((4, 5), bool), rgb=True).max() == 0


@pytest.mark.parametrize("shape", [(120, 200), (300, 60), (40, 400), (1, 1)])
@pytest.mark.parametrize("with_scene", [True, False])
def test_the_preview_shows_scene_classes_and_nodata(tmp_path: Path, shape: tuple[int, int], with_scene: bool) -> None:
    labels = np.ones(shape, np.uint8)
    labels[: shape[0] // 2] = 0
    labels[:, : shape[1] // 4] = NODATA
    rgb = np.full((*shape, 3), (10, 250, 10), np.uint8) if with_scene else None
    path = tmp_path / "preview.png"
    write_preview(rgb, labels, CLASSES, SHARES, caption(shape), path)
    shown = pixels_of(path)
    assert all((shown == label.color).all(axis=-1).sum() > 1000 for label in CLASSES)
    assert ((shown == (10, 250, 10)).all(axis=-1).sum() > 1000) == with_scene
    bar = shown[-100:]  # the shares, below the panels
    widths = [(bar == label.color).all(axis=-1).sum(axis=1).max() for label in CLASSES]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.05)
    assert max(shown.shape) < 2600
    assert [entry.name for entry in tmp_path.iterdir()] == ["preview.png"]


def preview(tmp_path: Path, classes: list[LabelClass], drawn: Caption) -> np.ndarray:
    labels = np.zeros((600, 600), np.uint8)
    labels[1::2] = 1  # pixel by pixel, so that whoever mixes them is found out
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
    write_preview(np.full((600, 600, 3), (10, 250, 10), np.uint8), labels, classes, {}, drawn, path)
    return pixels_of(path)


def test_every_colour_of_the_segmentation_is_a_class(tmp_path: Path) -> None:
    shown = preview(tmp_path, CLASSES, caption((2000, 2000)))
    panel = shown[200:880, 830:1490]
    found = {tuple(color) for color in np.unique(panel.reshape(-1, 3), axis=0).tolist()}
    assert found == {label.color for label in CLASSES}


def test_a_preview_without_a_place_has_no_scale(tmp_path: Path) -> None:
    placed, placeless = (preview(tmp_path, CLASSES, caption((2000, 2000), crs)) for crs in ("EPSG:32720", None))
    differs = (placed != placeless).any(axis=-1)
    assert differs.any() and not differs[:, 800:].any() and not differs[:700].any()  # in the corner of the scene only


def test_north_is_shown_where_it_is_not_up(tmp_path: Path) -> None:
    grids = [caption((2000, 2000), None), *(caption((2000, 2000), transform=UTM @ Affine.rotation(a)) for a in (0, 30))]
    plain, up, turned = (preview(tmp_path, CLASSES, grid)[180:400, 500:800] for grid in grids)
    assert (plain == up).all()
    assert (plain != turned).any()


@pytest.mark.parametrize("name", ["$\\frac{$", "<b>", "x" * 300, "水", "a_b^c$d$"])
def test_names_are_names(tmp_path: Path, name: str) -> None:
    shown = preview(tmp_path, [LabelClass(0, name, (1, 2, 3)), CLASSES[1]], caption((200, 200), title=name))
    assert max(shown.shape) < 2600


@pytest.mark.parametrize(
    ("crs", "origin", "step"),
    [
        ("EPSG:32620", (600_000, 9_700_000), 30.0),
        ("EPSG:3857", (0, 8_399_738), 10.0),
        ("EPSG:4326", (10, 60), 1e-4),
        ("EPSG:3413", (1e5, -2e6), 25.0),
        ("EPSG:2263", (1e6, 2e5), 3.0),
    ],
)
@pytest.mark.parametrize("angle", [0, 40, -100, 180])
def test_scale_and_north_of_a_grid(crs: str, origin: tuple[float, float], step: float, angle: float) -> None:
    grid = GeoBox((80, 100), Affine.translation(*origin) @ Affine.rotation(angle) @ Affine.scale(step, -step), crs)
    lie = map_scale(grid)
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(*grid.pix2wld(np.array([40.0, 60, 50, 50, 50]), np.array([40.0, 40, 40, 30, 50])))
    _, _, sides = pyproj.Geod(ellps="GRS80").inv(lon[[0, 3]], lat[[0, 3]], lon[[1, 4]], lat[[1, 4]])
    assert [lie.pixel_m, lie.row_m] == pytest.approx(sides / 20, rel=1e-4)
    # A step up on the map that is drawn, turned by ``north``, goes north.
    turn = np.radians(lie.north)
    col, row = 50 + 20 * np.sin(turn), 40 - 20 * np.cos(turn)
    east, north = to_degrees.transform(*grid.pix2wld(np.array([col]), np.array([row])))
    azimuth, _, _ = pyproj.Geod(ellps="GRS80").inv(lon[2], lat[2], east[0], north[0])
    assert abs(azimuth) < 1


@pytest.mark.parametrize(("limit", "length"), [(1, 1), (4.99, 2), (5, 5), (0.03, 0.02), (99_999, 50_000)])
def test_lengths_are_round(limit: float, length: float) -> None:
    assert round_length(limit) == pytest.approx(length)


def plan(
    shape: tuple[int, int], window: int, halo: int, overlap: int, tiles: int
) -> tuple[list[Window], list[Window], list[Window]]:
    support = window - 2 * halo
    stride = support - overlap
    rows, cols = (-(-size // stride) for size in shape)
    first = Window(-(overlap // 2), -(overlap // 2), support, support)
    supports = [first.shift(row * stride, col * stride) for row in range(rows) for col in range(cols)]
    windows = [Window(s.row - halo, s.col - halo, window, window) for s in supports]
    edge = tiles * stride
    chunks = [
        Window(row, col, edge, edge).intersection(Window(0, 0, *shape))
        for row in range(0, shape[0], edge)
        for col in range(0, shape[1], edge)
    ]
    return windows, supports, chunks


@pytest.mark.parametrize(
    ("shape", "window", "halo", "overlap", "tiles"),
    [
        ((700, 800), 512, 32, 16, 1),
        ((20_000, 18_000), 512, 32, 16, 8),
        ((40, 3000), 256, 16, 0, 4),
        ((9, 9), 64, 0, 0, 1),
    ],
)
@pytest.mark.parametrize("with_scene", [True, False])
def test_the_plan_picture_is_readable_at_any_size(
    tmp_path: Path, shape: tuple[int, int], window: int, halo: int, overlap: int, tiles: int, with_scene: bool
) -> None:
    rgb = np.full((90, 100, 3), (10, 250, 10), np.uint8) if with_scene else None
    path = tmp_path / "plan.png"
    write_plan_picture(shape, *plan(shape, window, halo, overlap, tiles), overlap, rgb, "a plan", path)
    shown = pixels_of(path)
    assert 600 < shown.shape[0] < 1300 and 1000 < shown.shape[1] < 2200
    assert (shown == (0xD1, 0x49, 0x5B)).all(axis=-1).sum() > 2000  # the example window


@pytest.mark.parametrize("window", [1136, 1152, 2256])
def test_every_window_can_be_drawn(tmp_path: Path, window: int) -> None:
    rgb = np.zeros((468, 851, 3), np.uint8)
    shape = (468, 851)
    write_plan_picture(shape, *plan(shape, window, 96, 0, 1), 0, rgb, "a plan", tmp_path / "plan.png")
    assert (tmp_path / "plan.png").exists()
