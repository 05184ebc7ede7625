"""Maps of published scenes: on disk and in object storage, in every CRS, damaged and replaced."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import DamagedSceneError, InputError, RunError
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.fusion import scene_votes
from seamline.pipeline.fusion.fusing import FusedChunk
from seamline.pipeline.fusion.scene_votes import SceneSource, fuse_window
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.geometry.warp import NOWHERE, locate_pixels
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.publishing.upload import upload
from seamline.pipeline.storage.s3_access import S3Access, use_access
from tests.support.fusion_rule import FusedScene, assert_same, fuse_pixel
from tests.support.published_scenes import CLASSES, CLOUD, find_labels, make_probabilities, publish_scene
from tests.support.s3_server import S3Server, start_s3_server
from tests.support.scene_sources import open_scene_source

VALUES = tuple(label.value for label in CLASSES)
SHAPE = (110, 150)
EAST, NORTH = 700_000, 5_000_000
GRIDS = {
    "same-crs": GeoBox(SHAPE, Affine(30, 0, EAST + 7, 0, -30, NORTH + 11), "EPSG:32632"),
    "neighbour": GeoBox(SHAPE, Affine(30, 0, 227_000, 0, -30, NORTH - 400), "EPSG:32633"),
    "degrees": GeoBox(SHAPE, Affine(0.0004, 0, 11.54, 0, -0.0003, 45.13), "EPSG:4326"),
    "rotated": GeoBox(SHAPE, Affine(30, 0, EAST + 900, 0, -30, NORTH) @ Affine.rotation(20), "EPSG:32632"),
}
FILES = {
    "same-crs": ("zarr", "cog", "probabilities"),
    "neighbour": ("cog", "probabilities"),
    "degrees": ("zarr", "cog"),
    "rotated": ("cog",),
}
MAP = MapGrid.from_bounds("EPSG:32632", 30, (EAST - 600, NORTH - 4200, EAST + 5400, NORTH + 900))
WHOLE = Window(0, 0, MAP.height, MAP.width)
DAYS = {name: 20_000 + number for number, name in enumerate(GRIDS)}


def time_of(day: int) -> TimeSpan:
    return TimeSpan.at(datetime.fromtimestamp(86_400 * day, UTC))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("catalogue")
    for seed, (name, grid) in enumerate(GRIDS.items()):
        probabilities = make_probabilities(SHAPE, seed)
        publish_scene(out / name, grid, probabilities, acquired=time_of(DAYS[name]), files=FILES[name])
    return out


@pytest.fixture(scope="module")
def sources(catalogue: Path) -> list[SceneSource]:
    return [
        open_scene_source(catalogue, name, with_probabilities="probabilities" in files) for name, files in FILES.items()
    ]


@pytest.fixture
def copied(catalogue: Path, tmp_path: Path) -> Path:
    """A catalogue that a test may damage."""
    return shutil.copytree(catalogue, tmp_path / "copied")


def fuse(sources: Sequence[SceneSource], window: Window = WHOLE) -> FusedChunk:
    return fuse_window(MAP, window, sources, CLASSES, {CLOUD})


def test_a_map_of_scenes_in_four_grids_is_the_rule(sources: list[SceneSource]) -> None:
    scenes = []
    for seed, name in enumerate(GRIDS):
        probabilities = make_probabilities(SHAPE, seed)
        own = probabilities if "probabilities" in FILES[name] else None
        positions = locate_pixels(MAP, WHOLE, GRIDS[name])
        scenes.append(FusedScene(find_labels(probabilities), own, *positions, DAYS[name]))
    fused = fuse(sources)
    assert np.bincount(fused.observations.ravel(), minlength=5).min() > 0  # nowhere, and all four scenes
    for at in zip(*(np.random.default_rng(0).integers(0, size, 150) for size in WHOLE.shape), strict=True):
        found = [fused.labels[at], fused.probabilities[:, *at].tolist()]
        found += [layer[at] for layer in (fused.observations, fused.agreement, fused.last_date)]
        assert found == fuse_pixel(scenes, VALUES, {CLOUD}, at), at


def test_neither_windows_nor_order_nor_quarters_matter(
    sources: list[SceneSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fuse(sources)
    monkeypatch.setattr(scene_votes, "_MOST_PIXELS", 500)
    assert_same(fuse(pickle.loads(pickle.dumps(sources[::-1]))), expected)
    monkeypatch.undo()
    for window in (Window(31, 47, 64, 50), Window(100, 0, 1, WHOLE.width)):
        part, (rows, cols) = fuse(sources, window), window.to_slices()
        cut = {name: layer[..., rows, cols] for name, layer in expected.layers.items()}
        assert_same(part, FusedChunk(expected.labels[rows, cols], **cut))


def test_much_finer_scenes_are_read_in_windows_of_bounded_size(
    sources: list[SceneSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def note(self: SceneSource, window: Window) -> scene_votes.ScenePixels:
        sizes.append(window.pixel_count)
        return read(self, window)

    read = SceneSource.read
    monkeypatch.setattr(SceneSource, "read", note)
    monkeypatch.setattr(scene_votes, "_MOST_PIXELS", 900)
    coarse = MapGrid.from_bounds("EPSG:32632", 300, (EAST - 600, NORTH - 4200, EAST + 5400, NORTH + 900))
    fuse_window(coarse, Window(0, 0, coarse.height, coarse.width), sources, CLASSES, {CLOUD})
    assert len(sizes) > 40 and max(sizes) <= 900


def test_on_its_own_grid_a_scene_keeps_its_labels(tmp_path: Path) -> None:
    grid = GeoBox(SHAPE, Affine(10, 0, 500_000, 0, -10, 4_000_000), "EPSG:32632")
    probabilities = make_probabilities(SHAPE)
    publish_scene(tmp_path / "a", grid, probabilities, acquired=time_of(19_000))
    own = MapGrid.from_bounds("EPSG:32632", 10, (500_000, 4_000_000 - 1100, 501_500, 4_000_000))
    fused = fuse_window(own, Window(0, 0, *SHAPE), [open_scene_source(tmp_path, "a")], CLASSES, {CLOUD})
    labels = find_labels(probabilities)
    seen = np.isin(labels, (VALUES[0], VALUES[1]))
    np.testing.assert_array_equal(fused.labels, np.where(seen, labels, NODATA))
    np.testing.assert_array_equal(fused.observations, seen)
    np.testing.assert_array_equal(fused.last_date, np.where(seen, 19_000, 65535))
    np.testing.assert_array_equal(fused.agreement, np.where(seen, 250, NODATA))


def test_a_window_ends_with_the_scene(sources: list[SceneSource]) -> None:
    (scene, *_), probabilities = sources, make_probabilities(SHAPE)
    pixels = scene.read(Window(-5, 100, 50, 80))
    assert (pixels.row, pixels.col, pixels.labels.shape) == (0, 100, (45, 50))
    np.testing.assert_array_equal(pixels.labels, find_labels(probabilities)[:45, 100:])
    np.testing.assert_array_equal(pixels.probabilities, probabilities[:, :45, 100:])
    assert pixels.taper[0].tolist() == [4] * 50 and pixels.taper[:, -1].tolist() == [4] * 45
    part = scene.read(Window(20, 110, 9, 9))
    np.testing.assert_array_equal(part.taper, pixels.taper[20:29, 10:19])


def test_scenes_that_do_not_meet_a_window_are_not_read(sources: list[SceneSource]) -> None:
    gone = [replace(source, folder="/no/such/folder") for source in sources]
    corner = Window(0, WHOLE.width - 3, 2, 2)
    assert all((locate_pixels(MAP, corner, source.grid)[0] == NOWHERE).all() for source in gone)
    fused = fuse(gone, corner)
    assert (fused.labels == NODATA).all() and not fused.observations.any()
    assert set(fused.layers) == {"probabilities", "observations", "agreement", "last_date"}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores_and_cogs_say_the_same(tmp_path: Path, zarr_format: int) -> None:
    for name, files in {"a": ("zarr", "cog", "probabilities"), "b": ("cog", "probabilities")}.items():
        probabilities = make_probabilities(SHAPE)
        publish_scene(tmp_path / name, GRIDS["same-crs"], probabilities, files=files, zarr_format=zarr_format)
    sources = [open_scene_source(tmp_path, name) for name in "ab"]
    assert [source.labels for source in sources] == ["segmentation.zarr", "segmentation.tif"]
    assert [source.probabilities for source in sources] == ["segmentation.zarr", "probabilities.tif"]
    assert_same(*(fuse([source]) for source in sources))


def find_chunk(folder: Path, array: str) -> Path:
    """The last Zarr chunk of an array."""
    files = (folder / "segmentation.zarr" / array).rglob("*")
    return max(path for path in files if path.is_file() and path.name[0].isdigit())


def damage_chunk(folder: Path, array: str) -> None:
    """One byte in the middle of what is compressed."""
    data = bytearray(find_chunk(folder, array).read_bytes())
    data[len(data) // 2] ^= 1
    find_chunk(folder, array).write_bytes(data)


def lose_chunk(folder: Path, array: str) -> None:
    find_chunk(folder, array).unlink()


def cut_off(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    ("scene", "file", "damage", "part"),
    [
        ("same-crs", "segmentation.zarr", damage_chunk, "segmentation"),
        ("same-crs", "segmentation.zarr", damage_chunk, "probabilities"),
        ("same-crs", "segmentation.zarr", lose_chunk, "probabilities"),
        ("same-crs", "segmentation.zarr", lose_chunk, "segmentation"),
        ("neighbour", "segmentation.tif", cut_off, "segmentation.tif"),
        ("neighbour", "probabilities.tif", cut_off, "probabilities.tif"),
        ("neighbour", "probabilities.tif", lambda folder, name: (folder / name).unlink(), "probabilities.tif"),
    ],
)
def test_a_damaged_file_is_named(copied: Path, scene: str, file: str, damage: object, part: str) -> None:
    source = open_scene_source(copied, scene)
    fuse([source])
    damage(copied / scene, part)
    with pytest.raises(DamagedSceneError) as caught:
        fuse([source])
    message = str(caught.value)
    assert f"scene {scene}" in message and f"{copied / scene}/{file}" in message and "seamline verify" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_a_damaged_chunk_of_an_older_format_is_named(tmp_path: Path) -> None:
    """Its compressor has errors of its own."""
    publish_scene(tmp_path / "a", GRIDS["same-crs"], make_probabilities(SHAPE), zarr_format=2)
    damage_chunk(tmp_path / "a", "probabilities")
    with pytest.raises(DamagedSceneError, match=r"scene a: .*segmentation\.zarr cannot be read"):
        fuse([open_scene_source(tmp_path, "a")])


def test_labels_of_no_class_are_refused(copied: Path) -> None:
    source = replace(open_scene_source(copied, "degrees", with_probabilities=False), values=(0, 7))
    with pytest.raises(DamagedSceneError, match=r"label 2 in .* none of the classes"):
        fuse([source])


def test_a_raster_of_another_shape_is_refused(sources: list[SceneSource]) -> None:
    for source in sources[:2]:
        grid = GeoBox((SHAPE[0] + 1, SHAPE[1]), source.grid.transform, source.grid.crs)
        with pytest.raises(
            DamagedSceneError, match=r"uint8 of shape \(1, 110, 150\), expected uint8 of shape \(1, 111, 150\)"
        ):
            fuse([replace(source, grid=grid)])


def test_a_scene_that_was_replaced_or_removed_is_no_damage(copied: Path) -> None:
    source = open_scene_source(copied, "same-crs")
    shutil.rmtree(copied / "same-crs")
    with pytest.raises(RunError, match="scene same-crs was replaced or removed"):
        fuse([source])
    grid = GRIDS["same-crs"].pad(3)
    publish_scene(copied / "same-crs", grid, make_probabilities(grid.shape))
    with pytest.raises(RunError, match="scene same-crs was replaced or removed"):
        fuse([source])
    # A new scene of the same shape reads well, and is another one all the same.
    shutil.rmtree(copied / "same-crs")
    publish_scene(copied / "same-crs", GRIDS["same-crs"], make_probabilities(SHAPE, 9), files=("zarr", "probabilities"))
    with pytest.raises(RunError, match="scene same-crs was replaced or removed"):
        fuse([source])


def test_what_cannot_vote_is_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no probabilities.*--labels"):
        open_scene_source(copied, "degrees")
    assert open_scene_source(copied, "same-crs", with_probabilities=False).probabilities is None
    publish_scene(tmp_path / "out" / "nowhere", GeoBox(SHAPE, Affine.identity(), None), make_probabilities(SHAPE))
    with pytest.raises(InputError, match="scene nowhere: got no CRS"):
        open_scene_source(tmp_path / "out", "nowhere")
    with pytest.raises(InputError, match="scene in"):
        open_scene_source(copied, "unknown")


def test_a_relative_path_counts_from_where_the_scene_was_opened(
    catalogue: Path, sources: list[SceneSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(catalogue.parent)
    assert open_scene_source(Path(catalogue.name), "same-crs") == sources[0]


def test_too_many_scenes_are_refused(sources: list[SceneSource]) -> None:
    with pytest.raises(InputError, match="65535 scenes"):
        fuse(sources[:1] * 65_535)


@pytest.mark.parametrize(
    ("acquired", "day"),
    [
        (None, None),
        (TimeSpan.from_text("1970-01-02"), 1),
        (TimeSpan.from_text("2024-06-01T23:59:59+05:00"), 19_875),
        (TimeSpan.from_text("2024-06-01/2024-06-03"), 19_876),
        (TimeSpan.from_text("1969-12-31"), None),
        (TimeSpan.from_text("2150-01-01"), None),
    ],
)
def test_a_day_is_the_middle_of_the_time(tmp_path: Path, acquired: TimeSpan | None, day: int | None) -> None:
    grid = GeoBox((5, 6), GRIDS["same-crs"].transform, "EPSG:32632")
    publish_scene(tmp_path / "a", grid, make_probabilities((5, 6)), acquired=acquired, files=("zarr", "probabilities"))
    assert open_scene_source(tmp_path, "a").day == day


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3_server() as running:
        use_access(running.access)
        yield running
        use_access(S3Access())


def test_scenes_in_object_storage_are_fused_as_those_on_disk(
    s3: S3Server, catalogue: Path, sources: list[SceneSource]
) -> None:
    results = s3.bucket("results").subfolder("2024")
    for name in GRIDS:
        upload(catalogue / name, results)
    uploaded = [
        open_scene_source(results, source.id, with_probabilities=source.probabilities is not None) for source in sources
    ]
    for here, there in zip(sources, uploaded, strict=True):
        for name in ("id", "labels", "probabilities", "grid", "values", "day", "version"):
            assert getattr(here, name) == getattr(there, name), name
        assert there.folder.startswith(f"s3://results/2024/{there.id}/")
    assert_same(fuse(pickle.loads(pickle.dumps(uploaded))), fuse(sources))
    with pytest.raises(InputError, match="scene unknown in s3://results/2024: got no results"):
        open_scene_source(results, "unknown")


def test_damage_and_replacement_in_object_storage_are_named(s3: S3Server, copied: Path) -> None:
    results = s3.bucket("damaged")
    for name in ("same-crs", "neighbour"):
        upload(copied / name, results)
    sources = [open_scene_source(results, name) for name in ("same-crs", "neighbour")]
    for source, part in zip(sources, ("segmentation.zarr/segmentation/c/1/1", "segmentation.tif"), strict=True):
        place = results.subfolder(f"{source.id}/{source.folder.rpartition('/')[2]}")
        data = place.get(part).data
        place.put(part, data[: len(data) // 2])
        with pytest.raises(DamagedSceneError, match=f"scene {source.id}: {source.folder}/segmentation"):
            fuse([source])
        place.put(part, data)
        fuse([source])
    item = json.loads((copied / "same-crs" / "item.json").read_text())
    item["properties"]["title"] = "another"
    (copied / "same-crs" / "item.json").write_text(json.dumps(item))
    upload(copied / "same-crs", results)
    with pytest.raises(RunError, match="scene same-crs was replaced or removed"):
        fuse(sources)


def test_a_server_that_refuses_is_no_damage(s3: S3Server, copied: Path) -> None:
    results = s3.bucket("secret")
    upload(copied / "same-crs", results)
    source = open_scene_source(results, "same-crs")
    use_access(replace(s3.access, secret="wrong"))
    try:
        with pytest.raises(InputError, match="access to s3://secret"):
            fuse([source])
    finally:
        use_access(s3.access)
