"""How ``seamline doctor`` judges what it found; the facts are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from seamline.flows.settings.checks import (
    SHOWN_PACKAGES,
    Check,
    State,
    judge_drivers,
    judge_folder,
    judge_packages,
    judge_versions,
)
from seamline.flows.settings.cluster_checks import judge_host_folder, judge_host_model, judge_workers
from seamline.flows.settings.folders import FolderFacts, inspect_folder

OK, WARNING, FAILED = State.OK, State.WARNING, State.FAILED
GIB = 2**30
VERSIONS = {"Python": "3.11.7", **dict.fromkeys(SHOWN_PACKAGES, "2.1"), "more": "1.0"}
HERE = {"python": "3.11.7.final.0", **dict.fromkeys(SHOWN_PACKAGES, "2.1")}


def is_told_how_to_fix(check: Check) -> bool:
    return bool(check.fix) == (check.state is not OK)


@pytest.mark.parametrize(
    ("needs", "named"),
    [
        (["more"], ""),
        (["torch>=2.1,<3", "Python>=3.11"], ""),
        (["torch>=2.4", "more"], "torch 2.1"),
        (["Python>=3.12"], "Python 3.11.7"),
        (["absent"], "absent is missing"),
    ],
)
def test_packages_are_judged_by_what_is_required(needs: list[str], named: str) -> None:
    check = judge_packages([Requirement(need) for need in needs], VERSIONS)
    assert check.state is (FAILED if named else OK) and is_told_how_to_fix(check)
    assert check.found == named if named else "torch 2.1" in check.found


@pytest.mark.parametrize(("missing", "state"), [({}, OK), ({"JXL": "photos"}, WARNING), ({"LZW": "results"}, FAILED)])
def test_only_what_results_are_written_with_must_be_there(missing: dict[str, str], state: State) -> None:
    check = judge_drivers("codecs", ("LZW", "JXL"), missing, ("LZW",))
    assert check.state is state and is_told_how_to_fix(check)
    assert all(name in check.found and lost in check.fix for name, lost in missing.items())


@pytest.mark.parametrize(
    ("exists", "free", "problem", "state", "optional_state"),
    [
        (True, 2 * GIB, "", OK, OK),
        (True, GIB - 1, "", WARNING, WARNING),
        (True, GIB // 100, "", FAILED, WARNING),
        (True, 2 * GIB, "Permission denied", FAILED, WARNING),
        (False, 2 * GIB, "", FAILED, OK),
    ],
)
def test_folders_are_judged_by_space_and_permission(
    exists: bool, free: int, problem: str, state: State, optional_state: State
) -> None:
    facts = FolderFacts(Path("/data"), exists, free, problem)
    for check, expected in (
        (judge_folder("a", facts), state),
        (judge_folder("a", facts, is_optional=True), optional_state),
    ):
        assert check.state is expected and is_told_how_to_fix(check) and problem in check.found


def test_a_folder_says_whether_files_can_be_written_there_and_stays_as_it_is(tmp_path: Path) -> None:
    facts = inspect_folder(tmp_path)
    assert (facts.exists, facts.problem, list(tmp_path.iterdir())) == (True, "", []) and facts.free_bytes > 0
    (tmp_path / "file").touch()
    assert inspect_folder(tmp_path / "file" / "folder").problem
    assert not inspect_folder(tmp_path / "new").exists


@pytest.mark.parametrize(
    ("package", "version", "state"),
    [
        ("torch", "2.1", OK),
        ("torch", "2.2", WARNING),
        ("torch", None, FAILED),
        ("seamline", "2.2", FAILED),
        ("dask", "2.2", FAILED),
        ("python", "3.11.9.final.0", WARNING),
        ("python", "3.12.7.final.0", FAILED),
    ],
)
def test_versions_on_workers_are_compared_with_the_clients(package: str, version: str | None, state: State) -> None:
    others: dict[str, dict[str, str | None]] = {"tcp://a:1": {**HERE}, "tcp://b:1": {**HERE, package: version}}
    check = judge_versions(HERE, others)
    assert check.state is state and is_told_how_to_fix(check)
    if state is not OK:
        assert package in check.found and "tcp://b:1" in check.found and "tcp://a:1" not in check.found


def test_a_fatal_difference_of_versions_is_not_hidden_by_a_harmless_one() -> None:
    assert judge_versions(HERE, {"a": {**HERE, "seamline": "1"}, "b": {**HERE, "torch": "1"}}).state is FAILED


def test_a_scheduler_may_lack_what_only_workers_need() -> None:
    assert judge_versions(HERE, {"the scheduler": {"python": HERE["python"], "dask": "2.1"}}).state is OK


def describe_worker(host: str, status: str = "running", limit: int | None = GIB) -> dict[str, Any]:
    return {"host": host, "status": status, "memory_limit": limit, "nthreads": 3}


@pytest.mark.parametrize(
    ("statuses", "limit", "state"),
    [
        (("running", "running"), GIB, OK),
        (("running", "paused"), GIB, WARNING),
        (("paused", "paused"), GIB, FAILED),
        (("running", "running"), None, WARNING),
    ],
)
def test_workers_must_run_and_be_limited(statuses: tuple[str, str], limit: int | None, state: State) -> None:
    first, second = statuses
    check = judge_workers({"a": describe_worker("x", first, limit), "b": describe_worker("y", second, 2 * GIB)})
    assert check.state is state and is_told_how_to_fix(check)
    assert check.found.startswith("2 on 2 hosts, 6 threads")


def test_hosts_must_have_the_clients_folder_and_model() -> None:
    there = FolderFacts(Path("/data"), True, 2 * GIB, "")
    checks = [
        judge_host_folder("a", there, is_seen=True),
        judge_host_folder("a", there, is_seen=False),
        judge_host_folder("a", FolderFacts(Path("/data"), False, 2 * GIB, ""), is_seen=False),
        judge_host_model("a", "0123", "0123"),
        judge_host_model("a", "0123", "0124"),
        judge_host_model("a", "0123", ""),
    ]
    assert [check.state for check in checks] == [OK, FAILED, FAILED] * 2
    assert all(map(is_told_how_to_fix, checks))
