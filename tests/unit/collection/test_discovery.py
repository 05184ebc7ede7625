"""Scenes on disk: found, known again, refused, or left until they are whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import rasterio
from pydantic import TypeAdapter

from seamline.flows.collection.discovery import Discovery, discover
from seamline.flows.collection.fingerprint import inspect_source
from seamline.flows.collection.scene_sources import Glob, Inbox, Manifest, SceneSource
from seamline.pipeline.common.errors import InputError
from tests.support.small_sources import (
    SETTLE,
    look_into_inbox,
    scene_names,
    write_band,
    write_every_kind,
    write_item_file,
)
from tests.support.stac_api_server import make_stac_item


@pytest.mark.parametrize("name", ["catalog.json", "items.parquet"])
def test_no_scene_is_named_as_a_file_of_the_catalogue(tmp_path: Path, name: str) -> None:
    assert inspect_source(write_band(tmp_path / f"{name}.tif")).name == f"{name}-scene"


def test_a_scene_is_known_by_its_content(tmp_path: Path) -> None:
    sources = write_every_kind(tmp_path)
    before = [inspect_source(source) for source in sources]
    (tmp_path / "a scene (1).tif.aux.xml").write_text("<PAMDataset/>")
    with rasterio.open(tmp_path / "a scene (1).tif") as file:
        file.read()
    assert [inspect_source(source) for source in sources] == before
    for path in (tmp_path / "a scene (1).tif", tmp_path / "plain.tif", tmp_path / "bands" / "red.tif"):
        state = path.stat()
        write_band(path, seed=1)
        assert path.stat().st_size == state.st_size
    changed = [scene.source for scene in before if inspect_source(scene.source) != scene]
    assert [Path(source).name for source in changed] == ["a scene (1).tif", "bands", "x.json", "virtual.vrt"]
    twin = tmp_path / "bands" / "blue.tif"
    now = inspect_source(tmp_path / "bands")
    write_band(twin)
    assert inspect_source(tmp_path / "bands") != now
    twin.unlink()
    assert inspect_source(tmp_path / "bands") == now


def test_a_replaced_file_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    path, other = write_band(tmp_path / "x.tif"), write_band(tmp_path / "y.tif", seed=1)
    before, state = inspect_source(path), path.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert other.stat().st_size == state.st_size
    other.replace(path)
    assert inspect_source(path).fingerprint != before.fingerprint


def test_a_pattern_finds_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "deep/c.tif", ".hidden.tif", "d.tif.part"):
        write_band(tmp_path / name)
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    (tmp_path / "notes.txt").write_text("none")
    found = discover(Glob(pattern=f"{tmp_path}/*"))
    assert scene_names(found) == ["a", "b", "deep"]
    assert [(Path(scene.source).name, "cannot open" in scene.reason) for scene in found.rejected] == [
        ("notes.txt", True)
    ]
    assert scene_names(discover(Glob(pattern=f"{tmp_path}/**/*.tif"))) == ["a", "b", "c"]
    assert scene_names(discover(Glob(pattern=f"{tmp_path}/a.tif"))) == ["a"]
    assert discover(Glob(pattern=f"{tmp_path}/*.jp2")) == Discovery(())
    with pytest.raises(InputError, match=r"no .*/missing"):
        discover(Glob(pattern=f"{tmp_path}/missing/*.tif"))


def test_a_relative_pattern_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_band(tmp_path / "a.tif")
    monkeypatch.chdir(tmp_path)
    assert [scene.source for scene in discover(Glob(pattern="*.tif")).scenes] == [str(tmp_path / "a.tif")]


@pytest.mark.parametrize(
    "name, text", [("x.csv", "a,b\n1,2\n"), ("x.json", '{"a": 1}'), ("x.json", "[1]"), ("gone.txt", "")]
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, text: str) -> None:
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"manifest .*{name}"):
        discover(Manifest(path=tmp_path / name))


NO_SCENES = [
    "~nobody-of-this-name/x.tif",
    "x" * 5000 + ".tif",
    "\ud800.tif",
    "a\0b.tif",
    "https://[::1/x.tif",
    "s3://",
    "/dev/zero",
]


ODD = {
    "id": [None, 7, [], {"a": 1}],
    "assets": [
        None,
        [],
        [1],
        3,
        {"a": None},
        {"a": {"href": 1}},
        {"a": {"href": "y" * 5000 + ".tif"}},
        *({"a": {"href": "x.tif", **odd}} for odd in ({"roles": 3}, {"type": 3}, {"bands": 3}, {"eo:bands": [1]})),
    ],
    "properties": [None, [], "x"],
    "links": [None, [1], 3],
    "stac_version": [None, []],
}


def test_nothing_that_is_no_scene_stops_the_others(tmp_path: Path) -> None:
    write_band(tmp_path / "whole.tif")
    sources = [*NO_SCENES]
    for field, values in ODD.items():
        for number, value in enumerate(values):
            path = tmp_path / f"{field}-{number}.json"
            path.write_text(json.dumps(make_stac_item("odd", "x.tif") | {field: value}))
            sources.append(str(path))
    (tmp_path / "list.json").write_text(json.dumps([*sources, "whole.tif"]))
    listed = discover(Manifest(path=tmp_path / "list.json"))
    (tmp_path / "list.json").unlink()
    time.sleep(SETTLE)
    for found, more in ((listed, len(NO_SCENES)), (look_into_inbox(tmp_path), 0)):
        assert scene_names(found) == ["whole"]
        assert len(found.rejected) + len(found.waiting) == len(sources) - len(NO_SCENES) + more
        for scene in found.rejected:
            assert scene.reason and json.dumps(scene.reason, ensure_ascii=False).encode()
            assert len(scene.source + scene.name + scene.reason) < 4000


def test_a_name_of_any_length_is_one_of_a_folder(tmp_path: Path) -> None:
    paths = [write_item_file(tmp_path / f"{number}.json", str(write_band(tmp_path / "a.tif"))) for number in range(2)]
    for number, path in enumerate(paths):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "i" * 1000 + str(number)}))
    first, second = scene_names(discover(Glob(pattern=f"{tmp_path}/*.json")))
    assert first != second
    for name in (first, second):
        (tmp_path / f".{name}.0123456789abcdef.part").touch()


def test_the_same_files_by_another_path_are_one_scene(tmp_path: Path) -> None:
    write_band(tmp_path / "a" / "scene.tif")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "list.txt").write_text("a/scene.tif\nb/scene.tif\na/../a/scene.tif\n")
    found = discover(Manifest(path=tmp_path / "list.txt"))
    assert [scene.source for scene in found.scenes] == [str(tmp_path / "a/scene.tif")] and found.rejected == ()


def test_two_scenes_of_one_name_are_one_too_many(tmp_path: Path) -> None:
    for folder in "abc":
        write_band(tmp_path / folder / "scene.tif")
    write_band(tmp_path / "c" / "other.tif")
    found = discover(Glob(pattern=f"{tmp_path}/*/*.tif"))
    assert [scene.source for scene in found.scenes] == [str(tmp_path / "a/scene.tif"), str(tmp_path / "c/other.tif")]
    assert [scene.source for scene in found.rejected] == [str(tmp_path / f"{folder}/scene.tif") for folder in "bc"]
    assert all(f"as those of {tmp_path}/a/scene.tif" in scene.reason for scene in found.rejected)


def test_what_is_whole_is_found_and_what_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("a.tif", ".b.tif", "c.tif.part", "d.tif.crdownload", "~e.tif", "f.tmp", "g/red.tif", "h.tif~"):
        write_band(tmp_path / name)
    (tmp_path / "readme.txt").write_text("drop scenes here")
    (tmp_path / "junk.tif").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "empty.tif").touch()
    (tmp_path / "no-item.json").write_text("[]")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "nowhere")
    before = look_into_inbox(tmp_path, settle=3600)
    assert (
        before.scenes == () and [scene.name for scene in before.rejected] == ["link.tif"] and len(before.waiting) == 6
    )
    found = look_into_inbox(tmp_path, settle=0)
    assert scene_names(found) == ["a", "g"] and found.waiting == ()
    assert {scene.name for scene in found.rejected} == {"junk.tif", "empty.tif", "no-item.json", "nothing", "link.tif"}
    assert all(scene.reason and "\n" not in scene.reason for scene in found.rejected)
    assert look_into_inbox(tmp_path, settle=0) == found


def test_a_folder_is_whole_when_all_in_it_is(tmp_path: Path) -> None:
    write_band(tmp_path / "scene" / "red.tif")
    time.sleep(SETTLE)
    assert scene_names(look_into_inbox(tmp_path)) == ["scene"]
    write_band(tmp_path / "scene" / "deep" / "blue.tif")
    assert look_into_inbox(tmp_path).waiting == (str(tmp_path / "scene"),)
    time.sleep(SETTLE)
    (tmp_path / "scene" / ".green.tif.Xy12").touch()  # rsync
    assert look_into_inbox(tmp_path, settle=0).waiting == (str(tmp_path / "scene"),)


def test_an_item_waits_for_its_files_which_are_no_scenes(tmp_path: Path) -> None:
    made = write_item_file(tmp_path / "scene.json", "./red.tif", "./blue.tif")
    write_band(tmp_path / "red.tif")
    time.sleep(SETTLE)
    (tmp_path / "blue.tif").write_bytes(b"II*\0")
    assert look_into_inbox(tmp_path) == Discovery((), (), (str(made),))
    (tmp_path / "blue.tif").unlink()
    write_band(tmp_path / "blue.tif")
    time.sleep(SETTLE)
    found = look_into_inbox(tmp_path)
    assert [Path(scene.source).name for scene in found.scenes] == ["scene.json"]
    assert found.rejected == found.waiting == ()
    (tmp_path / "blue.tif").unlink()
    less = look_into_inbox(tmp_path, settle=0)  # a model may do without it
    assert less.scenes[0].source == str(made) and less.scenes[0].fingerprint != found.scenes[0].fingerprint


def test_a_clock_that_is_ahead_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_band(tmp_path / "x.tif")
    ahead = time.time() + 86_400
    os.utime(path, (ahead, ahead))
    time.sleep(SETTLE)
    assert scene_names(look_into_inbox(tmp_path)) == ["x"]  # of the two times, one is not in the future
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86_400)
    assert scene_names(look_into_inbox(tmp_path)) == ["x"]  # looked at twice
    sleep = time.sleep

    def growing(seconds: float) -> None:
        sleep(seconds)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(time, "sleep", growing)
    assert look_into_inbox(tmp_path) == Discovery((), (), (str(path),))


def test_copies_that_set_times_back_count_as_new(tmp_path: Path) -> None:
    old = write_band(tmp_path / "old.tif")
    os.utime(old, (1, 1))
    folder = tmp_path / "inbox"
    folder.mkdir()
    shutil.copy2(old, folder / "copy.tif")
    assert look_into_inbox(folder, settle=60).waiting == (str(folder / "copy.tif"),)


def test_an_inbox_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone", write_band(tmp_path / "x.tif")):
        with pytest.raises(InputError, match="inbox"):
            look_into_inbox(path)


def test_the_form_offers_every_kind_with_descriptions() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(SceneSource)
    schema = adapter.json_schema()
    kinds = {
        schema["$defs"][form["$ref"].rsplit("/", 1)[-1]]["properties"]["kind"]["const"] for form in schema["anyOf"]
    }
    assert kinds == {"stac-api", "stac-catalog", "glob", "manifest", "inbox"}
    assert "oneOf" not in schema  # of which Prefect's page makes no form
    for model in schema["$defs"].values():
        assert all("description" in field for name, field in model["properties"].items() if name != "kind")
    assert adapter.validate_python({"kind": "inbox", "folder": "/data/inbox"}) == Inbox(folder=Path("/data/inbox"))
