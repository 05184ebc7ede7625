"""Segmenting from scripts and notebooks: without a main module, on a client that is there, with one's own network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from distributed import Client, LocalCluster
from torch import nn

import seamline
from seamline import InputError, ModelError, Progress, SegmentOptions
from tests.support.run_folders import FIXED_ENGINE
from tests.support.small_rasters import BAND_NAMES, write_geotiff

BANDS, CLASSES = ("red", "green", "nir"), ("land", "water", "cloud")


class Residual(nn.Module):
    """A network as users write them: two levels, a skip, no class of this project."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = torch.relu(self.down(x))
        deep = torch.relu(self.deep(nn.functional.max_pool2d(self.dropout(top), 4)))
        return self.head(torch.cat([top, nn.functional.interpolate(deep, scale_factor=4)], 1))


@pytest.fixture(scope="module")
def module() -> Residual:
    torch.manual_seed(1)
    return Residual()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    values = np.random.default_rng(0).random((3, 300, 260), np.float32) / 2
    profile = {"driver": "GTiff", "count": 3, "height": 300, "width": 260, "dtype": "float32"}
    with rasterio.open(
        path, "w", **profile, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    ) as file:
        file.write(values)
        file.descriptions = BANDS
    return path


def test_a_module_is_measured_and_segments_as_itself(module: Residual, scene: Path, tmp_path: Path) -> None:
    module.train()  # as users leave it
    model = seamline.load_model(module, bands=BANDS, classes=CLASSES)
    assert module.training, "the user's module is not changed"
    assert (model.spec.divisor, model.spec.name) == (4, "residual")
    result = seamline.segment(scene, model, tmp_path, SegmentOptions(**FIXED_ENGINE, window=64, outputs=("cog",)))
    module.eval()
    with rasterio.open(scene) as file, torch.inference_mode():
        pixels = np.pad(file.read(), [(0, 0), (0, 0), (0, 0)])
        whole = module(torch.from_numpy(pixels)[None])[0].argmax(0).numpy()
    with rasterio.open(result.folder / "segmentation.tif") as file:
        labels = file.read(1)
    inner = slice(16, -16)  # beyond the scene a run mirrors, and this module pads with zeros
    np.testing.assert_array_equal(labels[inner, inner], whole[inner, inner])


def test_a_module_scaled_as_it_was_trained(module: Residual, scene: Path) -> None:
    plain = seamline.load_model(module, bands=BANDS, classes=CLASSES)
    scaled = seamline.load_model(module, bands=BANDS, classes=CLASSES, scale=10000, mean=(0, 0, 0), std=10000)
    assert [band.std for band in scaled.spec.bands] == [band.std for band in plain.spec.bands] == [1, 1, 1]


def test_a_saved_module_is_a_model_of_its_own(module: Residual, scene: Path, tmp_path: Path) -> None:
    model = seamline.load_model(module, bands=BANDS, classes=CLASSES)
    saved = seamline.save_model(model, tmp_path / "saved")
    assert saved.digest == model.digest and saved.folder == tmp_path / "saved"
    assert seamline.load_model(tmp_path / "saved").spec == model.spec
    with pytest.raises(InputError, match="a model that is there already"):
        seamline.save_model(model, tmp_path / "saved")
    assert seamline.save_model(saved, saved.folder, overwrite=True).digest == model.digest  # onto itself
    (saved.folder / "notes.txt").write_text("mine")
    seamline.save_model(model, saved.folder, overwrite=True)
    assert (saved.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": CLASSES}, InputError, r"Residual without bands.*bands=\["),
        ({"bands": BANDS}, InputError, r"Residual without classes.*classes=\["),
        ({"bands": BANDS[:2], "classes": CLASSES}, ModelError, r"Residual.*on an image of 2 × 192 × 192.*check bands"),
        ({"bands": BANDS, "classes": ("land", "water")}, ModelError, r"2 names.*3, as the network has outputs"),
        ({"bands": BANDS, "classes": CLASSES, "std": 0}, InputError, "numbers above 0"),
    ],
)
def test_modules_that_do_not_fit_their_description_are_refused(
    module: Residual, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        seamline.load_model(module, **arguments)


@pytest.mark.parametrize("arguments", [{"bands": BANDS}, {"scale": 255.0}, {"nodata": 0}, {"name": "other"}])
def test_a_description_of_a_model_that_has_one_is_refused(arguments: dict[str, object]) -> None:
    embedded = seamline.load_model("land-water-cloud")
    for model in ("land-water-cloud", embedded):
        with pytest.raises(InputError, match="a description of modules alone"):
            seamline.load_model(model, **arguments)


def test_a_client_that_is_there_is_used_and_left_as_it_was(module: Residual, scene: Path, tmp_path: Path) -> None:
    model = seamline.save_model(seamline.load_model(module, bands=BANDS, classes=CLASSES), tmp_path / "model")
    options = SegmentOptions(**FIXED_ENGINE, window=64, outputs=("cog",))
    seen: list[Progress] = []
    with LocalCluster(1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        result = seamline.segment(scene, model, tmp_path / "out", options, client=client, progress=seen.append)
        assert client.submit(sum, [1, 2]).result() == 3
        with pytest.raises(InputError, match="a client beside"):
            seamline.segment(scene, model, tmp_path / "other", SegmentOptions(workers=2), client=client)
        planned = seamline.plan(scene, model, options, client=client)
    assert result.computed and result.record.settings["engine"] == "torch"
    assert planned.tiling.window == 64
    assert seen[0].stage == "plan" and max(step.share for step in seen) == 1
    again = seamline.segment(scene, model, tmp_path / "out", options)
    assert not again.computed, "a result that is there is returned"


def test_a_script_of_a_few_lines_needs_no_main_module(module: Residual, scene: Path, tmp_path: Path) -> None:
    seamline.save_model(seamline.load_model(module, bands=BANDS, classes=CLASSES), tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(
        "import seamline\n"
        f"result = seamline.segment({str(scene)!r}, 'model', 'results')\n"
        "print(seamline.open_result('results', result.folder.name).segmentation.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "(300, 260)\n")
    assert done.stderr.startswith("scene: when it was taken is unknown") and done.stderr.count("\n") == 1


def test_a_script_that_calls_a_flow_is_run_once_and_quietly(module: Residual, scene: Path, tmp_path: Path) -> None:
    """The flow starts worker processes, which must not run the script; Dask's logs are not those of the user."""
    seamline.save_model(seamline.load_model(module, bands=BANDS, classes=CLASSES), tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(
        "import logging\n"
        "logging.basicConfig(format='user: %(name)s', force=True)\n"
        "from seamline.flows.segment_collection import segment_collection\n"
        "open('runs.txt', 'a').write('once ')\n"
        f"done = segment_collection({{'kind': 'glob', 'pattern': {str(scene)!r}}}, model='model', out='results')\n"
        "print(done['published'])\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(tmp_path / "prefect"),
        },
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert (tmp_path / "runs.txt").read_text() == "once "
    assert "user: distributed" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (torch.nn.Conv2d, {}, "the class Conv2d, expected .* a torch.nn.Module"),
        ({"weight": torch.zeros(1)}, {}, "a dict, expected .* a torch.nn.Module"),
        (torch.nn.Conv2d(3, 2, 1), {"bands": "red"}, r"bands: got the text 'red', expected a list of texts"),
        (torch.nn.Conv2d(3, 2, 1), {"classes": "ab"}, r"classes: got the text 'ab', expected a list of texts"),
    ],
)
def test_what_describes_no_network_is_refused(model: Any, changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        seamline.load_model(model, **{"bands": BANDS, "classes": CLASSES, **changes})


def test_what_is_assumed_of_a_scene_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who calls from Python sees no terminal: an assumed scale must not be silent."""
    pixels = np.random.default_rng(0).integers(100, 4000, (6, 96, 96)).astype(np.uint16)
    path = write_geotiff(tmp_path / "numbers.tif", pixels, names=BAND_NAMES, nodata=0)
    options = SegmentOptions(**FIXED_ENGINE, window=288)
    for act in (
        lambda: seamline.open_scene(path, "land-water-cloud"),
        lambda: seamline.plan(path, "land-water-cloud", options),
        lambda: seamline.segment(path, "land-water-cloud", tmp_path / "results", options),
    ):
        caplog.clear()
        act()
        told = [record.getMessage() for record in caplog.records if record.name == "seamline"]
        assert any("numbers: the files state no scale" in text for text in told), told


def test_a_network_that_would_see_reflectances_as_nothing_is_warned_of(
    module: Residual, caplog: pytest.LogCaptureFixture
) -> None:
    seamline.load_model(module, bands=BANDS, classes=CLASSES, scale=1e-4, quantity="dn")
    seamline.load_model(module, bands=BANDS, classes=CLASSES, scale=10000, mean=1000, std=500)
    assert "reflectances" not in caplog.text
    seamline.load_model(module, bands=BANDS, classes=CLASSES, scale=1e-4)
    assert "with scale 0.0001 the network sees reflectances of 0 to 1 within 0.0001" in caplog.text


def test_all_errors_have_one_base_and_speak_of_arguments(tmp_path: Path) -> None:
    for error in (seamline.InputError, seamline.ModelError, seamline.RunError):
        assert issubclass(error, seamline.SeamlineError)
    with pytest.raises(seamline.SeamlineError, match=r"^model: got nope, which does not exist"):
        seamline.load_model("nope")
    with pytest.raises(seamline.SeamlineError, match=r"options: got a dict, expected a SegmentOptions"):
        seamline.segment("scene.tif", "land-water-cloud", tmp_path, {"window": 96})  # type: ignore[arg-type]
    pixels = np.zeros((2, 64, 64), np.uint16)
    path = write_geotiff(tmp_path / "two.tif", pixels, names=("a", "b"), nodata=0)
    with pytest.raises(InputError, match=r"with bands \(numbers") as caught:
        seamline.open_scene(path, "land-water-cloud")
    assert "--" not in str(caught.value)
