"""``seamline serve``: what lies below the folder and nothing else; how the command starts and ends."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from seamline.flows.cli.main import app
from seamline.flows.serving.app import create_app
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.stac.catalog import update_catalog


def test_a_scene_that_lies_elsewhere_is_not_there(served_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(served_folder / "utm", tmp_path / "out" / "utm")
    update_catalog(tmp_path / "out")
    (tmp_path / "out" / "degrees").symlink_to(served_folder / "degrees")
    served = TestClient(create_app(tmp_path / "out"))
    assert served.get("/scenes/degrees").status_code == 404
    assert [scene["id"] for scene in served.get("/scenes").json()["scenes"]] == ["utm"]
    (tmp_path / "out" / "utm" / "polygons.fgb").write_text("<OGRVRTDataSource/>")
    assert served.get("/scenes/utm/polygons?bbox=-63,47,-60,49").status_code == 409
    whole = (served_folder / "utm" / "polygons.fgb").read_bytes()
    for start in range(8, 600, 37):  # behind the magic bytes
        (tmp_path / "out" / "utm" / "polygons.fgb").write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
        assert served.get("/scenes/utm/polygons?bbox=-63,47,-60,49").status_code in (200, 409)


def test_one_line_where_the_server_cannot_start(served_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^address 127\.0\.0\.1:{port}: got Address already in use, expected"):
            app(["serve", str(served_folder), "--port", str(port)], standalone_mode=False)
    with pytest.raises(InputError, match=r"got no catalog\.json"):
        app(["serve", str(tmp_path)], standalone_mode=False)
    (tmp_path / "scene.tif").touch()
    for wrong, options in (("missing", []), ("scene.tif", ["--allow-empty"])):
        with pytest.raises(InputError, match=r"got no catalog\.json"):
            app(["serve", str(tmp_path / wrong), *options], standalone_mode=False)
    with pytest.raises(InputError, match=r"address nowhere\.invalid:8080: got "):
        app(["serve", str(served_folder), "--host", "nowhere.invalid"], standalone_mode=False)


def test_a_folder_that_is_not_there_yet_is_served_and_shows_its_first_scene(
    served_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    served = TestClient(create_app(out, allow_empty=True))
    assert served.get("/").status_code == 200
    for asked in ("", "?bbox=-180,-90,180,90", "?datetime=2026"):
        assert served.get(f"/scenes{asked}").json()["scenes"] == []
    assert served.get("/scenes?bbox=1,2").status_code == 422
    assert "seamline_scenes_published 0.0" in served.get("/metrics").text
    assert not out.exists()
    shutil.copytree(served_folder / "utm", out / "utm")
    update_catalog(out)
    for asked in ("", "?bbox=-180,-90,180,90"):
        assert [scene["id"] for scene in served.get(f"/scenes{asked}").json()["scenes"]] == ["utm"]
    assert "seamline_scenes_published 1.0" in served.get("/metrics").text


def test_the_command_says_where_and_ends_with_ctrl_c(served_folder: Path) -> None:
    command = [sys.executable, "-m", "seamline", "serve", str(served_folder), "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server,
        ExitStack() as resources,
    ):
        assert server.stdout is not None and server.stderr is not None
        resources.callback(server.kill)
        line = server.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        assert b"maplibre" in urllib.request.urlopen(url, timeout=20).read()
        for host, status in {
            "localhost": 200,
            "127.0.0.1:80": 200,
            "evil.example": 400,
            "localhost.evil.example": 400,
            "127.0.0.1.evil.example:80": 400,
            "": 400,
        }.items():
            with closing(HTTPConnection(urlsplit(url).netloc, timeout=20)) as connection:
                connection.request("GET", "/scenes", headers={"Host": host})
                assert connection.getresponse().status == status, host
        server.send_signal(signal.SIGINT)
        assert server.wait(120) == 0 and server.stderr.read() == ""
