"""Look at a Dask cluster for ``seamline doctor``: scheduler, workers, versions, folders and model on each host.

Nothing on the cluster is changed: the workers keep the access to object storage that a run has given them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask.utils import format_bytes
from distributed import Client

from seamline.flows.settings.checks import SHOWN_PACKAGES, Check, State, judge_folder, judge_versions
from seamline.flows.settings.folders import FolderFacts, inspect_folder
from seamline.flows.settings.model_folder import Model
from seamline.model.spec.document import MODEL_FILENAME, compute_file_digest
from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.cluster.losses import get_known_workers
from seamline.pipeline.cluster.workers import run_on_each_host
from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import InputError, RunError, redact_address, redact_secrets

_SCHEDULER_PACKAGES = ("python", "dask", "distributed")
"""What a scheduler needs; it need not have Seamline."""

_SHARE_FIX = "share the folder with the workers, under one path on all machines"


def check_cluster(address: str, folders: Sequence[Path], model: Model | None) -> Iterator[Check]:
    """Check a cluster, and that each of its hosts sees what the client sees.

    Args:
        address: Address of the scheduler.
        folders: Folders that are there for the client.
        model: The model to compare; None compares none.
    """
    try:
        with connect(address, 1) as client:
            yield Check("cluster", State.OK, f"{redact_address(address)} answers")
            workers, versions = judge_workers(get_known_workers(client)), _check_versions(client)
            yield from (workers, versions)
            if State.FAILED not in (workers.state, versions.state):  # otherwise no worker may be able to answer
                yield from _check_hosts(client, folders, model)
    except InputError as error:
        yield Check("cluster", State.FAILED, redact_secrets(f"{error.what}: {error.got}"), error.fix)
    except (RunError, OSError) as error:
        found = redact_secrets(f"{address}: {error or type(error).__name__}")
        yield Check("cluster", State.FAILED, found, "look at the scheduler's and the workers' logs")


def judge_workers(workers: Mapping[str, Mapping[str, Any]]) -> Check:
    """Judge what the scheduler knows of its workers, by address: some work, and their memory is limited."""
    hosts = {worker["host"] for worker in workers.values()}
    limits = sorted({int(worker["memory_limit"] or 0) for worker in workers.values()})
    bounds = dict.fromkeys(format_bytes(limit) if limit else "no limit" for limit in (limits[0], limits[-1]))
    memory = " to ".join(bounds)
    threads = sum(worker["nthreads"] for worker in workers.values())
    found = f"{len(workers)} on {format_count(len(hosts), 'host')}, {format_count(threads, 'thread')}, memory: {memory}"
    idle = [address for address, worker in workers.items() if worker["status"] != "running"]
    if idle:
        state = State.FAILED if len(idle) == len(workers) else State.WARNING
        fix = "give each worker more memory, or restart it: Dask pauses those that hold too much"
        return Check("workers", state, f"{found}; not running: {', '.join(idle)}", fix)
    if not limits[0]:
        fix = "start workers with --memory-limit, so that the machine does not run out of it"
        return Check("workers", State.WARNING, found, fix)
    return Check("workers", State.OK, found)


def _check_versions(client: Client) -> Check:
    versions = client.get_versions(packages=list(SHOWN_PACKAGES))
    scheduler = versions["scheduler"]["packages"]
    others = {
        "the scheduler": {name: scheduler[name] for name in _SCHEDULER_PACKAGES},
        **{address: worker["packages"] for address, worker in versions["workers"].items()},
    }
    return judge_versions(versions["client"]["packages"], others)


@dataclass(frozen=True)
class HostFacts:
    """What a worker says of its host.

    Attributes:
        folders: The folders of the client, as they are there.
        unseen: Those of the client's marker files that are not there.
        model_digest: Digest of the model's document; empty if there is none.
    """

    folders: tuple[FolderFacts, ...]
    unseen: frozenset[Path]
    model_digest: str


def _check_hosts(client: Client, folders: Sequence[Path], model: Model | None) -> Iterator[Check]:
    with ExitStack() as stack:
        markers = {
            folder: Path(stack.enter_context(tempfile.NamedTemporaryFile(prefix=".seamline-", dir=folder)).name)
            for folder in folders
            if not inspect_folder(folder).problem and folder.is_dir()
        }
        document = None if model is None else model.folder / MODEL_FILENAME
        hosts = run_on_each_host(client, _inspect_host, tuple(markers), frozenset(markers.values()), document)
    for address, facts in hosts.items():
        for folder in facts.folders:
            yield judge_host_folder(f"folder on {address}", folder, is_seen=markers[folder.path] not in facts.unseen)
        if model is not None:
            yield judge_host_model(f"model on {address}", model.digest, facts.model_digest)


def _inspect_host(folders: Sequence[Path], markers: frozenset[Path], document: Path | None) -> HostFacts:
    """Return what this machine says; runs on a worker."""
    is_there = document is not None and document.is_file()
    return HostFacts(
        tuple(map(inspect_folder, folders)),
        frozenset(marker for marker in markers if not marker.exists()),
        compute_file_digest(document) if document is not None and is_there else "",
    )


def judge_host_folder(name: str, facts: FolderFacts, *, is_seen: bool) -> Check:
    """Judge a folder on a host of the cluster.

    Args:
        name: What is judged.
        facts: What the host says of the folder.
        is_seen: Whether the host sees a file that the client has just written to the folder.
    """
    check = judge_folder(name, facts)
    if is_seen or check.state is State.FAILED:
        return check
    return Check(name, State.FAILED, f"{facts.path}: another folder than the client's", _SHARE_FIX)


def judge_host_model(name: str, expected: str, found: str) -> Check:
    """Judge the model on a host of the cluster.

    Args:
        name: What is judged.
        expected: Digest of the model on the client.
        found: Its digest on the host; empty if there is none.
    """
    if found == expected:
        return Check(name, State.OK, f"digest {found[:12]}")
    got = f"digest {found[:12]}, {expected[:12]} here" if found else "no such folder"
    return Check(name, State.FAILED, got, _SHARE_FIX)
