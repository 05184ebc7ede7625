"""The package as others get it: a wheel in an environment of its own, beside a user's own ``model.py``."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
import venv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.extras import list_packages, read_installed
from tests.support.deployment_files import PROJECT, run_program

OWN_MODULES = ("model", "flows", "pipeline")
"""Modules of the user, called like the folders of the repository."""
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "model", "flows", "src")


@dataclass(frozen=True)
class Installation:
    """Two environments with the wheel.

    Attributes:
        source: Copy of what the wheel was made of.
        wheel: The wheel.
        site_packages: Where the wheel is installed, for both.
        python: The interpreter of an environment with all extras.
        core: That of an environment that ``pip install`` of the wheel makes, without extras.
    """

    source: Path
    wheel: Path
    site_packages: Path
    python: Path
    core: Path


@dataclass(frozen=True)
class User:
    """Somebody who works in a folder of his own with the installed package."""

    python: Path
    folder: Path

    @staticmethod
    def in_folder(python: Path, folder: Path) -> User:
        """Return a user whose folder holds modules called like the folders of the repository."""
        for name in OWN_MODULES:
            (folder / f"{name}.py").write_text(f'MINE = "{name}"\n')
        return User(python, folder)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of his processes: nothing leads to the repository."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run Python."""
        command = [str(self.python), *map(str, words)]
        return run_program(command, cwd=self.folder, env=self.variables)

    def seamline(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.run("-m", "seamline", *words)


def install_wheel(shared: Path) -> Installation:
    """Return the environments in a folder that processes share; the first caller makes them.

    What the package depends on is taken from the Python that runs the tests. Packages of the core are linked, so that
    no other can be imported; the others come by a ``.pth`` file. Python does not read the ``.pth`` files of a folder
    that such a file names, so that the editable installation of the repository, which is one, is not found.
    """
    shared.mkdir(parents=True, exist_ok=True)
    source, wheels, home, core_home = (shared / name for name in ("source", "wheels", "environment", "core"))
    python, core = (folder / "bin" / "python" for folder in (home, core_home))
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            _build_wheel(source, wheels)
            for folder in (home, core_home):
                venv.EnvBuilder(symlinks=True).create(folder)
            _link_packages(list_packages(), _find_site_packages(core_home))
            # Without --no-deps, and offline: pip refuses unless all that the wheel requires is there.
            _run([*_PIP, "--python", str(core), "install", "--no-index", *map(str, wheels.iterdir())])
            places = (_find_site_packages(core_home), sysconfig.get_path("purelib"))
            (_find_site_packages(home) / "dependencies.pth").write_text("".join(f"{place}\n" for place in places))
            (shared / "done").touch()
    return Installation(source, next(wheels.iterdir()), _find_site_packages(core_home), python, core)


def _link_packages(names: Iterable[str], target: Path) -> None:
    """Link the files of installed packages into a folder, whole folders where one package alone has files in them."""
    owners = defaultdict(set)
    files = {name: [Path(file) for file in package.files or ()] for name, package in read_installed().items()}
    for name, paths in files.items():
        for path in paths:
            for place in (path, *path.parents):
                owners[place].add(name)
    for name in names:
        home = Path(str(read_installed()[name].locate_file("")))
        for path in files[name]:
            if ".." in path.parts or path.is_absolute():
                continue
            place = next((place for place in reversed(path.parents) if len(owners[place]) == 1), path)
            link = target / place
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(home / place)


def _build_wheel(source: Path, wheels: Path) -> None:
    source.mkdir()  # a copy, because setuptools writes beside it
    for name in _SOURCES:
        _run(["cp", "-r", str(PROJECT / name), str(source)])
    _run([*_PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)])


def _find_site_packages(home: Path) -> Path:
    return next(home.glob("lib/python*/site-packages"))


def _run(command: list[str]) -> None:
    done = run_program(command)
    assert done.returncode == 0, done.stderr
