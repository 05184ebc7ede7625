"""The wheel: its files, and the command line and Python beside modules called like folders of the repository."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import rasterio

from tests.support.command_line import to_words
from tests.support.deployment_files import run_program
from tests.support.installed_package import Installation, User
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

MODEL = "land-water-cloud"
WORDS = to_words({"window": 192, "halo": 48, "precision": "fp32", "engine": "torch"})
OWN_SCRIPT = """
import flows, model, pipeline
import seamline
from seamline.flows import open_result

assert {module.MINE for module in (flows, model, pipeline)} == {"flows", "model", "pipeline"}
print(seamline.__file__)
print(sorted(open_result("results", "scene").attrs))
"""


def test_the_wheel_holds_every_file_of_the_package(installation: Installation) -> None:
    package = installation.source / "src" / "seamline"
    wanted = {
        str(Path("seamline") / (Path(folder) / name).relative_to(package))
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    assert wanted == {name for name in zipfile.ZipFile(installation.wheel).namelist() if ".dist-info/" not in name}


def test_a_scene_is_segmented_beside_modules_of_the_same_names(installation: Installation, tmp_path: Path) -> None:
    user = User.in_folder(installation.core, tmp_path)
    write_geotiff(tmp_path / "scene.tif", make_noise(6, 300, 260), names=BAND_NAMES, nodata=0)
    done = user.seamline("segment", "scene.tif", "--model", MODEL, "--out", "results", "--workers", 1, *WORDS)
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "results" / "scene" / "segmentation.tif") as file:
        assert file.shape == (300, 260)
    (tmp_path / "own.py").write_text(OWN_SCRIPT)
    looked = user.run("own.py")
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[0] == str(installation.site_packages / "seamline" / "__init__.py")
    command = run_program([str(installation.core.parent / "seamline"), "--version"], env=user.variables)
    assert command.stdout.split()[0] == "seamline", command.stderr
