"""A map in object storage, on a real server: the bytes of that on disk, whole at any moment; little travels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr
from distributed import Client, LocalCluster
from obstore.fsspec import register

from seamline.flows.api.maps import change, zones
from seamline.flows.maps.make_map import make_map, preview_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.settings.credentials import read_environment_access
from seamline.pipeline.common.errors import InputError, OtherRunError
from seamline.pipeline.maps import upload_map
from seamline.pipeline.publishing.upload import renew_catalog, upload
from seamline.pipeline.results.dataset import open_result
from seamline.pipeline.results.stored_results import StoredResults, refuse_replaced
from seamline.pipeline.results.verify_objects import verify_objects
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.stac.query import query_items
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import S3Access, use_access
from tests.support.kill_points import choose_points, count_changes, kill_at_change
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.s3_server import S3Server, start_s3_server

OPTIONS = MosaicOptions(crs="EPSG:32632", resolution=10, unseen=("cloud", "cloud shadow"), period="month").model_copy(
    update={"workers": 0}
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3_server() as running:
        yield running


@pytest.fixture(autouse=True)
def reached(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, as the environment says it to this process and to those that it starts."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    use_access(s3.access)
    yield s3
    use_access(S3Access())


@pytest.fixture(scope="module")
def names(region_results: RegionResults) -> list[str]:
    return [scene.id for scene in region_results.region.scenes]


@pytest.fixture(scope="module")
def on_disk(region_results: RegionResults, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Maps on disk of the first five scenes, and of all six."""
    folder, maps = tmp_path_factory.mktemp("disk"), {}
    for count in (5, 6):
        results = copy_scenes(
            region_results, folder / f"{count}", [scene.id for scene in region_results.region.scenes][:count]
        )
        make_map(results, results / "land", OPTIONS, MapObserver())
        maps[count] = results / "land"
    return maps


def build(results: Path | str, out: str, work: Path, **changes: object) -> MapResult:
    return make_map(results, out, OPTIONS.model_copy(update={"work": work, **changes}), MapObserver())


def read_disk(folder: Path) -> dict[str, bytes]:
    """COGs and chunks of the periods, by their paths below the map."""
    found = [
        path for period in folder.glob("land-*") for path in (*period.glob("*.tif"), *period.glob("*.zarr/**/c/**/*"))
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.is_file()}


def read_bucket(objects: ObjectFolder) -> dict[str, bytes]:
    """The same of the versions that ``map.json`` names, which is all that a reader sees."""
    versions = StoredResults.open(objects).versions
    files = {}
    for period, version in (versions or {}).items():
        place = objects.subfolder(period).subfolder(version)
        for key in place.list_sizes():
            if (key.endswith(".tif") and "/" not in key) or "/c/" in key:
                files[f"{period}/{key}"] = place.get(key).data
    return files


@dataclass
class Traffic:
    """Requests that change objects: keys of what was put, with bytes, and of what the server copied."""

    put: dict[str, int] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    read: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    found, put, copy, download = Traffic(), ObjectFolder.put, ObjectFolder.copy, ObjectFolder.download

    def note_put(self: ObjectFolder, key: str, data: bytes | Path) -> None:
        found.put[self.to_url(key)] = data.stat().st_size if isinstance(data, Path) else len(data)
        put(self, key, data)

    def note_copy(self: ObjectFolder, source: str, target: str) -> bool:
        found.copied.append(self.to_url(target))
        return copy(self, source, target)

    def note_download(self: ObjectFolder, key: str, path: Path) -> None:
        found.read[self.to_url(key)] += 1
        download(self, key, path)

    monkeypatch.setattr(ObjectFolder, "put", note_put)
    monkeypatch.setattr(ObjectFolder, "copy", note_copy)
    monkeypatch.setattr(ObjectFolder, "download", note_download)
    return found


def publish_scenes(catalogue: ObjectFolder, region: RegionResults, names: list[str]) -> None:
    for name in names:
        upload(region.catalogue / name, catalogue)


def open_references(objects: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    """As the guide says it, with fsspec's client of S3 that obstore brings."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    register("s3", asynchronous=True)
    options = {"fo": objects.to_url("map.zarr.json"), "remote_protocol": "s3", "remote_options": {"asynchronous": True}}
    return xr.open_zarr("reference://", storage_options={**options, "asynchronous": True}, mask_and_scale=False)


def test_a_map_in_a_bucket_is_that_on_disk(
    s3: S3Server,
    region_results: RegionResults,
    names: list[str],
    on_disk: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files, items in the catalogue of the scenes, and what readers say."""
    bucket = s3.bucket("same")
    results, objects, disk = bucket.subfolder("maps"), bucket.subfolder("maps/land"), on_disk[6]
    publish_scenes(results, region_results, names)
    made = build(results.to_url(), objects.to_url(), tmp_path)
    assert made.url == "s3://same/maps/land" and made.computed
    assert read_bucket(objects) == read_disk(disk)
    assert list(verify_objects(objects)) == list(verify_objects(results)) == []
    periods = ["land-2024-05", "land-2024-06", "land-2024-07"]
    items = {item["id"]: item for item in query_items(results, where="\"seamline:map\" = 'land'")}
    assert sorted(items) == periods
    for item in items.values():
        links = {link["rel"]: link["href"] for link in item["links"]}
        assert links["canonical"] == f"s3://same/maps/land/{item['id']}/item.json"
        assert links["root"] == "s3://same/maps/catalog.json" and links["derived_from"].startswith(
            "s3://same/maps/2024"
        )
        for asset in item["assets"].values():
            folder, _, key = asset["href"].removeprefix("s3://same/").rpartition("/")
            assert key.endswith(".zarr") or bucket.get_size(f"{folder}/{key}") == asset["file:size"]
    assert [item["id"] for item in query_items(objects)] == periods
    pointer = json.loads(objects.get("land-2024-05/item.json").data)
    assert {link["rel"]: link["href"] for link in pointer["links"]}["root"] == "../catalog.json"
    for name in periods:
        here, there = open_result(disk, name), open_result(objects.to_url(), name)
        xr.testing.assert_equal(here, there)
        xr.testing.assert_equal(here, open_result(results.to_url(), name))
    with xr.open_zarr(disk / "map.zarr", mask_and_scale=False) as here:
        there = open_references(objects, monkeypatch)
        xr.testing.assert_identical(here.drop_attrs().compute(), there.drop_attrs().compute())
        assert list(here.time.values) == list(there.time.values) and here.time.attrs == there.time.attrs
    assert not build(results.to_url(), objects.to_url(), tmp_path).computed


def test_zones_and_change_read_a_bucket(
    s3: S3Server, region_results: RegionResults, names: list[str], on_disk: dict[int, Path], tmp_path: Path
) -> None:
    bucket, disk = s3.bucket("analysis"), on_disk[6]
    results, objects = bucket.subfolder("scenes"), bucket.subfolder("maps/land")
    publish_scenes(results, region_results, names)
    build(results.to_url(), objects.to_url(), tmp_path / "work")
    with rasterio.open(disk / "land-2024-05" / "segmentation.tif") as file:
        left, bottom, right, top = file.bounds
    box = shapely.box(left + 500.5, bottom + 400.25, right - 900, top - 300)
    zones_file = tmp_path / "zones.gpkg"
    gpd.GeoDataFrame({"name": ["a"]}, geometry=[box], crs=32632).to_file(zones_file)
    for here, there in ((disk, objects.to_url()), (disk.parent, results.to_url())):
        pd.testing.assert_frame_equal(zones(here, zones_file, by="name"), zones(there, zones_file, by="name"))
    asked = {"from_period": "2024-05", "to_period": "2024-06", "min_agreement": 0.5}
    change(disk, out=tmp_path / "here", **asked)
    change(objects.to_url(), out=tmp_path / "there", **asked)
    for name in ("transitions.tif", "transitions.csv", "transitions.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name
    with pytest.raises(InputError, match="'2023', which is not in it"):
        change(objects.to_url(), out=tmp_path / "none", from_period="2023", to_period="2024-06")
    with pytest.raises(InputError, match="no scenes"):
        zones(bucket.to_url("nowhere"), zones_file)


def test_scenes_with_a_cog_alone_are_read(
    s3: S3Server, region_results: RegionResults, names: list[str], tmp_path: Path
) -> None:
    folder = copy_scenes(region_results, tmp_path / "results", names[:1]) / names[0]
    item = json.loads((folder / "item.json").read_text())
    del item["assets"]["zarr"]
    (folder / "item.json").unlink()
    (folder / "item.json").write_text(json.dumps(item))
    catalogue = s3.bucket("cogs")
    upload(folder, catalogue)
    for place in catalogue.list_folders():
        found = open_result(catalogue.to_url(), place)
        xr.testing.assert_equal(found.compute(), open_result(region_results.catalogue, place).compute())


def test_an_update_is_what_is_made_at_once_and_sends_what_changed(
    s3: S3Server,
    region_results: RegionResults,
    names: list[str],
    on_disk: dict[int, Path],
    tmp_path: Path,
    traffic: Traffic,
) -> None:
    """Periods that have not changed stay untouched; of the others the server copies the chunks that are the same."""
    results, objects = tmp_path / "results", s3.bucket("update").subfolder("land")
    copy_scenes(region_results, results, names[:5])
    build(results, objects.to_url(), tmp_path / "work")
    before, versions = read_bucket(objects), StoredResults.open(objects).versions
    assert before == read_disk(on_disk[5])
    copy_scenes(region_results, results)
    plan = preview_map(results, objects.to_url(), OPTIONS.model_copy(update={"work": tmp_path / "work"}))
    traffic.put.clear(), traffic.copied.clear(), traffic.read.clear()
    made = build(results, objects.to_url(), tmp_path / "work")
    after = read_bucket(objects)
    assert after == read_disk(on_disk[6])
    assert made.chunks == plan.chunk_count == len(plan.periods["2024-07"].computed)
    new = StoredResults.open(objects).versions
    assert {period for period in new if new[period] != versions[period]} == {"land-2024-07"}
    place = f"{objects.to_url('land-2024-07')}/{new['land-2024-07']}"
    pixels = {key for key in after if key.startswith("land-2024-07/")}
    same = {key for key in pixels if before.get(key) == after[key]}
    assert same and {f"{place}/{key.partition('/')[2]}" for key in same} <= set(traffic.copied)
    put = {key for key in traffic.put if key.endswith(".tif") or "/c/" in key}
    assert put == {f"{place}/{key.partition('/')[2]}" for key in pixels - same}
    assert not any("land-2024-05" in key or "land-2024-06" in key for key in (*traffic.put, *traffic.copied))
    assert not any("/c/" in key for key in traffic.read)  # the working folder has the store
    # The version before is there until the next one.
    assert len(objects.subfolder("land-2024-07").list_folders()) == 2
    old = StoredResults(objects, versions)
    refuse_replaced(old.find("land-2024-07"))
    for keep in (names[:5], names):
        for name in set(names) - set(keep):
            remove_scene(results, name)
        copy_scenes(region_results, results, keep)
        build(results, objects.to_url(), tmp_path / "work")
        assert len(objects.subfolder("land-2024-07").list_folders()) == 2
    assert read_bucket(objects) == after and list(verify_objects(objects)) == []


def test_damaged_objects_are_not_copied_into_the_next_version(
    s3: S3Server, region_results: RegionResults, on_disk: dict[int, Path], tmp_path: Path
) -> None:
    """What was cut is found by its size, what was changed with ``check``; the server would copy either."""
    results, objects = tmp_path / "results", s3.bucket("damage").subfolder("land")
    copy_scenes(region_results, results)
    build(results, objects.to_url(), tmp_path / "work")
    for check in (False, True):
        versions = StoredResults.open(objects).versions
        place = objects.subfolder("land-2024-07").subfolder(versions["land-2024-07"])
        damaged = ["segmentation.tif", *(key for key in place.list_sizes() if "segmentation/c/" in key)]
        for key in damaged:
            data = place.get(key).data
            place.put(key, data[:-1] + bytes([data[-1] ^ 1]) if check else data[:-1])
        assert read_bucket(objects) != read_disk(on_disk[6])
        build(results, objects.to_url(), tmp_path / "work", check=check)
        assert read_bucket(objects) == read_disk(on_disk[6])
    assert list(verify_objects(objects)) == []


def remove_scene(catalogue: Path, name: str) -> None:
    shutil.rmtree(catalogue / name)
    update_catalog(catalogue)


def test_another_machine_goes_on_with_the_map(
    s3: S3Server,
    region_results: RegionResults,
    names: list[str],
    on_disk: dict[int, Path],
    tmp_path: Path,
    traffic: Traffic,
) -> None:
    """One with an empty working folder fetches the stores of the periods that change, and nothing else."""
    results, objects = tmp_path / "results", s3.bucket("fresh").subfolder("land")
    copy_scenes(region_results, results, names[:5])
    build(results, objects.to_url(), tmp_path / "one")
    copy_scenes(region_results, results)
    traffic.read.clear()
    made = build(results, objects.to_url(), tmp_path / "two")
    assert made.computed and read_bucket(objects) == read_disk(on_disk[6])
    fetched = [key for key in traffic.read if "/map.zarr.json" not in key and "zarr.json" not in key]
    assert fetched and all("/land-2024-07/" in key and "/segmentation.zarr/" in key for key in fetched)
    assert not build(results, objects.to_url(), tmp_path / "three").computed
    # The first one has an older map in its folder; a month goes, with all of its scenes.
    for name in names[4:]:
        remove_scene(results, name)
    build(results, objects.to_url(), tmp_path / "one")
    assert sorted(StoredResults.open(objects).versions) == ["land-2024-05", "land-2024-06"]
    assert objects.get("land-2024-07/item.json") is None
    assert [item["id"] for item in query_items(objects)] == ["land-2024-05", "land-2024-06"]
    assert list(verify_objects(objects)) == []
    # A chunk that the bucket has lost is not taken over.
    place = StoredResults.open(objects).find("land-2024-06").folder
    lost = next(key for key in place.list_sizes("segmentation.zarr/segmentation/c"))
    place.delete([lost])
    assert [finding.scene for finding in verify_objects(objects)] == ["land-2024-06"]
    copy_scenes(region_results, results)
    remove_scene(results, names[2])
    build(results, objects.to_url(), tmp_path / "four")
    copy_scenes(region_results, results)
    build(results, objects.to_url(), tmp_path / "four")
    assert read_bucket(objects) == read_disk(on_disk[6]) and list(verify_objects(objects)) == []


def test_workers_fuse_and_upload_the_same_map(
    s3: S3Server, region_results: RegionResults, names: list[str], tmp_path: Path
) -> None:
    """One of a single period, which needs no references."""
    results, objects = (
        copy_scenes(region_results, tmp_path / "results", names[:2]),
        s3.bucket("workers").subfolder("land"),
    )
    single = OPTIONS.model_copy(update={"period": "all", "work": tmp_path / "work"})
    make_map(results, tmp_path / "land", single, MapObserver())

    @contextmanager
    def connect(*_: object) -> Iterator[Client]:
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            client.run(use_access, s3.access)
            yield client

    make_map(results, objects.to_url(), single, MapObserver(), connect)
    assert read_bucket(objects) == read_disk(tmp_path / "land") and list(verify_objects(objects)) == []
    assert objects.get("map.zarr.json") is None and not list((tmp_path / "work").rglob(".upload"))
    item = json.loads(objects.get("land-all/item.json").data)
    assert {link["href"] for link in item["links"] if link["rel"] == "derived_from" and "scene" in link["title"]} == {
        f"{results}/{name}/item.json" for name in names[:2]
    }


def make(variables: dict[str, str], results: str, out: str, work: Path) -> None:
    """Runs in a process whose environment may be that of an earlier test."""
    os.environ.update(variables)
    use_access(read_environment_access(os.environ))
    build(results, out, work)


def choose_moments(points: int) -> list[int]:
    """A few requests of a run: some of files, more of those around the pointer, items and catalogues at its end."""
    tail = points - 25
    return [*choose_points(tail, 1), *(tail + point for point in choose_points(25, 2) if point < 25)]


def test_a_killed_upload_leaves_a_whole_map_and_the_next_run_goes_on(
    s3: S3Server, region_results: RegionResults, names: list[str], on_disk: dict[int, Path], tmp_path: Path
) -> None:
    """At any request that changes an object, of an update of the map, by this machine or by another one."""
    bucket = s3.bucket("killed")

    def prepare(name: str) -> tuple[ObjectFolder, ObjectFolder, Path]:
        """Scenes and a map of five of them, to be renewed with the sixth."""
        results, objects = bucket.subfolder(f"{name}/scenes"), bucket.subfolder(f"{name}/land")
        publish_scenes(results, region_results, names[:5])
        build(results.to_url(), objects.to_url(), tmp_path / name)
        publish_scenes(results, region_results, names[5:])
        return results, objects, tmp_path / name

    states = [read_disk(on_disk[count]) for count in (5, 6)]
    results, objects, work = prepare("counted")
    points = count_changes(make, s3.variables, results.to_url(), objects.to_url(), work, below=None)
    assert points > 30
    for point in choose_moments(points):
        results, objects, work = prepare(f"at-{point}")
        kill_at_change(point, make, s3.variables, results.to_url(), objects.to_url(), work, below=None)
        assert read_bucket(objects) in states, point
        for period in objects.list_folders():  # each period is whole for those who read the items, too
            StoredResults(objects, None).find(period)
        build(results.to_url(), objects.to_url(), work if point % 2 else tmp_path / f"elsewhere-{point}")
        assert read_bucket(objects) == states[1], point
        assert list(verify_objects(objects)) == list(verify_objects(results)) == [], point
        assert len(query_items(results, where="\"seamline:map\" = 'land'")) == 3, point


def test_the_first_upload_shows_nothing_until_it_is_whole(
    s3: S3Server, region_results: RegionResults, names: list[str], on_disk: dict[int, Path], tmp_path: Path
) -> None:
    results, objects = copy_scenes(region_results, tmp_path / "results"), s3.bucket("first").subfolder("land")
    assert kill_at_change(20, make, s3.variables, results, objects.to_url(), tmp_path / "work", below=None)
    assert objects.list_sizes() and objects.get("map.json") is None
    left = set(objects.list_sizes())
    build(results, objects.to_url(), tmp_path / "work")
    assert left <= set(objects.list_sizes())  # it went on
    assert read_bucket(objects) == read_disk(on_disk[6]) and list(verify_objects(objects)) == []


def test_rivals_leave_one_whole_map(
    s3: S3Server, region_results: RegionResults, names: list[str], on_disk: dict[int, Path], tmp_path: Path
) -> None:
    """On two machines at once, of other scenes: what stands is the map of one of them, and a third run has both."""
    bucket = s3.bucket("rivals")
    results, objects = bucket.subfolder("scenes"), bucket.subfolder("land")
    folders = [copy_scenes(region_results, tmp_path / f"{count}", names[:count]) for count in (5, 6)]
    publish_scenes(results, region_results, names)
    errors: list[BaseException] = []

    def run(folder: Path) -> None:
        try:
            build(folder, objects.to_url(), tmp_path / f"work-{folder.name}")
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert read_bucket(objects) in (read_disk(on_disk[5]), read_disk(on_disk[6]))
    assert list(verify_objects(objects)) == []
    build(folders[1], objects.to_url(), tmp_path / "third")
    assert read_bucket(objects) == read_disk(on_disk[6]) and list(verify_objects(objects)) == []


def test_a_rival_between_looking_and_publishing_is_noticed(
    s3: S3Server,
    region_results: RegionResults,
    names: list[str],
    on_disk: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one publishes when our files are there and our pointer is not; then we look again, and go on."""
    objects = s3.bucket("late").subfolder("land")
    folders = [copy_scenes(region_results, tmp_path / f"{count}", names[:count]) for count in (4, 5, 6)]
    build(folders[0], objects.to_url(), tmp_path / "theirs")
    list_stale: Callable[..., list[str]] = upload_map._list_stale
    calls, said = list[int](), list[str]()

    def be_late(*values: Any) -> list[str]:
        stale = list_stale(*values)
        calls.append(1)
        if len(calls) == 1:
            build(folders[1], objects.to_url(), tmp_path / "theirs")
        return stale

    monkeypatch.setattr(upload_map, "_list_stale", be_late)
    options = OPTIONS.model_copy(update={"work": tmp_path / "ours"})
    make_map(folders[2], objects.to_url(), options, MapObserver(say=said.append))
    assert len(calls) == 3 and any("another run has replaced" in text for text in said)
    assert read_bucket(objects) == read_disk(on_disk[6]) and list(verify_objects(objects)) == []


def test_what_cannot_be_a_map_is_refused_before_any_work(
    s3: S3Server, region_results: RegionResults, names: list[str], tmp_path: Path
) -> None:
    bucket, work = s3.bucket("refused"), tmp_path / "work"
    results, objects = bucket.subfolder("scenes"), bucket.subfolder("land")
    publish_scenes(results, region_results, names[:1])
    build(results.to_url(), objects.to_url(), tmp_path / "first")
    before = bucket.list_versions()
    for out, changes, said in (
        (objects.to_url(), {"resolution": 20.0}, "resolution 10.*expected resolution 20"),
        (objects.to_url(), {"period": "year"}, "map of another definition: period month"),
        (results.to_url(), {}, "with other objects, which is no map"),
        (bucket.to_url(), {}, "as the name of the map|with other objects"),
        (bucket.to_url("elsewhere/land"), {}, "which is not of this map"),
        (bucket.to_url("my map"), {}, "'my map' as the name of the map"),
        ("s3://Refused/land", {}, "address of object storage"),
        ("s3://nothing-here/land", {}, "no bucket s3://nothing-here"),
    ):
        with pytest.raises(InputError, match=said):
            build(results.to_url(), out, work, **changes)
    with pytest.raises(OtherRunError):
        preview_map(results.to_url(), objects.to_url(), OPTIONS.model_copy(update={"resolution": 20.0}))
    assert bucket.list_versions() == before
    assert not [
        path for path in work.rglob("*") if path.is_file() and path.suffix != ".lock" and ".run" not in path.parts
    ]
    objects.put("map.json", b"{")
    with pytest.raises(InputError, match=r"map\.json of map s3://refused/land: got no readable JSON"):
        build(results.to_url(), objects.to_url(), work)
    made = build(results.to_url(), objects.to_url(), work, resolution=20.0, overwrite=True)
    assert made.computed and list(verify_objects(objects)) == list(verify_objects(results)) == []


def test_without_credentials_a_command_ends_with_one_line_and_secrets_are_nowhere(
    s3: S3Server, region_results: RegionResults, names: list[str], tmp_path: Path
) -> None:
    bucket, secret = s3.bucket("secret"), s3.access.secret or ""
    results = copy_scenes(region_results, tmp_path / "results", names[:2])
    work = tmp_path / "work"

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "seamline", *map(str, words)]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
        )

    made = ("mosaic", results, "--out", "s3://secret/land", "--crs", "EPSG:32632", "--resolution", 10, "--work", work)
    words = (*made, "--unseen", "cloud", "--period", "month", "--verbose", "--json")
    for command in (
        words,
        ("zones", "s3://secret/land", tmp_path / "z.gpkg", "--out", tmp_path / "z.csv"),
        ("verify", "s3://secret/land"),
    ):
        refused = run(*command, AWS_ACCESS_KEY_ID="AKIANOBODY")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert "z.gpkg" in refused.stderr or "access to s3://secret" in refused.stderr
    assert not work.exists()
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == "s3://secret/land"
    checked = run("verify", "s3://secret/land")
    assert checked.returncode == 0 and "1 scene, no findings" in checked.stdout, checked.stdout
    objects = b"".join(bucket.get(key).data for key in bucket.list_sizes())
    local = b"".join(path.read_bytes() for path in work.rglob("*") if path.is_file())
    for text in (done.stdout + done.stderr, objects.decode("latin-1"), local.decode("latin-1")):
        assert secret not in text
    renew_catalog(bucket.subfolder("land"))
    assert np.isin(["land-2024-05"], [item["id"] for item in query_items(bucket.subfolder("land"))]).all()
