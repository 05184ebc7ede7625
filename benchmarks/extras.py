"""Weigh the extras of the package: how many packages each brings beyond the core, and how much they take on the disk.

    python benchmarks/extras.py

Packages are those that are installed here; sizes are of what their wheels unpack, without compiled Python. The table is
that of ``docs/guides/install.md``. ``tests/system/install`` makes an environment of the core by the same lists.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "seamline"
_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_NAMED = 3
"""Packages of an extra that the table names: the largest."""


@cache
def read_installed() -> dict[str, Distribution]:
    """Return the installed packages by their names."""
    return {canonicalize_name(package.metadata["Name"]): package for package in distributions()}


@cache
def read_requirements() -> dict[str, list[Requirement]]:
    """Return what the project requires: of the core under an empty name, and of each extra under its own."""
    project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
    texts = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in needs] for extra, needs in texts.items()}


def list_packages(extra: str = "") -> set[str]:
    """Return the names of all packages that the core and an extra need, those that others of them need included."""
    remaining = [(PROJECT, ""), (PROJECT, extra)]
    seen = set(remaining)
    while remaining:
        for need in _list_needs(*remaining.pop()):
            parts = {(canonicalize_name(need.name), part) for part in ("", *need.extras)} - seen
            seen |= parts
            remaining += parts
    return {name for name, _ in seen if name in read_installed()} - {PROJECT}


def _list_needs(name: str, extra: str) -> Iterable[Requirement]:
    """Return what a package requires for an extra; without one, what it requires anyway."""
    if name == PROJECT:
        return read_requirements()[extra]
    package = read_installed().get(name)
    needs = [Requirement(text) for text in (package.requires or () if package else ())]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]


def measure_megabytes(name: str) -> float:
    """Return how many megabytes the files of a package take."""
    return sum(file.size or 0 for file in read_installed()[name].files or ()) / 1e6


def _format_row(name: str, packages: set[str]) -> str:
    sizes = sorted(((measure_megabytes(package), package) for package in packages), reverse=True)
    largest = ", ".join(f"{package} {size:.0f}" for size, package in sizes[:_NAMED] if size >= 1)
    return f"| {name} | {len(packages)} | {sum(size for size, _ in sizes):.0f} | {largest} |"


def main() -> None:
    """Print the table, in Markdown."""
    core = list_packages()
    print("| | packages | MB | the largest |\n|---|---|---|---|")
    print(_format_row("the core", core))
    for extra in read_requirements():
        if extra not in ("", "dev"):
            print(_format_row(f"`{extra}`", list_packages(extra) - core))


if __name__ == "__main__":
    main()
