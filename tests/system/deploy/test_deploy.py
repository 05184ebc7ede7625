"""The files of ``deploy/``: tried where they can be, and else read by those that will read them."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from seamline.pipeline.cluster.connect import WORKER_ENVIRONMENT
from tests.support.deployment_files import (
    DEPLOY,
    PROJECT,
    find_problems,
    lint_dockerfile,
    list_pods,
    render_overlay,
    run_compose,
)

COPIED = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


def test_the_linter_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    assert lint_dockerfile(DEPLOY / "Dockerfile") == ""
    broken = (DEPLOY / "Dockerfile").read_text().replace("USER 1000:1000", "USER root")
    (tmp_path / "Dockerfile").write_text(broken)
    assert "DL3002" in lint_dockerfile(tmp_path / "Dockerfile")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    copied = [name for names in COPIED.findall((DEPLOY / "Dockerfile").read_text()) for name in shlex.split(names)]
    assert {"pipeline", "model", "flows", "constraints.txt", "deploy"} <= set(copied)
    for name in copied:
        assert (PROJECT / name).exists() and f"!{name}" in ignored


@pytest.fixture
def compose(tmp_path: Path) -> Path:
    """compose.yaml beside secrets of its own."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "flows.env").touch()
    login = "PREFECT_SERVER_API_AUTH_STRING=admin:x\nPREFECT_API_AUTH_STRING=admin:x\n"
    (tmp_path / "secrets" / "prefect.env").write_text(login)
    file = tmp_path / "compose.yaml"
    file.write_text((DEPLOY / "compose.yaml").read_text())
    return file


def test_compose_takes_the_file_and_refuses_a_broken_one(compose: Path) -> None:
    answer = run_compose(compose)
    assert (answer.returncode, answer.stderr) == (0, "")
    compose.write_text(compose.read_text().replace("restart: unless-stopped", "restarts: unless-stopped"))
    answer = run_compose(compose)
    assert answer.returncode != 0 and "restarts" in answer.stderr


def test_workers_have_the_environment_of_local_ones(compose: Path) -> None:
    """Threads that wait leave their core, and freed memory stays with the process."""
    wanted = WORKER_ENVIRONMENT.items()
    services = yaml.safe_load(run_compose(compose).stdout)["services"]
    for name in ("worker", "worker-gpu"):
        assert wanted <= services[name]["environment"].items()
    for overlay in ("cpu", "gpu"):
        (cluster,) = (resource for resource in render_overlay(overlay) if resource["kind"] == "DaskCluster")
        (container,) = cluster["spec"]["worker"]["spec"]["containers"]
        assert wanted <= {(variable["name"], variable["value"]) for variable in container["env"]}
    jobs = yaml.safe_load((DEPLOY / "slurm" / "jobqueue.yaml").read_text())["jobqueue"]["slurm"]
    assert {f"{name}={value}" for name, value in wanted} <= set(" ".join(jobs["job-script-prologue"]).split())


def test_only_two_pages_leave_the_host_of_compose(compose: Path) -> None:
    services = yaml.safe_load(run_compose(compose).stdout)["services"]
    published = {
        (name, port["host_ip"], port["target"]) for name in services for port in services[name].get("ports", [])
    }
    assert published == {("server", "127.0.0.1", 4200), ("map", "127.0.0.1", 8080)}
    assert not any("dask" in services[name]["networks"] for name in ("postgres", "server", "map"))
    for name, service in services.items():
        assert "PASSWORD" not in " ".join(service.get("environment", {})).replace("PASSWORD_FILE", "")
        assert name in ("deployments", "map") or "healthcheck" in service  # the first ends, the second has the image's
        if name != "postgres":
            assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] == "1000:1000"


def test_prefect_wants_a_login_and_answers_its_own_page_alone(compose: Path) -> None:
    services = yaml.safe_load(run_compose(compose).stdout)["services"]
    server = services["server"]["environment"]
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == "admin:x"
    assert server["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200"
    assert server["PREFECT_UI_STATIC_DIRECTORY"].startswith("/tmp/")  # the rest is read-only
    for name in ("deployments", "flows"):
        assert services[name]["environment"]["PREFECT_API_AUTH_STRING"] == "admin:x"


def test_a_worker_may_take_the_memory_that_its_container_has(compose: Path) -> None:
    """By default Dask takes the share of it that the worker's threads are of the cores."""
    (cluster,) = (resource for resource in render_overlay("cpu") if resource["kind"] == "DaskCluster")
    (pod,) = cluster["spec"]["worker"]["spec"]["containers"]
    for command in (pod["args"], yaml.safe_load(run_compose(compose).stdout)["services"]["worker"]["command"]):
        assert command[command.index("--memory-limit") + 1] == "1.0"


def test_what_was_measured_outlives_every_container_that_plans(compose: Path) -> None:
    """It lies in the volume that flows and workers share, whatever runs them; nobody says otherwise."""
    image = (DEPLOY / "Dockerfile").read_text()
    assert "XDG_CACHE_HOME=/data/.cache" in image and "VOLUME /data" in image
    services = yaml.safe_load(run_compose(compose).stdout)["services"]
    for name in ("deployments", "flows", "worker", "worker-gpu"):
        assert [(mount["type"], mount["target"]) for mount in services[name]["volumes"]] == [("bind", "/data")]
        assert (
            not services[name]["volumes"][0].get("read_only") and "XDG_CACHE_HOME" not in services[name]["environment"]
        )
    docker = yaml.safe_load((DEPLOY / "prefect.yaml").read_text())["definitions"]["docker-gpu"]["job_variables"]
    assert "/srv/seamline:/data" in docker["volumes"] and "XDG_CACHE_HOME" not in docker["env"]
    job = json.loads((DEPLOY / "kubernetes" / "job-template.json").read_text())["job_configuration"]["job_manifest"]
    (claim,) = (resource for resource in render_overlay("gpu") if resource["kind"] == "PersistentVolumeClaim")
    (pod,) = list_pods(job)
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == "/data")
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"] and not mount.get("readOnly")


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_kubernetes_takes_every_resource(overlay: str) -> None:
    resources = render_overlay(overlay)
    assert {"DaskCluster", "DaskAutoscaler", "Deployment", "NetworkPolicy", "Role"} <= {r["kind"] for r in resources}
    assert [(r["kind"], problem) for r in resources for problem in find_problems(r)] == []
    assert not any(r["kind"] == "Secret" for r in resources)


def test_pods_of_kubernetes_may_do_little() -> None:
    pods = [pod for resource in render_overlay("gpu") for pod in list_pods(resource)]
    assert len(pods) == 4
    for pod in pods:
        _may_do_little(pod)
        assert all({"readinessProbe", "livenessProbe"} <= set(container) for container in pod["containers"])


def _may_do_little(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] and container["resources"]["limits"]


def test_the_workers_of_the_overlay_gpu_have_one_gpu_each() -> None:
    (cluster,) = (resource for resource in render_overlay("gpu") if resource["kind"] == "DaskCluster")
    (worker,) = cluster["spec"]["worker"]["spec"]["containers"]
    assert worker["image"].endswith(":cuda")
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["args"][-2:] == ["--resources", "GPU=1"]


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "imagee"), "x"),
        ("NetworkPolicy", ("spec", "ingres"), []),
        ("DaskAutoscaler", ("spec", "maximum"), "many"),
        ("DaskAutoscaler", ("spec", "maximun"), 3),
        ("DaskCluster", ("spec", "worker", "replica"), 2),
        ("DaskCluster", ("spec", "worker", "spec", "containers", 0, "arg"), []),
    ],
)
def test_a_wrong_field_is_seen(kind: str, path: tuple[str | int, ...], value: object) -> None:
    resource = copy.deepcopy(next(resource for resource in render_overlay("cpu") if resource["kind"] == kind))
    place: Any = resource
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert find_problems(resource)


def test_a_flow_run_of_the_kubernetes_pool_is_a_job_that_kubernetes_takes() -> None:
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="no prefect-kubernetes")
    template = json.loads((DEPLOY / "kubernetes" / "job-template.json").read_text())
    values = {"memory_limit": "8Gi", "env": {"A": "b"}}
    nobody = PrefectClient("http://127.0.0.1:9/api")  # would be asked for blocks, of which there are none
    making = worker.KubernetesWorkerJobConfiguration.from_template_and_values(template, values, client=nobody)
    configuration = asyncio.run(making)
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="quick-otter"))
    job = configuration.job_manifest
    (pod,) = list_pods(job)
    for misplaced in ("parallelism", "completions"):  # Prefect wants them there, Kubernetes drops them
        assert pod.pop(misplaced) == 1
    assert find_problems(job) == []
    _may_do_little(pod)
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"memory": "8Gi"}
    assert "prefect" in " ".join(container["args"])
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "seamline-run"
