"""Flow runs over many scenes: what is new is done, what is broken is named, nothing is done twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled, State

import seamline.flows.segment_collection as flow
from seamline.flows.collection.discovery import Discovery, discover
from seamline.flows.collection.scene_ref import RejectedSource
from seamline.flows.collection.scene_sources import Glob, Inbox
from seamline.flows.publish_catalog import publish_catalog_flow
from seamline.flows.runs.scene_job import open_scene_jobs
from seamline.flows.segment_collection import segment_collection
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.tracking import artifacts, best_effort, idle_runs, scene_task
from seamline.flows.tracking.lost_runs import TAG, end_unfinished_runs
from seamline.pipeline.common.errors import RunError
from tests.support.processes import wait_until_idle
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scenes and two files that are none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        write_geotiff(folder / f"scene-{number}.tif", make_noise(6, 100, 120, seed=number), names=BAND_NAMES, nodata=0)
    write_geotiff(folder / "grey.tif", make_noise(1, 100, 120), names=("grey",))
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
    (table,) = (out / ".collection" / "failures").iterdir()
    assert sorted(line.partition(",")[0] for line in table.read_text().splitlines()) == ["grey", "scene", "text"]
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
        file.write(make_noise(6, 100, 120, seed=9))
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


def test_what_cannot_be_used_of_an_inbox_fails_one_run(segmented: Callable[..., State], tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "text.tif").write_text("not a raster")
    inbox = Inbox(folder=tmp_path / "inbox", settle=0)
    assert message(segmented(scenes=inbox)).startswith("1 of 1 scenes failed: text.tif: ")
    state = segmented(scenes=inbox)
    assert state.is_completed() and state.result() == {"known": 0, "waiting": [], "set aside": 1}
    text = report()
    assert "1 set aside" in text and "neither GeoTIFF nor JPEG 2000" in text
    assert segmented(scenes=inbox, retry=True).is_failed()


def test_looks_that_find_nothing_leave_no_reports_and_are_deleted(
    segmented: Callable[..., State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another report is made where there is something else to tell; the last idle run stays, and all others."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "text.tif").write_text("not a raster")
    inbox = Inbox(folder=tmp_path / "inbox", settle=0)

    def read(path: str, **body: object) -> list[dict[str, object]]:
        with get_client(sync_client=True) as client:
            found: list[dict[str, object]] = client.request("POST", f"/{path}/filter", json=body).json()
        return found

    def reports() -> list[object]:
        return [artifact for artifact in read("artifacts") if artifact["key"] == "segment-collection"]

    before = len(reports())
    states = [segmented(scenes=inbox) for _ in range(4)]
    assert [state.is_completed() for state in states] == [False, True, True, True]
    assert len(reports()) == before + 2  # one failed; one is set aside
    tagged = {str(state.state_details.flow_run_id) for state in states[1:]}
    runs = read("flow_runs", flow_runs={"tags": {"all_": [idle_runs.IDLE_TAG]}})
    assert tagged == {run["id"] for run in runs} & {str(state.state_details.flow_run_id) for state in states}
    (tmp_path / "inbox" / "text.tif").unlink()
    segmented(scenes=inbox)
    assert len(reports()) == before + 3 and "no scenes" in report()

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(segment_collection), "looks")
        kinds = ("idle", "idle", "idle", "busy", "skipped", "cancelled while it worked")
        made = {}
        for number, kind in enumerate(kinds):
            tags = [idle_runs.IDLE_TAG] if kind == "idle" else []
            due = datetime.now(UTC) - timedelta(minutes=20 - number)
            run = client.create_flow_run_from_deployment(deployment, tags=tags, state=Scheduled(scheduled_time=due))
            made[f"{kind} {number}"] = run.id
            later = [] if kind == "skipped" else [Running()]
            later.append(Cancelled() if kind in kinds[4:] else Completed())
            for state in later:
                client.set_flow_run_state(run.id, state, force=True)
        monkeypatch.setattr(idle_runs, "_KEPT", 1)
        assert idle_runs.delete_idle_runs(client, "looks") == 3
        assert idle_runs.delete_idle_runs(client, "looks") == 0
        left = {run.id for run in client.read_flow_runs(limit=200)}
    assert {name for name, run in made.items() if run in left} == {"idle 2", "busy 3", "cancelled while it worked 5"}


def test_runs_that_a_killed_service_left_are_ended_and_free_their_places() -> None:
    states = {"working": Running(), "starting": Pending(), "due": Scheduled(), "done": Completed()}
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(segment_collection), "killed", tags=[TAG])
        runs = {}
        for name, state in states.items():
            runs[name] = client.create_flow_run_from_deployment(deployment, state=Scheduled()).id
            client.set_flow_run_state(runs[name], state, force=True)
        other = client.create_flow_run(segment_collection, state=Running()).id
        assert end_unfinished_runs() == 2 and end_unfinished_runs() == 0
        found = {name: client.read_flow_run(run).state_name for name, run in {**runs, "other": other}.items()}
    assert found.pop("due") in ("Scheduled", "Late")
    assert found == {"working": "Crashed", "starting": "Crashed", "done": "Completed", "other": "Running"}


def test_a_published_scene_is_an_event_that_automations_can_start_on(
    segmented: Callable[..., State], folder: Path, tmp_path: Path
) -> None:
    only(folder, "scene-0")
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
    only(folder, "scene-0", "scene-1")
    (request,) = open_scene_jobs([folder / "scene-0.tif"], small_model, tmp_path / "out", SegmentOptions())
    with request.location.run_directory.lock():
        state = segmented()
    assert state.is_completed()
    assert (state.result()["in use"], state.result()["published"]) == (1, 1)
    assert (segmented().result()["known"], segmented().result()["known"]) == (1, 2)


def test_results_of_another_model_are_only_replaced_when_told(
    segmented: Callable[..., State], small_model: Model, folder: Path, tmp_path: Path
) -> None:
    only(folder, "scene-0")
    assert segmented().is_completed()
    other = shutil.copytree(small_model.folder, tmp_path / "other")
    document = json.loads((other / "model.json").read_text())
    document["properties"]["description"] = "another one"
    (other / "model.json").write_text(json.dumps(document))
    assert "model_digest" in message(segmented(model=str(other)))
    assert segmented(model=str(other), renew=True).result()["published"] == 1


def test_results_of_another_plan_are_only_replaced_when_told(
    segmented: Callable[..., State], cluster: Callable[[int], str], folder: Path, tmp_path: Path
) -> None:
    only(folder, "scene-0")
    assert segmented().is_completed()
    labels = (tmp_path / "out" / "scene-0" / "segmentation.tif").stat()
    other = SegmentOptions(cluster=cluster(2), window=128, halo=32, precision="fp32", engine="torch")
    assert "window" in message(segmented(options=other))
    assert (tmp_path / "out" / "scene-0" / "segmentation.tif").stat() == labels
    assert segmented(options=other, renew=True).result()["published"] == 1
    write_geotiff(folder / "scene-0.tif", make_noise(6, 100, 120, seed=9), names=BAND_NAMES, nodata=0)
    assert segmented(options=other).result()["published"] == 1  # another content is another thing


def test_a_server_that_cannot_show_anything_fails_no_scene(
    segmented: Callable[..., State], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def create(**artifact: object) -> None:
        asked.append(str(artifact["key"]))
        raise httpx.ConnectError("Connection refused")

    only(folder, "scene-0")
    monkeypatch.setattr(best_effort, "_paused_until", 0.0)
    monkeypatch.setattr(scene_task, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", create)
    assert segmented().result()["published"] == 1
    assert (tmp_path / "out" / "scene-0" / "segmentation.tif").exists()
    assert asked == ["progress-scene-0"]  # after the first failure nothing is asked for a while


def only(folder: Path, *names: str) -> None:
    for path in folder.iterdir():
        if path.stem not in names:
            path.unlink()


def test_a_scene_that_vanishes_after_it_was_found_is_named_and_the_others_are_done(
    segmented: Callable[..., State], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(folder, "scene-0", "scene-1")

    def found_and_lost(scenes: Glob, known: Sequence[RejectedSource]) -> Discovery:
        discovery = discover(scenes, known)
        (folder / "scene-1.tif").unlink()
        return discovery

    monkeypatch.setattr(flow, "discover", found_and_lost)
    assert re.fullmatch(r"1 of 2 scenes failed: scene-1: .*scene-1\.tif.*, expected .*", message(segmented()))
    assert (tmp_path / "out" / "scene-0" / "item.json").exists()


def test_without_a_cluster_the_run_fails_at_once_and_nothing_is_noted(
    segmented: Callable[..., State], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(folder, "scene-0")
    monkeypatch.setattr(flow.connect_task, "retry_delay_seconds", [0, 0])
    state = segmented(options=SegmentOptions(cluster="tcp://127.0.0.1:1"))
    assert state.is_failed()
    assert "start the scheduler or correct the address" in str(state.result(raise_on_failure=False))
    assert not list(tmp_path.glob("out/.collection/*.json"))
    assert segmented().is_completed()


TERMINATED = """
import sys
from pathlib import Path
from prefect.utilities.engine import capture_sigterm
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.collection.scene_sources import Glob
from seamline.flows.segment_collection import segment_collection
pattern, model, out, address = sys.argv[1:]
options = SegmentOptions(cluster=address, window=128, halo=48, chunk_tiles=4, precision="fp32", engine="torch")
with capture_sigterm():  # as Prefect's runner starts flows
    segment_collection(Glob(pattern=pattern), model, Path(out), options, 2)
"""


def test_a_run_that_is_terminated_stops_its_scenes_and_goes_on(
    segmented: Callable[..., State], small_model: Model, cluster: Callable[[int], str], folder: Path, tmp_path: Path
) -> None:
    only(folder)
    for number in range(2):
        write_geotiff(folder / f"large-{number}.tif", make_noise(6, 960, 960, seed=number), names=BAND_NAMES, nodata=0)
    out, address = tmp_path / "out", cluster(2)
    environment = {**os.environ, "PREFECT_API_URL": str(get_client(sync_client=True).api_url)}
    command = [sys.executable, "-c", TERMINATED, f"{folder}/*.tif", str(small_model.folder), str(out), address]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(out.glob("*/.run/*/inferred/*.json")):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    process.wait(120)
    wait_until_idle(address)
    done = len(list(out.glob("*/.run/*/inferred/*.json")))
    assert 0 < done < 2 * 8**2
    options = {"window": 128, "halo": 48, "chunk_tiles": 4, "precision": "fp32", "engine": "torch"}
    assert segmented(options=SegmentOptions(cluster=address, **options)).is_completed()
    windows = sum(json.loads(path.read_text())["windows"] for path in out.glob("*/run.json"))
    assert windows < 2 * 30**2


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
