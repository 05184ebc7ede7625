"""The files of ``deploy/monitoring``: alarms fire when they should, Prometheus asks what is there, and is let in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deployment_files import DEPLOY, find_program, list_pods, render_overlay, run_program

MONITORING = DEPLOY / "monitoring"
CASES = Path(__file__).parent / "alerts.yml"
(GROUP,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
ALARMS = [rule["alert"] for rule in GROUP["rules"]]


def run_promtool(*arguments: object) -> tuple[int, str]:
    """Its exit code, and what it says."""
    answer = run_program([find_program("prometheus", "usr", "bin", "promtool"), *map(str, arguments)])
    return answer.returncode, answer.stdout + answer.stderr


def read_jobs(name: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = yaml.safe_load((MONITORING / name).read_text())["scrape_configs"]
    return jobs


def test_alarms_fire_and_are_silent_when_they_should() -> None:
    code, said = run_promtool("test", "rules", CASES)
    assert code == 0, said


def test_every_alarm_has_a_case_that_fires_and_one_that_is_silent() -> None:
    checks = [check for case in yaml.safe_load(CASES.read_text())["tests"] for check in case["alert_rule_test"]]
    assert {check["alertname"] for check in checks if "exp_alerts" in check} == set(ALARMS)
    assert {check["alertname"] for check in checks if "exp_alerts" not in check} == set(ALARMS)


def test_the_runbook_has_exactly_these_alarms() -> None:
    runbook = (DEPLOY / "RUNBOOK.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", runbook, re.MULTILINE) == ALARMS


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_prometheus_takes_the_configuration_and_refuses_a_broken_one(name: str, tmp_path: Path) -> None:
    """Debian's Prometheus is built without Kubernetes, so it is shown static targets in its place."""
    config = yaml.safe_load((MONITORING / name).read_text())
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["pod:1"]}]
    (tmp_path / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text())
    (tmp_path / name).write_text(yaml.safe_dump(config))
    code, said = run_promtool("check", "config", tmp_path / name)
    assert code == 0 and f"{len(ALARMS)} rules found" in said, said
    (tmp_path / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text().replace("absent(", "missing("))
    code, said = run_promtool("check", "config", tmp_path / name)
    assert code != 0 and "missing" in said


def test_prometheus_asks_services_of_compose_at_their_ports() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    asked = {
        (job["job_name"], address)
        for job in read_jobs("prometheus.yml")
        for static in job.get("static_configs", [])
        for address in static["targets"]
    } | {
        (job["job_name"], f"{name}:{sought['port']}")
        for job in read_jobs("prometheus.yml")
        for sought in job.get("dns_sd_configs", [])
        for name in sought["names"]
    }
    there = {name: f"{name}:{find_port(services[name])}" for name in services}
    assert asked == {
        ("scheduler", there["scheduler"]),
        ("workers", there["worker"]),
        ("workers", there["worker-gpu"]),
        ("map", there["map"]),
    }


def find_port(service: dict[str, Any]) -> str:
    """Of the metrics: Dask's dashboard, what is asked for health, or the published page."""
    command = service.get("command", [])
    if "--dashboard-address" in command:
        return str(command[command.index("--dashboard-address") + 1]).removeprefix(":")
    asked = service["healthcheck"]["test"][2] if "healthcheck" in service else service.get("ports", [""])[0]
    return str(asked).rpartition(":")[2]


@dataclass(frozen=True)
class PodPort:
    """A port of a pod, as Prometheus finds it."""

    labels: dict[str, str]
    name: str
    number: int

    def is_kept(self, job: dict[str, Any]) -> bool:
        """Whether the rules of a job keep it."""
        found = {f"__meta_kubernetes_pod_label_{re.sub(r'[^a-z]', '_', key)}": self.labels[key] for key in self.labels}
        found |= {"__meta_kubernetes_pod_phase": "Running", "__meta_kubernetes_pod_container_port_name": self.name}
        assert {rule["action"] for rule in job["relabel_configs"]} == {"keep"}
        return all(
            re.fullmatch(rule["regex"], ";".join(found.get(label, "") for label in rule["source_labels"]))
            for rule in job["relabel_configs"]
        )

    def is_open_to_prometheus(self, policy: dict[str, Any]) -> bool:
        """Whether a NetworkPolicy lets Prometheus ask it."""
        selected = policy["spec"]["podSelector"].get("matchLabels", {}).items() <= self.labels.items()
        return selected and any(
            source.get("namespaceSelector", {}).get("matchLabels") == {"kubernetes.io/metadata.name": "monitoring"}
            and source["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
            and {"port": self.number, "protocol": "TCP"} in rule["ports"]
            for rule in policy["spec"].get("ingress", [])
            for source in rule["from"]
        )


def list_pod_ports(resources: list[dict[str, Any]]) -> Iterator[PodPort]:
    """All ports of all pods; the operator gives those of Dask their labels."""
    for resource in resources:
        pods = list(list_pods(resource))
        if resource["kind"] == "DaskCluster":
            name = resource["metadata"]["name"]
            parts = [{"dask.org/cluster-name": name, "dask.org/component": part} for part in ("scheduler", "worker")]
        else:
            parts = [resource["spec"]["template"]["metadata"]["labels"] for _ in pods]
        for labels, pod in zip(parts, pods, strict=True):
            for port in (port for container in pod["containers"] for port in container["ports"]):
                yield PodPort(labels, port["name"], port["containerPort"])


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_prometheus_finds_the_pods_of_kubernetes_and_is_let_in(overlay: str) -> None:
    resources = render_overlay(overlay)
    policies = [resource for resource in resources if resource["kind"] == "NetworkPolicy"]
    ports = list(list_pod_ports(resources))
    kept = {job["job_name"]: [port for port in ports if port.is_kept(job)] for job in read_jobs("kubernetes.yml")}
    assert {job: [port.number for port in found] for job, found in kept.items()} == {
        "scheduler": [8787],
        "workers": [8788],
        "map": [8080],
    }
    for (port,) in kept.values():
        assert any(port.is_open_to_prometheus(policy) for policy in policies)
    for job in read_jobs("kubernetes.yml"):
        assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["seamline"]}}]
