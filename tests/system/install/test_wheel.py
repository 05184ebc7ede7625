"""The wheel in an environment of its own: its files, the core without extras, what says which extra to install.

The user's folder has modules called like folders of the repository.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.main import get_command

import seamline
from seamline.flows.cli.main import app
from tests.support import core_session
from tests.support.command_line import to_words
from tests.support.deployment_files import run_program
from tests.support.installed_package import Installation, User
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SCENE = ("scene.tif", "--model", "land-water-cloud")
WORDS = to_words({"window": 192, "halo": 48, "precision": "fp32", "engine": "torch"})


def _list_helps(command: Any = None, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words that ask for the help of every command."""
    parts = getattr(command or get_command(app), "commands", {})
    return [(*words, "--help"), *(help for name, part in parts.items() for help in _list_helps(part, (*words, name)))]


CORE = [
    ("plan", *SCENE, *WORDS),
    ("model", "inspect", "land-water-cloud"),
    ("model", "list"),
    ("verify", "results"),
    ("doctor",),
    ("simulate", "--size", "64", "64", "--out", "small.tif"),
    *_list_helps(),
]
"""Commands that need no extra."""
REFUSED = [
    (("serve", "results"), "serve"),
    (("query", "results"), "query"),
    (("up",), "flows,serve"),
    (("down",), "flows,serve"),
    (("evaluate", "results/scene", "scene.tif"), "train"),
    (("train", "recipe.yaml", "--out", "trained"), "train"),
    (("segment", *SCENE, "--out", "other", "--outputs", "cog,polygons"), "vectors"),
    (("segment", *SCENE, "--out", "other", "--aoi", "area.gpkg"), "vectors"),
    (("segment", *SCENE, "--out", "s3://bucket/results"), "s3"),
    (("segment", "s3://bucket/scene.tif", *SCENE[1:], "--out", "other"), "s3"),
    (("collect", "*.tif", *SCENE[1:], "--out", "s3://bucket/results"), "s3"),
    (("segment", *SCENE, "--out", "other", "--credentials", "keys"), "flows"),
    (("plan", *SCENE, "--engine", "onnxruntime", "--quiet"), "onnx"),
    (("plan", *SCENE, "--engine", "openvino", "--quiet"), "openvino"),
]
"""Command and the extras that it lacks."""
OWN_SCRIPT = """
import flows, model, pipeline
import seamline
from seamline.flows import open_result

assert {module.MINE for module in (flows, model, pipeline)} == {"flows", "model", "pipeline"}
print(seamline.__file__)
print(sorted(open_result("results", "scene").attrs))
"""


@pytest.fixture(scope="module")
def user(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> User:
    """Somebody who has installed the core, and has segmented a scene."""
    folder = tmp_path_factory.mktemp("user")
    write_geotiff(folder / "scene.tif", make_noise(6, 300, 260), names=BAND_NAMES, nodata=0)
    (folder / "area.gpkg").touch()
    recipe = Path(seamline.__file__).parent / "model" / "zoo" / "land-water-cloud" / "recipe.yaml"
    (folder / "recipe.yaml").write_bytes(recipe.read_bytes())
    user = User.in_folder(installation.core, folder)
    done = user.seamline("segment", *SCENE, "--out", "results", "--workers", 1, *WORDS)
    assert done.returncode == 0, done.stderr
    return user


@pytest.fixture(scope="module")
def answers(user: User) -> dict[str, Any]:
    """What commands and functions answer to the user, in one process."""
    (user.folder / "session.py").write_bytes(Path(core_session.__file__).read_bytes())
    commands = [*CORE, *(words for words, _ in REFUSED)]
    done = user.run("session.py", json.dumps(commands))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "commands": dict(zip(commands, found["commands"], strict=True))}


def test_the_wheel_holds_every_file_of_the_package(installation: Installation) -> None:
    package = installation.source / "src" / "seamline"
    wanted = {
        str(Path("seamline") / (Path(folder) / name).relative_to(package))
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    assert wanted == {name for name in zipfile.ZipFile(installation.wheel).namelist() if ".dist-info/" not in name}


def test_pip_finds_all_that_the_core_requires(installation: Installation) -> None:
    checked = run_program([str(installation.python), "-m", "pip", "--python", str(installation.core), "check"])
    assert (checked.returncode, checked.stdout.strip()) == (0, "No broken requirements found.")


def test_the_package_stands_beside_modules_of_the_same_names(installation: Installation, user: User) -> None:
    (user.folder / "own.py").write_text(OWN_SCRIPT)
    looked = user.run("own.py")
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[0] == str(installation.site_packages / "seamline" / "__init__.py")
    command = run_program([str(installation.core.parent / "seamline"), "--version"], env=user.variables)
    assert command.stdout.split()[0] == "seamline", command.stderr


@pytest.mark.parametrize("words", CORE, ids=" ".join)
def test_what_needs_no_extra_runs_without_any(answers: dict[str, Any], words: tuple[str, ...]) -> None:
    code, out, err = answers["commands"][words]
    assert code == 0 and out, err


@pytest.mark.parametrize(("words", "extra"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_command_says_in_one_line_which_extra_to_install(
    answers: dict[str, Any], user: User, words: tuple[str, ...], extra: str
) -> None:
    code, out, err = answers["commands"][words]
    assert (code, out) == (2, "") and re.fullmatch(r"seamline: [^\n]*\n", err), err
    assert err.endswith(f"; pip install 'seamline[{extra}]'\n"), err
    assert not (user.folder / "other").exists() and not (user.folder / "trained").exists()


def test_functions_say_which_extra_to_install(answers: dict[str, Any]) -> None:
    for name, error in answers["errors"].items():
        assert error.endswith(f"; pip install 'seamline[{'train' if name == 'evaluate' else 'flows'}]'"), error
        assert "InputError" in error and "ImportError" in error
    assert answers["names"] == sorted(seamline.__all__)


def test_command_and_functions_give_the_same_labels(answers: dict[str, Any], user: User) -> None:
    with rasterio.open(user.folder / "results" / "scene" / "segmentation.tif") as file:
        assert file.shape == (300, 260)
        for labels in (answers["predicted"], answers["opened"]):
            assert np.array_equal(labels, file.read(1))


def test_doctor_says_which_extras_are_there(answers: dict[str, Any]) -> None:
    said = re.sub(r"[│\s]+", " ", answers["commands"]["doctor",][1])
    assert "extras ok none; more with pip install" in said and "0 failed" in said
