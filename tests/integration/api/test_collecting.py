"""What is new of a collection, without Prefect: by function and by command."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

import seamline
from seamline import InputError, RunError, SegmentOptions
from seamline.flows.runs import cluster_session
from seamline.flows.settings.model_folder import Model
from tests.support.command_line import CommandLine
from tests.support.run_folders import FIXED_ENGINE
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

OPTIONS = SegmentOptions(**FIXED_ENGINE, window=128, outputs=("cog",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("a", "b"):
        write_geotiff(folder / f"{name}.tif", make_noise(6, 90, 100), names=BAND_NAMES, nodata=0)
    return folder


def test_what_is_new_is_segmented_once_and_what_has_changed_again(
    folder: Path, small_model: Model, tmp_path: Path
) -> None:
    def collect() -> dict[str, object]:
        return seamline.collect(f"{folder}/*.tif", small_model, tmp_path / "out", OPTIONS)

    assert collect() == {"known": 0, "waiting": [], "published": 2}
    assert collect() == {"known": 2, "waiting": []}
    write_geotiff(folder / "b.tif", make_noise(6, 90, 100)[:, ::-1].copy(), names=BAND_NAMES, nodata=0)
    shutil.copy(folder / "a.tif", folder / "c.tif")
    assert collect() == {"known": 1, "waiting": [], "published": 2}
    assert {path.parent.name for path in (tmp_path / "out").glob("*/item.json")} == {"a", "b", "c"}


def test_a_scene_that_fails_stops_no_other_and_is_tried_again(folder: Path, small_model: Model, tmp_path: Path) -> None:
    write_geotiff(folder / "0.tif", make_noise(2, 90, 100), names=("red", "nir"), nodata=0)
    for _ in range(2):
        with pytest.raises(RunError, match="1 of 3 scenes failed: 0: the bands of"):
            seamline.collect(f"{folder}/*.tif", small_model, tmp_path / "out", OPTIONS)
    assert {path.parent.name for path in (tmp_path / "out").glob("*/item.json")} == {"a", "b"}
    write_geotiff(folder / "0.tif", make_noise(6, 90, 100), names=BAND_NAMES, nodata=0)
    assert seamline.collect(f"{folder}/*.tif", small_model, tmp_path / "out", OPTIONS)["published"] == 1


def test_what_cannot_be_used_of_an_inbox_fails_once(folder: Path, small_model: Model, tmp_path: Path) -> None:
    """Both what is no raster and what the model does not take."""

    def collect(retry: bool = False, aoi: Path | None = None) -> dict[str, object]:
        source = {"kind": "inbox", "folder": folder, "settle": 0, "notes": True}
        options = OPTIONS.model_copy(update={"aoi": aoi})
        return seamline.collect(source, small_model, tmp_path / "out", options, retry=retry)

    write_geotiff(folder / "0.tif", make_noise(2, 90, 100), names=("red", "nir"), nodata=0)
    (folder / "text.tif").write_text("no raster")
    for retry in (False, True):
        with pytest.raises(RunError, match=r"2 of 4 scenes failed: .*0: the bands of"):
            collect(retry)
        assert collect() == {"known": 2, "waiting": [], "set aside": 2}
        notes = {path.name: path.read_text() for path in folder.glob("*.rejected.txt")}
        assert sorted(notes) == ["0.tif.rejected.txt", "text.tif.rejected.txt"]
        assert "the bands of 0 do not match the model" in notes["0.tif.rejected.txt"]
    for _ in range(2):  # an area that is gone is no fault of the scenes
        with pytest.raises(RunError, match="3 of 4 scenes failed: "):
            collect(aoi=tmp_path / "gone.geojson")
    write_geotiff(folder / "0.tif", make_noise(6, 90, 100), names=BAND_NAMES, nodata=0)
    (folder / "text.tif").unlink()
    assert collect()["published"] == 1
    assert not list(folder.glob("*.rejected.txt"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "folder", "folder": "x"}, "the source of the scenes: kind.*'folder'"),
        ({"kind": "inbox"}, "the source of the scenes: folder.*Field required"),
        (
            {"kind": "stac-api", "url": "https://x", "collections": ["a"], "bbox": [1, 2, 3]},
            "the source of the scenes: bbox",
        ),
    ],
)
def test_sources_that_are_none_are_refused(
    source: dict[str, object], message: str, small_model: Model, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        seamline.collect(source, small_model, tmp_path / "out")


def test_the_command_does_the_same(command_line: CommandLine, folder: Path, small_model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--model", small_model.folder, "--out", out, "--workers", "1", "--window", "128")
    code, _, err = command_line("collect", f"{folder}/*.tif", *arguments)
    assert code == 0 and "2 published" in err and "seamline serve" in err
    code, _, err = command_line("collect", folder, "--kind", "inbox", "--settle", "0", *arguments)
    assert code == 0 and "2 known" in err
    code, _, err = command_line("collect", folder, "--kind", "folder", *arguments)
    assert code == 2 and "expected glob or manifest" in err
    code, _, err = command_line("collect", "x", "--kind", "stac-api", "--query", "{", *arguments)
    assert code == 2 and "--query" in err
    assert len(json.loads((out / "catalog.json").read_text())["links"]) >= 2


def test_a_quiet_command_prints_nothing_but_warnings(
    command_line: CommandLine, folder: Path, small_model: Model, tmp_path: Path
) -> None:
    arguments = ("--model", small_model.folder, "--window", "128", "--scale", "0.0001", "--quiet")
    dated = ("--datetime", "2025-06-01")
    scene = folder / "a.tif"
    code, out, err = command_line("plan", scene, *arguments[:-3], "--quiet")
    assert (code, out) == (0, "") and "warning: a: the files state no scale" in " ".join(err.split())
    assert command_line("plan", scene, *arguments) == (0, "", "")
    where = (*arguments, "--out", tmp_path / "out")
    assert command_line("collect", f"{folder}/*.tif", *where, *dated, "--workers", "1") == (0, "", "")
    assert command_line("segment", scene, *where, *dated) == (0, "", "")
    grid = ("--crs", "EPSG:32632", "--resolution", "10", "--labels", "--quiet")
    assert command_line("mosaic", tmp_path / "out", *grid, "--out", tmp_path / "map", "--plan")[:2] == (0, "")


@pytest.mark.parametrize("case", ["scenes", "a file that is none", "folders"])
def test_a_folder_of_scenes_is_told_from_one_scene(
    command_line: CommandLine, folder: Path, small_model: Model, tmp_path: Path, case: str
) -> None:
    """The message names the command that was given, with the pattern to give."""
    pattern = "scenes/*.tif"
    if case == "a file that is none":
        (folder / "c.tif").write_bytes(b"II*\0")
    elif case == "folders":
        for name in ("x", "y"):
            (folder / name).mkdir()
            (folder / f"{chr(ord(name) - 23)}.tif").rename(folder / name / "a.tif")
        pattern = "scenes/*"
    arguments = ("--model", small_model.folder, "--out", tmp_path / "out", "--workers", "1", "--window", "128")
    code, _, err = command_line("collect", folder, *arguments)
    command = f"seamline collect '{folder.parent}/{pattern}'"
    assert code == 1 and "seamline segment" not in err
    assert all(command in line for line in err.splitlines() if line.startswith(("scenes: ", "seamline: ")))
    words = shlex.split(err.splitlines()[-1].partition("seamline collect ")[2].partition(";")[0])
    if case == "scenes":
        assert command_line("collect", *words, *arguments)[0] == 0


def test_one_cluster_serves_all_scenes(
    folder: Path, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    connect = cluster_session.connect_workers
    monkeypatch.setattr(
        cluster_session, "connect_workers", lambda *arguments: (started.append(arguments), connect(*arguments))[1]
    )
    assert seamline.collect(f"{folder}/*.tif", small_model, tmp_path / "out", OPTIONS)["published"] == 2
    assert len(started) == 1


def test_a_missing_cluster_is_no_failure_of_the_scenes(folder: Path, small_model: Model, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"cluster": "tcp://127.0.0.1:9"})
    with pytest.raises(
        InputError, match=r"; start the scheduler or correct the address, or leave cluster out|correct the address"
    ):
        seamline.collect(f"{folder}/*.tif", small_model, tmp_path / "out", options)
    assert not list((tmp_path / "out" / ".collection").glob("*.json"))
