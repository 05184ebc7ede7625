"""Collections in object storage: found there, published there, known there the next night, looked over there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from prefect.states import State

from seamline.flows.collection.fingerprint import inspect_or_reject, inspect_source
from seamline.flows.collection.scene_ref import RejectedSource
from seamline.flows.collection.scene_sources import Manifest
from seamline.flows.publish_catalog import publish_catalog_flow
from seamline.flows.segment_collection import segment_collection
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.publishing.uploaded import find_uploaded
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import S3Access, use_access
from tests.support.s3_server import S3Server, start_s3_server
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

NUMBERS = count()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3_server() as running:
        yield running


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectFolder]:
    """A new bucket, and the environment that reaches it."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    yield s3.bucket(f"bucket-{next(NUMBERS)}")
    use_access(S3Access())


def write_scene(path: Path, seed: int) -> Path:
    return write_geotiff(path, make_noise(6, 100, 120, seed=seed), names=BAND_NAMES, nodata=0)


def message(state: State) -> str:
    error = state.result(raise_on_failure=False)
    assert isinstance(error, RunError)
    return str(error)


def test_a_collection_in_a_bucket_is_done_once_and_looked_over(
    bucket: ObjectFolder, prefect: None, small_model: Model, tmp_path: Path
) -> None:
    for number in range(2):
        bucket.put(f"in/scene-{number}.tif", write_scene(tmp_path / f"scene-{number}.tif", number))
    listed = tmp_path / "scenes.txt"
    listed.write_text("".join(f"{bucket.to_url(f'in/scene-{number}.tif')}\n" for number in range(2)))
    out, maps = bucket.to_url("maps"), bucket.subfolder("maps")
    options = SegmentOptions(workers=1, window=160, halo=48, precision="fp32", engine="torch", work=tmp_path / "work")

    def segmented() -> State:
        return segment_collection(Manifest(path=listed), str(small_model.folder), out, options, return_state=True)

    def looked_over() -> State:
        return publish_catalog_flow(out, return_state=True)

    first = segmented()
    assert first.is_completed(), first.message
    assert (first.result()["published"], first.result()["known"]) == (2, 0)
    written = {key: maps.get_version(key) for key in maps.list_sizes("")}
    assert segmented().result() == {"known": 2, "waiting": []}
    assert {key: maps.get_version(key) for key in maps.list_sizes("")} == written
    assert looked_over().result() == {"scenes": 2}

    maps.delete(["scene-0/item.json"])  # a result that is gone is made again
    bucket.put("in/scene-1.tif", write_scene(tmp_path / "b.tif", 9))
    assert segmented().result() == {"known": 0, "waiting": [], "published": 2}

    found = find_uploaded(maps, "scene-1")
    assert found is not None  # files of the version before may still be there
    maps.delete([f"scene-1/{found.version}/segmentation.tif"])
    told = message(looked_over())
    assert told.startswith(f"1 finding in {out}: scene-1/"), told


def test_scenes_in_a_bucket_are_known_by_their_objects(bucket: ObjectFolder, tmp_path: Path) -> None:
    bucket.put("a/one.tif", b"1")
    bucket.put("bands/b1.tif", b"1")
    file, folder = bucket.to_url("a/one.tif"), bucket.to_url("bands") + "/"
    first = [inspect_source(file), inspect_source(folder)]
    assert [found.name for found in first] == ["one", "bands"]
    assert [inspect_source(file), inspect_source(folder)] == first
    bucket.put("a/one.tif", b"2")
    bucket.put("bands/b2.tif", b"2")
    assert inspect_source(file) != first[0] and inspect_source(folder) != first[1]
    refused = inspect_or_reject(bucket.to_url("a/two.tif"))
    assert isinstance(refused, RejectedSource) and "no such object" in refused.reason
