"""A map of published scenes: the same bytes whatever order, split and workers; kills, damage, readers, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from seamline.flows.maps.make_map import make_map, preview_map
from seamline.flows.maps.observer import MapObserver
from seamline.flows.serving.app import create_app
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError, InUseError, OtherRunError, SeamlineError
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.fusion import period_run
from seamline.pipeline.fusion.scene_votes import fuse_window, open_map_scene
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.publishing.upload import upload
from seamline.pipeline.results.dataset import open_result
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import S3Access, use_access
from tests.support.map_runs import MONTHS, OPTIONS, build, read_rasters, remove_scene
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.s3_server import start_s3_server


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def whole(region_results: RegionResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of months of all scenes, made at once."""
    folder = tmp_path_factory.mktemp("whole")
    results = copy_scenes(region_results, folder / "results")
    build(results, results / "land", MONTHS)
    return results / "land"


def test_a_map_is_what_the_votes_of_its_scenes_say(region_results: RegionResults, tmp_path: Path) -> None:
    """Chunk by chunk on disk it is what one window over all of it gives."""
    results = copy_scenes(region_results, tmp_path / "results")
    result = build(results, tmp_path / "land", OPTIONS.model_copy(update={"outputs": ("cog", "zarr", "probabilities")}))
    grid, definition = result.record.map_grid, result.record.definition
    sources = [open_map_scene(scene, definition.label_classes) for scene in result.record.periods["all"]]
    assert len(sources) == 6
    window = Window(0, 0, grid.height, grid.width)
    fused = fuse_window(grid, window, sources, definition.label_classes, definition.unseen_positions)
    store = zarr.open_group(tmp_path / "land" / "land-all" / "segmentation.zarr", mode="r")
    np.testing.assert_array_equal(store["segmentation"][:], fused.labels)
    np.testing.assert_array_equal(store["probabilities"][:], fused.probabilities)
    np.testing.assert_array_equal(store["agreement"][:], fused.agreement)
    np.testing.assert_array_equal(store["last_date"][:], fused.last_date)
    counts = store["observations"][:]
    np.testing.assert_array_equal(np.where(counts == 65535, 0, counts), fused.observations)
    assert set(np.unique(fused.labels)) == {0, 1, NODATA}  # clouds do not vote
    assert fused.observations.max() > 3


def test_a_map_is_near_to_the_ground(region_results: RegionResults, tmp_path: Path) -> None:
    result = build(copy_scenes(region_results, tmp_path / "results"), tmp_path / "land")
    with rasterio.open(result.folder / "land-all" / "segmentation.tif") as file:
        labels = file.read(1)
    truth = region_results.region.render_truth(result.record.map_grid.geobox)
    seen = labels != NODATA
    assert np.mean(labels[seen] == truth[seen]) > 0.97


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_order_and_split_into_runs_do_not_change_a_byte(
    data: st.DataObject, region_results: RegionResults, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    names = data.draw(st.permutations([scene.id for scene in region_results.region.scenes]))
    cuts = sorted(data.draw(st.sets(st.integers(1, 5), max_size=2)) | {6})
    results = folder / "results"
    for cut in cuts:
        copy_scenes(region_results, results, names[:cut])
        build(results, results / "land", MONTHS)
    assert read_rasters(results / "land") == read_rasters(whole)
    assert list(verify(results)) == list(verify(results / "land")) == []


def test_workers_write_the_same_bytes(
    client: Client, region_results: RegionResults, whole: Path, tmp_path: Path
) -> None:
    results = copy_scenes(region_results, tmp_path / "results")

    @contextmanager
    def lend(*_: object) -> Iterator[Client]:
        yield client

    make_map(results, results / "land", MONTHS, MapObserver(), lend)
    assert read_rasters(results / "land") == read_rasters(whole)


def test_only_what_changed_is_computed(region_results: RegionResults, whole: Path, tmp_path: Path) -> None:
    names = [scene.id for scene in region_results.region.scenes]
    results = copy_scenes(region_results, tmp_path / "results", names[:5])
    build(results, results / "land", MONTHS)
    before = {path: path.stat().st_ino for path in (results / "land").glob("land-2024-05/**/c/**/*") if path.is_file()}
    copy_scenes(region_results, results)
    plan = preview_map(results, results / "land", MONTHS)
    assert {name: len(changes.computed) for name, changes in plan.periods.items()}["2024-05"] == 0
    assert set(plan.periods["2024-07"].computed.values()) == {f"new scene {names[5]}"}
    result = build(results, results / "land", MONTHS)
    assert result.computed and result.chunks == len(plan.periods["2024-07"].computed)
    assert read_rasters(results / "land") == read_rasters(whole)
    assert before == {path: path.stat().st_ino for path in before}  # the same files, not copies
    assert not build(results, results / "land", MONTHS).computed
    # Without the scene again.
    remove_scene(results, names[5])
    build(results, results / "land", MONTHS)
    other = copy_scenes(region_results, tmp_path / "other", names[:5])
    build(other, other / "land", MONTHS)
    assert read_rasters(results / "land") == read_rasters(other / "land")
    remove_scene(results, names[4])  # the last one of July
    build(results, results / "land", MONTHS)
    assert sorted(path.name for path in (results / "land").glob("land-*")) == ["land-2024-05", "land-2024-06"]
    assert not (results / "land-2024-07").exists()
    assert list(verify(results)) == []


@pytest.mark.parametrize("stage", ["fuse", "overviews", "item", "map.zarr", "place", "list", "table"])
def test_a_run_that_was_broken_off_goes_on(
    stage: str, region_results: RegionResults, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map of before stays readable until the new one is whole."""
    names = [scene.id for scene in region_results.region.scenes]
    results = copy_scenes(region_results, tmp_path / "results", names[:3])
    build(results, results / "land", MONTHS)
    before = read_rasters(results / "land")
    copy_scenes(region_results, results)
    place, count = {
        "fuse": ("seamline.pipeline.fusion.period_run.PeriodRun._write", 3),
        "overviews": ("seamline.pipeline.publishing.result_files.write_overviews", 1),
        "item": ("seamline.pipeline.maps.publish_map.write_item", 1),
        "map.zarr": ("seamline.pipeline.maps.map_folder.write_time_store", 0),
        "place": ("seamline.flows.maps.make_map.put_in_place", 0),
        "list": ("seamline.flows.maps.make_map.list_in_catalogue", 0),
        "table": ("seamline.pipeline.maps.map_folder.update_catalog", 2),  # of the last period
    }[stage]
    module, _, name = place.rpartition(".")
    target = period_run.PeriodRun if stage == "fuse" else __import__(module, fromlist=[name])
    original, calls = getattr(target, name), []

    def fail(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt if stage != "fuse" else OSError(28, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        with pytest.raises((KeyboardInterrupt, SeamlineError)):
            build(results, results / "land", MONTHS)
    if stage not in ("list", "table"):
        assert read_rasters(results / "land") == before
    build(results, results / "land", MONTHS)
    assert read_rasters(results / "land") == read_rasters(whole)
    assert list(verify(results)) == list(verify(results / "land")) == []
    assert not (results / "land" / ".run").exists()


def test_what_is_done_of_a_broken_run_is_not_done_again(
    region_results: RegionResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, fused = copy_scenes(region_results, tmp_path / "results"), []
    original = period_run.PeriodRun.fuse_chunk

    def fuse(self: period_run.PeriodRun, chunk: object) -> object:
        if len(fused) == 3:
            raise OSError(28, "No space left on device")
        fused.append((self.period, chunk))
        return original(self, chunk)

    fuse.__name__ = original.__name__  # by which it is pickled
    monkeypatch.setattr(period_run.PeriodRun, "fuse_chunk", fuse)
    with pytest.raises(SeamlineError, match="No space left"):
        build(results, tmp_path / "land", MONTHS)
    first = list(fused)
    fused[:] = [("", number) for number in range(4)]  # beyond the failing one
    result = build(results, tmp_path / "land", MONTHS)
    assert not set(first) & set(fused[4:])
    assert len(first) + len(fused) - 4 == result.chunks


def test_a_damaged_map_is_not_taken_over(region_results: RegionResults, whole: Path, tmp_path: Path) -> None:
    """Chunks that were lost since are computed again, although no scene that touches them has changed."""
    names = [scene.id for scene in region_results.region.scenes]
    results = copy_scenes(region_results, tmp_path / "results", names[:5])
    build(results, results / "land", MONTHS)
    chunk = next(path for path in (results / "land" / "land-2024-07").glob("*.zarr/segmentation/c/*/*"))
    chunk.unlink()
    copy_scenes(region_results, results)
    build(results, results / "land", MONTHS)
    assert read_rasters(results / "land") == read_rasters(whole)


def test_other_programs_read_a_map(whole: Path) -> None:
    store = xr.open_zarr(whole / "map.zarr")
    assert [str(day)[:7] for day in store.time.values] == ["2024-05", "2024-06", "2024-07"]
    for number, month in enumerate(("05", "06", "07")):
        with rasterio.open(whole / f"land-2024-{month}" / "segmentation.tif") as file:
            np.testing.assert_array_equal(store.segmentation[number], file.read(1))
            assert file.crs.to_epsg() == 32632 and file.res == (10, 10)
            assert file.transform.c % 10 == file.transform.f % 10 == 0
        dataset = open_result(whole, f"land-2024-{month}")
        days = dataset.last_date.values
        assert str(days[~np.isnat(days)].max())[:7] == f"2024-{month}"
    item = json.loads((whole.parent / "land-2024-05" / "item.json").read_text())
    derived = [link["href"] for link in item["links"] if link["rel"] == "derived_from" and "scene" in link["title"]]
    assert derived == ["../20240514-32632-0/item.json", "../20240514-32633-0/item.json"]
    assert all((whole.parent / "land-2024-05" / asset["href"]).exists() for asset in item["assets"].values())
    assert item["properties"]["seamline:map"] == "land" and item["properties"]["seamline:scenes"] == 2
    xr.testing.assert_equal(open_result(whole.parent, "land-2024-05"), open_result(whole, "land-2024-05"))


def test_the_page_shows_periods_beside_their_scenes(whole: Path, tmp_path: Path) -> None:
    with TestClient(create_app(whole.parent), base_url="http://127.0.0.1") as client:
        scenes = {scene["id"]: scene for scene in client.get("/scenes").json()["scenes"]}
        assert len(scenes) == 9 and not any("problem" in scene for scene in scenes.values())
        assert {"observations", "agreement", "last_date"} <= set(scenes["land-2024-05"]["layers"])
        file = client.get("/stac/land-2024-05/segmentation.tif")
        assert file.content == (whole / "land-2024-05" / "segmentation.tif").read_bytes()
    elsewhere = tmp_path / "results"
    shutil.copytree(whole.parent / "land-2024-05", elsewhere / "land-2024-05")
    item = json.loads((elsewhere / "land-2024-05" / "item.json").read_text())
    for link in item["links"]:
        if link["rel"] == "canonical":
            link["href"] = str(whole / "land-2024-05" / "item.json")
    (elsewhere / "land-2024-05" / "item.json").write_text(json.dumps(item))
    update_catalog(elsewhere)
    with TestClient(create_app(elsewhere), base_url="http://127.0.0.1") as client:
        (scene,) = client.get("/scenes").json()["scenes"]
        assert "of a map that lies in" in scene["problem"]
        assert client.get("/stac/land-2024-05/segmentation.tif").status_code == 409


def test_bounds_give_the_extent_and_an_area_leaves_the_rest_out(
    region_results: RegionResults, whole: Path, tmp_path: Path
) -> None:
    results = copy_scenes(region_results, tmp_path / "results")
    all_of_it = build(results, tmp_path / "all").record.map_grid.geobox
    left, bottom, right, top = all_of_it.boundingbox.bbox
    x, y = (left + right) / 2, (bottom + top) / 2
    bounds = (x - 613, y - 507, x + 601, y + 499)
    result = build(results, tmp_path / "part", OPTIONS.model_copy(update={"bounds": bounds}))
    grid = result.record.map_grid.geobox
    assert grid.boundingbox.left <= bounds[0] < grid.boundingbox.left + 10
    assert grid.boundingbox.top - 10 < bounds[3] <= grid.boundingbox.top
    with (
        rasterio.open(tmp_path / "all" / "all-all" / "segmentation.tif") as file,
        rasterio.open(tmp_path / "part" / "part-all" / "segmentation.tif") as part,
    ):
        np.testing.assert_array_equal(file.read(1, window=file.window(*part.bounds)), part.read(1))
    area = tmp_path / "area.geojson"
    ring = [[bounds[0], bounds[1]], [bounds[2], bounds[1]], [bounds[0], bounds[3]], [bounds[0], bounds[1]]]
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs}))
    build(results, tmp_path / "cut", OPTIONS.model_copy(update={"aoi": area}))
    with (
        rasterio.open(tmp_path / "part" / "part-all" / "segmentation.tif") as part,
        rasterio.open(tmp_path / "cut" / "cut-all" / "segmentation.tif") as cut,
    ):
        inside = rasterio.features.geometry_mask([{"type": "Polygon", "coordinates": [ring]}], cut.shape, cut.transform)
        np.testing.assert_array_equal(cut.read(1), np.where(inside, NODATA, part.read(1)))


def test_two_runs_do_not_disturb_each_other(region_results: RegionResults, tmp_path: Path) -> None:
    results = copy_scenes(region_results, tmp_path / "results")
    with RunDirectory(tmp_path / "land" / ".run").lock(), pytest.raises(InUseError):
        build(results, tmp_path / "land")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crs": "EPSG:999999"}, "--crs"),
        ({"crs": "EPSG:4326", "resolution": 10}, "resolution"),
        ({"bounds": (10, 10, 5, 20)}, "--bounds"),
        ({"bounds": (0, 0, 10, 10)}, "area of the map"),
        ({"period": "2023/2023"}, "--period"),
        ({"period": "week"}, "--period"),
        ({"model": "other"}, "--model"),
        ({"unseen": ("fog",)}, "--unseen"),
        ({"aoi": Path("nowhere.geojson")}, "nowhere.geojson"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_left(
    changes: dict[str, object], said: str, region_results: RegionResults, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        build(region_results.catalogue, tmp_path / "land", OPTIONS.model_copy(update=changes))
    assert not (tmp_path / "land").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_no_place_for_a_map(
    overwrite: bool, region_results: RegionResults, tmp_path: Path
) -> None:
    """Such as that of the scenes themselves, whose catalogue the map would replace."""
    results = copy_scenes(region_results, tmp_path / "results")
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    for folder in (results, results / "20240514-32632-0", tmp_path):
        with pytest.raises(InputError, match="which is no map"):
            build(results, folder, OPTIONS.model_copy(update={"overwrite": overwrite}))
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_the_name_of_a_map_is_one_that_a_result_can_have(region_results: RegionResults, tmp_path: Path) -> None:
    for name in ("my map", "café", "-land"):
        with pytest.raises(InputError, match="--out"):
            build(region_results.catalogue, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_scenes_are_only_read(region_results: RegionResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of scenes in a bucket that cannot be written to."""
    with start_s3_server() as s3:
        for name, value in s3.variables.items():
            monkeypatch.setenv(name, value)
        use_access(s3.access)
        try:
            results = s3.bucket("scenes")
            upload(region_results.catalogue / region_results.region.scenes[0].id, results)
            with monkeypatch.context() as patch:
                patch.setattr(ObjectFolder, "check_writable", lambda *_: pytest.fail("it writes to the scenes"))
                assert preview_map("s3://scenes", tmp_path / "land", OPTIONS).chunk_count
                assert build("s3://scenes", tmp_path / "land").computed
        finally:
            use_access(S3Access())


def test_another_map_in_the_place_is_kept(region_results: RegionResults, tmp_path: Path) -> None:
    results = copy_scenes(region_results, tmp_path / "results")
    build(results, results / "land")
    before = read_rasters(results / "land")
    with pytest.raises(OtherRunError, match="resolution"):
        build(results, results / "land", OPTIONS.model_copy(update={"resolution": 20.0}))
    assert read_rasters(results / "land") == before
    with pytest.raises(InputError, match="which is not of this map"):
        build(results, tmp_path / "elsewhere" / "land")
    build(results, results / "land", OPTIONS.model_copy(update={"resolution": 20.0, "overwrite": True}))
    assert list(verify(results)) == []


def test_a_damaged_scene_is_named_or_left_out(region_results: RegionResults, tmp_path: Path) -> None:
    results = tmp_path / "results"
    names = [scene.id for scene in region_results.region.scenes]
    copy_scenes(region_results, results, names)
    build(results, results / "land")
    before = read_rasters(results / "land")
    for name in ("segmentation.zarr", "probabilities.tif"):
        path = results / names[0] / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=names[0]):
        build(results, results / "land")
    assert read_rasters(results / "land") == before
    result = build(results, results / "land", OPTIONS.model_copy(update={"on_bad_scene": "skip"}))
    assert [scene.id for scene in result.record.skipped] == [names[0]]
    assert names[0] in (results / "land" / "land-all" / "report.html").read_text()
    other = copy_scenes(region_results, tmp_path / "other", names[1:])
    build(other, other / "land")
    assert read_rasters(results / "land") == read_rasters(other / "land")


def test_a_scene_that_is_damaged_within_ends_the_run(
    region_results: RegionResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(region_results.catalogue, results)
    chunk = next((results / "20240621-32632-0" / "segmentation.zarr" / "probabilities").glob("c/0/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    with pytest.raises(SeamlineError, match="20240621-32632-0"):
        build(results, tmp_path / "land")
    assert not (tmp_path / "land" / "map.json").exists()


def test_scenes_in_object_storage_make_the_same_map(
    region_results: RegionResults, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_s3_server() as s3:
        for name, value in s3.variables.items():
            monkeypatch.setenv(name, value)
        use_access(s3.access)
        try:
            results = s3.bucket("scenes").subfolder("2024")
            for scene in region_results.region.scenes:
                upload(region_results.catalogue / scene.id, results)
            result = build("s3://scenes/2024", tmp_path / "land", MONTHS)
            assert read_rasters(result.folder) == read_rasters(whole)
            assert list(verify(result.folder)) == []
            assert not build("s3://scenes/2024", tmp_path / "land", MONTHS).computed
        finally:
            use_access(S3Access())
