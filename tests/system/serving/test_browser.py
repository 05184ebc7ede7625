"""The page of ``seamline serve`` in a real browser."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import rasterio
import uvicorn
from PIL import Image
from pyproj import Transformer

from seamline.flows.serving.app import create_app
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.served_scenes import (
    CLASSES,
    COLORS,
    GRIDS,
    edit_item,
    make_smooth_labels,
    publish_labels,
)


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


def test_the_page_in_a_browser(served_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(served_folder, tmp_path / "out")
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

        place = centre(served_folder, "utm")
        point = where(page, place)
        label = make_smooth_labels(0)[150, 210]
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
    edit_item(lambda item: item["assets"]["run"].update(compute_file_info(scene / "run.json")))(scene)


def test_hostile_names_and_narrow_windows_in_a_browser(
    served_folder: Path, antimeridian_folder: Path, tmp_path: Path
) -> None:
    long = "LC09_L2SP_231062_20230723_20230802_02_T1_6b"
    root = tmp_path / f"results_of_{long}"
    publish_labels(root / long, GRIDS["nowhere"], make_smooth_labels(1))
    name = "<img src=x onerror='window.struck=1'>&quot;"
    shutil.copytree(served_folder / "utm", root / name)
    shutil.copytree(antimeridian_folder / "utm", root / "utm")
    shutil.copytree(served_folder / "degrees", root / "degrees")
    edit_item(lambda item: item.update(id=name))(root / name)
    edit_item(hostile)(root / name)

    def rename(record: dict[str, Any]) -> None:
        record["scene"] = name
        for row in record["classes"]:
            row["name"] += HOSTILE if row["value"] != NODATA else ""

    recorded(root / name, rename)
    edit_item(lambda item: item["assets"]["segmentation"]["classification:classes"][0].update(color_hint='red"><b>'))(
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


def centre(served_folder: Path, scene: str) -> tuple[float, float]:
    with rasterio.open(served_folder / scene / "segmentation.tif") as file:
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
