"""The pages of ``seamline serve``, the files that they link, and what tells them of news."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from morecantile import tms
from pystac import Catalog
from pystac.stac_io import DefaultStacIO
from starlette.testclient import TestClient

from seamline.flows.cli.main import app
from seamline.flows.serving.app import create_app
from seamline.flows.serving.pages import Basemap
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.served_scenes import CLASSES
from tests.unit.serving.test_app import tile

TILES = "https://tiles.example/{z}/{x}/{y}.png"


@pytest.fixture(scope="module")
def client(served_folder: Path) -> Any:
    return TestClient(create_app(served_folder), raise_server_exceptions=False)


def copy_scenes(served_folder: Path, out: Path, *scenes: str) -> Path:
    for scene in scenes:
        shutil.copytree(served_folder / scene, out / scene)
    update_catalog(out)
    return out


def test_the_files_of_a_scene_are_those_of_the_folder(served_folder: Path, tmp_path: Path) -> None:
    out = copy_scenes(served_folder, tmp_path / "out", "utm")
    (out / "utm" / "report.html").write_text("<script>alert(1)</script>")
    (out / "utm" / "notes.txt").write_text("nobody's business")
    client = TestClient(create_app(out))
    listed = {file["name"]: file["size"] for file in client.get("/scenes/utm").json()["files"]}
    assert {"item.json", "segmentation.tif", "polygons.fgb", "report.html", "run.json"} < set(listed)
    for name, size in listed.items():
        answer = client.get(f"/stac/utm/{name}")
        assert answer.content == (out / "utm" / name).read_bytes() and len(answer.content) == size
        shows = "inline" if name.endswith((".html", ".json", ".png")) else "attachment"
        assert answer.headers["Content-Disposition"] == f'{shows}; filename="utm_{name}"'
        policy = answer.headers["Content-Security-Policy"]
        assert "sandbox allow-downloads" in policy and "default-src 'none'" in policy  # so that no script runs
    part = client.get("/stac/utm/segmentation.tif", headers={"Range": "bytes=8-15"})
    whole = (out / "utm" / "segmentation.tif").read_bytes()
    assert (part.status_code, part.content) == (206, whole[8:16])
    for wrong, status in (("bytes=9999999999-", 416), ("bytes=a", 400), ("rows=1-2", 400), ("bytes", 400)):
        answer = client.get("/stac/utm/segmentation.tif", headers={"Range": wrong})
        assert answer.status_code == status and "`Range`" in answer.json()["detail"], wrong
        assert answer.headers.get("Content-Range") == (f"bytes */{len(whole)}" if status == 416 else None)
        assert client.get("/static/style.css", headers={"Range": wrong}).json()["detail"]
    refused = ("notes.txt", ".hidden", "segmentation.zarr", "..%2fcatalog.json", "%2e%2e")
    assert [client.get(f"/stac/utm/{name}").status_code for name in refused] == [404] * len(refused)
    (out / "utm" / "run.json").unlink()
    assert client.get("/stac/utm/segmentation.tif").status_code == 409


def test_the_catalogue_is_one_that_pystac_walks(served_folder: Path, client: Any) -> None:
    class Requests(DefaultStacIO):
        def read_text_from_href(self, href: str) -> str:
            assert href.startswith("http://testserver/stac/")
            return str(client.get(href).text)

    catalog = Catalog.from_file("http://testserver/stac/catalog.json", Requests())
    items = {item.id: item for item in catalog.get_items(recursive=True)}
    assert set(items) == {path.parent.name for path in served_folder.glob("*/item.json")}
    (collection,) = catalog.get_collections()
    table = client.get(collection.assets["items"].get_absolute_href())
    assert table.content == (served_folder / "items.parquet").read_bytes()
    for name, asset in items["utm"].assets.items():
        href = asset.get_absolute_href() or ""
        assert client.get(f"{href}/zarr.json" if name == "zarr" else href).status_code == 200, href


def test_the_store_is_read_below_it_and_nowhere_else(served_folder: Path, tmp_path: Path) -> None:
    out = copy_scenes(served_folder, tmp_path / "out", "utm")
    store, served = out / "utm" / "segmentation.zarr", TestClient(create_app(out))
    (store / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("nobody's business")
    for path in store.rglob("zarr.json"):
        key = path.relative_to(store).as_posix()
        assert served.get(f"/stac/utm/segmentation.zarr/{key}").content == path.read_bytes()
    for key in ("link", "..%2fitem.json", "%2e%2e/item.json", "segmentation", "", "/etc/passwd", "x" * 300, "%00"):
        assert served.get(f"/stac/utm/segmentation.zarr/{key}").status_code == 404, key


def test_hidden_classes_are_not_drawn(client: Any) -> None:
    west, south, east, north = client.get("/scenes/utm").json()["bbox"]
    there = tms.get("WebMercatorQuad").tile((west + east) / 2, (south + north) / 2, 12)
    whole = tile(client, "utm", "segmentation", there.z, there.x, there.y)
    path = f"/scenes/utm/layers/segmentation/tiles/WebMercatorQuad/{there.z}/{there.x}/{there.y}.png?tilesize=256"
    for hidden in ([1], [0, 2], [0, 1, 2]):
        part = tile(client, "utm", "segmentation", there.z, there.x, there.y, hidden=hidden)
        gone = np.zeros(whole.shape[:2], bool)
        for label in hidden:
            gone |= (whole[..., :3] == CLASSES[label].color).all(-1)
        assert gone.any() and (part[gone, 3] == 0).all()
        assert (part[~gone] == whole[~gone]).all()
    told = client.get("/scenes/utm/layers/segmentation/WebMercatorQuad/tilejson.json?hidden=1").json()
    assert "hidden=1" in told["tiles"][0]
    for wrong in ("water", "1;2", "-1", "1,"):
        assert client.get(f"{path}&hidden={wrong}").status_code == 422, wrong
    assert client.get(f"{path}&hidden=1".replace("segmentation", "confidence")).status_code == 422


def test_the_list_has_a_tag_that_changes_with_what_is_published(served_folder: Path, tmp_path: Path) -> None:
    out = copy_scenes(served_folder, tmp_path / "out", "utm")
    client = TestClient(create_app(out))
    first = client.get("/scenes").headers["ETag"]
    again = client.get("/scenes", headers={"If-None-Match": first})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/scenes?datetime=2026", headers={"If-None-Match": first}).status_code == 304
    copy_scenes(served_folder, out, "degrees")
    second = client.get("/scenes", headers={"If-None-Match": first})
    assert second.status_code == 200 and len(second.json()["scenes"]) == 2
    shutil.rmtree(out / "utm")
    assert [scene["id"] for scene in client.get("/scenes").json()["scenes"]] == ["degrees"]
    assert "utm" not in client.get("/stac/catalog.json").text and client.get("/scenes/utm").status_code == 404
    update_catalog(out)
    third = client.get("/scenes", headers={"If-None-Match": second.headers["ETag"]})
    assert [scene["id"] for scene in third.json()["scenes"]] == ["degrees"]
    other = TestClient(create_app(out)).get("/scenes").headers["ETag"]  # after a restart
    assert len({first, second.headers["ETag"], third.headers["ETag"], other}) == 4


def test_a_basemap_widens_what_the_page_may_load_by_its_host_only(served_folder: Path, client: Any) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "http" not in policy and client.get("/scenes").json()["basemap"] is None
    basemap = Basemap("https://tiles.example:8443/{z}/{x}/{y}.png?key=a", "© <b>Maps</b>")
    other = TestClient(create_app(served_folder, basemap=basemap))
    assert other.get("/").headers["Content-Security-Policy"] == policy.replace(
        "connect-src 'self'", "connect-src 'self' https://tiles.example:8443"
    )
    assert other.get("/scenes").json()["basemap"] == {
        "tiles": "https://tiles.example:8443/{z}/{x}/{y}.png?key=a",
        "attribution": "© &lt;b&gt;Maps&lt;/b&gt;",
    }
    assert Basemap("http://127.0.0.1:80/{z}/{y}/{x}").origin == "http://127.0.0.1:80"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tiles.example/{z}/{x}/{y}.png",
        "ftp://tiles.example/{z}/{x}/{y}",
        "https://tiles.example/{z}/{x}.png",
        "https://{s}.tiles.example/{z}/{x}/{y}.png",
        "https://tiles.example/{s}/{z}/{x}/{y}.png",
        "https://*/{z}/{x}/{y}",
        "https://*.example/{z}/{x}/{y}",
        "https://a.example;script-src *;/{z}/{x}/{y}",
        "https://a.example/{z}/{x}/{y}; script-src *",
        "https://a.example 'unsafe-inline'/{z}/{x}/{y}",
        "https://user:word@tiles.example/{z}/{x}/{y}",
        "https://tiles.example:port/{z}/{x}/{y}",
        "https://tiles.example:0/{z}/{x}/{y}",
        "https://[tiles/{z}/{x}/{y}",
        "javascript:alert(1)//{z}{x}{y}",
    ],
)
def test_what_is_no_address_of_tiles_is_refused(url: str, served_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^--basemap: got .*expected the address of tiles in Web Mercator"):
        app(["serve", str(served_folder), "--basemap", url, "--port", "99999"], standalone_mode=False)  # never serves


def test_whose_map_it_is_needs_a_map(served_folder: Path) -> None:
    with pytest.raises(InputError, match="--basemap-attribution: got no --basemap"):
        app(["serve", str(served_folder), "--basemap-attribution", "me"], standalone_mode=False)


def test_every_route_is_described_for_people_and_programs(client: Any) -> None:
    document, page = client.get("/openapi.json").json(), client.get("/docs").text
    assert len(document["paths"]) == 16
    for path, methods in document["paths"].items():
        assert list(methods) == ["get"]
        operation = methods["get"]
        assert operation["summary"] and operation["description"].startswith("Return "), path
        assert f"<code>{path}</code>" in page and f'id="{operation["operationId"]}"' in page
        for parameter in operation.get("parameters", []):
            text = parameter.get("description") or parameter["schema"].get("description")
            assert text, (path, parameter["name"])
            assert f"<code>{parameter['name']}</code>" in page
    # The page loads from this server alone, and runs no script.
    assert "<script" not in page and "http" not in re.sub(r"<code>http://testserver/</code>", "", page)
    assert re.findall(r'(?:src|rel="stylesheet" href)="([^"]*)"', page) == ["static/docs.css"]
    assert client.get("/static/docs.css").status_code == 200


def read_lines(folder: Path, pattern: str) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in folder.glob(pattern)}


def test_modules_of_the_page_are_short_and_load_each_other_only() -> None:
    static = Path(create_app.__code__.co_filename).parent / "static"
    modules = read_lines(static, "*.js")
    assert all(len(lines) <= 400 for lines in modules.values())
    loads: Callable[[str], list[str]] = re.compile(r'from "([^"]+)"').findall
    assert {name[2:] for lines in modules.values() for line in lines for name in loads(line)} < set(modules)
    assert not [line for lines in modules.values() for line in lines if "innerHTML" in line or "://" in line]
