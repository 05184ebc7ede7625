"""The command line: every wrong word is named in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rasterio
import typer
from pydantic import ValidationError

from seamline.flows.settings import model_folder as models
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.products.layers import LAYERS, SCENE_LAYERS
from tests.support.command_line import CommandLine
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "scene.tif", make_noise(6, 200, 300), names=BAND_NAMES, nodata=0)


def test_of_scenes_of_which_one_is_refused_nothing_is_left(
    command_line: CommandLine, scene: Path, small_model: Model, tmp_path: Path
) -> None:
    out = tmp_path / "some" / "out"
    arguments = (scene, tmp_path / "none.tif", "--model", small_model.folder, "--out", out, "--strict")
    code, _, err = command_line("segment", *arguments)
    assert code == 2 and "none.tif" in err
    assert not (tmp_path / "some").exists()


HERE = ("--model", "m", "--out", "o")
MISUSED = {
    ("segment",): "SCENE: got nothing, expected a value (A raster GDAL reads,",
    ("segment", "x"): "--model: got nothing, expected a value (Name of an embedded model,",
    ("segment", "x", "--model"): "--model: got nothing, expected a value (Name of",
    ("segment", "x", *HERE, "--mod", "3"): "option: got --mod, expected an option of the command, such as --model",
    ("segment", "x", *HERE, "-z"): "option: got -z, expected an option of the command; see",
    ("segment", "x", *HERE, "--workers", "abc"): "--workers: got 'abc', expected a whole number",
    ("segment", "x", *HERE, "--chunk-tiles", "2.5"): "--chunk-tiles: got '2.5', expected a whole number",
    ("plan", "x", "--model", "m", "--scale", "1,5"): "--scale: got '1,5', expected a number",
    ("segment", "x", *HERE, "--overwrite=3"): "--overwrite: got a value, expected none",
    ("simulate", "--size", "3", "--out", "x"): "--size: got '--out', expected 2 values, each a whole number",
    ("simulate", "--out", "x", "--size", "3"): "--size: got too few values, expected 2 (Height and width in pixels)",
    ("simulate", "--size", "3", "4", "--out", "x", "y"): "arguments: got unexpected extra argument(s) (y), expected",
    ("train",): "--out: got nothing, expected a value (The model folder to write)",
    (
        "segmnt",
        "x",
    ): "command: got 'segmnt', expected segment, plan, simulate, collect, mosaic, change, zones, ",
    ("model", "show"): "command: got 'show', expected inspect, import, tune or list; see seamline model --help",
    ("--versoin",): "option: got --versoin, expected an option of the command, such as --version; see seamline --help",
}


@pytest.mark.parametrize("arguments", MISUSED, ids=" ".join)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], command_line: CommandLine) -> None:
    code, out, err = command_line(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("seamline: " + MISUSED[arguments]) and err.endswith(" --help\n") and err.count("\n") == 1, err
    if arguments[0] in {"segment", "plan", "simulate", "train"}:
        assert err.endswith(f"; see seamline {arguments[0]} --help\n")


@pytest.mark.parametrize("arguments", [(), ("model",), ("--help",), ("model", "--help"), ("segment", "--help")])
def test_help_is_no_error(arguments: tuple[str, ...], command_line: CommandLine) -> None:
    code, out, err = command_line(*arguments)
    assert (code, err) == (0, "") and "Usage: seamline" in out and "--help" in out


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(KeyboardInterrupt, 130, "seamline: interrupted"), (lambda: typer.Exit(3), 3, "")],
)
def test_how_a_command_ends_is_the_exit_code(
    raised: Callable[[], BaseException],
    code: int,
    said: str,
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(name: str) -> None:
        raise raised()

    monkeypatch.setattr(models, "open_model", end)
    got, _, err = command_line("model", "inspect", "x")
    assert got == code and err.startswith(said) and err.count("\n") == bool(said)


OUTPUTS = "cog, zarr or both, and if wanted polygons, probabilities, confidence, disagreement, with commas"
POLYGONS = "left out, or polygons among --outputs"


def test_outputs_are_those_layers_that_a_scene_has() -> None:
    asked = SegmentOptions(outputs=("cog", *SCENE_LAYERS))
    assert asked.layers == SCENE_LAYERS and OUTPUTS.endswith(f"{', '.join(SCENE_LAYERS)}, with commas")
    for name in set(LAYERS) - set(SCENE_LAYERS):
        with pytest.raises(ValidationError):
            SegmentOptions.model_validate({"outputs": ("cog", name)})


WRONG: dict[tuple[str, ...], str] = {
    ("--window", "12x"): "--window: got '12x', expected a whole number from 1, or auto",
    ("--window", "0"): "--window: got '0', expected a whole number from 1, or auto",
    ("--halo", "-16"): "--halo: got '-16', expected a whole number from 0, or auto",
    ("--overlap", "-1"): "--overlap: got '-1', expected a whole number from 0, or auto",
    ("--chunk-tiles", "0"): "--chunk-tiles: got '0', expected a whole number from 1 to 1000",
    ("--chunk-tiles", "1000000000"): "--chunk-tiles: got '1000000000', expected a whole number from 1 to 1000",
    ("--workers", "0"): "--workers: got '0', expected a whole number from 1 to 256",
    ("--device", "tpu"): "--device: got 'tpu', expected 'auto', 'cpu' or 'cuda'",
    ("--outputs", ","): f"--outputs: got ',', expected {OUTPUTS}",
    ("--outputs", ""): f"--outputs: got '', expected {OUTPUTS}",
    ("--outputs", "foo"): f"--outputs: got 'foo', expected {OUTPUTS}",
    ("--outputs", "polygons"): f"--outputs: got 'polygons', expected {OUTPUTS}",
    (
        "--polygon-formats",
        "shp",
    ): "--polygon-formats: got 'shp', expected fgb, gpkg, parquet, pmtiles, separated by commas",
    ("--polygon-formats", ""): "--polygon-formats: got '', expected fgb, gpkg, parquet, pmtiles, separated by commas",
    ("--polygon-min-area", "-1"): "--polygon-min-area: got '-1', expected a number from 0",
    ("--polygon-simplify", "inf"): "--polygon-simplify: got 'inf', expected a number from 0",
    ("--polygon-formats", "fgb"): f"--polygon-formats: got 'fgb', expected {POLYGONS}",
    ("--polygon-min-area", "9.5"): f"--polygon-min-area: got '9.5', expected {POLYGONS}",
    ("--polygon-simplify", "1"): f"--polygon-simplify: got '1', expected {POLYGONS}",
    ("--outputs", "cog", "--zarr-format", "2"): "--zarr-format: got '2', expected left out, or zarr among --outputs",
    ("--outputs", "cog", "--zarr-shards"): "--zarr-shards: got 'True', expected left out, or zarr among --outputs",
    ("--nodata", "abc"): "--nodata: got 'abc', expected a number, or none",
    ("--scale", "0"): "--scale: got '0', expected a number other than 0",
    ("--scale", "nan"): "--scale: got 'nan', expected a number other than 0",
    ("--offset", "-inf"): "--offset: got '-inf', expected a number",
    ("--on-bad-block", "skip"): "--on-bad-block: got 'skip', expected 'fail' or 'nodata'",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_option_is_named_as_it_was_typed(arguments: tuple[str, ...], command_line: CommandLine) -> None:
    code, out, err = command_line("segment", "x", *HERE, *arguments)
    assert (code, out) == (2, "")
    assert err == f"seamline: {WRONG[arguments]}; see seamline segment --help\n"


LOST = """
import ctypes, os, signal, time
from seamline.flows.terminal.process import handle_signals, report_stop
handle_signals()
library_calls_back = ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    library_calls_back()
    print("lost", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    raise SystemExit(report_stop())
"""


def test_a_signal_that_a_library_swallows_comes_again() -> None:
    ran = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout) == (143, "lost\n")
    assert ran.stderr == "seamline: terminated; give the same command again\n"


def test_folders_whose_name_is_too_long_are_refused(
    command_line: CommandLine, scene: Path, small_model: Model, tmp_path: Path
) -> None:
    out = tmp_path / ("y" * 300)
    code, _, err = command_line("segment", scene, "--model", small_model.folder, "--out", out)
    assert (code, err.count("\n")) == (2, 1) and "got File name too long, expected a folder" in err


def test_simulate_writes_a_scene_and_its_truth(command_line: CommandLine, tmp_path: Path) -> None:
    code, _, err = command_line("simulate", "--size", 300, 500, "--out", tmp_path / "sim.tif", "--seed", 3)
    assert code == 0, err
    with rasterio.open(tmp_path / "sim.tif") as file, rasterio.open(tmp_path / "sim_truth.tif") as truth:
        assert (file.count, file.shape, file.dtypes[0]) == (6, (300, 500), "uint16")
        assert file.descriptions == BAND_NAMES
        assert (truth.shape, truth.transform) == (file.shape, file.transform)


@pytest.mark.parametrize(
    ("size", "seed", "out"),
    [((0, 5), 0, "x.tif"), ((-4, 5), 0, "x.tif"), ((5, 5), -1, "x.tif"), ((5, 5), 2**64, "x.tif"), ((5, 5), 0, "")],
)
def test_a_scene_that_cannot_be_simulated_shows_no_progress(
    size: tuple[int, int], seed: int, out: str, command_line: CommandLine, tmp_path: Path
) -> None:
    code, shown, err = command_line("simulate", "--size", *size, "--seed", seed, "--out", tmp_path / out)
    assert (code, shown) == (2, "")
    assert err.startswith("seamline: ") and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_model_inspect_prints_json(command_line: CommandLine) -> None:
    code, out, _ = command_line("model", "inspect", "land-water-cloud", "--json")
    assert code == 0
    found = json.loads(out)
    assert [entry["name"] for entry in found["classes"]] == ["land", "water", "cloud", "cloud shadow"]
    assert found["divisor"] == 16
    assert 80 < found["receptive_radius"] <= 96
    assert command_line("model", "list")[1].split() == ["land-water-cloud"]
    assert json.loads(out)["iou_in_training"]["landsat5"]["cloud"] > 0.5
    assert "good for" in found["limits"] and found["unseen"] == ["cloud", "cloud shadow"]
    table = command_line("model", "inspect", "land-water-cloud")[1]
    words = " ".join(table.replace("│", " ").split())
    for explained in (
        "divisor 16 Pixels. Window",
        "receptive radius 94 Pixels. What lies",
        "that it learned from: better",
    ):
        assert explained in words
    assert "cloud shadow" in table and "landsat5: land 0." in table and "limits" in table
