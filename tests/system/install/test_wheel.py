"""The package as others get it: a wheel in an environment of its own, beside a user's own ``model.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import rasterio

from tests.support.command_line import to_words
from tests.support.deployment_files import PROJECT, run_program
from tests.support.processes import flow_run_state, start_flow_run, wait_until
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "model", "flows", "src")
MODEL = "land-water-cloud"
PLAN = {"window": 192, "halo": 48, "precision": "fp32", "engine": "torch"}
WORDS = to_words(PLAN)
FREE_PORTS = ("--prefect-port", "0", "--dask-port", "0", "--dashboard-port", "0", "--map-port", "0")

OWN_MODULES = ("model", "flows", "pipeline")
OWN_SCRIPT = """
import flows, model, pipeline
import seamline
from seamline.flows import open_result

assert {module.MINE for module in (flows, model, pipeline)} == {"flows", "model", "pipeline"}
print(seamline.__file__)
print(sorted(open_result("results", "scene").attrs))
"""
OWN_SERVER = """
import flows, model, pipeline
from seamline.flows.segment_scene import segment_scene

assert {module.MINE for module in (flows, model, pipeline)} == {"flows", "model", "pipeline"}
if __name__ == "__main__":  # Prefect starts a process for each flow run, which imports this script
    segment_scene.serve(name="mine", print_starting_message=False)
"""


@dataclass(frozen=True)
class Environment:
    """A Python with the wheel and what it depends on, and the folder of its user."""

    site_packages: Path
    python: Path
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """Of its processes: nothing leads to the repository."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return run_program([str(self.python), *map(str, words)], cwd=self.folder, env=self.variables)

    def seamline(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "seamline", *words)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of: setuptools writes beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        subprocess.run(["cp", "-r", str(PROJECT / name), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    made = run_program([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)])
    assert made.returncode == 0, made.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A new virtual environment. What the package depends on is taken from the one that runs the tests.

    Python does not read the ``.pth`` files of a folder that a ``.pth`` file names, so that the editable installation
    of the repository, which is one, is not found.
    """
    home, folder = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("user")
    venv.EnvBuilder(symlinks=True).create(home)
    python, site_packages = home / "bin" / "python", next(home.glob("lib/python*/site-packages"))
    done = run_program([*PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)])
    assert done.returncode == 0, done.stderr
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in OWN_MODULES:
        (folder / f"{name}.py").write_text(f'MINE = "{name}"\n')
    write_geotiff(folder / "scene.tif", make_noise(6, 300, 260), names=BAND_NAMES, nodata=0)
    return Environment(site_packages, python, folder)


def test_the_wheel_holds_every_file_of_the_package(source: Path, wheel: Path) -> None:
    package = source / "src" / "seamline"
    wanted = {
        str(Path("seamline") / (Path(folder) / name).relative_to(package))
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    assert wanted == {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_a_scene_is_segmented_beside_modules_of_the_same_names(installed: Environment) -> None:
    done = installed.seamline("segment", "scene.tif", "--model", MODEL, "--out", "results", "--workers", 1, *WORDS)
    assert done.returncode == 0, done.stderr
    with rasterio.open(installed.folder / "results" / "scene" / "segmentation.tif") as file:
        assert file.shape == (300, 260)
    (installed.folder / "own.py").write_text(OWN_SCRIPT)
    looked = installed.run("own.py")
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[0] == str(installed.site_packages / "seamline" / "__init__.py")
    command = run_program([str(installed.python.parent / "seamline"), "--version"], env=installed.variables)
    assert command.stdout.split()[0] == "seamline", command.stderr


def test_up_and_a_served_flow_run_beside_modules_of_the_same_names(installed: Environment) -> None:
    """The deployments of ``seamline up``, and one that the user serves from a script of his own."""
    up = installed.seamline("up", "--detach", "--folder", "up", "--workers", 1, *FREE_PORTS)
    assert up.returncode == 0, up.stderr
    try:
        ports = json.loads((installed.folder / "up" / "up.json").read_text())["ports"]
        api, dask = f"http://127.0.0.1:{ports[0]}/api", f"tcp://127.0.0.1:{ports[1]}"
        (installed.folder / "serve.py").write_text(OWN_SERVER)
        serving = subprocess.Popen(
            [str(installed.python), "serve.py"],
            cwd=installed.folder,
            env=installed.variables | {"PREFECT_API_URL": api},
        )
        try:
            common = {"source": str(installed.folder / "scene.tif"), "options": PLAN | {"cluster": dask}}
            runs = {
                deployment: start_flow_run(
                    api, f"segment-scene/{deployment}", **common, out=str(installed.folder / out)
                )
                for deployment, out in (("scene", "by-up"), ("mine", "by-mine"))
            }
            for run in runs.values():
                wait_until(
                    lambda run=run: flow_run_state(api, run) in ("COMPLETED", "FAILED", "CRASHED"), "the flow run"
                )
                assert flow_run_state(api, run) == "COMPLETED"
        finally:
            serving.terminate()
            serving.wait(60)
    finally:
        assert installed.seamline("down", "--folder", "up").stdout.strip() == "stopped"
    expected = (installed.folder / "results" / "scene" / "segmentation.tif").read_bytes()
    for out in ("by-up", "by-mine"):
        assert (installed.folder / out / "scene" / "segmentation.tif").read_bytes() == expected
