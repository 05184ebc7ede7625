"""Everything on one machine: the inbox, the schedule, the page of Prefect, cancelling, stopping.

The services are those of the installed wheel; they are started in a folder with modules that are called like those of
the repository.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from seamline.flows.settings.model_folder import Model
from seamline.flows.tracking.artifacts import make_artifact_key
from seamline.flows.up.stack import STATE_FILE, Stack, stop_stack
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from tests.support.installed_package import Installation, User
from tests.support.processes import (
    ask_prefect,
    flow_run_state,
    start_flow_run,
    wait_until,
    wait_until_idle,
)
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SCENE = Path(MANAUS).stem
OWN_SERVER = """
import flows, model, pipeline
from seamline.flows.segment_scene import segment_scene

assert {module.MINE for module in (flows, model, pipeline)} == {"flows", "model", "pipeline"}
if __name__ == "__main__":  # Prefect starts a process for each flow run, which imports this script
    segment_scene.serve(name="mine", print_starting_message=False)
"""
FREE = ("--prefect-port", "0", "--dask-port", "0", "--dashboard-port", "0", "--map-port", "0")


@pytest.fixture(scope="module")
def user(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> User:
    return User.in_folder(installation.python, tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def stack(user: User, small_model: Model) -> Iterator[Stack]:
    """Services that start in a new folder, with Prefect's database still to be made."""
    often = ("--every", 5, "--settle", 1, "--model", small_model.folder, "--workers", 2)
    started = user.seamline("up", "--detach", "--folder", "up", *often, *FREE)
    assert started.returncode == 0, started.stderr
    try:
        yield Stack.read(user.folder / "up" / STATE_FILE)[0]
    finally:
        stop_stack(user.folder / "up")


def prefect(stack: Stack, path: str, body: Any = None) -> Any:
    return ask_prefect(f"{stack.urls['prefect']}/api", path, body)


def start_by_hand(stack: Stack, source: Path, **options: Any) -> str:
    api = f"{stack.urls['prefect']}/api"
    common = prefect(stack, "/deployments/name/segment-scene/scene")["parameters"]["options"]  # `up` waited for it
    return start_flow_run(api, "segment-scene/scene", source=str(source), options=common | options)


def state(stack: Stack, run: str) -> str:
    return flow_run_state(f"{stack.urls['prefect']}/api", run)


def stop_looking(stack: Stack) -> None:
    """Pause the schedule of the inbox, whose flow runs take a core of the machine."""
    inbox = prefect(stack, "/deployments/name/segment-collection/inbox")
    prefect(stack, f"/deployments/{inbox['id']}/pause_deployment", {})


@pytest.fixture(scope="module")
def published(stack: Stack) -> str:
    """The id of the scheduled flow run that published the real scene."""
    shutil.copy(find_shared(MANAUS), stack.inbox)

    def run() -> str | None:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "sort": "END_TIME_DESC"}
        if not (stack.results / SCENE / "item.json").exists():
            return None
        tasks = prefect(stack, "/task_runs/filter", {**wanted, "task_runs": {"name": {"like_": f"publish {SCENE}"}}})
        return str(tasks[0]["flow_run_id"]) if tasks else None

    found = str(wait_until(run, "a published scene"))
    stop_looking(stack)
    return found


def test_a_scene_in_the_inbox_is_published_by_the_schedule_and_on_the_map(stack: Stack, published: str) -> None:
    run = prefect(stack, f"/flow_runs/{published}")
    assert run["auto_scheduled"] and run["created_by"]["type"] == "SCHEDULE"
    with urllib.request.urlopen(f"{stack.urls['map']}/scenes", timeout=30) as answer:
        assert [scene["id"] for scene in json.load(answer)["scenes"]] == [SCENE]
    report = prefect(stack, "/artifacts/segment-collection/latest")["data"]
    assert "unchanged" in report or f"{stack.urls['map']}/#scene={SCENE}" in report


def test_all_of_it_runs_and_listens_to_this_machine_alone(stack: Stack, user: User, published: str) -> None:
    said = user.seamline("status", "--folder", "up", "--json")
    assert said.returncode == 0, said.stderr
    status = json.loads(said.stdout)
    assert {service["name"]: service["state"] for service in status["services"]} == dict.fromkeys(
        ("prefect", "scheduler", "workers", "map", "deployments"), "runs"
    )
    assert [scene["scene"] for scene in status["last_scenes"]] == [SCENE] and status["failures"] == []
    _, supervisor = Stack.read(stack.folder / STATE_FILE)
    assert supervisor is not None
    listening = {
        found.laddr.ip
        for process in supervisor.children(recursive=True)
        for found in process.net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    if "dask" in status["urls"]:  # the package that draws it is there
        with urllib.request.urlopen(status["urls"]["dask"], timeout=60) as answer:
            assert b"static/js/bokeh" in answer.read()


def test_the_run_is_seen_in_prefects_page(stack: Stack, published: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(f"{stack.urls['prefect']}/runs/flow-run/{published}?tab=Task+Runs")
        for stage in ("check", "plan", "infer", "publish"):
            page.get_by_text(f"{stage} {SCENE}").first.wait_for()
        page.screenshot(path=tmp_path / "run.png")
        keys = {kind: make_artifact_key(kind, SCENE) for kind in ("summary", "preview", "progress")}
        for name in keys.values():
            page.goto(f"{stack.urls['prefect']}/artifacts/key/{name}")
            page.get_by_text(name).first.wait_for()
        (latest, *_) = prefect(stack, "/artifacts/filter", {"artifacts": {"key": {"any_": [keys["preview"]]}}})
        page.goto(f"{stack.urls['prefect']}/artifacts/artifact/{latest['id']}")
        picture = page.locator(f'img[src^="{stack.urls["map"]}"]').first
        picture.wait_for()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 300
        page.screenshot(path=tmp_path / "preview.png")
        browser.close()


def test_cancelling_in_prefect_stops_the_workers_and_leaves_a_run_that_goes_on(stack: Stack, tmp_path: Path) -> None:
    """A busy machine is slow to stop the run, but its workers are slow, too: many chunks are left."""
    stop_looking(stack)
    source = write_geotiff(tmp_path / "large.tif", make_noise(6, 1600, 1600), names=BAND_NAMES, nodata=0, tiled=True)
    plan = {"window": 128, "halo": 48, "chunk_tiles": 8, "precision": "fp32", "engine": "torch"}
    chunks = int(np.ceil(1600 / (8 * 32))) ** 2
    run = start_by_hand(stack, source, **plan)
    directory = stack.results / "large" / ".run"

    def inferred() -> int:
        return len(list(directory.glob("*/inferred/*.json")))

    wait_until(inferred, "a first chunk")
    prefect(stack, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: state(stack, run) == "CANCELLED", "the cancellation")
    at_cancellation = inferred()
    wait_until_idle(stack.scheduler)
    done = inferred()
    assert done <= at_cancellation + stack.workers * CHUNKS_AT_ONCE  # what was in hand, of which most is given up
    assert 0 < done < chunks
    again = start_by_hand(stack, source, **plan)
    wait_until(lambda: state(stack, again) == "COMPLETED", "the run that goes on")
    record = json.loads((stack.results / "large" / "run.json").read_text())
    assert record["windows"] <= (chunks - done) * 8 * 8


def test_a_flow_that_the_user_serves_runs_beside_modules_of_the_same_names(
    stack: Stack, user: User, small_model: Model
) -> None:
    """A script of his own, which Prefect imports for each flow run."""
    source = write_geotiff(user.folder / "scene.tif", make_noise(6, 300, 260), names=BAND_NAMES, nodata=0)
    (user.folder / "serve.py").write_text(OWN_SERVER)
    api = f"{stack.urls['prefect']}/api"
    serving = subprocess.Popen(
        [str(user.python), "serve.py"], cwd=user.folder, env=user.variables | {"PREFECT_API_URL": api}
    )
    try:
        plan = {"window": 192, "halo": 48, "precision": "fp32", "engine": "torch"}
        by_mine = start_flow_run(
            api,
            "segment-scene/mine",
            source=str(source),
            model=str(small_model.folder),
            out=str(user.folder / "mine"),
            options=plan | {"cluster": stack.scheduler},
        )
        by_up = start_by_hand(stack, source, **plan)
        for run in (by_mine, by_up):
            wait_until(lambda run=run: state(stack, run) in ("COMPLETED", "FAILED", "CRASHED"), "the flow run")
            assert state(stack, run) == "COMPLETED"
    finally:
        serving.terminate()
        serving.wait(60)
    mine, ups = (folder / "scene" / "segmentation.tif" for folder in (user.folder / "mine", stack.results))
    assert mine.read_bytes() == ups.read_bytes()


def test_starting_twice_is_refused_and_down_leaves_nothing(user: User, stack: Stack) -> None:
    same = [str(urlsplit(stack.urls["prefect"]).port), *FREE[2:]]
    for ports in (FREE, (FREE[0], *same)):  # whose ports are in use, too
        again = user.seamline("up", "--detach", "--folder", "up", *ports)
        assert again.returncode == 1 and "it runs already" in again.stderr
    (_, process) = Stack.read(stack.folder / STATE_FILE)
    assert process is not None
    processes = [process, *process.children(recursive=True)]
    assert len(processes) > 6
    assert user.seamline("down", "--folder", "up").stdout.strip() == "stopped"
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert user.seamline("down", "--folder", "up").stdout.strip() == "nothing ran"
