"""The image of ``deploy/Dockerfile``, and the services of ``deploy/compose.yaml`` in it.

``make image-test`` runs this, and ``make test`` does not. It takes an hour and 10 GB of disk. ``IMAGE``
may name an image that is there already, as buildah does: ``make image-test IMAGE=docker-archive:/folder/seamline.tar``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State

from tests.support.compose_stack import Container, Stack, ask_inside, run_stack
from tests.support.deployment_files import DEPLOY
from tests.support.image_builder import Builder, Image, find_obstacle, list_foreign_libraries, make_builder
from tests.support.processes import wait_until

Answer = TypeVar("Answer")

IMAGE = os.environ.get("SEAMLINE_TEST_IMAGE", "")
"""Name of an image, or ``build``."""
OWNER = 1000
OURS = ["scheduler", "worker", "server", "flows", "map"]
"""Services of our image that keep running."""
pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="takes long; `make image-test` runs it"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    if obstacle := find_obstacle():
        pytest.skip(obstacle)
    with make_builder(tmp_path_factory.mktemp("buildah") / "storage") as made:
        yield made


@pytest.fixture(scope="module")
def images(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    name = builder.build("cpu", tmp_path_factory.mktemp("image")) if IMAGE == "build" else IMAGE
    return {"seamline:cpu": builder.mount(name, "seamline"), "postgres:16": builder.mount_postgres(name)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ``deploy/`` with the secrets that its page says to make, which belong to the user of the image."""
    deploy = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(DEPLOY, deploy)
    (page,) = re.findall(r"## Compose\n\n```\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    script = "\n".join(line for line in page.splitlines() if not line.startswith("docker compose "))
    subprocess.run(["bash", "-euc", script], cwd=deploy.parent, check=True, capture_output=True)
    for path in (deploy / "data", deploy / "secrets"):
        subprocess.run(["chown", "--recursive", f"{OWNER}:{OWNER}", str(path)], check=True)
    shutil.rmtree(deploy / "data" / "results")  # who forgets it has it made by the first run
    return deploy


@pytest.fixture(scope="module")
def stack(images: dict[str, Image], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with run_stack(folder / "compose.yaml", images, tmp_path_factory.mktemp("containers")) as made:
        for service in made.file["services"]:
            made.start(service)
        for service in OURS:
            made.wait_until_healthy(service)
        yield made


def get(container: Container, port: int, path: str) -> tuple[str, bytes]:
    """Type and content of what a container's own server answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")

    def ask() -> tuple[str, bytes]:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers["content-type"], answer.read()

    return ask_inside(container, ask)


def ask_prefect(stack: Stack, question: Callable[[SyncPrefectClient], Answer]) -> Answer:
    """Ask with the login that the flows have."""
    (server,) = stack.containers["server"]
    login = server.service["environment"]["PREFECT_API_AUTH_STRING"]

    def ask() -> Answer:
        with SyncPrefectClient("http://127.0.0.1:4200/api", auth_string=login) as client:
            return question(client)

    return ask_inside(server, ask)


def list_scenes(stack: Stack) -> dict[str, dict[str, object]]:
    """What the map shows, by id."""
    _, answer = get(stack.containers["map"][0], 8080, "/scenes")
    return {scene["id"]: scene for scene in json.loads(answer)["scenes"]}


def simulate(stack: Stack, name: str, size: int) -> str:
    """Simulate a scene, and its truth beside it; return the path that all containers know."""
    path = f"/data/scenes/{name}.tif"
    made = stack.containers["worker"][0].execute("seamline", "simulate", "--size", *[str(size)] * 2, "--out", path)
    assert made.returncode == 0, made.stderr
    return path


def start_run(stack: Stack, deployment: str, **parameters: object) -> UUID:
    """Start a deployment, with some of its parameters changed, and return the id of the run."""

    def start(client: SyncPrefectClient) -> UUID:
        known = client.read_deployment_by_name(deployment)
        return client.create_flow_run_from_deployment(known.id, parameters=parameters).id

    return ask_prefect(stack, start)


def wait_for_run(stack: Stack, run: UUID) -> State:
    """Return the state in which a run ends; Prefect may be away in between."""

    def ask() -> State | None:
        with suppress(httpx.HTTPError):
            return ask_prefect(stack, lambda client: client.read_flow_run(run).state)
        return None

    def is_final() -> bool:
        state = ask()
        return state is not None and state.is_final()

    wait_until(is_final, "the end of a run", seconds=1200, pause=2)
    state = ask()
    assert state is not None
    return state


def compare_with_truth(stack: Stack, folder: Path, scene: str) -> float:
    """Mean IoU of a scene's labels and what was simulated."""
    worker = stack.containers["worker"][0]
    paths = [f"/data/results/{scene}", f"/data/scenes/{scene}_truth.tif"]
    compared = worker.execute("seamline", "evaluate", *paths, "--json", "/data/scenes/scores.json")
    assert compared.returncode == 0, compared.stderr
    return float(json.loads((folder / "data/scenes/scores.json").read_text())["mean_iou"])


def test_the_libraries_that_packages_want_are_there(images: dict[str, Image]) -> None:
    assert list_foreign_libraries(images["seamline:cpu"]) == []


def test_the_image_holds_what_runs_and_no_secrets(images: dict[str, Image]) -> None:
    root = images["seamline:cpu"].root
    assert {path.name for path in (root / "opt/deploy").iterdir()} >= {"healthy", "pool", "prefect.yaml", "gpu-workers"}
    assert not (root / "opt/deploy/secrets").exists() and not (root / "source").exists()
    assert not [*(root / "opt/seamline").rglob("tests/support")]


def test_all_services_come_up_as_the_user_and_can_write_only_where_they_may(stack: Stack) -> None:
    for service in OURS:
        for container in stack.containers[service]:
            told = container.execute(
                "sh", "-c", "id -u; id -g; grep -h -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/1/status"
            )
            assert told.stdout.split() == [
                *[str(OWNER)] * 2,
                *["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"],
            ]
            for place in ("/", "/opt/deploy", "/opt/seamline", "/home/seamline", "/run/secrets"):
                assert container.execute("touch", f"{place}/here").returncode != 0
            assert container.execute("touch", "/tmp/here").returncode == 0
            may_write = container.execute("touch", "/data/.here").returncode == 0
            assert may_write is (service != "map")


def test_prefects_page_comes_up_and_its_api_wants_the_login(stack: Stack) -> None:
    (server,) = stack.containers["server"]
    kind, page = get(server, 4200, "/")
    assert kind.startswith("text/html") and b"Prefect" in page
    for script in re.findall(rb'src="(/[^"]+\.js)"', page):
        assert "javascript" in get(server, 4200, script.decode())[0]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(server, 4200, "/api/flows/count")


def test_the_map_shows_no_scene_before_there_is_one(stack: Stack, folder: Path) -> None:
    assert list_scenes(stack) == {} and not (folder / "data" / "results").exists()
    assert "no scene yet" in stack.containers["map"][0].read_log()


def test_a_worker_may_take_the_memory_of_its_container(stack: Stack) -> None:
    for worker in stack.containers["worker"]:
        assert "4.00 GiB" in worker.read_log()


def test_a_scene_goes_from_a_deployment_to_the_map(stack: Stack, folder: Path) -> None:
    run = start_run(stack, "segment-scene/scene-process", source=simulate(stack, "first", 1024))
    assert wait_for_run(stack, run).is_completed(), stack.containers["flows"][0].read_log()
    assert [*list_scenes(stack)] == ["first"]
    (shown,) = stack.containers["map"]
    assert get(shown, 8080, "/scenes/first/preview.png")[0] == "image/png"
    assert shown.execute("seamline", "verify", "/data/results").returncode == 0
    assert compare_with_truth(stack, folder, "first") > 0.8


def test_nothing_was_started_twice(stack: Stack) -> None:
    assert {container.starts for service in OURS for container in stack.containers[service]} == {1}


def test_the_inbox_is_looked_into_and_nothing_is_measured_twice(stack: Stack, folder: Path) -> None:
    """Its parameters are those of ``prefect.yaml``. If its schedule comes first, Prefect cancels the run of ours."""
    measured = {path.name: path.stat().st_mtime_ns for path in (folder / "data/.cache/seamline").glob("*.json")}
    assert measured
    (flows,) = stack.containers["flows"]
    flows.stop()
    flows.start()
    second = simulate(stack, "second", 1024)
    assert stack.containers["worker"][0].execute("mv", second, "/data/inbox").returncode == 0
    start_run(stack, "segment-collection/inbox-process")
    wait_until(lambda: "second" in list_scenes(stack), pause=2)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "data/.cache/seamline").glob("*.json")} == measured


def test_a_scene_is_finished_though_worker_prefect_and_database_are_killed(stack: Stack, folder: Path) -> None:
    """They start again, as the file says, and nobody starts the run again."""
    options = {"cluster": "tls://seamline-scheduler:8786", "window": 512, "chunk_tiles": 1, "engine": "torch"}
    source = simulate(stack, "third", 2048)
    run = start_run(stack, "segment-scene/scene-process", source=source, options=options)
    chunks = folder / "data/results/third/.run"
    for number, service in enumerate(("worker", "server", "postgres"), 1):
        wait_until(
            lambda number=number: len([*chunks.glob("*/inferred/[0-9]*.json")]) >= 6 * number, f"chunks: {number}"
        )
        stack.containers[service][0].kill()
        wait_until(lambda service=service: stack.containers[service][0].starts == 2, f"another start of {service}")
    assert wait_for_run(stack, run).is_completed(), stack.containers["flows"][0].read_log()
    assert stack.containers["map"][0].execute("seamline", "verify", "/data/results").returncode == 0
    assert compare_with_truth(stack, folder, "third") > 0.8


def test_what_the_inbox_holds_is_finished_though_flows_scheduler_and_map_are_killed(stack: Stack, folder: Path) -> None:
    """Prefect notices the run that is lost, and the schedule's next one goes on with what is inferred."""
    source = simulate(stack, "fourth", 8192)
    assert stack.containers["worker"][0].execute("mv", source, "/data/inbox").returncode == 0
    reports = folder / "data/results/fourth/.run"

    def count() -> int:
        return len([*reports.glob("*/inferred/[0-9]*.json")])

    for service in ("flows", "scheduler", "map"):
        known, (container,) = count(), stack.containers[service]
        starts = container.starts
        wait_until(lambda known=known: count() >= known + 3, f"three more chunks before {service}", seconds=1200)
        container.kill()
        wait_until(lambda container=container, starts=starts: container.starts > starts, f"another start of {service}")
    stack.wait_until_healthy("map")
    wait_until(lambda: "fourth" in list_scenes(stack), "the scene on the map", seconds=1200, pause=5)
    assert stack.containers["map"][0].execute("seamline", "verify", "/data/results").returncode == 0
    assert compare_with_truth(stack, folder, "fourth") > 0.8
