"""Checks of ``seamline doctor``: what was found, whether it is good enough, and how to fix it where it is not.

These functions judge facts that others have gathered; they look at nothing themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dask.utils import format_bytes
from packaging.requirements import Requirement

from seamline.flows.settings.folders import FolderFacts

SHOWN_PACKAGES = ("seamline", "torch", "numpy", "rasterio", "dask", "distributed", "zarr")
"""Packages whose versions are shown, and compared with those of the workers."""

_EQUAL_PACKAGES = ("seamline", "dask", "distributed")
"""Packages that must be of one version on client, scheduler and workers, since these send objects to each other."""

_LITTLE_SPACE = 2**30
_NO_SPACE = 100 * 2**20


class State(StrEnum):
    """How a check ended. Only a failed one means that Seamline cannot run."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """A line of the table.

    Attributes:
        name: What was looked at.
        state: How it ended.
        found: What was found.
        fix: What the user can do; empty where all is well.
    """

    name: str
    state: State
    found: str
    fix: str = ""


def judge_packages(requirements: Sequence[Requirement], versions: Mapping[str, str]) -> Check:
    """Judge the installed packages by what Seamline requires.

    Args:
        requirements: What Seamline requires; Python itself may be among it.
        versions: Name → version of what is installed.

    Returns:
        The check; failed if a package is missing or of a version that is not allowed.
    """
    wrong = [
        need
        for need in requirements
        if need.name not in versions or not need.specifier.contains(versions[need.name], prereleases=True)
    ]
    if wrong:
        found = ", ".join(f"{need.name} {versions.get(need.name, 'is missing')}" for need in wrong)
        needed = " ".join(f"'{need.name}{need.specifier}'" for need in wrong)
        return Check("packages", State.FAILED, found, f"install {needed}")
    return Check("packages", State.OK, ", ".join(f"{name} {versions[name]}" for name in SHOWN_PACKAGES))


def judge_extras(missing: Mapping[str, Sequence[str]]) -> Check:
    """Say which extras are installed; none must be.

    Args:
        missing: Extra → its modules that are not installed; empty where all are.
    """
    present = ", ".join(extra for extra, modules in missing.items() if not modules) or "none"
    if absent := ",".join(extra for extra, modules in missing.items() if modules):
        return Check("extras", State.OK, f"{present}; more with pip install 'seamline[{absent}]'")
    return Check("extras", State.OK, present)


def judge_drivers(name: str, known: Sequence[str], missing: Mapping[str, str], needed: Sequence[str]) -> Check:
    """Judge drivers or codecs.

    Args:
        name: What they are.
        known: All that were looked for.
        missing: Those that are missing → what cannot be read or written without them.
        needed: Those without which no result can be written.

    Returns:
        The check; failed if a needed one is missing, a warning if another one is.
    """
    present = ", ".join(item for item in known if item not in missing)
    if not missing:
        return Check(name, State.OK, present)
    state = State.FAILED if set(missing) & set(needed) else State.WARNING
    fix = f"without them no {', '.join(missing.values())}; install a rasterio and pyogrio whose GDAL has them"
    return Check(name, state, f"{present}; missing: {', '.join(missing)}", fix)


def judge_folder(name: str, facts: FolderFacts, *, is_optional: bool = False) -> Check:
    """Judge a folder that files are written to.

    Args:
        name: What the folder is for.
        facts: What a machine says of it.
        is_optional: Whether a run goes on without it.

    Returns:
        The check; failed (of an optional folder: a warning) if it cannot be written to, a warning if space is scarce.
    """
    failed = State.WARNING if is_optional else State.FAILED
    space = f"{facts.path}: {format_bytes(facts.free_bytes)} free"
    if not facts.exists and not is_optional:
        return Check(name, failed, f"{facts.path} does not exist", "make it, or correct the path")
    if facts.problem:
        return Check(name, failed, f"{facts.path}: {facts.problem}", "let this user write there, or name another")
    if facts.free_bytes < _NO_SPACE:
        return Check(name, failed, space, "make room, or name a folder on another disk")
    if facts.free_bytes < _LITTLE_SPACE:
        return Check(name, State.WARNING, space, "make room: a large scene takes gigabytes while it is segmented")
    return Check(name, State.OK, space)


def judge_versions(client: Mapping[str, str | None], others: Mapping[str, Mapping[str, str | None]]) -> Check:
    """Judge the versions of Python and of packages on the machines of a cluster by those of the client.

    Args:
        client: Package → version on the client; ``None`` where it is missing.
        others: Address → the same of the process there. Packages that are not named are not compared.

    Returns:
        The check; failed if one lacks a package or cannot exchange objects with the client, a warning if versions
        differ of what only computes.
    """
    state, differences = State.OK, []
    for name in ("python", *SHOWN_PACKAGES):
        ours = client.get(name)
        for address, versions in others.items():
            theirs = versions.get(name)
            if name not in versions or theirs == ours:
                continue
            differences.append(f"{name} {theirs or 'is missing'} on {address}, {ours} here")
            is_fatal = theirs is None or name in _EQUAL_PACKAGES or _differ_in_minor(name, ours, theirs)
            state = State.FAILED if is_fatal else max(state, State.WARNING, key=list(State).index)
    if not differences:
        return Check("versions on the cluster", State.OK, "as here: Python, " + ", ".join(SHOWN_PACKAGES))
    more = f"; {len(differences) - 3} more" if len(differences) > 3 else ""
    fix = "install the same versions on all machines, or use one image for all"
    return Check("versions on the cluster", state, "; ".join(differences[:3]) + more, fix)


def _differ_in_minor(name: str, ours: str | None, theirs: str) -> bool:
    """Whether two versions of Python cannot read each other's pickled functions."""
    return name == "python" and (ours or "").split(".")[:2] != theirs.split(".")[:2]
