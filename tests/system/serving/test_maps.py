"""Maps on the page of ``seamline serve`` in a real browser: periods, the slider, swipe, the history of a pixel."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from morecantile import tms
from pyproj import Transformer
from scipy import ndimage

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.served_map import build_map
from tests.support.served_scenes import GRIDS, edit_item, make_period_layers, make_smooth_labels, publish_labels
from tests.system.serving.test_browser import AXE, HOSTILE, browsing, colors_at, find_barriers, settle, until, where

MAP_COLORS = {0: (0x8F, 0xAE, 0x5D), 1: (0x2B, 0x6F, 0xB3)}
NAMES = {0: "land", 1: "water", NODATA: "not seen"}
LATEST, BEFORE, EARLIEST = "July 2024", "June 2024", "May 2024"


def read_period(results: Path, period: str, layer: str = "segmentation") -> np.ndarray:
    with rasterio.open(results / "monthly" / f"monthly-{period}" / f"{layer}.tif") as file:
        return file.read(1)  # type: ignore[no-any-return]


def find_changing_place(results: Path) -> tuple[tuple[int, int], tuple[float, float]]:
    """Row and column, longitude and latitude, in the middle of an area that is land in June and not seen in July."""
    before, after = read_period(results, "2024-06"), read_period(results, "2024-07")
    square = np.ones((9, 9))
    wanted = ndimage.binary_erosion(before == 0, square) & ndimage.binary_erosion(after == NODATA, square)
    row, col = (int(part) for part in np.argwhere(wanted)[len(np.argwhere(wanted)) // 2])
    with rasterio.open(results / "monthly" / "monthly-2024-06" / "segmentation.tif") as file:
        place = file.transform @ (col + 0.5, row + 0.5)
        return (row, col), Transformer.from_crs(file.crs.to_wkt(), "OGC:CRS84", always_xy=True).transform(*place)


def open_map(page: Any, url: str, parts: str = "scene=monthly-2024-07&opacity=1") -> None:
    page.goto(f"{url}#{parts}")
    page.wait_for_selector("body[data-ready]")
    settle(page)


def color_at(page: Any, point: tuple[int, int]) -> np.ndarray:
    return colors_at(page.screenshot(), [point])[0].astype(int)


def is_land(color: np.ndarray) -> bool:
    return bool(np.abs(color - MAP_COLORS[0]).max() <= 3)


def parts_of(page: Any) -> set[str]:
    return set(page.url.split("#")[1].split("&"))


def view_of(page: Any) -> str:
    return next(part for part in parts_of(page) if part.startswith("view="))


def test_the_slider_goes_through_the_periods_of_a_map(served_map: Path) -> None:
    _, place = find_changing_place(served_map)
    with browsing(served_map, width=1400) as (page, url, said):
        open_map(page, url)
        assert "6 scenes and 2 maps" in page.locator("#folder").inner_text()
        assert page.locator("#scenes button").count() == 8
        card = page.locator("#scenes button[data-key='map monthly']")
        assert card.inner_text().split("\n")[:2] == ["Map monthly", "July 2024 · 3 periods"]
        shares = card.locator(".shares").inner_text()
        assert page.locator("#title").inner_text() == "monthly" and LATEST in page.locator("#facts").inner_text()

        point, view = where(page, place), view_of(page)
        assert not is_land(color_at(page, point))
        slider = page.get_by_role("slider", name="Period of monthly")
        assert slider.get_attribute("aria-valuetext") == "July 2024, 3 of 3"
        slider.focus()
        page.keyboard.press("ArrowLeft")
        settle(page)
        assert slider.get_attribute("aria-valuetext") == "June 2024, 2 of 3"
        assert is_land(color_at(page, point)) and where(page, place) == point
        assert {"scene=monthly-2024-06", view} <= parts_of(page)
        assert BEFORE in card.inner_text() and card.locator(".shares").inner_text() != shares
        assert page.evaluate("() => document.activeElement.id") == "period"  # the keyboard stays where it was
        for key, period in (("Home", EARLIEST), ("End", LATEST), ("PageDown", BEFORE), ("PageUp", LATEST)):
            page.keyboard.press(key)
            assert page.locator("#period-name").inner_text() == period, key
        page.get_by_role("button", name="Later period").click(force=True)  # although it says that it is disabled
        assert page.locator("#period-name").inner_text() == LATEST  # there is no later one
        page.get_by_role("button", name="Earlier period").click()
        assert page.locator("#period-name").inner_text() == BEFORE

        link = page.url
        page.goto("about:blank")
        open_map(page, url, link.split("#")[1])
        assert page.url == link and slider.get_attribute("aria-valuetext") == "June 2024, 2 of 3"

        page.locator("#scenes button[data-key='map land']").click()
        assert not page.locator("#time").is_visible()  # one period: nothing to choose
        assert not page.locator("#compare-label").is_visible() and "All dates" in page.locator("#facts").inner_text()
        page.locator("#scenes button", has_text="20240706-32632-0").click()
        assert not page.locator("#time").is_visible() and page.locator("#compare-label").is_visible()
        page.locator("#scenes button[data-key='map monthly']").click()
        assert page.locator("#period-name").inner_text() == BEFORE  # as it was left

        page.locator("#filter").fill("june 2024")
        assert [button.get_attribute("data-key") for button in page.locator("#scenes button").all()] == ["map monthly"]
        assert page.locator("#count span").inner_text() == "1 of 6 scenes and 2 maps"
    assert said == []


def test_the_next_period_appears_without_a_flash(served_map: Path) -> None:
    """As long as its tiles are under way the period before is drawn as it was, then the next one, and no mixture."""
    _, place = find_changing_place(served_map)
    with browsing(served_map, width=1400) as (page, url, said):
        open_map(page, url, "scene=monthly-2024-07&opacity=0.7")
        point = where(page, place)
        old = color_at(page, point)
        held, passing = list[Any](), list[bool]()
        came: list[str] = []

        def hold(route: Any) -> None:
            """Hold back all tiles but that of the place, so that the period is there in part."""
            z, x, y = (int(part) for part in re.findall(r"/(\d+)/(\d+)/(\d+)", route.request.url)[0])
            is_there = tms.get("WebMercatorQuad").tile(*place, z) == (x, y, z)
            if is_there:
                came.append(route.request.url)
            if is_there or passing:
                route.continue_()
            else:
                held.append(route)

        page.route("**/scenes/monthly-2024-06/layers/**/tiles/**", hold)
        page.locator("#period").focus()
        page.keyboard.press("ArrowLeft")
        until(page, "() => !seamline.map.loaded()")
        while not (held and came):
            page.wait_for_timeout(20)
        page.wait_for_timeout(500)
        assert page.locator("#period-name").inner_text() == BEFORE
        for _ in range(3):
            assert np.abs(color_at(page, point) - old).max() <= 1
        page.keyboard.press("ArrowRight")  # and back before it has come
        settle(page)
        assert np.abs(color_at(page, point) - old).max() <= 1
        passing.append(True)
        page.keyboard.press("ArrowLeft")
        settle(page)
        drawn = page.evaluate("() => seamline.map.getStyle().layers.filter((layer) => layer.type === 'raster').length")
        assert drawn == 1 and np.abs(color_at(page, point) - old).max() > 30
    assert said == []


def test_a_border_swipes_between_two_periods(served_map: Path) -> None:
    _, place = find_changing_place(served_map)
    with browsing(served_map, width=1400) as (page, url, said):
        open_map(page, url)
        point = where(page, place)
        page.get_by_label("Swipe between two periods").check()
        settle(page)
        assert page.locator("#beside").input_value() == "monthly-2024-06"  # the one before
        assert page.locator("#divider").inner_text().split("\n") == [BEFORE, LATEST]
        border = page.get_by_role("slider", name=f"Border between {BEFORE} and {LATEST}")
        border.focus()
        for key, land, text in (("End", True, f"100 % {BEFORE}, the rest {LATEST}"), ("Home", False, None)):
            page.keyboard.press(key)
            settle(page)
            assert is_land(color_at(page, point)) == land, key
            assert text is None or border.get_attribute("aria-valuetext") == text
        page.get_by_label("On the left").select_option(label=EARLIEST)
        assert {"beside=monthly-2024-05", "swipe=0"} <= parts_of(page)
        page.locator("#period").focus()
        page.keyboard.press("ArrowLeft")
        settle(page)
        assert is_land(color_at(page, point))  # right of the border is June
        assert page.locator("#divider").inner_text().split("\n") == [EARLIEST, BEFORE]
        link = page.url
        page.goto("about:blank")
        open_map(page, url, link.split("#")[1])
        assert page.url == link and page.locator("#beside").input_value() == "monthly-2024-05"
        page.get_by_label("Swipe between two periods").uncheck()
        settle(page)
        assert not page.locator("#swipe").is_visible() and is_land(color_at(page, point))
    assert said == []


def read_history(page: Any) -> list[list[str]]:
    return [row.locator("th, td").all_inner_texts() for row in page.locator("#periods tr").all()]


def test_a_click_tells_the_history_of_a_pixel_and_its_scenes(served_map: Path) -> None:
    (row, col), place = find_changing_place(served_map)
    expected = []
    for period, title in (("2024-07", "Jul 2024"), ("2024-06", "Jun 2024"), ("2024-05", "May 2024")):
        label, agreement, seen, day = (
            int(read_period(served_map, period, layer)[row, col])
            for layer in ("segmentation", "agreement", "observations", "last_date")
        )
        date = np.datetime64("1970-01-01") + day
        shown = "–" if day == 65535 else f"{date.astype(object).day} {date.astype(object):%b}"
        share = "–" if agreement == 255 else f"{round(agreement * 0.4)} %"
        expected.append([title, NAMES[label], share, "–" if seen == 65535 else str(seen), shown])
    with browsing(served_map, width=1400) as (page, url, said):
        page.set_viewport_size({"width": 1400, "height": 900})
        open_map(page, url)
        view = view_of(page)
        page.mouse.click(*where(page, place))
        page.wait_for_selector(".answer")
        assert page.locator(".what").inner_text() == "not seen" and "July 2024" in page.locator(".answer").inner_text()
        assert read_history(page) == expected
        assert page.locator("#periods [aria-current=true]").inner_text() == "Jul 2024"
        assert "history of 3 periods" in page.locator("#status").inner_text()
        hidden = page.locator("#sources li").all_inner_texts()
        assert hidden and all("hides the ground" in text for text in hidden)

        # Another period by the table: the view and the question stay, answer and scenes are of that period.
        page.locator("#periods button", has_text="Jun 2024").focus()
        page.keyboard.press("Enter")
        until(page, "() => document.querySelector('.what')?.textContent === 'land'")
        assert {"scene=monthly-2024-06", view} <= parts_of(page)
        assert page.locator("#periods [aria-current=true]").inner_text() == "Jun 2024"
        assert page.evaluate("() => document.activeElement.textContent") == "Jun 2024"
        sources = page.locator("#sources li").all_inner_texts()
        assert sources and all("20240621-3263" in text and "21 June 2024" in text for text in sources)
        assert sum("hides" not in text for text in sources) == int(expected[1][3])

        # The slider does likewise.
        page.locator("#period").focus()
        page.keyboard.press("ArrowRight")
        until(page, "() => document.querySelector('.what')?.textContent === 'not seen'")
        page.keyboard.press("ArrowLeft")
        until(page, "() => document.querySelector('.what')?.textContent === 'land'")

        link = page.locator("#sources a").first
        scene, href = link.inner_text(), link.get_attribute("href")
        link.focus()
        page.keyboard.press("Enter")
        until(page, f"() => document.querySelector('.answer')?.textContent.endsWith({scene!r})")
        assert page.locator("#title").inner_text() == scene and not page.locator("#history").is_visible()
        assert {f"scene={scene}", view} <= parts_of(page) and page.url.endswith(href or "none")
        page.mouse.click(*where(page, place))  # of a scene there is no history
        page.wait_for_selector(".answer")
        assert not page.locator("#history").is_visible()

        page.locator("#scenes button[data-key='map monthly']").click()
        settle(page)
        page.mouse.click(*where(page, place))
        page.wait_for_selector("#history:not([hidden])")
        page.locator("#map canvas").focus()
        page.keyboard.press("Escape")
        assert not page.locator("#history").is_visible() and page.locator(".answer").count() == 0
    assert said == []


def test_long_histories_come_in_parts(served_map: Path) -> None:
    """With a server that sends one period and one scene at a time."""
    _, place = find_changing_place(served_map)
    with browsing(served_map, width=1400) as (page, url, said):
        page.route("**/maps/**", lambda route: route.continue_(url=f"{route.request.url}&limit=1"))
        open_map(page, url, "scene=land-all")
        page.mouse.click(*where(page, place))
        page.wait_for_selector("#history:not([hidden])")
        more = page.locator("#sources-more")
        before = page.locator("#sources li a").count()
        while more.is_visible():
            more.click()
            until(page, "() => !document.getElementById('sources-more').disabled")
        assert page.locator("#sources li a").count() > before
        page.locator("#scenes button[data-key='map monthly']").click()
        settle(page)
        page.mouse.click(*where(page, place))
        page.wait_for_selector("#history:not([hidden])")
        page.get_by_role("button", name="Show earlier periods").click()
        until(page, "() => document.querySelectorAll('#periods tr').length === 2")
        page.get_by_role("button", name="Show earlier periods").click()
        until(page, "() => document.querySelectorAll('#periods tr').length === 3")
        assert not page.locator("#periods-more").is_visible()
    assert said == []


def test_a_map_on_a_narrow_page_and_with_axe(served_map: Path) -> None:
    _, place = find_changing_place(served_map)
    with browsing(served_map, width=420) as (page, url, said):
        for width in (420, 1400):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto("about:blank")
            open_map(page, url, "scene=monthly-2024-06&swipe=0.5")
            page.evaluate("() => document.querySelector('#panes button[data-pane=scene]').click()")
            settle(page)
            slider, canvas = (page.locator(name).bounding_box() for name in ("#time", "#map canvas"))
            assert slider["x"] >= 0 and slider["x"] + slider["width"] <= width
            # On a phone the slider stands below the map and covers nothing of it.
            assert width > 420 or slider["y"] >= canvas["y"] + canvas["height"] - 1
            page.evaluate("place => seamline.map.jumpTo({ center: place })", list(place))
            settle(page)
            page.locator("#map canvas").focus()
            page.keyboard.press("Enter")
            page.wait_for_selector("#history:not([hidden])")
            page.wait_for_selector(".answer")
            assert page.locator("#periods tr").first.is_visible()
            if AXE.is_file():
                assert find_barriers(page) == [], width
            assert not page.evaluate("() => document.scrollingElement.scrollWidth > innerWidth")
            panel = page.locator("#panel")
            assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
            order = tab_through(page)
            assert order.index("divide") < order.index("period") < order.index("layer") < order.index("beside")
            page.keyboard.press("Escape")
    assert said == []


def tab_through(page: Any) -> list[str]:
    """Ids of the elements that Tab reaches, in their order, from the map on."""
    page.locator("#map canvas").focus()
    found = []
    for _ in range(30):
        page.keyboard.press("Tab")
        found.append(page.evaluate("() => document.activeElement.id"))
    return found


def test_a_map_that_is_renewed_is_shown_anew(region_results: RegionResults, tmp_path: Path) -> None:
    names = [scene.id for scene in region_results.region.scenes]
    results = copy_scenes(region_results, tmp_path / "results", names[:4])
    build_map(results, "monthly", "month")
    with browsing(results, width=1400) as (page, url, said):
        open_map(page, url, "scene=monthly-2024-06")
        x, y = page.evaluate("() => seamline.map.getCenter().toArray()")
        page.mouse.click(*where(page, (x, y)))
        page.wait_for_selector("#history:not([hidden])")
        assert page.locator("#period").get_attribute("aria-valuetext") == "June 2024, 2 of 2"
        assert page.locator("#periods tr").count() == 2
        view = view_of(page)
        copy_scenes(region_results, results, names)
        build_map(results, "monthly", "month")
        page.evaluate("() => window.dispatchEvent(new Event('focus'))")
        until(page, "() => document.getElementById('period').max === '2'")
        assert page.locator("#period").get_attribute("aria-valuetext") == "June 2024, 2 of 3"
        assert page.locator("[data-key='map monthly'] .fresh").count() == 1
        assert {"scene=monthly-2024-06", view} <= parts_of(page)
        until(page, "() => document.querySelectorAll('#periods tr').length === 3")

        # The period that is shown goes with its scenes: the page shows the latest that there is.
        for scene in results.glob("20240621-*"):
            shutil.rmtree(scene)
        update_catalog(results)
        build_map(results, "monthly", "month")
        page.evaluate("() => window.dispatchEvent(new Event('focus'))")
        until(page, "() => document.getElementById('period').max === '1'")
        assert page.locator("#period-name").inner_text() == LATEST and "scene=monthly-2024-07" in page.url
    assert said == []


@pytest.mark.parametrize("name", [HOSTILE, "<img src=x onerror=window.struck=1>&quot;.."])
def test_hostile_names_of_maps_periods_and_scenes(name: str, tmp_path: Path) -> None:
    root = tmp_path / "results"
    labels = make_smooth_labels(0)
    for number in range(2):
        scene = f"<img src=x onerror='window.struck=1'>{number}"
        publish_labels(root / f"s{number}", GRIDS["utm"], labels, make_period_layers(labels))
        properties = {"seamline:map": name, "seamline:period": f"{name}{number}"}
        edit_item(lambda item, properties=properties: item["properties"].update(properties))(root / f"s{number}")
    update_catalog(root)
    answer = {
        "map": name,
        "period": name,
        "count": 2,
        "next": None,
        "scenes": [
            {"scene": scene, "start": None, "end": None, "state": "current", "value": 0, "class": name, "counts": False}
        ],
    }
    with browsing(root, width=420) as (page, url, said):
        page.route("**/maps/*/scenes?*", lambda route: route.fulfill(json=answer))
        open_map(page, url, "scene=s1")
        assert name in page.locator("#scenes").inner_text() and page.locator("#scenes button").count() == 1
        page.evaluate("() => document.querySelector('#panes button[data-pane=scene]').click()")
        assert page.locator("#title").inner_text() == name
        assert name in page.locator("#facts").inner_text() and name in page.locator("#period-name").inner_text()
        page.locator("#compare").check()
        assert name in page.locator("#divider").inner_text()
        page.locator("#compare").uncheck()
        page.keyboard.press("Shift+Tab")
        page.locator("#map canvas").focus()
        page.keyboard.press("Enter")
        if "/" not in name:  # else the address is none of the server's, which says so
            page.wait_for_selector("#history:not([hidden])")
            assert page.locator("#periods tr").count() == 2
            assert scene in page.locator("#sources").inner_text() and name in page.locator("#sources").inner_text()
        else:
            until(page, "() => !document.getElementById('message').hidden")
        assert (
            page.locator("#side img, #panel img, .answer img, #time img, #divider img").count() == 1
        )  # the page's own
        assert page.evaluate("() => window.struck === undefined")
        assert not page.evaluate("() => document.scrollingElement.scrollWidth > innerWidth")
    assert [line for line in said if "404" not in line] == []
