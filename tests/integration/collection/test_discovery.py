"""Scenes on servers, and files that another process still writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seamline.flows.collection.discovery import Discovery, discover
from seamline.flows.collection.fingerprint import inspect_source
from seamline.flows.collection.scene_sources import Manifest
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, make_scene_id, open_scene
from seamline.pipeline.storage import web_requests
from tests.support.processes import wait_until
from tests.support.small_sources import look_into_inbox, scene_names, write_band, write_every_kind
from tests.support.stac_api_server import StacApi, serve_directory


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_requests, "_RETRY_WAITS", (0.01,))


def test_a_scene_is_named_as_it_will_be(tmp_path: Path) -> None:
    sources = write_every_kind(tmp_path)
    with serve_directory(StacApi([]), tmp_path) as server:
        sources += [f"{server.url}/a%20scene%20(1).tif", f"{server.url}/x.json", f"file://{tmp_path}/bands"]
        for source in sources:
            found = inspect_source(source)
            opened = open_scene(found.source, [BandNeed("red")], SceneOptions())
            assert (found.name, found.source) == (opened.id, opened.source)


def test_remote_files_are_known_by_what_the_server_says(tmp_path: Path) -> None:
    path = write_band(tmp_path / "x.tif")
    with serve_directory(StacApi([]), tmp_path) as server:
        before = inspect_source(f"{server.url}/x.tif")
        assert inspect_source(f"{server.url}/x.tif") == before
        os.utime(path, (1, 1))
        assert inspect_source(f"{server.url}/x.tif") != before
        with pytest.raises(InputError, match=r"gone\.tif.*HTTP 404"):
            inspect_source(f"{server.url}/gone.tif")


def test_lists_of_all_forms_say_the_same(tmp_path: Path) -> None:
    write_band(tmp_path / "scenes" / "a.tif"), write_band(tmp_path / "b, c.tif")
    with serve_directory(StacApi([]), tmp_path) as server:
        remote = f"{server.url}/scenes/remote.tif"
        write_band(tmp_path / "scenes" / "remote.tif")
        sources = ["scenes/a.tif", str(tmp_path / "b, c.tif"), remote, "gone.tif", f"{server.url}/gone.tif"]
        forms = {
            "list.txt": "\ufeff# scenes\n\n" + "\r\n".join(sources) + "\n" + sources[0] + "\n",
            "list.csv": "id,source\n" + "".join(f'1,"{source}"\n' for source in sources),
            "list.json": json.dumps(sources),
        }
        for name, text in forms.items():
            (tmp_path / name).write_text(text)
            found = discover(Manifest(path=tmp_path / name))
            assert scene_names(found) == ["a", make_scene_id("b, c"), "remote"], name
            assert [scene.source for scene in found.scenes][1:] == sources[1:3]
            reasons = [scene.reason for scene in found.rejected]
            assert len(reasons) == 2 and "no such file" in reasons[0] and "HTTP 404" in reasons[1]


LONG_SETTLE = 3.0
"""Seconds for which a writer may rest on a busy machine, without its file being taken for whole."""

WRITER = """
import sys, time
from pathlib import Path
data, target = Path(sys.argv[1]).read_bytes(), open(sys.argv[2], "wb", buffering=0)
for start in range(0, len(data), 40):
    target.write(data[start : start + 40])
    time.sleep(0.05)
"""


def test_a_file_that_another_process_writes_is_left_until_it_is_whole(tmp_path: Path) -> None:
    source, folder = write_band(tmp_path / "source.tif"), tmp_path / "inbox"
    folder.mkdir()
    target = folder / "new.tif"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(source), str(target)]) as writer:
        wait_until(target.exists, "a file", pause=0.02)
        seen = 0
        while writer.poll() is None:
            now = look_into_inbox(folder, LONG_SETTLE)
            if writer.poll() is None:
                assert now == Discovery((), (), (str(target),))
                seen += 1
    assert seen > 3
    wait_until(lambda: scene_names(look_into_inbox(folder, LONG_SETTLE)) == ["new"], "a whole file")
    assert target.read_bytes() == source.read_bytes()
