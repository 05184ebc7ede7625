"""Object storage, on a real server in a process of its own: scenes read, results published, kills and rivals."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import xarray as xr
from obstore.store import S3Store
from zarr.storage import ObjectStore

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import BadBlockError, InputError, RunError
from seamline.pipeline.common.layout import ITEM, ITEMS
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.publishing.upload import upload
from seamline.pipeline.publishing.uploaded import find_uploaded
from seamline.pipeline.raster_io.gdal import gdal_environment
from seamline.pipeline.results.verify_objects import verify_objects
from seamline.pipeline.scenes.scene import read_block
from seamline.pipeline.stac.extent import Interval
from seamline.pipeline.stac.query import query_items
from seamline.pipeline.storage import object_store
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import S3Access, use_access
from tests.support.s3_server import S3Server, start_s3_server
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128}
OPTIONS = {"window": 192, "halo": 48}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3_server() as running:
        yield running


@pytest.fixture
def reached(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, as the environment says it to this process and to those that it starts."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    use_access(s3.access)
    yield s3
    use_access(S3Access())


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return make_noise(6, 300, 400)


@pytest.fixture(scope="module")
def workers(s3: S3Server, module_patch: pytest.MonkeyPatch) -> Iterator[str]:
    """A scheduler whose workers have the environment of somebody who may reach the server."""
    from distributed import LocalCluster

    for name, value in s3.variables.items():
        module_patch.setenv(name, value)
    with LocalCluster(n_workers=1, threads_per_worker=3, processes=True, dashboard_address=None) as local:
        yield str(local.scheduler_address)


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def put(folder: ObjectFolder, key: str, path: Path) -> str:
    folder.put(key, path)
    return folder.to_url(key)


def run(source: str, model: Model, out: str | Path, workers: str, **options: Any) -> RunResult:
    return segment(source, model.folder, out, SegmentOptions(cluster=workers, **{**OPTIONS, **options}), RunObserver())


@pytest.fixture(scope="module")
def finished(
    s3: S3Server, small_model: Model, workers: str, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, RunResult, Path]:
    """A scene that was read from a bucket and published to it; beside it the same scene, from and on disk."""
    folder = tmp_path_factory.mktemp("finished")
    source = write_geotiff(folder / "scene.tif", pixels, names=BAND_NAMES, nodata=0, **TILED)
    results, scenes = s3.bucket("results"), s3.bucket("scenes")
    url = put(scenes.subfolder("2026"), "scene.tif", source)
    local = run(str(source), small_model, folder / "out", workers, outputs=("cog", "zarr", "confidence")).folder
    out = results.subfolder("maps").to_url()
    asked = {"work": folder / "work", "outputs": ("cog", "zarr", "confidence")}
    return local, out, run(url, small_model, out, workers, **asked), folder


def test_what_is_published_is_what_lies_on_disk(
    reached: S3Server, finished: tuple[Path, str, RunResult, Path], small_model: Model, workers: str
) -> None:
    local, out, result, folder = finished
    assert result.url == f"{out}/scene" and result.computed
    assert not list((folder / "work").rglob("*.tif"))
    item = pystac.Item.from_dict(json.loads(ObjectFolder.from_url(result.url).get(ITEM).data))
    assert set(item.assets) == set(pystac.Item.from_file(str(local / ITEM)).assets)
    place = ObjectFolder.from_url(result.url)
    for asset in item.assets.values():
        key = asset.href.removeprefix("./")
        if key.endswith(".zarr"):
            assert sum(place.list_sizes(key).values()) == asset.extra_fields["file:size"]
        else:
            data = place.get(key).data
            assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    cog = item.assets["segmentation"].href.removeprefix("./")
    with gdal_environment(out), rasterio.open(f"/vsis3/{place.bucket}/{place.prefix}/{cog}") as file:
        labels = file.read(1)
    with rasterio.open(local / "segmentation.tif") as file:
        np.testing.assert_array_equal(labels, file.read(1))
    bucket = S3Store(
        place.bucket,
        prefix=f"{place.prefix}/{item.assets['zarr'].href.removeprefix('./')}",
        endpoint=reached.url,
        client_options={"allow_http": True},
    )
    dataset = xr.open_zarr(ObjectStore(bucket, read_only=True), consolidated=False, mask_and_scale=False)
    np.testing.assert_array_equal(dataset.segmentation.values, labels)
    again = run(
        json.loads(place.get(cog.rpartition("/")[0] + "/run.json").data)["source"],
        small_model,
        out,
        workers,
        work=folder / "work",
    )
    assert not again.computed and not again.rewritten and again.url == result.url


def test_query_reads_a_bucket(reached: S3Server, finished: tuple[Path, str, RunResult, Path]) -> None:
    _, out, result, _ = finished
    (item,) = query_items(ObjectFolder.from_url(out), where="c0_share >= 0")
    assert item["id"] == "scene"
    assert item["assets"]["run"]["href"].startswith(f"{result.url}/")
    assert not query_items(ObjectFolder.from_url(out), where="c0_share > 2")
    with pytest.raises(InputError, match="no items"):
        query_items(ObjectFolder.from_url(f"{out}/elsewhere"))


def test_a_published_record_of_another_version_is_found_and_not_replaced(
    reached: S3Server, finished: tuple[Path, str, RunResult, Path], small_model: Model, workers: str
) -> None:
    _, out, result, folder = finished
    catalogue = ObjectFolder.from_url(out)
    published = find_uploaded(catalogue, "scene")
    assert published is not None and not list(verify_objects(catalogue))
    place, key = catalogue.subfolder("scene"), f"{published.version}/run.json"
    data = place.get(key).data
    place.put(key, data.replace(b'"record_version": 1', b'"record_version": 2'))
    try:
        (finding,) = verify_objects(catalogue)
        assert (finding.scene, finding.subject) == ("scene", "run.json") and "record_version 2" in finding.problem
        with pytest.raises(InputError, match="got record_version 2, expected 1"):
            run(result.record.source, small_model, out, workers, work=folder / "work")
    finally:
        place.put(key, data)
    assert not list(verify_objects(catalogue))


def test_what_is_asked_for_later_or_lost_is_written_and_another_scene_is_refused(
    reached: S3Server, finished: tuple[Path, str, RunResult, Path], small_model: Model, workers: str
) -> None:
    _, out, result, folder = finished
    url, work = result.record.source, folder / "work"
    asked = ("cog", "zarr", "confidence", "polygons")
    later = run(url, small_model, out, workers, work=work, outputs=asked, polygon_formats=("fgb", "pmtiles"))
    assert not later.computed and "polygons" in later.rewritten
    catalogue = ObjectFolder.from_url(out)
    found = find_uploaded(catalogue, "scene")
    assert found is not None
    for key in ("polygons-fgb", "polygons-pmtiles"):
        assert found.item["assets"][key]["href"].startswith(f"./{found.version}/")
    assert seen(catalogue, "scene")
    again = run(url, small_model, out, workers, work=work, outputs=asked, polygon_formats=("fgb", "pmtiles"))
    assert not again.rewritten
    dated = [run(url, small_model, out, workers, work=work, outputs=("cog",), datetime="2024-06-01") for _ in range(2)]
    assert [set(one.rewritten) for one in dated] == [{"preview", "report", "item"}, set()]
    (item,) = query_items(catalogue, interval=Interval.from_text("2024-06"))
    assert item["properties"]["datetime"] == "2024-06-01T00:00:00Z"
    catalogue.delete(["catalog.json"])  # as if killed before it was written
    run(url, small_model, out, workers, work=work)
    assert catalogue.get("catalog.json") is not None
    other = write_geotiff(folder / "other" / "scene.tif", make_noise(6, 300, 400, seed=9), names=BAND_NAMES, nodata=0)
    with pytest.raises(InputError, match=f"published run in {out}/scene: got scene_digest"):
        run(str(other), small_model, out, workers, work=work)


FLOW = """
import json, os, shutil, sys
from pathlib import Path
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort, TaskRunSort
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.segment_scene import segment_scene
from seamline.pipeline.common.errors import InputError
from tests.support.prefect_server import use_prefect_server

if __name__ == "__main__":
    source, model, out, work, block, server, database, template = sys.argv[1:]
    os.environ["PREFECT_LOGGING_ROOT_LEVEL"] = "INFO"  # of the server, which would log each of its SQL statements
    with use_prefect_server(Path(template), Path(server)):
        os.environ["PREFECT_LOGGING_ROOT_LEVEL"] = "DEBUG"  # of the Dask workers
        Secret(value=Path(block).read_text()).save("object-storage")
        Secret(value=json.dumps({"key": Path(block).read_text()})).save("wrong")
        Path(block).unlink()
        options = SegmentOptions(
            window=192, halo=48, precision="fp32", engine="torch", workers=1, work=work, credentials="object-storage"
        )
        print("DONE", segment_scene(source, model, out, options))
        for wrong in ("wrong", "nothing"):
            try:
                use_credentials(wrong)
            except InputError as error:
                print("REFUSED", error)
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(limit=50, sort=FlowRunSort.START_TIME_ASC)
            for run in runs:
                print("RUN", run.parameters, repr(run))
            for run in client.read_task_runs(limit=50, offset=0, sort=TaskRunSort.END_TIME_DESC):
                print("TASK", repr(run))
            for found in client.read_artifacts(limit=50, offset=0, sort=ArtifactSort.CREATED_DESC,
                artifact_filter=ArtifactFilter(), flow_run_filter=FlowRunFilter(), task_run_filter=TaskRunFilter()):
                print("ARTIFACT", repr(found))
        shutil.copytree(server, database)  # which is deleted when this process ends
"""


def test_a_secret_stays_secret(s3: S3Server, small_model: Model, prefect_database: Path, tmp_path: Path) -> None:
    """Of a flow run that has it from a block: in no log, not even at the level of debugging, and nowhere in Prefect."""
    bucket, secret = s3.bucket("secrets"), s3.access.secret or ""
    source = put(
        bucket,
        "in/scene.tif",
        write_geotiff(tmp_path / "a.tif", make_noise(6, 200, 200), names=BAND_NAMES, nodata=0, **TILED),
    )
    held = {name: value for name, value in s3.variables.items() if name.startswith("AWS")}
    (tmp_path / "block").write_text(json.dumps(held))
    (tmp_path / "flow.py").write_text(FLOW)
    environment = {name: value for name, value in os.environ.items() if name not in held}
    environment |= {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG", "no_proxy": "127.0.0.1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    place, work = bucket.to_url("out"), tmp_path / "work"
    folders = tmp_path / "server", tmp_path / "database", prefect_database
    words = source, small_model.folder, place, work, tmp_path / "block", *folders
    command = [sys.executable, tmp_path / "flow.py", *words]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said[-3000:]
    assert "'folder': 's3://secrets/out/scene', 'computed': True" in said
    assert "got something else" in said and "got no such block" in said
    assert all(f"\n{what} " in said for what in ("RUN", "TASK", "ARTIFACT")) and "DEBUG" in said
    files = b"".join(bucket.get(key).data for key in bucket.list_sizes("out"))
    local = b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file())
    database = b"".join(path.read_bytes() for path in (tmp_path / "database").iterdir())
    assert b"scene_digest" in files and b"segment-scene" in database
    for text in (said, files.decode("latin-1"), local.decode("latin-1"), database.decode("latin-1")):
        assert secret not in text


def test_a_scene_in_a_bucket_is_that_on_disk(
    reached: S3Server, small_model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    bucket = reached.bucket("sources")
    local = open_input(
        write_geotiff(tmp_path / "a.tif", pixels, names=BAND_NAMES, **TILED), small_model, SegmentOptions()
    )
    one = put(bucket, "x/a.tif", tmp_path / "a.tif")
    for name, band in zip(BAND_NAMES, pixels, strict=True):
        put(bucket, f"folder/{name}.tif", write_geotiff(tmp_path / f"{name}.tif", band[None], **TILED))
    item = pystac.Item("item", None, None, pystac.utils.str_to_datetime("2026-01-01T00:00:00Z"), {})
    for name in BAND_NAMES:
        asset = pystac.Asset(f"./{name}.tif", media_type="image/tiff", extra_fields={"eo:common_name": name})
        item.add_asset(name, asset)
    bucket.put("folder/item.json", json.dumps(item.to_dict()).encode())
    digests = set()
    for source in (one, bucket.to_url("folder") + "/", bucket.to_url("folder/item.json")):
        scene = open_input(source, small_model, SegmentOptions())
        for window in (Window(-20, -30, 150, 170), Window(100, 200, 300, 300)):
            there, here = read_block(scene, window), read_block(local, window)
            np.testing.assert_array_equal(there.pixels, here.pixels)
            np.testing.assert_array_equal(there.valid, here.valid)
        digests.add(scene.compute_digest())
    assert len(digests) == 2  # of one file, and of the same bands in six
    put(bucket, "copy.tif", tmp_path / "a.tif")
    assert open_input(bucket.to_url("copy.tif"), small_model, SegmentOptions()).compute_digest() in digests


@pytest.mark.parametrize("becomes", ["another", "nothing"])
def test_a_scene_that_changes_or_vanishes_is_not_read_on(
    reached: S3Server, small_model: Model, pixels: np.ndarray, tmp_path: Path, becomes: str
) -> None:
    bucket = reached.bucket(f"changing-{becomes}")
    source = put(bucket, "a.tif", write_geotiff(tmp_path / "a.tif", pixels, names=BAND_NAMES, **TILED))
    scene = open_input(source, small_model, SegmentOptions())
    read_block(scene, Window(0, 0, 10, 10))
    if becomes == "nothing":
        bucket.delete(["a.tif"])
        message = "no such object: got s3://changing-nothing/a.tif"
    else:
        put(
            bucket,
            "a.tif",
            write_geotiff(tmp_path / "a.tif", make_noise(6, 300, 400, seed=3), names=BAND_NAMES, **TILED),
        )
        message = "s3://changing-another/a.tif is another object than when the run began"
    with pytest.raises(BadBlockError, match=message):
        read_block(scene, Window(200, 200, 100, 100), "nodata")
    if becomes == "nothing":
        with pytest.raises(InputError, match=message):
            open_input(source, small_model, SegmentOptions())
    else:
        again = open_input(source, small_model, SegmentOptions())
        assert again.compute_digest() != scene.compute_digest()
        read_block(again, Window(200, 200, 100, 100))


def scene_folder(out: Path, scene: str, files: int = 5, seed: int = 0, template: Path | None = None) -> Path:
    """A finished scene as a run leaves it, of another name: what is uploaded, without the network that made it."""
    folder = out / scene
    shutil.copytree(template, folder)
    item = json.loads((folder / ITEM).read_text())
    item["id"] = scene
    (folder / "preview.png").write_bytes(np.random.default_rng(seed).bytes(1000))
    store = folder / "segmentation.zarr" / "c"
    store.mkdir(exist_ok=True)
    for number in range(files):
        (store / str(number)).write_bytes(np.random.default_rng(seed + number).bytes(3000))
    for asset in item["assets"].values():
        path = folder / asset["href"]
        if path.is_dir():
            asset["file:size"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        elif path.name != "run.json":
            asset["file:checksum"] = "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / ITEM).write_text(json.dumps(item))
    return folder


UPLOAD = """
import sys
from pathlib import Path
from seamline.pipeline.storage.object_store import ObjectFolder, S3Access
from seamline.pipeline.publishing.upload import upload
upload(Path(sys.argv[1]), ObjectFolder(*sys.argv[2:4], S3Access(*sys.argv[4:])))
"""


def seen(catalogue: ObjectFolder, scene: str) -> dict[str, str] | None:
    """All that a reader of the item sees, by asset: the checksums, which are those that the item says."""
    found = find_uploaded(catalogue, scene)
    if found is None:
        return None
    place, sums = catalogue.subfolder(scene), {}
    for key, asset in found.item["assets"].items():
        href = asset["href"].removeprefix("./")
        if href.endswith(".zarr"):
            assert sum(place.list_sizes(href).values()) == asset["file:size"]
        else:
            sums[key] = "1220" + hashlib.sha256(place.get(href).data).hexdigest()
            assert sums[key] == asset["file:checksum"]
    return sums


def kill_in_mid_upload(folder: Path, catalogue: ObjectFolder, before: int) -> None:
    """SIGKILL after at least twenty objects are there."""
    access = catalogue.access
    reached = (str(access.endpoint), str(access.region), str(access.key), str(access.secret))
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(folder), catalogue.bucket, catalogue.prefix, *reached]
    )
    scene = catalogue.subfolder(folder.name)
    while process.poll() is None and len(scene.list_sizes()) < before + 20:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert before + 20 <= len(scene.list_sizes()) < before + 150


def test_a_killed_upload_shows_nothing_or_the_old_scene(
    reached: S3Server, finished: tuple[Path, str, RunResult, Path], tmp_path: Path
) -> None:
    catalogue = reached.bucket("killed").subfolder("a/b")
    first = scene_folder(tmp_path / "one", "scene", 150, template=finished[0])
    kill_in_mid_upload(first, catalogue, 0)
    assert seen(catalogue, "scene") is None and catalogue.get("catalog.json") is None
    put_before = set(catalogue.list_sizes())
    upload(first, catalogue)
    assert put_before <= set(catalogue.list_sizes())  # it went on
    old = seen(catalogue, "scene")
    count = len(catalogue.subfolder("scene").list_sizes())
    second = scene_folder(tmp_path / "two", "scene", 150, seed=1, template=finished[0])
    kill_in_mid_upload(second, catalogue, count)
    assert seen(catalogue, "scene") == old
    third = scene_folder(tmp_path / "three", "scene", 10, seed=2, template=finished[0])
    upload(third, catalogue)
    new = seen(catalogue, "scene")
    assert new is not None and new["preview"] != old["preview"]
    versions = {key.split("/")[0] for key in catalogue.subfolder("scene").list_sizes()}
    assert len(versions) == 3  # the pointer, what it leads to, what it led to; what was killed is gone


def refuse_all(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
    raise RunError("no workers")


def reach_nothing(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
    """As workers do whose environment has a key that the server does not know."""
    with pytest.MonkeyPatch.context() as patch:
        known = object_store.current_access()
        patch.setattr(object_store, "current_access", lambda: replace(known, key="AKIANOBODY"))
        yield from map(function, places)


def reach_another_server(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
    """As workers do whose environment names another server: nothing keeps them from putting files there."""
    yield from (None for _ in places)


@pytest.mark.parametrize("map_groups", [map, refuse_all, reach_nothing, reach_another_server])
def test_workers_put_the_files_and_the_client_what_they_cannot(
    reached: S3Server,
    finished: tuple[Path, str, RunResult, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    map_groups: Any,
) -> None:
    catalogue = reached.bucket(f"by-{map_groups.__name__}".replace("_", "-"))
    folder = scene_folder(tmp_path, "scene", 150, template=finished[0])
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    groups, own = list[Index](), list[str]()

    def note_groups(function: Callable[[Index], Any], places: Iterable[Index]) -> Iterator[Any]:
        groups.extend(places)
        return map_groups(function, groups)

    def note_own(self: ObjectFolder, key: str, data: bytes | Path, put: Any = ObjectFolder.put) -> None:
        if self.prefix == "scene":  # those of workers end with the version
            own.append(key)
        put(self, key, data)

    monkeypatch.setattr(ObjectFolder, "put", note_own)
    upload(folder, catalogue, map_groups=note_groups)
    assert len(groups) > 2 and len(own) == (1 if map_groups is map else count)
    assert any("workers cannot write" in text for text in caplog.messages) == (
        map_groups in (refuse_all, reach_nothing)
    )
    assert seen(catalogue, "scene") is not None
    assert not list(folder.glob(".upload*"))


def test_two_that_publish_at_once_lose_nothing(
    reached: S3Server, finished: tuple[Path, str, RunResult, Path], tmp_path: Path
) -> None:
    catalogue = reached.bucket("rivals")
    folders = [scene_folder(tmp_path / f"{k}", f"scene-{k % 4}", 3, seed=k, template=finished[0]) for k in range(8)]
    threads = [threading.Thread(target=upload, args=(folder, catalogue)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scenes = [f"scene-{k}" for k in range(4)]
    table = pq.read_table(io.BytesIO(catalogue.get(ITEMS).data)).to_pylist()
    assert [row["id"] for row in table] == scenes
    links = json.loads(catalogue.get("catalog.json").data)["links"]
    assert [link["title"] for link in links if link["rel"] == "item"] == scenes
    for row in table:
        sums = seen(catalogue, row["id"])  # whole, and what the table says
        assert sums is not None and row["assets"]["preview"]["file:checksum"] == sums["preview"]


@pytest.mark.parametrize("slow", [False, True])
def test_a_rival_between_looking_and_publishing_is_noticed(
    reached: S3Server,
    finished: tuple[Path, str, RunResult, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slow: bool,
) -> None:
    """The other one publishes after our files are there and before our pointer is; it clears away then, or later."""
    catalogue = reached.bucket(f"late-{slow}".lower())
    ours, theirs = (scene_folder(tmp_path / name, "scene", 3, seed, finished[0]) for seed, name in enumerate("ab"))
    swap, delete = ObjectFolder.compare_and_swap, ObjectFolder.delete
    tries, cleared = list[str](), list[str]()

    def late(self: ObjectFolder, key: str, data: bytes, known: str | None) -> bool:
        tries.append(key)
        if len(tries) == 1:
            upload(theirs, catalogue)
            assert cleared  # what is ours
            if not slow:
                delete(self, cleared)
        elif key == ITEM and len(tries) > 2 and slow:
            delete(self, cleared)
        return swap(self, key, data, known)

    monkeypatch.setattr(ObjectFolder, "delete", lambda self, keys: cleared.extend(keys))
    monkeypatch.setattr(ObjectFolder, "compare_and_swap", late)
    upload(ours, catalogue)
    assert tries.count(ITEM) == 3
    preview = hashlib.sha256((ours / "preview.png").read_bytes()).hexdigest()
    assert seen(catalogue, "scene")["preview"] == "1220" + preview


@pytest.mark.parametrize(
    "access, bucket, message",
    [
        ({"secret": "a-wrong-secret"}, "denied", "access to s3://denied: got HTTP 403"),
        ({"key": "AKIANOBODY", "secret": "a-wrong-secret"}, "denied", "access to s3://denied: got HTTP 403"),
        ({}, "nowhere", "no bucket s3://nowhere"),
        ({"endpoint": "http://127.0.0.1:9"}, "denied", "s3://denied does not answer"),
    ],
)
def test_what_keeps_one_out_is_one_line_without_the_secret(
    reached: S3Server,
    small_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    access: dict[str, str],
    bucket: str,
    message: str,
) -> None:
    with suppress(reached.client.exceptions.BucketAlreadyOwnedByYou):
        reached.client.create_bucket(Bucket="denied")
    variables = {"secret": "AWS_SECRET_ACCESS_KEY", "key": "AWS_ACCESS_KEY_ID", "endpoint": "AWS_ENDPOINT_URL"}
    for name, value in access.items():
        monkeypatch.setenv(variables[name], value)
    local = write_geotiff(tmp_path / "a.tif", make_noise(6, 64, 64), names=BAND_NAMES)
    for source, out in ((f"s3://{bucket}/a.tif", tmp_path), (local, f"s3://{bucket}/out")):
        with pytest.raises((InputError, RunError), match=message) as caught:
            segment(source, small_model.folder, out, SegmentOptions(work=tmp_path), RunObserver())
        said = str(caught.value)
        assert "\n" not in said and os.environ["AWS_SECRET_ACCESS_KEY"] not in said
