"""The command line: bad input costs seconds, exit code 2 and one line that says how to go on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from seamline.flows.runs import measuring
from seamline.flows.settings.model_folder import Model
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.measurement import Measurement
from tests.support.command_line import CommandLine
from tests.support.sample_data import MANAUS, find_shared
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

Cluster = Callable[[int], str]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "scene.tif", make_noise(6, 200, 300), names=BAND_NAMES, nodata=0)


def few_bands(scene: Path, model: Path) -> list[object]:
    return [write_geotiff(scene.parent / "rgb.tif", make_noise(3, 50, 50), names=BAND_NAMES[:3])]


def other_names(scene: Path, model: Path) -> list[object]:
    return [write_geotiff(scene.parent / "odd.tif", make_noise(6, 50, 50), names=("a", "b", "c", "d", "e", "f"))]


def no_georeference(scene: Path, model: Path) -> list[object]:
    return [
        write_geotiff(
            scene.parent / "flat.tif", make_noise(6, 50, 50), names=BAND_NAMES, transform=Affine.identity(), crs=None
        )
    ]


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
    command_line: CommandLine,
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
    code, out, err = command_line("segment", *arguments, *rest)
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("seamline: ")
    assert "got" in err and "expected" in err and ";" in err
    assert BAD[make] in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_too_small_is_refused(
    command_line: CommandLine,
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    code, _, err = command_line(
        "segment", scene, "--model", small_model.folder, "--out", tmp_path / "out", "--cluster", cluster(1)
    )
    assert code == 2
    assert "disk of --out" in err and "free some space" in err
    assert not (tmp_path / "out").exists()


def test_a_plan_that_does_not_fit_into_memory_is_refused(
    command_line: CommandLine,
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from seamline.flows.runs import planning as module

    monkeypatch.setattr(module, "get_worker_memory", lambda client: 100 * 2**20)
    code, _, err = command_line(
        "segment", scene, "--model", small_model.folder, "--out", tmp_path / "out", "--cluster", cluster(1)
    )
    assert code == 2
    assert "memory of a worker: got 0.1 GiB" in err and "smaller --window" in err
    assert not (tmp_path / "out").exists()


def test_segment_then_segment_again(
    command_line: CommandLine, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    command = ("segment", scene, "--model", small_model.folder, "--out", tmp_path / "out", "--cluster", cluster(1))
    code, out, err = command_line(*command)
    assert code == 0, err
    assert "network pixels per scene pixel" in out and "segmentation.tif" in out
    code, out, _ = command_line(*command)
    assert code == 0
    assert "nothing to do" in out


def test_only_what_is_asked_for_is_written(
    command_line: CommandLine, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    cog, store = "segmentation.tif", "segmentation.zarr"
    for outputs, there, absent in (("cog", cog, store), ("zarr", store, cog)):
        out = tmp_path / outputs
        command = ("segment", scene, "--model", small_model.folder, "--out", out, "--cluster", cluster(1))
        assert command_line(*command, "--outputs", outputs)[0] == 0
        assert (out / "scene" / there).exists()
        assert not (out / "scene" / absent).exists()


def test_plan_shows_and_draws_and_writes_nothing_else(
    command_line: CommandLine, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    picture = tmp_path / "plan.png"
    before = set(tmp_path.rglob("*"))
    code, out, err = command_line(
        "plan",
        scene,
        "--model",
        small_model.folder,
        "--cluster",
        cluster(1),
        "--picture",
        picture,
        "--overlap",
        16,
        "--window",
        192,
    )
    assert code == 0, err
    for words in ("window", "halo", "exact", "network pixels per scene pixel", "projected memory", "estimated time"):
        assert words in out
    assert set(tmp_path.rglob("*")) - before == {picture}
    with rasterio.open(picture) as file:
        assert file.width > 500


def test_an_aoi_limits_the_work(
    command_line: CommandLine, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    source = find_shared(MANAUS)
    with rasterio.open(source) as file:
        left, bottom = file.transform @ (100, 300)
        right, top = file.transform @ (250, 150)
        crs = f"urn:ogc:def:crs:EPSG::{file.crs.to_epsg()}"
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    aoi = tmp_path / "aoi.json"
    collection = {"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": crs}}}
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    aoi.write_text(json.dumps({**collection, "features": [feature]}))
    code, _, err = command_line(
        "segment",
        source,
        "--model",
        small_model.folder,
        "--out",
        tmp_path,
        "--cluster",
        cluster(1),
        "--aoi",
        aoi,
        "--window",
        160,
        "--halo",
        48,
    )
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
from seamline.flows.terminal.process import handle_signals

handle_signals()
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


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; for SIGINT Python has one."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("sent", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGHUP, "hung up")])
def test_a_signal_in_the_first_moment_ends_it_in_one_line(
    scene: Path, tmp_path: Path, sent: signal.Signals, said: str
) -> None:
    options = ["--model", "land-water-cloud", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "seamline", "segment", scene, *options]
    # Who runs the tests under nohup ignores one of these signals, and so would the command.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
    )
    while not catches(process.pid, signal.SIGHUP):  # the last handler of ours; modules are still being imported
        time.sleep(0.01)
    process.send_signal(sent)
    assert process.communicate(timeout=60)[1] == f"seamline: {said}; give the same command again\n"
    assert process.returncode == 128 + sent


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


def test_the_command_line_answers_without_what_only_runs_need() -> None:
    """`--version`, `--help` and a mistyped option must not take seconds."""
    slow = {"numpy", "pandas", "pydantic", "rasterio", "zarr", "dask", "distributed", "torch", "prefect", "matplotlib"}
    code = f"import sys, seamline.flows.cli.main; print(*sorted({slow} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.split() == []


def test_every_way_to_run_a_model_is_shown(command_line: CommandLine, small_model: Model) -> None:
    asked = ("model", "tune", str(small_model.folder), "--window", "128")
    code, out, _ = command_line(*asked, "--json")
    assert code == 0
    found = Measurement.from_dict(json.loads(out))
    assert {trial.settings.channels_last for trial in found.trials} == {False, True}
    assert found.settings in [trial.settings for trial in found.trials]
    assert set(found.seconds) == {128}
    code, out, _ = command_line(*asked, "--engine", "torch", "--precision", "fp32")
    assert code == 0 and "prec." in out and "window 128" in out


def test_a_bad_scene_among_several_does_not_keep_the_others_from_being_done(
    command_line: CommandLine, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    other = Path(shutil.copy(scene, tmp_path / "other.tif"))
    broken = tmp_path / "broken.tif"
    broken.write_text("hello")
    arguments = (
        "--model",
        small_model.folder,
        "--out",
        tmp_path / "out",
        "--cluster",
        cluster(1),
        "--precision",
        "fp32",
    )
    code, out, err = command_line("segment", scene, broken, other, *arguments, "--json", "--quiet")
    assert code == 1
    assert "1 of 3 scenes failed" in err.splitlines()[-1] and "broken.tif" in err
    results = json.loads(out)
    assert [result["scene"] for result in results] == ["scene", "other"]
    assert all(Path(result["folder"], "item.json").exists() and result["computed"] for result in results)
    assert results[0]["run"] == json.loads((tmp_path / "out" / "scene" / "run.json").read_text())


def test_a_run_says_once_what_its_model_is_good_for_and_not(
    command_line: CommandLine, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    limits = "good for tests [/red], not for 100 % of the world"
    folder = shutil.copytree(small_model.folder, tmp_path / "limited")
    write_model_spec(replace(small_model.spec, limits=limits), folder)
    other = Path(shutil.copy(scene, tmp_path / "other.tif"))
    arguments = ("--model", folder, "--cluster", cluster(1), "--precision", "fp32")
    out, line = ("--out", tmp_path / "out"), f"random: {limits}"
    assert command_line("plan", scene, *arguments)[2].splitlines().count(line) == 1
    code, shown, err = command_line("segment", scene, other, *arguments, *out, "--json")
    assert (code, err.splitlines().count(line)) == (0, 1)
    assert [result["scene"] for result in json.loads(shown)] == ["scene", "other"]
    for command in (("plan", scene, *arguments), ("segment", scene, *arguments, *out)):
        assert limits not in "".join(map(str, command_line(*command, "--quiet")))
    result = tmp_path / "out" / "scene"
    assert f'<p class="soft">{line}</p>' in (result / "report.html").read_text()
    assert json.loads((result / "item.json").read_text())["properties"]["seamline:model_limits"] == limits
    assert limits in command_line("model", "inspect", folder)[1]


def test_a_result_of_another_model_among_several_does_not_keep_the_others_from_being_done(
    command_line: CommandLine, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    other = Path(shutil.copy(scene, tmp_path / "other.tif"))
    arguments = ("--out", tmp_path / "out", "--cluster", cluster(1), "--precision", "fp32")
    assert command_line("segment", scene, "--model", "land-water-cloud", *arguments)[0] == 0
    code, _, err = command_line("segment", scene, other, "--model", small_model.folder, *arguments)
    assert code == 1 and "1 of 2 scenes failed" in err
    assert (tmp_path / "out" / "other" / "item.json").exists()


def test_a_plan_as_json(command_line: CommandLine, scene: Path, small_model: Model, tmp_path: Path) -> None:
    code, out, err = command_line("plan", scene, "--model", small_model.folder, "--json", "--quiet", "--window", "128")
    plan = json.loads(out)
    assert (code, err, plan["tiling"]["window"], plan["tiling"]["height"]) == (0, "", 128, 200)
    assert plan["network_seconds"] > 0 and plan["projected_memory_bytes"] > 0
