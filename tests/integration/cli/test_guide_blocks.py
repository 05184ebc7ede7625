"""README and guides: every block runs, in the order of its page, on small files that stand for the reader's.

A block that no test can run says why in the line above it: ``<!-- not run: needs a GPU -->``.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import shutil
import sys
import traceback
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest
import rioxarray
import torch
import uvicorn
import yaml
from PIL import Image
from prefect import Flow
from prefect.utilities.callables import get_call_parameters
from starlette.testclient import TestClient

import seamline
from seamline.flows.runs import cluster_session, tuning
from seamline.flows.settings.credentials import connect_with_credentials as connect
from seamline.pipeline.storage.s3_access import S3Access, use_access
from tests.support.guide_blocks import COMMANDS, PAGES, ROOT, Block, read_blocks
from tests.support.guide_files import write_guide_files
from tests.support.s3_server import S3Server, start_s3_server
from tests.support.stac_api_server import StacApi, make_stac_item, serve_directory

FASTER = {
    "simulate": "--size 192 192",
    "segment": "--overwrite --precision fp32 --batch 1 --threads 1",
    "train": "--overwrite --set schedule.epochs=1 --set schedule.steps=1 --set schedule.batch=1 "
    "--set schedule.window=64 --set network.depth=2 --set network.base_width=4",
    "model import": "--overwrite",
    "model tune": "--engine torch --precision fp32 --batch 1 --threads 1 --window 64",
    "serve": "--port 0",
}
"""Words behind a command: it takes less time, and may replace what an earlier block of the page left."""
ELSEWHERE = {
    "make demo": "tests/integration/cli/test_demo.py",
    "make test": ".ci/run",
    "make wheel": "tests/system/install/test_wheel.py",
    "make up": "tests/system/up/test_up.py",
    "make down": "tests/system/up/test_up.py",
    "seamline status": "tests/integration/up/test_status.py",
    "seamline up": "tests/system/up/test_up.py",
    "seamline down": "tests/system/up/test_up.py",
}
"""Commands that another test or CI runs."""
MADE_HERE = {"results": r"seamline[. ]segment\b", "my-model": r"save_model\("}
"""Folders that a page makes itself if it has this: it begins without them."""
STAC_API = "https://earth-search.aws.element84.com/v1"
"""For which a small server stands."""
INSTALLATION = re.compile(r"(source|cd|git clone|make install|(uv )?pip install|python\S* -m (venv|pip))\b")
"""What is done before tests run; ``tests/system/install`` and CI do it."""
ADVICE = """
Mend the block, add what it reads to tests/support/guide_files.py, or write above it why it cannot run:
<!-- not run: needs a GPU -->"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's files, and a folder of results."""
    folder = tmp_path_factory.mktemp("guides")
    write_guide_files(folder)
    options = seamline.SegmentOptions(outputs=("cog", "zarr", "polygons"), engine="torch", precision="fp32")
    seamline.segment(folder / "scene.tif", "land-water-cloud", folder / "results", options)
    return folder


@pytest.fixture(scope="module")
def s3(files: Path) -> Iterator[S3Server]:
    with start_s3_server() as server:
        server.bucket("bucket")
        server.client.upload_file(str(files / "scenes" / "a.tif"), "bucket", "scene.tif")
        yield server


class PageRunner:
    """Runs the blocks of one page in a folder; its Python blocks share their names."""

    def __init__(self, folder: Path, stac_api: str, request: pytest.FixtureRequest) -> None:
        self._folder, self._stac_api, self._request = folder, stac_api, request
        self._names: dict[str, Any] = {
            "my_module": torch.nn.Conv2d(3, 2, 3, padding=1),
            "my_torch_module": torch.nn.Conv2d(3, 2, 3, padding=1),
            "data_array": rioxarray.open_rasterio(folder / "scene.tif")
            .isel(band=[3, 2, 7])
            .assign_coords(band=["red", "green", "nir"])
            * 0.0001,
        }

    def run(self, block: Block) -> str:
        """Return what went wrong; nothing if the block ran."""
        text = re.sub(r"(?<![\w./])/(data|scratch)\b", lambda path: str(self._folder / path[1]), block.text)
        text = text.replace(STAC_API, self._stac_api)
        if block.language in COMMANDS:
            lines = Block(block.page, block.line, block.language, text, "").lines
            return next(filter(None, map(self._run_command, lines)), "")
        try:
            if block.language == "python":
                exec(compile(text, block.place, "exec"), self._names)
            elif block.language == "sql":
                duckdb.sql(text).fetchall()
            elif block.language == "yaml":
                yaml.safe_load(text)
            elif block.language != "text":
                return f"no test knows blocks of {block.language}; formulas and the like are ```text"
        except Exception:  # noqa: BLE001 - whatever a snippet raises is told with its place
            return traceback.format_exc(limit=-3)
        return ""

    def _run_command(self, line: str) -> str:
        words = shlex.split(line)
        while words and re.match("[A-Z_]+=", words[0]):
            self._request.getfixturevalue("monkeypatch").setenv(*words.pop(0).split("=", 1))
        known = next((place for start, place in ELSEWHERE.items() if line.startswith(start)), None)
        if INSTALLATION.match(line) or (known and (ROOT / known).exists()):
            return ""
        if words[:1] != ["seamline"]:
            return f"{line}\nno test runs this program"
        arguments = [part for word in words[1:] for part in self._expand(word)]
        name = next((name for name in FASTER if " ".join(arguments).startswith(name)), "")
        code, out, error = self._request.getfixturevalue("command_line")(*arguments, *shlex.split(FASTER.get(name, "")))
        return f"{line}\nended with exit code {code}: {(error or out)[-800:]}" if code else ""

    def _expand(self, word: str) -> list[str]:
        """Expand a pattern as the shell does."""
        is_pattern = "*" in word and "://" not in word and not word.startswith("/")
        return sorted(str(path.relative_to(self._folder)) for path in self._folder.glob(word)) if is_pattern else [word]


@pytest.fixture
def page_runner(
    files: Path,
    s3: S3Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[PageRunner]:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # of the server that stands for Amazon's
    monkeypatch.setattr(webbrowser, "open", lambda url: True)
    monkeypatch.setattr(uvicorn.Server, "run", _ask_once)
    monkeypatch.setattr(Flow, "__call__", _call_flow)
    # Worker processes would take five seconds of processor time each; other tests start them.
    monkeypatch.setattr(cluster_session, "count_workers", lambda options: 0)
    monkeypatch.setattr(tuning, "connect_with_credentials", lambda keys, address, _: connect(keys, address, 0))
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Prefect logs to what an earlier test captured
    item = make_stac_item("from-api", str(tmp_path / "scenes" / "a.tif"), "sentinel-2-c1-l2a")
    extensions = ("https://api.stacspec.org/v1.0.0/item-search#query",)
    with serve_directory(StacApi([item], extensions=extensions), tmp_path) as api:
        yield PageRunner(tmp_path, api.url, request)
    use_access(S3Access())


def _call_flow(flow: Flow[..., Any], *arguments: Any, **options: Any) -> None:
    """Check the parameters of ``segment-collection`` as Prefect does, and do its work without Prefect's server."""
    assert flow.name == "segment-collection", f"no test calls the flow {flow.name}"
    given = flow.validate_parameters(get_call_parameters(flow.fn, arguments, options))
    seamline.collect(given["scenes"], given["model"], given["out"], given["options"], renew=True)


def _ask_once(server: uvicorn.Server, sockets: object) -> None:
    """Ask the map for its page and its scenes, in place of serving until Ctrl-C."""
    client = TestClient(server.config.app, base_url="http://127.0.0.1")
    assert client.get("/").status_code == 200 and client.get("/scenes").json()["scenes"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_a_page_runs(page: Path, page_runner: PageRunner) -> None:
    blocks = read_blocks(page)
    for name, makes in MADE_HERE.items():
        if any(re.search(makes, block.text) for block in blocks):
            shutil.rmtree(name)
    for block in blocks:
        if block.language == "yaml":  # a page shows a recipe after the command that reads it
            Path("recipe.yaml").write_text(block.text)
    wrong = {block.place: page_runner.run(block) for block in blocks if not block.reason}
    failed = [f"{place}\n{problem}" for place, problem in wrong.items() if problem]
    assert not failed, "\n\n".join([*failed, ADVICE])


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    """The script ``docs/gallery.py``."""
    spec = importlib.util.spec_from_file_location("seamline_gallery", ROOT / "docs" / "gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_gallery_draws_a_scene(gallery: ModuleType, files: Path, tmp_path: Path) -> None:
    studio = gallery.Studio(files, tmp_path)
    gallery.write_picture(gallery.draw_preview("scene.tif", "other-name")(studio), tmp_path / "gallery" / "picture.png")
    with Image.open(tmp_path / "gallery" / "picture.png") as picture:
        assert picture.mode == "P" and picture.width == 1200
    assert (tmp_path / "results" / "other-name" / "item.json").exists()


def test_the_script_makes_every_picture_of_the_documentation(gallery: ModuleType) -> None:
    folder = ROOT / "docs"
    assert {folder / name for name in gallery.PICTURES} == {*folder.glob("*.png"), *folder.glob("gallery/*.png")}
