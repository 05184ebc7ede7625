"""Flow runs over many scenes: what is new is done, what is broken is named, nothing is done twice."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import State

from flows.models import Model
from flows.options import SegmentOptions
from flows.publish_catalog import publish_catalog_flow
from flows.request import open_requests
from flows.scene_sources import Glob, Inbox
from flows.segment_collection import segment_collection
from pipeline.errors import RunError
from tests.rasters import noise, write

NAMES = ("blue", "green", "red", "nir", "swir16", "swir22")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scenes and two files that are none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        write(folder / f"scene-{number}.tif", noise(6, 100, 120, seed=number), names=NAMES, nodata=0)
    write(folder / "grey.tif", noise(1, 100, 120), names=("grey",))
    (folder / "text.tif").write_text("not a raster")
    return folder


@pytest.fixture
def segmented(
    prefect: None, small_model: Model, cluster: Callable[[int], str], folder: Path, tmp_path: Path
) -> Callable[[], State]:
    """Runs the flow; returns its final state."""
    options = SegmentOptions(cluster=cluster(2), window=160, halo=48, precision="fp32", engine="torch")

    def run(**others: object) -> State:
        scenes = Glob(pattern=f"{folder}/*.tif")
        arguments = {"scenes": scenes, "model": str(small_model.folder), "out": tmp_path / "out", "options": options}
        return segment_collection(**{**arguments, **others}, return_state=True)

    return run


def message(state: State) -> str:
    error = state.result(raise_on_failure=False)
    assert isinstance(error, RunError)
    return str(error)


def report() -> str:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={}).json()
    return next(entry["data"] for entry in found if entry["key"] == "segment-collection")


def test_what_is_new_is_segmented_and_what_is_broken_is_named(
    segmented: Callable[..., State], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = segmented()
    assert first.is_failed()
    told = message(first)
    assert told.startswith("2 of 5 scenes failed: ")
    assert re.search(r"grey: .*expected .*; text: |text: .*; grey: .*expected ", told)
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("scene-*/item.json")}
    assert [path.parent.name for path in sorted(out.glob("*/item.json"))] == ["scene-0", "scene-1", "scene-2"]
    text = report()
    assert "3 published" in text and "2 failed" in text
    assert text.index("| grey |") < text.index("| scene-0 |")

    (folder / "grey.tif").unlink()
    (folder / "text.tif").unlink()
    again = segmented()
    assert again.is_completed()
    assert again.result()["known"] == 3
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("scene-*/item.json")} == written

    with rasterio.open(folder / "scene-1.tif", "r+") as file:
        file.write(noise(6, 100, 120, seed=9))
    before = json.loads((out / "scene-1" / "run.json").read_text())["scene_digest"]
    changed = segmented()
    assert changed.is_completed(), changed.message
    assert (changed.result()["known"], changed.result()["published"]) == (2, 1)
    assert json.loads((out / "scene-1" / "run.json").read_text())["scene_digest"] != before
    shutil.rmtree(out / "scene-2")  # a result that is gone is made again
    assert segmented().result()["published"] == 1

    state = publish_catalog_flow(out, return_state=True)
    assert state.result() == {"scenes": 3}
    (out / "scene-0" / "preview.png").write_bytes(b"other")
    assert "scene-0/preview.png" in message(publish_catalog_flow(out, return_state=True))


def test_where_there_is_nothing_yet_an_empty_catalogue_can_be_published(
    segmented: Callable[..., State], tmp_path: Path
) -> None:
    (tmp_path / "inbox").mkdir()
    state = segmented(scenes=Inbox(folder=tmp_path / "inbox"))
    assert state.is_completed(), state.message
    assert publish_catalog_flow(tmp_path / "out", return_state=True).result() == {"scenes": 0}


def test_a_published_scene_is_an_event_that_automations_can_start_on(
    segmented: Callable[..., State], folder: Path, tmp_path: Path
) -> None:
    for name in ("grey.tif", "text.tif", "scene-1.tif", "scene-2.tif"):
        (folder / name).unlink()
    (folder / "scene-0.tif").rename(folder / "eventful.tif")
    assert segmented().is_completed()
    wanted = EventFilter(event=EventNameFilter(name=["seamline.scene.published"]))
    with get_client(sync_client=True) as client:
        for _ in range(100):  # events are written in the background
            answer = client.request("POST", "/events/filter", json={"filter": wanted.model_dump(mode="json")})
            found = {event["resource"]["prefect.resource.id"]: event for event in answer.json()["events"]}
            if "seamline.scene.eventful" in found:
                break
            threading.Event().wait(0.2)
    payload = found["seamline.scene.eventful"]["payload"]
    assert payload["folder"] == str(tmp_path / "out" / "eventful")
    assert np.isclose(sum(payload["shares"].values()), 1)


def test_a_scene_that_another_run_works_on_is_left_to_it(
    segmented: Callable[..., State], small_model: Model, folder: Path, tmp_path: Path
) -> None:
    for name in ("grey.tif", "text.tif", "scene-2.tif"):
        (folder / name).unlink()
    (request,) = open_requests([folder / "scene-0.tif"], small_model, tmp_path / "out", SegmentOptions())
    with request.directory.locked():
        state = segmented()
    assert state.is_completed()
    assert (state.result()["in use"], state.result()["published"]) == (1, 1)
    assert (segmented().result()["known"], segmented().result()["known"]) == (1, 2)


def test_results_of_another_model_are_only_replaced_when_told(
    segmented: Callable[..., State], small_model: Model, folder: Path, tmp_path: Path
) -> None:
    for name in ("grey.tif", "text.tif", "scene-1.tif", "scene-2.tif"):
        (folder / name).unlink()
    assert segmented().is_completed()
    other = shutil.copytree(small_model.folder, tmp_path / "other")
    document = json.loads((other / "model.json").read_text())
    document["properties"]["description"] = "another one"
    (other / "model.json").write_text(json.dumps(document))
    assert "model_digest" in message(segmented(model=str(other)))
    assert segmented(model=str(other), renew=True).result()["published"] == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"at_once": 0}, "at_once"), ({"scenes": {"kind": "moon"}}, "kind"), ({"model": "none"}, "which does not exist")],
)
def test_bad_parameters_are_refused_before_anything_is_looked_for(
    segmented: Callable[..., State], wrong: dict[str, object], said: str, tmp_path: Path
) -> None:
    state = segmented(**wrong)
    assert state.is_failed()
    assert said in str(state.result(raise_on_failure=False))
    assert not (tmp_path / "out").exists()


def test_the_run_form_offers_every_kind_of_source() -> None:
    schema = segment_collection.parameters.model_dump()
    kinds = schema["properties"]["scenes"]["discriminator"]["mapping"]
    assert set(kinds) == {"stac-api", "stac-catalog", "glob", "manifest", "inbox"}
