"""The core without extras: what segments needs none, and what needs one says in one line what to type."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import seamline
from tests.support import core_session
from tests.support.command_line import to_words
from tests.support.deployment_files import run_program
from tests.support.installed_package import Installation, User
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

SCENE = ("scene.tif", "--model", "land-water-cloud")
WORDS = to_words({"window": 192, "halo": 48, "precision": "fp32", "engine": "torch"})
SEGMENT = ("segment", *SCENE, "--out", "results", "--workers", "1", *WORDS)
CORE = [
    SEGMENT,
    ("plan", *SCENE, *WORDS),
    ("model", "inspect", "land-water-cloud"),
    ("model", "list"),
    ("verify", "results"),
    ("doctor",),
    ("simulate", "--size", "64", "64", "--out", "small.tif"),
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
    (("segment", *SCENE, "--out", "other", "--engine", "onnxruntime"), "onnx"),
    (("plan", *SCENE, "--engine", "openvino"), "openvino"),
]
"""Command and the extras that it lacks."""
HELP = [
    (*command.split(), "--help")
    for command in (
        "segment, plan, collect, simulate, model inspect, model list, model import, model tune, train, query, verify,"
        "serve, up, down, evaluate, doctor"
    ).split(",")
]


@pytest.fixture(scope="module")
def answers(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process answers whose Python has the core alone."""
    folder = tmp_path_factory.mktemp("core")
    write_geotiff(folder / "scene.tif", make_noise(6, 300, 260), names=BAND_NAMES, nodata=0)
    (folder / "area.gpkg").touch()
    recipe = Path(seamline.__file__).parent / "model" / "zoo" / "land-water-cloud" / "recipe.yaml"
    (folder / "recipe.yaml").write_bytes(recipe.read_bytes())
    (folder / "session.py").write_bytes(Path(core_session.__file__).read_bytes())
    user = User.in_folder(installation.core, folder)
    commands = [*CORE, *(words for words, _ in REFUSED), *HELP]
    done = user.run("session.py", json.dumps(commands))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found["commands"] = dict(zip(commands, found["commands"], strict=True))
    with rasterio.open(folder / "results" / "scene" / "segmentation.tif") as file:
        found["written"] = file.read(1)
    assert not (folder / "other").exists() and not (folder / "trained").exists()
    return found


def test_pip_finds_all_that_the_core_requires(installation: Installation) -> None:
    checked = run_program([str(installation.python), "-m", "pip", "--python", str(installation.core), "check"])
    assert (checked.returncode, checked.stdout.strip()) == (0, "No broken requirements found.")


@pytest.mark.parametrize("words", [*CORE, *HELP], ids=" ".join)
def test_what_needs_no_extra_runs_without_any(answers: dict[str, Any], words: tuple[str, ...]) -> None:
    code, out, err = answers["commands"][words]
    assert code == 0 and out, err


@pytest.mark.parametrize(("words", "extra"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_command_says_in_one_line_which_extra_to_install(
    answers: dict[str, Any], words: tuple[str, ...], extra: str
) -> None:
    code, out, err = answers["commands"][words]
    assert (code, out) == (2, "") and re.fullmatch(r"seamline: [^\n]*\n", err), err
    assert err.endswith(f"; pip install 'seamline[{extra}]'\n"), err


def test_functions_say_which_extra_to_install(answers: dict[str, Any]) -> None:
    needed = {"evaluate": "train", "train_model": "flows"}
    for name, error in answers["errors"].items():
        assert error.endswith(f"; pip install 'seamline[{needed.get(name, 'flows')}]'"), error
        assert "InputError" in error and "ImportError" in error
    assert answers["names"] == sorted(seamline.__all__)


def test_labels_of_all_ways_are_one(answers: dict[str, Any]) -> None:
    assert np.array_equal(answers["labels"], answers["written"])
    assert np.array_equal(answers["opened"], answers["written"])


def test_doctor_says_which_extras_are_there(answers: dict[str, Any]) -> None:
    said = re.sub(r"[│\s]+", " ", answers["commands"][("doctor",)][1])
    assert "extras ok none; more with pip install" in said and "0 failed" in said
