"""Everything on one machine: the inbox, the schedule, the page of Prefect, cancelling, stopping."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client

from seamline.flows.settings.model_folder import Model
from seamline.flows.tracking.artifacts import make_artifact_key
from seamline.flows.up.stack import STATE_FILE, Stack
from tests.support.sample_data import MANAUS, shared
from tests.support.small_rasters import noise, write

NAMES = ("blue", "green", "red", "nir", "swir16", "swir22")


SCENE = Path(MANAUS).stem


FREE = ("--prefect-port", "0", "--dask-port", "0", "--dashboard-port", "0", "--map-port", "0")


def seamline(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seamline", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def until(found: Callable[[], Any], seconds: float = 240) -> Any:
    """What ``found`` returns as soon as that is something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.3)
    return value


@pytest.fixture(scope="module")
def stack(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("up")
    often = ("--every", 5, "--settle", 1, "--model", small_model.folder, "--workers", 2)
    started = seamline("up", "--detach", "--folder", folder, *often, *FREE)
    assert started.returncode == 0, started.stderr
    try:
        yield Stack.read(folder / STATE_FILE)[0]
    finally:
        seamline("down", "--folder", folder)


def prefect(stack: Stack, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{stack.urls['prefect']}/api{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def start_by_hand(stack: Stack, source: Path, **options: Any) -> str:
    deployment = prefect(stack, "/deployments/name/segment-scene/scene")
    parameters = deployment["parameters"]
    parameters |= {"source": str(source), "options": parameters["options"] | options}
    run = prefect(stack, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    return str(run["id"])


def state(stack: Stack, run: str) -> str:
    return str(prefect(stack, f"/flow_runs/{run}")["state_type"])


@pytest.fixture(scope="module")
def published(stack: Stack) -> str:
    """The id of the scheduled flow run that published the real scene."""
    shutil.copy(shared(MANAUS), stack.inbox)

    def run() -> str | None:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "sort": "END_TIME_DESC"}
        if not (stack.results / SCENE / "item.json").exists():
            return None
        tasks = prefect(stack, "/task_runs/filter", {**wanted, "task_runs": {"name": {"like_": f"publish {SCENE}"}}})
        return str(tasks[0]["flow_run_id"]) if tasks else None

    return str(until(run))


def test_a_scene_in_the_inbox_is_published_by_the_schedule_and_on_the_map(stack: Stack, published: str) -> None:
    run = prefect(stack, f"/flow_runs/{published}")
    assert run["auto_scheduled"] and run["created_by"]["type"] == "SCHEDULE"
    with urllib.request.urlopen(f"{stack.urls['map']}/scenes", timeout=30) as answer:
        assert [scene["id"] for scene in json.load(answer)["scenes"]] == [SCENE]
    report = prefect(stack, "/artifacts/segment-collection/latest")["data"]
    assert "unchanged" in report or f"{stack.urls['map']}/#scene={SCENE}" in report


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
        picture = page.locator('img[src^="data:image/jpeg"]').first
        picture.wait_for()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 300
        page.screenshot(path=tmp_path / "preview.png")
        browser.close()


def test_cancelling_in_prefect_stops_the_workers_and_leaves_a_run_that_goes_on(stack: Stack, tmp_path: Path) -> None:
    source = write(tmp_path / "large.tif", noise(6, 2200, 2200), names=NAMES, nodata=0, tiled=True)
    plan = {"window": 128, "halo": 48, "chunk_tiles": 8, "precision": "fp32", "engine": "torch"}
    run = start_by_hand(stack, source, **plan)
    directory = stack.results / "large" / ".run"
    until(lambda: list(directory.glob("*/inferred/*.json")))
    prefect(stack, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: state(stack, run) == "CANCELLED", 60)
    done = len(list(directory.glob("*/inferred/*.json")))
    with Client(stack.scheduler, set_as_default=False) as client:
        until(lambda: not any(client.run(lambda dask_worker: len(dask_worker.active_threads)).values()), 30)
        assert not any(client.processing().values())
    assert len(list(directory.glob("*/inferred/*.json"))) == done
    chunks = int(np.ceil(2200 / (8 * 32))) ** 2
    assert 0 < done < chunks
    again = start_by_hand(stack, source, **plan)
    until(lambda: state(stack, again) == "COMPLETED")
    record = json.loads((stack.results / "large" / "run.json").read_text())
    assert record["windows"] <= (chunks - done) * 8 * 8


def test_starting_twice_is_refused_and_down_leaves_nothing(stack: Stack) -> None:
    again = seamline("up", "--detach", "--folder", stack.folder, *FREE)
    assert again.returncode == 1 and "it runs already" in again.stderr
    (_, process) = Stack.read(stack.folder / STATE_FILE)
    assert process is not None
    processes = [process, *process.children(recursive=True)]
    assert len(processes) > 6
    assert seamline("down", "--folder", stack.folder).stdout.strip() == "stopped"
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert seamline("down", "--folder", stack.folder).stdout.strip() == "nothing ran"
