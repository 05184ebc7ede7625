"""The command line: bad input costs seconds, exit code 2 and one line that says how to go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import typer
from affine import Affine

from seamline.flows.cli import main as cli
from seamline.flows.runs import measuring
from seamline.flows.settings import model_folder as models
from seamline.flows.settings.model_folder import Model
from seamline.model.spec.measurement import Measurement
from tests.support.sample_data import MANAUS, shared
from tests.support.small_rasters import noise, write

Cluster = Callable[[int], str]
NAMES = ("blue", "green", "red", "nir", "swir16", "swir22")


class Seamline:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["seamline", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self._capfd.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def seamline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Seamline:
    return Seamline(monkeypatch, capfd)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", noise(6, 200, 300), names=NAMES, nodata=0)


def few_bands(scene: Path, model: Path) -> list[object]:
    return [write(scene.parent / "rgb.tif", noise(3, 50, 50), names=NAMES[:3])]


def other_names(scene: Path, model: Path) -> list[object]:
    return [write(scene.parent / "odd.tif", noise(6, 50, 50), names=("a", "b", "c", "d", "e", "f"))]


def no_georeference(scene: Path, model: Path) -> list[object]:
    return [write(scene.parent / "flat.tif", noise(6, 50, 50), names=NAMES, transform=Affine.identity(), crs=None)]


def truncated(scene: Path, model: Path) -> list[object]:
    scene.write_bytes(scene.read_bytes()[:5])
    return [scene]


def not_a_raster(scene: Path, model: Path) -> list[object]:
    scene.write_text("hello")
    return [scene]


def missing(scene: Path, model: Path) -> list[object]:
    return [scene.parent / "none.tif"]


def off_the_lattice(scene: Path, model: Path) -> list[object]:
    return [scene, "--window", 500]


def halo_larger_than_the_window(scene: Path, model: Path) -> list[object]:
    return [scene, "--window", 256, "--halo", 128]


def window_larger_than_the_scene(scene: Path, model: Path) -> list[object]:
    return [scene, "--window", 16000]


def out_is_a_file(scene: Path, model: Path) -> list[object]:
    return [scene, "--out", scene]


def no_scheduler(scene: Path, model: Path) -> list[object]:
    return [scene, "--cluster", "tcp://127.0.0.1:9"]


def empty_aoi(scene: Path, model: Path) -> list[object]:
    path = scene.parent / "aoi.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    return [scene, "--aoi", path]


def aoi_elsewhere(scene: Path, model: Path) -> list[object]:
    path = scene.parent / "aoi.json"
    ring = [[[100, 10], [101, 10], [101, 11], [100, 10]]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": ring}))
    return [scene, "--aoi", path]


def no_such_model(scene: Path, model: Path) -> list[object]:
    return [scene, "--model", "nothing"]


def a_checkpoint_as_model(scene: Path, model: Path) -> list[object]:
    path = scene.parent / "net.pth"
    path.write_bytes(b"PK")
    return [scene, "--model", path]


def a_broken_model(scene: Path, model: Path) -> list[object]:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    return [scene, "--model", model]


def nodata_is_a_class(scene: Path, model: Path) -> list[object]:
    document = json.loads((model / "model.json").read_text())
    classes = document["properties"]["mlm:output"][0]["classification:classes"]
    classes += [{**classes[0], "value": value, "name": f"c{value}"} for value in range(len(classes), 256)]
    document["properties"]["mlm:hyperparameters"]["classes"] = 256
    (model / "model.json").write_text(json.dumps(document))
    return [scene, "--model", model]


def unknown_precision(scene: Path, model: Path) -> list[object]:
    return [scene, "--precision", "fp8"]


def precision_of_another_engine(scene: Path, model: Path) -> list[object]:
    return [scene, "--engine", "onnxruntime", "--precision", "fp16"]


def window_is_a_word(scene: Path, model: Path) -> list[object]:
    return [scene, "--window", "big"]


def unknown_output(scene: Path, model: Path) -> list[object]:
    return [scene, "--outputs", "cog,shapefile"]


def impossible_nodata(scene: Path, model: Path) -> list[object]:
    return [scene, "--nodata", "-5"]


def wrong_number_of_bands(scene: Path, model: Path) -> list[object]:
    return [scene, "--bands", "1,2,3"]


BAD = {
    few_bands: "--bands",
    other_names: "--bands",
    no_georeference: "georeference",
    truncated: "scene.tif",
    not_a_raster: "scene.tif",
    missing: "none.tif",
    off_the_lattice: "take --window 504",
    halo_larger_than_the_window: "take --window",
    window_larger_than_the_scene: "--window: got 16000",
    out_is_a_file: "--out",
    no_scheduler: "tcp://127.0.0.1:9",
    empty_aoi: "polygon",
    aoi_elsewhere: "scene",
    no_such_model: "land-water-cloud",
    a_checkpoint_as_model: "model.json",
    a_broken_model: "SHA-256",
    nodata_is_a_class: "255",
    unknown_precision: "--precision: got 'fp8'",
    precision_of_another_engine: "--precision: got 'fp16', expected fp32, in which onnxruntime runs",
    window_is_a_word: "--window: got 'big'",
    unknown_output: "--outputs: got 'cog,shapefile'",
    impossible_nodata: "-5",
    wrong_number_of_bands: "--bands",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_input_is_refused_in_one_line_before_any_inference(
    make: Callable[[Path, Path], list[object]],
    seamline: Seamline,
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("the network was measured although the input is bad")

    monkeypatch.setattr(measuring, "read_sample", never)
    model = tmp_path / "model"
    shutil.copytree(small_model.folder, model)
    arguments = [str(part) for part in make(scene, model)]
    given = set(arguments)
    defaults = {"--model": model, "--out": tmp_path / "out", "--cluster": cluster(1)}
    rest = [part for option, value in defaults.items() if option not in given for part in (option, value)]
    code, out, err = seamline("segment", *arguments, *rest)
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("seamline: ")
    assert "got" in err and "expected" in err and ";" in err
    assert BAD[make] in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_of_scenes_of_which_one_is_refused_nothing_is_left(
    seamline: Seamline, scene: Path, small_model: Model, tmp_path: Path
) -> None:
    out = tmp_path / "some" / "out"
    code, _, err = seamline("segment", scene, tmp_path / "none.tif", "--model", small_model.folder, "--out", out)
    assert code == 2 and "none.tif" in err
    assert not (tmp_path / "some").exists()


def test_a_disk_that_is_too_small_is_refused(
    seamline: Seamline,
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    code, _, err = seamline(
        "segment", scene, "--model", small_model.folder, "--out", tmp_path / "out", "--cluster", cluster(1)
    )
    assert code == 2
    assert "disk of --out" in err and "free some space" in err
    assert not (tmp_path / "out").exists()


def test_a_plan_that_does_not_fit_into_memory_is_refused(
    seamline: Seamline,
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from seamline.flows.runs import planning as module

    monkeypatch.setattr(module, "get_worker_memory", lambda client: 100 * 2**20)
    code, _, err = seamline(
        "segment", scene, "--model", small_model.folder, "--out", tmp_path / "out", "--cluster", cluster(1)
    )
    assert code == 2
    assert "memory of a worker: got 0.1 GiB" in err and "smaller --window" in err
    assert not (tmp_path / "out").exists()


def test_segment_then_segment_again(
    seamline: Seamline, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    command = ("segment", scene, "--model", small_model.folder, "--out", tmp_path / "out", "--cluster", cluster(1))
    code, out, err = seamline(*command)
    assert code == 0, err
    assert "network pixels per scene pixel" in out and "segmentation.tif" in out
    code, out, _ = seamline(*command)
    assert code == 0
    assert "nothing to do" in out


def test_only_what_is_asked_for_is_written(
    seamline: Seamline, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    cog, store = "segmentation.tif", "segmentation.zarr"
    for outputs, there, absent in (("cog", cog, store), ("zarr", store, cog)):
        out = tmp_path / outputs
        command = ("segment", scene, "--model", small_model.folder, "--out", out, "--cluster", cluster(1))
        assert seamline(*command, "--outputs", outputs)[0] == 0
        assert (out / "scene" / there).exists()
        assert not (out / "scene" / absent).exists()


def test_plan_shows_and_draws_and_writes_nothing_else(
    seamline: Seamline, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    picture = tmp_path / "plan.png"
    before = set(tmp_path.rglob("*"))
    code, out, err = seamline(
        "plan", scene, "--model", small_model.folder, "--cluster", cluster(1), "--picture", picture,
        "--overlap", 16, "--window", 192,
    )  # fmt: skip
    assert code == 0, err
    for words in ("window", "halo", "exact", "network pixels per scene pixel", "projected memory", "estimated time"):
        assert words in out
    assert set(tmp_path.rglob("*")) - before == {picture}
    with rasterio.open(picture) as file:
        assert file.width > 500


HERE = ("--model", "m", "--out", "o")
MISUSED = {
    ("segment",): "SCENE: got nothing, expected a value (A raster GDAL reads,",
    ("segment", "x"): "--model: got nothing, expected a value (Name of an embedded model,",
    ("segment", "x", "--model"): "--model: got nothing, expected a value (Name of",
    ("segment", "x", *HERE, "--mod", "3"): "option: got --mod, expected an option of the command, such as --model",
    ("segment", "x", *HERE, "-q"): "option: got -q, expected an option of the command; see",
    ("segment", "x", *HERE, "--workers", "abc"): "--workers: got 'abc', expected a whole number",
    ("segment", "x", *HERE, "--chunk-tiles", "2.5"): "--chunk-tiles: got '2.5', expected a whole number",
    ("plan", "x", "--model", "m", "--scale", "1,5"): "--scale: got '1,5', expected a number",
    ("segment", "x", *HERE, "--overwrite=3"): "--overwrite: got a value, expected none",
    ("simulate", "--size", "3", "--out", "x"): "--size: got '--out', expected 2 values, each a whole number",
    ("simulate", "--out", "x", "--size", "3"): "--size: got too few values, expected 2 (Height and width in pixels)",
    ("simulate", "--size", "3", "4", "--out", "x", "y"): "arguments: got unexpected extra argument(s) (y), expected",
    ("train",): "--out: got nothing, expected a value (The model folder to write)",
    ("segmnt", "x"): "command: got 'segmnt', expected segment, plan, simulate, train, model, evaluate, query, ",
    ("model", "show"): "command: got 'show', expected inspect, import, tune or list; see seamline model --help",
    ("--versoin",): "option: got --versoin, expected an option of the command, such as --version; see seamline --help",
}


def test_every_way_to_run_a_model_is_shown(seamline: Seamline, small_model: Model) -> None:
    asked = ("model", "tune", str(small_model.folder), "--window", "128")
    code, out, _ = seamline(*asked, "--json")
    assert code == 0
    found = Measurement.from_dict(json.loads(out))
    assert {trial.settings.channels_last for trial in found.trials} == {False, True}
    assert found.settings in [trial.settings for trial in found.trials]
    assert set(found.seconds) == {128}
    code, out, _ = seamline(*asked, "--engine", "torch", "--precision", "fp32")
    assert code == 0 and "prec." in out and "window 128" in out


@pytest.mark.parametrize("arguments", MISUSED, ids=" ".join)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], seamline: Seamline) -> None:
    code, out, err = seamline(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("seamline: " + MISUSED[arguments]) and err.endswith(" --help\n") and err.count("\n") == 1, err
    if arguments[0] in {"segment", "plan", "simulate", "train"}:
        assert err.endswith(f"; see seamline {arguments[0]} --help\n")


@pytest.mark.parametrize("arguments", [(), ("model",), ("--help",), ("model", "--help"), ("segment", "--help")])
def test_help_is_no_error(arguments: tuple[str, ...], seamline: Seamline) -> None:
    code, out, err = seamline(*arguments)
    assert (code, err) == (0, "") and "Usage: seamline" in out and "--help" in out


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(KeyboardInterrupt, 130, "seamline: interrupted"), (lambda: typer.Exit(3), 3, "")],
)
def test_how_a_command_ends_is_the_exit_code(
    raised: Callable[[], BaseException], code: int, said: str, seamline: Seamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(name: str) -> None:
        raise raised()

    monkeypatch.setattr(models, "open_model", end)
    got, _, err = seamline("model", "inspect", "x")
    assert got == code and err.startswith(said) and err.count("\n") == bool(said)


OUTPUTS = "cog, zarr or both, and if wanted polygons, probabilities, confidence, disagreement, with commas"
POLYGONS = "left out, or polygons among --outputs"
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
    ("--polygon-formats", "shp"): "--polygon-formats: got 'shp', expected fgb, gpkg, parquet, separated by commas",
    ("--polygon-formats", ""): "--polygon-formats: got '', expected fgb, gpkg, parquet, separated by commas",
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
def test_a_wrong_option_is_named_as_it_was_typed(arguments: tuple[str, ...], seamline: Seamline) -> None:
    code, out, err = seamline("segment", "x", *HERE, *arguments)
    assert (code, out) == (2, "")
    assert err == f"seamline: {WRONG[arguments]}; see seamline segment --help\n"


def test_simulate_writes_a_scene_and_its_truth(seamline: Seamline, tmp_path: Path) -> None:
    code, _, err = seamline("simulate", "--size", 300, 500, "--out", tmp_path / "sim.tif", "--seed", 3)
    assert code == 0, err
    with rasterio.open(tmp_path / "sim.tif") as file, rasterio.open(tmp_path / "sim_truth.tif") as truth:
        assert (file.count, file.shape, file.dtypes[0]) == (6, (300, 500), "uint16")
        assert file.descriptions == NAMES
        assert (truth.shape, truth.transform) == (file.shape, file.transform)


@pytest.mark.parametrize(
    ("size", "seed", "out"),
    [((0, 5), 0, "x.tif"), ((-4, 5), 0, "x.tif"), ((5, 5), -1, "x.tif"), ((5, 5), 2**64, "x.tif"), ((5, 5), 0, "")],
)
def test_a_scene_that_cannot_be_simulated_shows_no_progress(
    size: tuple[int, int], seed: int, out: str, seamline: Seamline, tmp_path: Path
) -> None:
    code, shown, err = seamline("simulate", "--size", *size, "--seed", seed, "--out", tmp_path / out)
    assert (code, shown) == (2, "")
    assert err.startswith("seamline: ") and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_model_inspect_prints_json(seamline: Seamline) -> None:
    code, out, _ = seamline("model", "inspect", "land-water-cloud", "--json")
    assert code == 0
    found = json.loads(out)
    assert [entry["name"] for entry in found["classes"]] == ["land", "water", "cloud", "cloud shadow"]
    assert found["divisor"] == 16
    assert 80 < found["receptive_radius"] <= 96
    assert seamline("model", "list")[1].split() == ["land-water-cloud"]
    assert json.loads(out)["iou_in_training"]["landsat5"]["cloud"] > 0.5
    table = seamline("model", "inspect", "land-water-cloud")[1]
    assert "cloud shadow" in table and "landsat5: land 0." in table


def test_an_aoi_limits_the_work(seamline: Seamline, small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    source = shared(MANAUS)
    with rasterio.open(source) as file:
        left, bottom = file.transform @ (100, 300)
        right, top = file.transform @ (250, 150)
        crs = f"urn:ogc:def:crs:EPSG::{file.crs.to_epsg()}"
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    aoi = tmp_path / "aoi.json"
    collection = {"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": crs}}}
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    aoi.write_text(json.dumps({**collection, "features": [feature]}))
    code, _, err = seamline(
        "segment", source, "--model", small_model.folder, "--out", tmp_path, "--cluster", cluster(1), "--aoi", aoi,
        "--window", 160, "--halo", 48,
    )  # fmt: skip
    assert code == 0, err
    folder = tmp_path / source.stem
    with rasterio.open(folder / "segmentation.tif") as file:
        labels = file.read(1)
    inside = np.zeros(labels.shape, bool)
    inside[150:300, 100:250] = True
    assert ((labels != 255) == inside).all()
    record = json.loads((folder / "run.json").read_text())
    assert record["windows"] == 3 * 3


INTERRUPTED_CLIENT = """
import asyncio, os, signal, threading, time
from distributed.utils import LoopRunner, sync
from seamline.flows.cli import main as cli

signal.signal(signal.SIGINT, cli._handle_interrupt)
runner = LoopRunner()
runner.start()
runner.loop.add_callback(time.sleep, 1)  # so Ctrl-C comes before Dask's loop has begun what the client waits for
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    sync(runner.loop, asyncio.sleep, 60)
except KeyboardInterrupt:
    done = threading.Event()
    runner.loop.call_later(1.5, done.set)
    done.wait()
    print("interrupted")
"""


def test_ctrl_c_at_any_moment_leaves_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_CLIENT], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")


BUSY = """
import sys, time
import zarr
from seamline.flows.cli import main as cli

zarr.create_array({}, shape=(1,), dtype="u1")
zarr.core.sync.loop[0].call_soon_threadsafe(time.sleep, 1)  # as on a machine that has no time for zarr's thread
sys.argv = ["seamline", "--version"]
cli.main()
"""


def test_a_command_ends_in_peace_on_a_busy_machine() -> None:
    ended = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
