"""``seamline serve``: what lies below the folder, where it lies, and nothing else; the page in a real browser."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
import uvicorn
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Transformer
from rasterio.features import shapes
from scipy import ndimage
from starlette.testclient import TestClient

from seamline.flows.cli.main import app
from seamline.flows.serving.app import create_app
from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.cog import describe_labels, describe_layer, write_cog
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.zarr_store import (
    ZarrLayout,
    create_store,
    open_labels,
    open_store_raster,
    write_labels,
    write_store_raster,
)
from seamline.pipeline.report.thumbnail import write_overview
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

CLASSES = [
    LabelClass(0, "land", (200, 180, 120)),
    LabelClass(1, "water", (30, 90, 200)),
    LabelClass(2, "ice", (250,) * 3),
]


COLORS = np.array([label.color for label in CLASSES], np.uint8)


SHAPE = (300, 420)


GRIDS = {
    "utm": GeoBox(SHAPE, Affine(30, 0, 600_000, 0, -30, 5_300_000), "EPSG:32620"),
    "degrees": GeoBox(SHAPE, Affine(0.001, 0, 12, 0, -0.0008, 46), "EPSG:4326"),
    "rotated": GeoBox(SHAPE, Affine(30, 0, 500_000, 0, -30, 5_900_000) @ Affine.rotation(25), "EPSG:32633"),
    "nowhere": GeoBox(SHAPE, Affine.identity(), None),
}


ACROSS = {
    "utm": GeoBox(SHAPE, Affine(30, 0, 270_000, 0, -30, 5_300_000), "EPSG:32601"),
    "pacific": GeoBox(SHAPE, Affine(60, 0, 3_326_984, 0, -60, -1_900_000), "EPSG:3832"),
    "east": GeoBox(SHAPE, Affine(0.001, 0, 179.8, 0, -0.0008, 46), "EPSG:4326"),
    "west": GeoBox(SHAPE, Affine(0.001, 0, -180.2, 0, -0.0008, 46), "EPSG:4326"),
}
"""Across the antimeridian; in degrees there are two ways to go on."""


WHEN = datetime(2026, 11, 22, 12, tzinfo=UTC)


def labels_of(seed: int) -> np.ndarray:
    fields = ndimage.gaussian_filter(np.random.default_rng(seed).random((3, *SHAPE)), (0, 12, 12))
    labels = fields.argmax(0).astype(np.uint8)
    labels[:40, :60] = NODATA
    return labels


def publish(folder: Path, grid: GeoBox, labels: np.ndarray) -> None:
    """A scene's results, as a run leaves them, of labels."""
    folder.mkdir(parents=True)
    store = folder / "segmentation.zarr"
    create_store(store, grid, CLASSES, ZarrLayout(128), title="a scene", layers=["probabilities", "confidence"])
    write_labels(store, Window(0, 0, *SHAPE), labels)
    probabilities = np.where(labels == NODATA, NODATA, np.stack([np.where(labels == k, 150, 50) for k in range(3)]))
    values = {"probabilities": probabilities.astype(np.uint8)}
    values["confidence"] = np.where(labels == NODATA, NODATA, 100).astype(np.uint8)
    write_cog(open_labels(store), grid, describe_labels(CLASSES), folder / "segmentation.tif", folder / "s", {})
    for name, layer in values.items():
        write_store_raster(store, name, Window(0, 0, *SHAPE), layer)
        content = describe_layer(LAYERS[name], CLASSES)
        write_cog(open_store_raster(store, name), grid, content, folder / f"{name}.tif", folder / "s", {})
    (folder / "s").rmdir()
    rgb = np.dstack([labels * 60] * 3)[::2, ::2]
    write_overview(rgb, labels[::2, ::2] != NODATA, grid, 2, folder / "overview.tif")
    Image.fromarray(rgb).save(folder / "preview.png")
    table = compute_class_areas(open_labels(store), grid, CLASSES)
    rows = [{"value": row.value, "name": row.name} for row in table]
    record = {"scene": folder.name, "scene_digest": "a", "model_digest": "b", "classes": rows}
    (folder / "run.json").write_text(json.dumps(record))
    model = ModelReference("a U-Net", "ab" * 32, "/models/a/model.json")
    item = build_scene_item(
        folder, folder.name, grid, CLASSES, table, Provenance("a.tif", model, WHEN, WHEN, {}, "by hand")
    )
    write_item(item, folder)
    update_catalog(folder.parent)


def write_polygons(path: Path, grid: GeoBox, labels: np.ndarray) -> None:
    found = list(shapes(labels, mask=labels != NODATA, transform=grid.transform))
    geometries = np.array([shapely.geometry.shape(shape) for shape, _ in found])
    columns = [np.array([int(value) for _, value in found]), shapely.area(geometries)]
    pyogrio.raw.write(path, shapely.to_wkb(geometries), columns, ["class", "area_m2"], crs=str(grid.crs),
                      geometry_type="Polygon", driver="FlatGeobuf")  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "out"
    for seed, (name, grid) in enumerate(GRIDS.items()):
        publish(folder / name, grid, labels_of(seed))
    write_polygons(folder / "utm" / "polygons.fgb", GRIDS["utm"], labels_of(0))
    return folder


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("across") / "out"
    for seed, (name, grid) in enumerate(ACROSS.items()):
        publish(folder / name, grid, labels_of(seed))
        write_polygons(folder / name / "polygons.fgb", grid, labels_of(seed))
    return folder


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(scene: Path) -> None:
        item = json.loads((scene / "item.json").read_text())
        change(item)
        (scene / "item.json").write_text(json.dumps(item))

    return edit


def test_a_scene_that_lies_elsewhere_is_not_there(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "utm", tmp_path / "out" / "utm")
    update_catalog(tmp_path / "out")
    (tmp_path / "out" / "degrees").symlink_to(out / "degrees")
    served = TestClient(create_app(tmp_path / "out"))
    assert served.get("/scenes/degrees").status_code == 404
    assert [scene["id"] for scene in served.get("/scenes").json()["scenes"]] == ["utm"]
    (tmp_path / "out" / "utm" / "polygons.fgb").write_text("<OGRVRTDataSource/>")
    assert served.get("/scenes/utm/polygons?bbox=-63,47,-60,49").status_code == 409
    whole = (out / "utm" / "polygons.fgb").read_bytes()
    for start in range(8, 600, 37):  # behind the magic bytes
        (tmp_path / "out" / "utm" / "polygons.fgb").write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
        assert served.get("/scenes/utm/polygons?bbox=-63,47,-60,49").status_code in (200, 409)


def test_one_line_where_the_server_cannot_start(out: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^address 127\.0\.0\.1:{port}: got Address already in use, expected"):
            app(["serve", str(out), "--port", str(port)], standalone_mode=False)
    with pytest.raises(InputError, match=r"got no catalog\.json"):
        app(["serve", str(tmp_path)], standalone_mode=False)
    with pytest.raises(InputError, match=r"address nowhere\.invalid:8080: got "):
        app(["serve", str(out), "--host", "nowhere.invalid"], standalone_mode=False)


def test_the_command_says_where_and_ends_with_ctrl_c(out: Path) -> None:
    command = [sys.executable, "-m", "seamline", "serve", str(out), "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server,
        ExitStack() as resources,
    ):
        assert server.stdout is not None and server.stderr is not None
        resources.callback(server.kill)
        line = server.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        assert b"maplibre" in urllib.request.urlopen(url, timeout=20).read()
        for host, status in {"localhost": 200, "127.0.0.1:80": 200, "evil.example": 400, "localhost.evil.example": 400,
                             "127.0.0.1.evil.example:80": 400, "": 400}.items():  # fmt: skip
            with closing(HTTPConnection(urlsplit(url).netloc, timeout=20)) as connection:
                connection.request("GET", "/scenes", headers={"Host": host})
                assert connection.getresponse().status == status, host
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0 and server.stderr.read() == ""


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The address of a server in a thread."""
    server = uvicorn.Server(uvicorn.Config(create_app(folder), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def browsing(folder: Path, width: int) -> Iterator[tuple[Any, str, list[str]]]:
    """A page of a headless Chromium, the server's address, and what the console says of errors."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    said: list[str] = []
    with running(folder) as url, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--enable-unsafe-swiftshader", "--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 600})
        page.set_default_timeout(15_000)
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page, url, said
        browser.close()


def colors_at(picture: bytes, points: list[tuple[int, int]]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))[[y for _, y in points], [x for x, _ in points]]


def test_the_page_in_a_browser(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "rotated" / "run.json").unlink()
    asked: list[str] = []
    with browsing(tmp_path / "out", width=900) as (page, url, said):
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}#scene=utm&opacity=1")
        page.wait_for_selector("body[data-ready]")
        settle(page)
        assert page.locator("#scenes button").count() == 4
        assert "no run.json" in page.locator("#scenes .problem").inner_text()
        assert page.locator("#legend tbody tr").count() == 3 and "km²" in page.locator("#legend").inner_text()

        place = centre(out, "utm")
        point = where(page, place)
        label = labels_of(0)[150, 210]
        full = colors_at(page.screenshot(), [point])[0].astype(int)
        assert np.abs(full - COLORS[label]).max() <= 3  # the map is drawn, in the class's colour

        page.locator("#opacity").fill("0")
        settle(page)
        assert page.locator("#percent").inner_text() == "0 %" and "opacity=0" in page.url
        clear = colors_at(page.screenshot(), [point])[0].astype(int)
        assert np.abs(clear - label * 60).max() <= 12  # what is seen now is the scene

        page.mouse.click(*point)
        page.wait_for_selector(".answer")
        assert page.locator(".what").inner_text() == CLASSES[label].name
        assert "60 %" in page.locator(".odds").inner_text() and "utm" in page.locator(".answer").inner_text()

        page.locator("#polygons").check()
        until(page, "() => document.getElementById('polygons-note').textContent.includes('in view')")
        page.locator("#layer").select_option("confidence")
        settle(page)
        assert page.locator("#ramp").inner_text().split() == ["0", "1"]
        link = page.url
        assert {"scene=utm", "layer=confidence", "polygons=1"} <= set(link.split("#")[1].split("&"))

        page.locator("#scenes button", has_text="nowhere").click()
        until(page, "() => document.querySelector('#preview img').naturalWidth > 0")
        page.goto("about:blank")
        page.goto(link)
        page.wait_for_selector("body[data-ready]")
        settle(page)
        assert page.url == link
        assert (page.locator("#layer").input_value(), page.locator("#opacity").input_value()) == ("confidence", "0")
        page.goto(f"{url}#scene=rotated")
        until(page, "() => document.getElementById('message').textContent.includes('no run.json')")
    assert said == []
    assert all(address.startswith((url, "blob:", "data:", "about:")) for address in asked)


HOSTILE = """<img src=x onerror="window.struck=1">'&quot;</title><script>window.struck=1</script>"""


def hostile(item: dict[str, Any]) -> None:
    """Everything that the page shows of an item."""
    item["properties"]["proj:code"] = HOSTILE
    item["properties"]["title"] = HOSTILE
    for entry in item["properties"]["seamline:classes"]:
        entry["name"] += HOSTILE
    for entry in item["assets"]["segmentation"]["classification:classes"]:
        entry["name"], entry["title"] = entry["name"] + HOSTILE, entry.get("title", entry["name"]) + HOSTILE


def recorded(scene: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a scene's record, and the item's word for it."""
    record = json.loads((scene / "run.json").read_text())
    change(record)
    (scene / "run.json").write_text(json.dumps(record))
    edited(lambda item: item["assets"]["run"].update(compute_file_info(scene / "run.json")))(scene)


def test_hostile_names_and_narrow_windows_in_a_browser(out: Path, across: Path, tmp_path: Path) -> None:
    long = "LC09_L2SP_231062_20230723_20230802_02_T1_6b"
    root = tmp_path / f"results_of_{long}"
    publish(root / long, GRIDS["nowhere"], labels_of(1))
    name = "<img src=x onerror='window.struck=1'>&quot;"
    shutil.copytree(out / "utm", root / name)
    shutil.copytree(across / "utm", root / "utm")
    shutil.copytree(out / "degrees", root / "degrees")
    edited(lambda item: item.update(id=name))(root / name)
    edited(hostile)(root / name)

    def rename(record: dict[str, Any]) -> None:
        record["scene"] = name
        for row in record["classes"]:
            row["name"] += HOSTILE if row["value"] != NODATA else ""

    recorded(root / name, rename)
    edited(lambda item: item["assets"]["segmentation"]["classification:classes"][0].update(color_hint='red"><b>'))(
        root / "degrees"
    )
    update_catalog(root)
    with browsing(root, width=390) as (page, url, said):
        page.goto(f"{url}#{urlencode({'scene': name})}")
        page.wait_for_selector("body[data-ready]")
        settle(page)
        wide = "() => document.scrollingElement.scrollWidth > innerWidth"
        assert not page.evaluate(wide)
        listed = page.locator("#scenes").inner_text()
        assert name in listed and all(f"{label.name}{HOSTILE}" in listed for label in CLASSES)
        assert "a damaged item.json" in page.locator("#scenes .problem").inner_text()  # of the colour
        assert page.locator("#scenes .bar i").count() == 3 * len(CLASSES)
        assert page.locator("#title").inner_text() == name and HOSTILE in page.locator("#facts").inner_text()
        assert page.locator("#legend").inner_text().count(HOSTILE) == len(CLASSES)
        page.mouse.click(*where(page, centre(root, name)))
        page.wait_for_selector(".answer")
        assert HOSTILE in page.locator(".what").inner_text() and name in page.locator(".answer").inner_text()
        assert page.locator("#side img, #panel img, .answer img").count() == 1  # the page's own
        assert page.evaluate("() => window.struck === undefined") and not page.evaluate(wide)

        page.set_viewport_size({"width": 900, "height": 600})
        page.locator("#scenes button[data-scene=utm]").click()
        page.locator("#polygons").check()
        until(page, "() => document.getElementById('polygons-note').textContent.includes('in view')")
        settle(page)
        for edge in (180, -180):
            page.evaluate("lon => seamline.map.jumpTo({ center: [lon, 47.775], zoom: 10 })", edge)
            settle(page)
            for lon in (edge - 0.03, edge + 0.03):
                page.mouse.click(*where(page, (lon, 47.775)))
                page.wait_for_selector(".answer")
                assert page.locator(".answer").inner_text().endswith("utm")
                page.evaluate("() => document.querySelector('.maplibregl-popup').remove()")
        assert "in view" in page.locator("#polygons-note").inner_text()
    assert said == []


def settle(page: Any) -> None:
    """Wait until the map has loaded and drawn what it shows."""
    until(page, "() => seamline.map.loaded() && !seamline.map.isMoving()")
    page.evaluate("() => new Promise(done => { seamline.map.once('render', done); seamline.map.triggerRepaint(); })")


def until(page: Any, condition: str) -> None:
    """Wait for a condition in the page, which forbids what Playwright's own waiting would evaluate."""
    end = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def centre(out: Path, scene: str) -> tuple[float, float]:
    with rasterio.open(out / scene / "segmentation.tif") as file:
        x, y = file.transform @ (210.5, 150.5)
        return Transformer.from_crs(file.crs.to_wkt(), "OGC:CRS84", always_xy=True).transform(x, y)  # type: ignore[no-any-return]


def where(page: Any, place: tuple[float, float]) -> tuple[int, int]:
    """The pixel of the page at a longitude and latitude."""
    found = page.evaluate(
        "([lon, lat]) => { const p = seamline.map.project([lon, lat]);"
        "const b = seamline.map.getContainer().getBoundingClientRect(); return [b.x + p.x, b.y + p.y]; }",
        list(place),
    )
    return round(found[0]), round(found[1])
