"""Dask over TLS with certificates of ``deploy/``, and the deployments of its ``prefect.yaml`` on a Prefect server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import dask
import pytest
import yaml
from cryptography import x509
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter, FlowRunFilterTags
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import ResourceSpecification
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Pending
from prefect.utilities.schema_tools import is_valid_schema, validate

from seamline.flows.settings.model_folder import Model
from seamline.flows.tracking.lost_runs import AUTOMATIONS, TAG
from seamline.flows.tracking.variables import HEARTBEAT_SECONDS, HEARTBEAT_VARIABLE
from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.common.errors import InputError
from tests.support.deployment_files import DEPLOY, PROJECT, run_program
from tests.support.prefect_server import copy_empty_database
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

CERTIFICATES = str(DEPLOY / "certificates")
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())["deployments"]
TEMPLATES = {"kubernetes": json.loads((DEPLOY / "kubernetes" / "job-template.json").read_text())["variables"]}
SECONDS = 240
"""How long a busy machine may take to start something."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    made = run_program([CERTIFICATES, str(folder), "localhost", "127.0.0.1", "::1", "*.seamline.svc"])
    assert made.returncode == 0, made.stderr
    return folder


def settings(certificates: Path) -> dict[str, str]:
    """Environment variables that make Dask use the certificates."""
    return dict(line.split("=", 1) for line in (certificates / "dask.env").read_text().splitlines())


@contextmanager
def configured(certificates: Path | None) -> Iterator[None]:
    """This process as if it had been started with these certificates, or with none."""
    environment = settings(certificates) if certificates else {}
    names = ("require_encryption", "tls.ca_file", "tls.client.cert", "tls.client.key")
    variables = {name: f"DASK_DISTRIBUTED__COMM__{name.replace('.', '__').upper()}" for name in names}
    with dask.config.set({f"distributed.comm.{name}": environment.get(variables[name]) for name in names}):
        yield


def test_certificates_are_private_and_made_once(certificates: Path, tmp_path: Path) -> None:
    assert {path.name: oct(path.stat().st_mode)[-3:] for path in certificates.iterdir()} == {
        "ca.pem": "600",
        "cert.pem": "600",
        "key.pem": "600",
        "dask.env": "600",
    }
    before = {path: path.read_bytes() for path in certificates.iterdir()}
    again = run_program([CERTIFICATES, str(certificates), "localhost"])
    assert (again.returncode, again.stdout) == (2, "") and "name another one" in again.stderr
    assert {path: path.read_bytes() for path in certificates.iterdir()} == before
    checked = run_program(
        ["openssl", "verify", "-x509_strict", "-CAfile", *(str(certificates / f"{n}.pem") for n in ("ca", "cert"))]
    )
    assert checked.returncode == 0, checked.stderr
    certificate = x509.load_pem_x509_certificate((certificates / "cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "*.seamline.svc"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    for wrong in ("999.0.0.1", "a,DNS:b"):
        assert run_program([CERTIFICATES, str(tmp_path / "new"), wrong]).returncode != 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def scheduler(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A scheduler as in Kubernetes, and the workers of a machine that says it has two GPUs."""
    folder = tmp_path_factory.mktemp("dask")
    (folder / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU %d: A (UUID: GPU-%d)\\n' 0 0 1 1\n")
    (folder / "nvidia-smi").chmod(0o755)
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / "dask.yaml").read_text())
    config = next(document["data"] for document in documents if document["kind"] == "ConfigMap")
    environment = {**_environment(), **config, **settings(certificates)}
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    file = folder / "scheduler.json"
    command = [
        "dask",
        "scheduler",
        "--protocol",
        "tls",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--dashboard-address",
        ":0",
    ]
    with _running([*command, "--scheduler-file", str(file)], environment, folder / "scheduler.log"):
        found = _until(lambda: json.loads(file.read_text()) if file.exists() and file.stat().st_size else None)
        environment["DASK_SCHEDULER_ADDRESS"] = found["address"]
        with _running([str(DEPLOY / "gpu-workers"), "--no-nanny"], environment, folder / "workers.log") as workers:
            with configured(certificates):
                _until(lambda: _workers(found["address"]) == 2)
            yield found
        assert workers.wait() == 143  # with both of its workers
        with configured(certificates):
            _until(lambda: _workers(found["address"]) == 0)


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    sought = f"{PROJECT}:{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONPATH": sought, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _until(found: Callable[[], Any]) -> Any:
    for _ in range(SECONDS * 2):
        if value := found():
            return value
        time.sleep(0.5)
    raise AssertionError("did not come about")


def _workers(address: str) -> int:
    try:
        with connect(address, 1) as client:
            return len(client.scheduler_info(n_workers=-1)["workers"])
    except InputError:
        return 0


def test_gpu_workers_have_the_threads_that_the_devices_are_told_with(tmp_path: Path) -> None:
    """What the caller adds comes last, and so goes before it."""
    programs = {
        "python": '[ "$*" = "-m seamline.pipeline.cluster.devices" ] && printf "GPU-a 12\\nMIG-b 12\\n"',
        "dask": 'echo "$CUDA_VISIBLE_DEVICES $*" >> $LOG; [ "$CUDA_VISIBLE_DEVICES" = MIG-b ] || exec sleep 600\n'
        "until [ $(wc -l < $LOG) = 2 ]; do sleep 0.1; done",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = _environment() | {"LOG": str(tmp_path / "log")}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    subprocess.run([DEPLOY / "gpu-workers", "--nthreads", "5"], env=environment, check=True, timeout=60)
    lines = sorted((tmp_path / "log").read_text().splitlines())
    assert [line.split()[0] for line in lines] == ["GPU-a", "MIG-b"]
    for line in lines:
        assert "worker " in line and " --nthreads 12 " in line and line.endswith(" --nthreads 5")


def test_a_worker_for_each_gpu_over_tls(scheduler: dict[str, Any], certificates: Path) -> None:
    assert scheduler["address"].startswith("tls://")
    with configured(certificates), connect(scheduler["address"], 1) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        devices = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(devices.values()) == ["GPU-0", "GPU-1"]
    assert [worker["resources"] for worker in workers.values()] == [{"GPU": 1}] * 2
    assert all(address.startswith("tls://") for address in workers)


def test_who_has_no_certificate_is_refused(scheduler: dict[str, Any], certificates: Path, tmp_path: Path) -> None:
    address = scheduler["address"]
    plain = address.replace("tls://", "tcp://")
    run_program([CERTIFICATES, str(tmp_path / "others"), "localhost"])
    with configured(None), pytest.raises(InputError, match="no certificate"), connect(address, 1):
        pass
    with configured(None), pytest.raises(InputError, match="start the scheduler"), connect(plain, 1):
        pass
    with configured(certificates), pytest.raises(InputError, match="requires encryption"), connect(plain, 1):
        pass
    with configured(tmp_path / "others"), pytest.raises(InputError, match="start the scheduler"), connect(address, 1):
        pass


def test_the_operator_may_ask_without_a_certificate_how_many_workers_are_wanted(scheduler: dict[str, Any]) -> None:
    port = scheduler["services"]["dashboard"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/adaptive_target") as answer:
        assert isinstance(json.load(answer)["workers"], int)
    assert run_program([str(DEPLOY / "healthy"), str(port), "/health"], env=_environment()).returncode == 0
    assert run_program([str(DEPLOY / "healthy"), str(port), "/nowhere"], env=_environment()).returncode != 0


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=[deployment["name"] for deployment in DEPLOYMENTS])
def test_a_deployment_names_a_flow_and_what_it_takes(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    schema = flow.parameters.model_dump()
    is_valid_schema(schema)
    validate(deployment["parameters"], schema, raise_on_error=True)
    flow.validate_parameters(deployment["parameters"])
    pool = deployment["work_pool"]
    assert deployment["name"].endswith(f"-{pool['name']}")
    if variables := pool.get("job_variables"):
        known = TEMPLATES.get(pool["name"]) or _template(pool["name"])
        validate(variables, known, raise_on_error=True)
        assert set(variables) <= set(known["properties"])


def _template(kind: str) -> dict[str, Any]:
    """The job variables of a pool of Prefect's own."""
    from prefect.workers.process import ProcessWorker
    from prefect_docker.worker import DockerWorker

    worker = {"docker": DockerWorker, "process": ProcessWorker}[kind]
    variables: dict[str, Any] = worker.get_default_base_job_template()["variables"]
    return variables


@pytest.fixture(scope="module")
def server(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Prefect server's clients."""
    folder = tmp_path_factory.mktemp("server")
    copy_empty_database(prefect_database, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = _environment() | {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOCAL_STORAGE_PATH": str(folder / "storage"),
    }
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, environment, folder / "server.log"):
        healthy = [str(DEPLOY / "healthy"), str(port), "/api/health"]
        _until(lambda: run_program(healthy, env=environment).returncode == 0)
        made = run_program([str(DEPLOY / "pool"), "process", "3"], env=environment, stdin=subprocess.DEVNULL)
        assert made.returncode == 0, made.stdout + made.stderr
        yield environment


@pytest.fixture
def client(server: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with SyncPrefectClient(server["PREFECT_API_URL"]) as client:
        yield client


def test_deployments_have_schedules_and_limits(client: SyncPrefectClient) -> None:
    there = {deployment.name: deployment for deployment in client.read_deployments()}
    assert set(there) == {entry["name"] for entry in DEPLOYMENTS if entry["work_pool"]["name"] == "process"}
    schedules = {name: [entry.schedule for entry in deployment.schedules] for name, deployment in there.items()}
    assert [schedule.cron for schedule in schedules["nightly-process"]] == ["0 2 * * *"]
    assert [schedule.interval.total_seconds() for schedule in schedules["inbox-process"]] == [300]
    assert there["nightly-process"].global_concurrency_limit.limit == 1
    assert there["nightly-process"].concurrency_options.collision_strategy == "CANCEL_NEW"
    assert not there["nightly-process"].schedules[0].active  # it asks a server on the internet
    queues = {name: _read_queue(client, there[name].work_queue_id) for name in ("inbox-process", "scene-process")}
    assert queues["inbox-process"] | {"name": "inbox", "concurrency_limit": 1} == queues["inbox-process"]
    assert queues["scene-process"] | {"name": "gpu", "concurrency_limit": 3} == queues["scene-process"]
    heartbeats = {deployment.job_variables["env"][HEARTBEAT_VARIABLE] for deployment in there.values()}
    assert heartbeats == {str(HEARTBEAT_SECONDS)}
    assert all(TAG in deployment.tags for deployment in there.values())
    for automation in AUTOMATIONS:
        assert [kept.enabled for kept in client.read_automations_by_name(automation.name)] == [True]


def _read_queue(client: SyncPrefectClient, queue: UUID | None) -> dict[str, Any]:
    answer: dict[str, Any] = client._client.get(f"/work_queues/{queue}").json()
    return answer


def test_what_an_operator_paused_or_limited_stays_so(server: dict[str, str], client: SyncPrefectClient) -> None:
    inbox = client.read_deployment_by_name("segment-collection/inbox-process")
    (automation, *_), queue = (
        client.read_automations_by_name(AUTOMATIONS[0].name),
        f"/work_queues/{inbox.work_queue_id}",
    )
    client.update_work_pool("process", WorkPoolUpdate(is_paused=True, concurrency_limit=7))
    client._client.patch(queue, json={"is_paused": True, "concurrency_limit": 5})
    client.pause_automation(automation.id)
    try:
        made = run_program([str(DEPLOY / "pool"), "process"], env=server, stdin=subprocess.DEVNULL)
        assert made.returncode == 0, made.stdout + made.stderr
        pool = client.read_work_pool("process")
        assert (pool.is_paused, pool.concurrency_limit) == (True, 7)
        there = _read_queue(client, inbox.work_queue_id)
        assert (there["is_paused"], there["concurrency_limit"]) == (True, 5)
        assert [kept.enabled for kept in client.read_automations_by_name(automation.name)] == [False]
    finally:
        client.update_work_pool("process", WorkPoolUpdate(is_paused=False))
        client._client.patch(queue, json={"is_paused": False, "concurrency_limit": 1})
        client.resume_automation(automation.id)


def test_flow_runs_in_kubernetes_take_the_image_of_the_registry(
    server: dict[str, str], client: SyncPrefectClient
) -> None:
    pool = [str(DEPLOY / "pool"), "kubernetes"]
    refused = run_program(pool, env=server, stdin=subprocess.DEVNULL)
    assert refused.returncode != 0 and "SEAMLINE_IMAGE: set it to the image of your registry" in refused.stderr
    template, image = DEPLOY / "kubernetes" / "job-template.json", "registry.example.org/seamline:cpu"
    module = [sys.executable, "-m", "seamline.flows.tracking.work_pool", "kubernetes"]
    made = run_program([*module, "--template", str(template), "--image", image], env=server)
    assert made.returncode == 0, made.stderr
    kept = client.read_work_pool("kubernetes").base_job_template
    assert kept["variables"]["properties"]["image"]["default"] == image
    assert kept["job_configuration"] == json.loads(template.read_text())["job_configuration"]


_SLEEPING_FLOW = """
import time
from prefect import flow, tags

@flow(name="sleep")
def sleep() -> None:
    time.sleep(600)

with tags("short-lived"):
    sleep()
"""


@pytest.fixture
def impatient(client: SyncPrefectClient) -> Iterator[None]:
    """The automations, for runs with another tag and with timeouts as short as Prefect allows."""
    created = []
    for automation, seconds in zip(AUTOMATIONS, (HEARTBEAT_SECONDS + 10, 10), strict=True):
        related = ResourceSpecification({"prefect.resource.id": "prefect.tag.short-lived"})
        changes = {"within": timedelta(seconds=seconds), "match_related": related}
        trigger = automation.trigger.model_copy(update=changes)
        copy = automation.model_copy(update={"name": f"{automation.name}, soon", "trigger": trigger})
        created.append(client.create_automation(copy))
    yield
    for automation_id in created:
        client.delete_automation(automation_id)


def test_a_run_whose_process_is_lost_is_marked_and_one_that_works_is_not(
    server: dict[str, str], client: SyncPrefectClient, impatient: None, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _SLEEPING_FLOW]
    environment = server | {HEARTBEAT_VARIABLE: str(HEARTBEAT_SECONDS)}
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "flows.log").open("wb"))
        processes = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for _ in range(2)]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.kill)
        _until(lambda: _count_states(client) == {"Running": 2} and _count_heartbeats(client) >= 2)
        processes[0].kill()
        pending = client.create_flow_run_from_deployment(
            client.read_deployment_by_name("segment-scene/scene-process").id, tags=["short-lived"], state=Pending()
        )
        _until(lambda: client.read_flow_run(pending.id).state_name == "Crashed")
        _until(lambda: _count_states(client) == {"Crashed": 2, "Running": 1})


def _count_heartbeats(client: SyncPrefectClient) -> int:
    return _count_events(client, "prefect.flow-run.heartbeat")


def _count_events(client: SyncPrefectClient, name: str) -> int:
    wanted = EventFilter(event=EventNameFilter(name=[name])).model_dump(mode="json")
    return int(client._client.post("/events/filter", json={"filter": wanted}).json()["total"])


def _count_states(client: SyncPrefectClient) -> Counter[str | None]:
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=["short-lived"]))
    return Counter(run.state_name for run in client.read_flow_runs(flow_run_filter=wanted))


def test_a_worker_of_the_pool_runs_a_deployment(
    server: dict[str, str],
    client: SyncPrefectClient,
    small_model: Model,
    scheduler: dict[str, Any],
    certificates: Path,
    tmp_path: Path,
) -> None:
    """The worker's own environment brings the certificates, as in compose.yaml."""
    source = write_geotiff(
        tmp_path / "scene.tif",
        make_noise(6, 300, 400),
        names=BAND_NAMES,
        nodata=0,
    )
    run = client.create_flow_run_from_deployment(
        client.read_deployment_by_name("segment-scene/scene-process").id,
        parameters={
            "source": str(source),
            "model": str(small_model.folder),
            "out": str(tmp_path / "out"),
            "options": {"cluster": scheduler["address"], "window": 192, "halo": 48, "engine": "torch"},
        },
    )
    worker = ["prefect", "worker", "start", "--pool", "process", "--type", "process", "--run-once"]
    ended = run_program(
        worker, env=server | settings(certificates), cwd=tmp_path
    )  # the project is not there: it is imported
    assert client.read_flow_run(run.id).state_name == "Completed", ended.stdout + ended.stderr
    assert (tmp_path / "out" / "scene" / "segmentation.tif").exists()


_PUBLISHED_SCENE = """
import sys
from prefect.events import emit_event
from seamline.flows.tracking.artifacts import PUBLISHED_EVENT

for event, resource in ((PUBLISHED_EVENT, "seamline.scene.a"), ("seamline.disk.low", "seamline.disk")):
    emit_event(event=event, resource={"prefect.resource.id": resource})
"""


def test_a_published_scene_starts_the_run_that_brings_the_map_up_to_date(
    server: dict[str, str], client: SyncPrefectClient
) -> None:
    """One run, with the parameters of the deployment; other events start none."""
    deployment = client.read_deployment_by_name("update-mosaic/mosaic-process")
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    for run in client.read_flow_runs(deployment_filter=wanted):  # of scenes that other tests have published
        client.delete_flow_run(run.id)
    emitted = run_program([sys.executable, "-c", _PUBLISHED_SCENE], env=server)
    assert emitted.returncode == 0, emitted.stderr
    _until(lambda: bool(client.read_flow_runs(deployment_filter=wanted)))
    _until(lambda: _count_events(client, "seamline.disk.low") == 1)
    runs = client.read_flow_runs(deployment_filter=wanted)
    assert len(runs) <= _count_events(client, "seamline.scene.published")  # those of other tests may come late
    for run in runs:
        assert run.parameters == deployment.parameters and run.parameters["out"] == "/data/results/land"
        assert run.state_name in ("Scheduled", "Late")
        client.delete_flow_run(run.id)  # which the worker of another test would take
