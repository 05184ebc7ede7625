"""Programs that check the files of ``deploy/`` as those that will read them do. ``.ci/readers`` installs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
PROGRAMS = PROJECT / "build" / "readers"
RESOURCES = PROGRAMS / "dask_kubernetes/dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds"


def find_program(*parts: str) -> str:
    """The path of a program that ``.ci/readers`` installs; skips where it is not there."""
    path = PROGRAMS.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {parts[-1]}; .ci/readers installs it")
    path.chmod(0o755)
    return str(path)


def run_program(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """What a program says; it fails only where the caller looks."""
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def lint_dockerfile(dockerfile: Path) -> str:
    """Findings about a Dockerfile."""
    return run_program([find_program("hadolint", "bin", "hadolint"), "--no-color", str(dockerfile)]).stdout


def run_compose(file: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What Docker's own Compose makes of a file, or refuses in it, with its profiles."""
    compose = find_program("compose", "compose", "docker-compose")
    command = [compose, "--file", str(file), "--profile", "cpu", "--profile", "gpu", "config"]
    return run_program(command, env={**os.environ, **environment})


def render_overlay(overlay: str) -> list[dict[str, Any]]:
    """An overlay's resources, by kubectl's kustomize."""
    answer = run_program([find_program("kubectl", "bin", "kubectl"), "kustomize", str(DEPLOY / "kubernetes" / overlay)])
    assert answer.returncode == 0, answer.stderr
    return list(yaml.safe_load_all(answer.stdout))


def find_problems(resource: dict[str, Any]) -> list[str]:
    """What Kubernetes' schema, or the operator's own for its kinds, says of a resource; unknown fields are wrong."""
    if resource["apiVersion"] == "kubernetes.dask.org/v1":
        validator = Draft202012Validator(_strict(_schema_of(resource["kind"])))
        found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]
        return found + [problem for pod in list_pods(resource) for problem in find_problems(_as_pod(pod))]
    find_program("kubernetes", "kubernetes_validate", "__init__.py")
    sys.path.append(str(PROGRAMS / "kubernetes"))  # behind all that is installed
    import kubernetes_validate

    try:
        kubernetes_validate.validate(resource, "1.32", strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error.message)]
    finally:
        sys.path.remove(str(PROGRAMS / "kubernetes"))
    return []


def list_pods(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specs of the pods that come of a resource."""
    spec = resource.get("spec", {})
    if resource["kind"] == "DaskCluster":
        yield from (spec[part]["spec"] for part in ("scheduler", "worker"))
    elif "template" in spec:
        yield spec["template"]["spec"]


def _as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def _schema_of(kind: str) -> dict[str, Any]:
    path = RESOURCES / f"{kind.lower()}.yaml"
    if not path.exists():
        pytest.skip("no definitions of dask-kubernetes; .ci/readers installs them")
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def _strict(schema: Any, root: bool = True) -> Any:
    """As the API server with strict fields: what is not named is refused. Every resource has kind and metadata."""
    if isinstance(schema, list):
        return [_strict(entry, False) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(entry, False) for name, entry in schema.items()}
    if isinstance(strict.get("properties"), dict) and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
        if root:
            strict["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    return strict
