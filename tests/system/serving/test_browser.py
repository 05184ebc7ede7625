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

import seamline
from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.scene_ref import RejectedSource
from seamline.flows.serving.app import create_app
from seamline.flows.serving.pages import Basemap
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.synthetic.simulate import Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation
from tests.support.run_folders import FIXED_ENGINE
from tests.support.served_scenes import (
    CLASSES,
    COLORS,
    GRIDS,
    edit_item,
    make_smooth_labels,
    publish_labels,
)


@contextmanager
def running(folder: Path, basemap: Basemap | None = None) -> Iterator[str]:
    """The address of a server in a thread."""
    server = uvicorn.Server(uvicorn.Config(create_app(folder, basemap=basemap), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def browsing(folder: Path, width: int, basemap: Basemap | None = None) -> Iterator[tuple[Any, str, list[str]]]:
    """A page of a headless Chromium, the server's address, and what the console says of errors."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    said: list[str] = []
    with running(folder, basemap) as url, playwright.sync_playwright() as driver:
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
    (tmp_path / "out" / "utm" / "report.html").write_text("<h1>utm</h1>")
    asked: list[str] = []
    with browsing(tmp_path / "out", width=900) as (page, url, said):
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}#scene=utm&opacity=1")
        page.wait_for_selector("body[data-ready]")
        settle(page)
        assert page.locator("#scenes button").count() == 4
        assert "no run.json" in page.locator("#scenes .problem").inner_text()
        assert page.locator("#legend tbody tr").count() == 3 and "km²" in page.locator("#legend").inner_text()

        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # past the list
        assert page.evaluate("() => document.activeElement.className") == "maplibregl-canvas"

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

        check_the_swipe(page, point, full, clear)
        check_the_class_switches(page, point, label, full)
        check_the_links(page, url, served_folder / "utm")
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


def test_counts_and_days_of_a_map_in_a_browser(period_folder: Path) -> None:
    with browsing(period_folder, width=900) as (page, url, said):
        page.goto(f"{url}#scene=utm&opacity=1")
        page.wait_for_selector("body[data-ready]")
        settle(page)
        for layer, legend in {
            "agreement": ["0", "1"],
            "observations": ["0", "420"],
            "last_date": ["2022-02-17", "2023-12-27"],
        }.items():
            page.locator("#layer").select_option(layer)
            settle(page)
            assert page.locator("#ramp").inner_text().split() == legend
        page.mouse.click(*where(page, centre(period_folder, "utm")))
        page.wait_for_selector(".answer")
        assert "agreement 0.70 · 211 observations · last 2023-01-03" in page.locator(".answer").inner_text()
    assert said == []


def check_the_swipe(page: Any, point: tuple[int, int], full: np.ndarray, clear: np.ndarray) -> None:
    """Left of the border is the scene, right of it the classes; keys move it, and the address keeps it."""
    page.locator("#opacity").fill("100")
    page.locator("#compare").check()
    page.locator("#divide").focus()
    for key, expected in (("End", clear), ("Home", full)):
        page.keyboard.press(key)
        settle(page)
        seen = colors_at(page.screenshot(), [point])[0].astype(int)
        assert np.abs(seen - expected).max() <= 3, key
    assert "swipe=0" in page.url.split("#")[1].split("&")
    page.locator("#compare").uncheck()
    assert "swipe" not in page.url


def check_the_class_switches(page: Any, point: tuple[int, int], label: int, full: np.ndarray) -> None:
    """A class that is switched off is not drawn; the scene is seen in its place."""
    switch = page.locator(f"#legend [data-label='{label}']")
    switch.focus()
    page.keyboard.press("Space")
    settle(page)
    seen = colors_at(page.screenshot(), [point])[0].astype(int)
    assert np.abs(seen - label * 60).max() <= 12 and f"hidden={label}" in page.url
    assert page.evaluate("() => document.activeElement.dataset.label") == str(label)  # the keyboard stays where it was
    switch.check()
    settle(page)
    assert np.abs(colors_at(page.screenshot(), [point])[0].astype(int) - full).max() <= 3
    page.locator("#opacity").fill("0")


def check_the_links(page: Any, url: str, scene: Path) -> None:
    """The links of the panel lead to the scene's files."""
    until(page, "() => document.querySelectorAll('#links a').length > 0")
    links = {link.inner_text(): link.get_attribute("href") for link in page.locator("#links a").all()}
    names = {"Report": "report.html", "GeoTIFF": "segmentation.tif", "STAC item": "item.json"}
    assert links == {text: f"stac/utm/{name}" for text, name in names.items()}
    page.locator("#files summary").click()
    with page.expect_download() as download:
        page.locator("#files a", has_text="segmentation.tif").first.click()
    assert download.value.suggested_filename == "utm_segmentation.tif"
    assert Path(download.value.path()).read_bytes() == (scene / "segmentation.tif").read_bytes()
    page.locator("#files summary").click()


def listed(page: Any) -> list[str]:
    return [card.get_attribute("data-scene") for card in page.locator("#scenes button").all()]


def test_the_list_is_sorted_filtered_and_follows_what_is_published(served_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for scene, day in (("utm", "2026-03-01"), ("degrees", "2026-01-01"), ("rotated", "2026-02-01")):
        shutil.copytree(served_folder / scene, out / scene)
        edit_item(lambda item, day=day: item["properties"].update(datetime=f"{day}T00:00:00Z"))(out / scene)
    update_catalog(out)
    Ledger(out, "m", "o").record_rejected("/in", [RejectedSource("/in/text.tif", "text", "no <b>raster")])
    water = {path.parent.name: share(path, "water") for path in out.glob("*/item.json")}
    basemap = Basemap("https://tiles.example/{z}/{x}/{y}.png", "Maps of <b>nobody</b>")
    with browsing(out, width=420, basemap=basemap) as (page, url, said):
        picture = io.BytesIO()
        Image.new("RGB", (256, 256), (10, 200, 30)).save(picture, "PNG")
        answer = {
            "body": picture.getvalue(),
            "headers": {"Access-Control-Allow-Origin": "*", "Content-Type": "image/png"},
        }
        page.route("https://tiles.example/**", lambda route: route.fulfill(**answer))
        check_what_is_said_before_the_scenes(page, f"{url}#view=0,0,3")
        page.wait_for_selector("body[data-ready]")
        settle(page)
        at = where(page, (-20, 10))
        assert np.abs(colors_at(page.screenshot(), [at])[0].astype(int) - (10, 200, 30)).max() <= 2
        assert page.locator(".maplibregl-ctrl-attrib-inner").text_content() == "Maps of <b>nobody</b>"
        page.locator("#basemap").uncheck()
        settle(page)
        assert np.abs(colors_at(page.screenshot(), [at])[0].astype(int) - (10, 200, 30)).max() > 50
        assert "basemap=0" in page.url

        assert page.locator("#rejected summary").inner_text() == "1 not segmented"
        page.locator("#rejected summary").click()
        assert page.locator("#rejected li").inner_text() == "text.tif: no <b>raster"
        page.locator("#rejected summary").click()
        assert listed(page) == ["degrees", "rotated", "utm"]
        page.locator("#sort").select_option("newest")
        assert listed(page) == ["utm", "rotated", "degrees"]
        page.locator("#sort").select_option("most:water")
        assert listed(page) == sorted(water, key=lambda scene: -water[scene])
        page.locator("#more summary").click()
        page.locator("#from").fill("2026-02-01")
        assert set(listed(page)) == {"rotated", "utm"} and "2 of 3 scenes" in page.locator("#count").inner_text()
        page.locator("#class").select_option("water")
        page.locator("#least").fill(str(100 * (water["utm"] + water["rotated"]) / 2))
        assert listed(page) == [max("utm", "rotated", key=lambda scene: water[scene])]
        link = page.url
        page.goto("about:blank")
        page.goto(link)
        page.wait_for_selector("body[data-ready]")
        assert page.url == link and len(listed(page)) == 1
        page.locator("#clear").click()
        assert len(listed(page)) == 3 and "least" not in page.url

        shutil.copytree(served_folder / "nowhere", out / "nowhere")
        update_catalog(out)
        page.evaluate("() => window.dispatchEvent(new Event('focus'))")  # a look at the page asks for news
        until(page, "() => document.querySelectorAll('#scenes button').length === 4")
        assert page.locator("#scenes .fresh").count() == 1 and "4 scenes" in page.locator("#folder").inner_text()
        assert page.locator("#status").inner_text() == "1 scene published: nowhere"

        # The list gives way to the panel, and the map stays.
        assert not page.locator("#panel").is_visible()
        page.locator("#scenes button[data-scene=utm]").click()
        assert page.locator("#panel").is_visible() and not page.locator("#side").is_visible()
        page.locator("#panes button").first.click()
        assert (
            page.locator("#side").is_visible() and page.evaluate("() => document.scrollingElement.scrollWidth") == 420
        )
    assert said == []


def check_what_is_said_before_the_scenes(page: Any, address: str) -> None:
    """The page says that it loads, offers no pane without content, and says so where it cannot draw a map."""
    held: list[Any] = []
    page.route("**/scenes", lambda route: held.append(route))
    page.goto(address)
    assert "Loading the scenes…" in page.locator("#side").inner_text()
    assert page.locator("#panes button[data-pane=scene]").is_disabled()
    until(page, "() => seamline.map.loaded()")
    page.unroute("**/scenes")
    for route in held:
        route.continue_()
    blind = page.context.browser.new_page()
    blind.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    blind.goto(address)
    blind.get_by_text("The map needs WebGL").wait_for()
    assert "Loading" not in blind.locator("body").inner_text()
    blind.close()


def share(item: Path, name: str) -> float:
    classes = json.loads(item.read_text())["properties"]["seamline:classes"]
    return next(float(entry["share"]) for entry in classes if entry["name"] == name)


AXE = Path(__file__).parents[3] / "build" / "readers" / "axe" / "axe_playwright_python" / "axe.min.js"


def find_barriers(page: Any) -> list[str]:
    """What axe finds on the page that keeps people out, and elements that are wider than the page."""
    page.evaluate(f"{AXE.read_text()};0")
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    wide = page.evaluate("() => document.scrollingElement.scrollWidth > innerWidth")
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in serious] + ["wider than the page"] * wide


def check_large_numbers(page: Any) -> None:
    """The report of a large scene fits a narrow page, and no name of a class is broken into letters."""
    page.set_viewport_size({"width": 420, "height": 800})
    page.evaluate(
        "() => { for (const [column, text] of [[3, '123,456 km²'], [4, '1,234,567,890']])"
        " for (const cell of document.querySelectorAll(`.classes td:nth-child(${column})`)) cell.textContent = text; }"
    )
    widths = page.evaluate("() => [...document.querySelectorAll('.classes td:first-child')].map(e => e.clientWidth)")
    assert min(widths) >= 100 and not page.evaluate("() => document.scrollingElement.scrollWidth > innerWidth")


def test_axe_finds_nothing_serious(served_folder: Path, tmp_path: Path) -> None:
    if not AXE.is_file():
        pytest.skip("axe is not installed, see .ci/readers")
    write_simulation(Simulation(96, 96, seed=5), tmp_path / "scene.tif")
    options = SegmentOptions(outputs=["cog", "zarr", "polygons", "probabilities"], **FIXED_ENGINE)
    seamline.segment(tmp_path / "scene.tif", "land-water-cloud", tmp_path / "out", options)
    shutil.copytree(served_folder / "nowhere", tmp_path / "out" / "damaged")
    (tmp_path / "out" / "damaged" / "run.json").unlink()
    update_catalog(tmp_path / "out")
    with browsing(tmp_path / "out", width=420) as (page, url, said):
        for width in (420, 1400):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto("about:blank")
            page.goto(f"{url}#scene=scene&swipe=0.5&polygons=1")
            page.wait_for_selector("body[data-ready]")
            settle(page)
            page.locator("#more summary").click()
            assert page.locator("#legend tr.none").count() == 2 and page.locator("#scenes .problem").count() == 1
            assert find_barriers(page) == [], width
            page.evaluate("() => document.querySelector('#panes button[data-pane=scene]').click()")
            page.locator("#files summary").click()
            page.locator("#map canvas").focus()
            page.keyboard.press("Enter")
            page.wait_for_selector(".answer")
            assert "row " in page.locator("#status").inner_text()
            assert page.locator("#crosshair").is_visible()
            assert find_barriers(page) == [], width
            page.locator("#map canvas").focus()
            page.keyboard.press("Escape")
            assert page.locator(".answer").count() == 0
            # Where the server sends the report, it runs no script, and that includes axe.
            for address in (f"{url}docs", (tmp_path / "out" / "scene" / "report.html").as_uri()):
                page.goto(address)
                assert find_barriers(page) == [], (address, width)
        check_large_numbers(page)
        page.goto(f"{url}stac/scene/report.html")
        assert page.locator("h1").inner_text() == "scene" and page.locator(".map img").bounding_box()["height"] > 50
        with page.expect_download() as download:
            page.locator(".files a", has_text="segmentation.tif").first.click()
        assert download.value.suggested_filename == "scene_segmentation.tif"
    assert [line for line in said if "sandboxed" not in line] == []  # which concerns scripts of Playwright


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
