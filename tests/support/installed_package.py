"""The package as others get it: a wheel in an environment of its own, beside a user's own ``model.py``."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.support.deployment_files import PROJECT, run_program

OWN_MODULES = ("model", "flows", "pipeline")
"""Modules of the user, called like the folders of the repository."""
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "model", "flows", "src")


@dataclass(frozen=True)
class Installation:
    """A Python with the wheel and what it depends on.

    Attributes:
        source: Copy of what the wheel was made of.
        wheel: The wheel.
        site_packages: Where the wheel is installed.
        python: The interpreter of the environment.
    """

    source: Path
    wheel: Path
    site_packages: Path
    python: Path


@dataclass(frozen=True)
class User:
    """Somebody who works in a folder of his own with the installed package."""

    installation: Installation
    folder: Path

    @staticmethod
    def in_folder(installation: Installation, folder: Path) -> User:
        """Return a user whose folder holds modules called like the folders of the repository."""
        for name in OWN_MODULES:
            (folder / f"{name}.py").write_text(f'MINE = "{name}"\n')
        return User(installation, folder)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of his processes: nothing leads to the repository."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run Python."""
        command = [str(self.installation.python), *map(str, words)]
        return run_program(command, cwd=self.folder, env=self.variables)

    def seamline(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.run("-m", "seamline", *words)


def install_wheel(shared: Path) -> Installation:
    """Return the environment in a folder that processes share; the first caller makes it.

    What the package depends on is taken from the Python that runs the tests. Python does not read the ``.pth`` files of
    a folder that a ``.pth`` file names, so that the editable installation of the repository, which is one, is not
    found.
    """
    shared.mkdir(parents=True, exist_ok=True)
    source, wheels, home = (shared / name for name in ("source", "wheels", "environment"))
    python = home / "bin" / "python"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            _build_wheel(source, wheels)
            venv.EnvBuilder(symlinks=True).create(home)
            _run([*_PIP, "--python", str(python), "install", "--no-deps", "--no-index", *map(str, wheels.iterdir())])
            (_find_site_packages(home) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
            (shared / "done").touch()
    return Installation(source, next(wheels.iterdir()), _find_site_packages(home), python)


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
