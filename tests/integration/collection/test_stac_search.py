"""Scenes of STAC APIs and catalogues: all that match, once, whatever the network does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely
from pydantic import ValidationError

from seamline.flows.collection.discovery import Discovery, discover
from seamline.flows.collection.scene_sources import StacCatalog, StacSearch
from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.scenes.band_matching import BandNeed
from seamline.pipeline.scenes.open_scene import SceneOptions, open_scene
from seamline.pipeline.storage import web_requests
from tests.support.small_rasters import make_noise, write_geotiff
from tests.support.stac_api_server import CORE, FolderHandler, StacApi, make_stac_item, serve_directory

NAMES = [f"S2_{number:02}" for number in range(25)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_requests, "_RETRY_WAITS", (0.01, 0.01))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StacApi]:
    with serve_directory(
        StacApi([make_stac_item(name, f"https://example.com/{name}.tif") for name in NAMES]), tmp_path
    ) as server:
        yield server


def search(api: StacApi, **fields: Any) -> Discovery:
    return discover(StacSearch(**{"url": api.url, "collections": ("s2",), **fields}))


def names(discovery: Discovery) -> list[str]:
    return [scene.name for scene in discovery.scenes]


@pytest.mark.parametrize("post", [True, False])
def test_all_pages_are_found(api: StacApi, post: bool) -> None:
    api.post = post
    api.items.insert(3, make_stac_item("other", "x.tif", "landsat"))
    found = search(api, bbox=(-61, -4, -60, -3), datetime="2024-06")
    assert names(found) == NAMES and found.rejected == found.waiting == ()
    assert len(api.searches) == 3
    asked = api.searches[0]
    assert asked["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59Z"
    assert asked["bbox"] == ([-61, -4, -60, -3] if post else "-61.0,-4.0,-60.0,-3.0")


def test_a_limit_bounds_items_and_requests(api: StacApi) -> None:
    assert names(search(api, limit=12)) == NAMES[:12]
    assert len(api.searches) == 2


def test_days_are_counted_from_now(api: StacApi) -> None:
    search(api, days=3)
    start, end = api.searches[0]["datetime"].split("/")
    age = datetime.now(UTC) - datetime.fromisoformat(start)
    assert timedelta(days=3) <= age < timedelta(days=3, minutes=5) and end == ".."


def test_filters_are_sent_where_the_api_knows_them_and_refused_elsewhere(api: StacApi) -> None:
    wanted = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 20]}
    for field, value in (("query", {"eo:cloud_cover": {"lt": 20}}), ("filter", wanted)):
        with pytest.raises(InputError, match="DoesNotConformTo"):
            search(api, **{field: value})
        assert api.searches == []  # it would have found everything
    api.extensions = f"{CORE}/item-search#filter", f"{CORE}/item-search#query"
    search(api, filter=wanted, query={"eo:cloud_cover": {"lt": 20}}, limit=1)
    assert api.searches[0]["filter"] == wanted and api.searches[0]["filter-lang"] == "cql2-json"


def test_a_broken_item_is_refused_and_the_others_stay(api: StacApi) -> None:
    broken: list[Any] = [
        make_stac_item("no-assets", "x.tif") | {"assets": {}},
        make_stac_item("no-place", "x.tif") | {"assets": {"a": {"type": "image/tiff"}}},
        make_stac_item("no-time", "x.tif") | {"properties": {}},
        make_stac_item("no-text", "x.tif") | {"id": 7},
        make_stac_item("bad-roles", "x.tif") | {"assets": {"a": {"href": "x.tif", "roles": 3}}},
        make_stac_item("bad-bands", "x.tif") | {"assets": {"a": {"href": "x.tif", "eo:bands": ["blue"]}}},
        {"collection": "s2"},
        "nothing",
        None,
        [1],
    ]
    api.items[7:7] = broken
    found = search(api)
    assert names(found) == NAMES
    assert len(found.rejected) == len(broken)
    assert {"no-assets", "no-place", "no-time", "7", "bad-roles", "bad-bands", "?"} == {
        scene.name for scene in found.rejected
    }
    assert all(scene.reason and "\n" not in scene.reason for scene in found.rejected)


def once(number: int, answer: Callable[[FolderHandler], bool]) -> Callable[[FolderHandler, int], bool]:
    return lambda handler, count: count == number and answer(handler)


def status(code: int, text: str = "{}") -> Callable[[FolderHandler], bool]:
    return lambda handler: handler.send(text.encode(), code) or True


@pytest.mark.parametrize("text", ['{"a": 1}', '{"type": "FeatureCollection"}', '{"features": null}', "[]", "1"])
def test_a_page_that_is_none_is_not_the_last_one(api: StacApi, text: str) -> None:
    """pystac-client takes a document without items for the end."""
    api.trouble = once(2, status(200, text))
    found = search(api)
    assert 0 < len(found.scenes) < len(NAMES)
    assert [scene.reason.startswith("page 2: ") for scene in found.rejected] == [True]
    api.searches.clear()
    api.trouble = once(1, status(200, text))
    with pytest.raises(InputError):
        search(api)


@pytest.mark.parametrize(
    "answer",
    [
        status(503),
        status(429),
        lambda handler: handler.break_off(told=True),
        lambda handler: handler.break_off(told=False),
        lambda handler: handler.stay_silent(0),
        lambda handler: handler.stay_silent(1.5),
    ],
    ids=["busy", "too many", "cut", "cut without a length", "hung up", "slow"],
)
@pytest.mark.parametrize("post", [True, False])
def test_a_page_that_fails_once_is_asked_for_again(
    api: StacApi, answer: Callable[[FolderHandler], bool], post: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_requests, "_TIMEOUT", (5.0, 0.5))
    api.post, api.trouble = post, once(2, answer)
    found = search(api)
    assert names(found) == NAMES and found.rejected == ()
    assert len(api.searches) == 4


def test_a_page_that_never_comes_leaves_what_was_found(api: StacApi) -> None:
    api.trouble = lambda handler, number: number > 1 and status(503)(handler)
    found = search(api)
    assert names(found) == NAMES[:10]
    assert [scene.source for scene in found.rejected] == [api.url]
    assert "page 2: " in found.rejected[0].reason and "HTTP 503 in 3 tries" in found.rejected[0].reason


def test_a_server_that_never_answers_is_asked_twice_and_told(
    api: StacApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web_requests, "_TIMEOUT", (5.0, 0.5))
    monkeypatch.setattr(web_requests, "_RETRY_WAITS", (0.1,) * 9)
    api.trouble = lambda handler, number: handler.stay_silent(1.5)
    with pytest.raises(RunError, match=r"/search does not answer: .*timed out.* in 2 tries"):
        search(api)
    assert "asking again" in caplog.text


@pytest.mark.parametrize("post", [True, False])
def test_a_next_link_that_leads_back_ends(api: StacApi, post: bool) -> None:
    def back(handler: FolderHandler, number: int) -> bool:
        page = api.found({**api.searches[0], "token": "10"})
        page["links"] = api.found({**api.searches[0], "token": "0"})["links"]
        return number >= 2 and (handler.reply(page) or True)

    api.post, api.trouble = post, back
    found = search(api)
    assert names(found) == NAMES[:20] and len(api.searches) == 3
    assert "leads back" in found.rejected[0].reason


def test_an_api_that_is_down_is_a_line(api: StacApi) -> None:
    api.trouble = lambda handler, number: status(502)(handler)
    with pytest.raises(
        RunError, match=rf"{api.url}/search does not answer: HTTP 502 in 3 tries; .*run again"
    ) as caught:
        search(api)
    assert "\n" not in str(caught.value) and len(api.searches) == 3
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9/? does not answer: .*refused"):
        discover(StacSearch(url="http://127.0.0.1:9", collections=("s2",)))


def test_what_is_no_api_is_refused_at_once(api: StacApi, tmp_path: Path) -> None:
    pages = {
        "page.html": "<!doctype html><title>Welcome</title>",
        "catalog.json": json.dumps(pystac.Catalog("static", "files").to_dict()),
        "item.json": json.dumps(make_stac_item("x", "x.tif")),
        "empty.json": "{}",
        "list.json": "[]",
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    for name in (*pages, "missing"):
        with pytest.raises(InputError, match=name) as caught:
            search(api, url=f"{api.url}/{name}")
        assert "\n" not in str(caught.value), name
    api.trouble = lambda handler, number: status(400, '{"description": "no collection s2"}')(handler)
    with pytest.raises(InputError, match=r"HTTP 400.*no collection s2"):
        search(api)
    assert len(api.searches) == 1


def test_redirects_keep_the_question(api: StacApi, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = api.landing

    def moved() -> dict[str, Any]:
        document = landing()
        for link in document["links"][1:]:
            link["href"] = f"{api.url}/moved-search"
        return document

    monkeypatch.setattr(api, "landing", moved)
    assert names(search(api, url=f"{api.url}/moved", limit=3)) == NAMES[:3]
    assert api.searches[0]["collections"] == ["s2"]


def test_an_item_of_an_api_is_a_scene(api: StacApi, tmp_path: Path) -> None:
    raster = write_geotiff(tmp_path / "image.tif", make_noise(3, 16, 16), names=("red", "green", "blue"))
    linked = make_stac_item("Æ ø/1", f"file://{raster}")
    linked["links"] = [{"rel": "self", "href": f"{api.url}/linked.json"}]
    (tmp_path / "linked.json").write_text(json.dumps(linked))
    api.items = [make_stac_item("tile:1", f"{api.url}/image.tif"), linked]
    found = search(api)
    assert [scene.source for scene in found.scenes] == [
        f"{api.url}/collections/s2/items/tile%3A1",
        f"{api.url}/linked.json",
    ]
    api.items[0]["id"] = "tile%3A1"  # as this server looks for it
    for scene in found.scenes:
        opened = open_scene(scene.source, [BandNeed("red")], SceneOptions())
        assert opened.source == scene.source
    assert names(found)[1] == open_scene(found.scenes[1].source, [BandNeed("red")], SceneOptions()).id
    with pytest.raises(InputError, match=r"cannot read .*items/gone.*HTTP 404"):  # between search and read
        open_scene(f"{api.url}/collections/s2/items/gone", [BandNeed("red")], SceneOptions())


def test_fingerprints_are_of_content(api: StacApi, tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        api.items = [make_stac_item("x", "s3://bucket/x.tif") | changes]
        return search(api).scenes[0].fingerprint

    plain = fingerprint()
    assert fingerprint() == plain
    assert fingerprint(links=[{"rel": "self", "href": f"{api.url}/collections/s2/items/x?token=2"}]) == plain
    signed = {"image": api.items[0]["assets"]["image"] | {"href": "s3://bucket/x.tif?signature=1"}}
    assert fingerprint(assets=signed) == plain
    asset = api.items[0]["assets"]["image"]
    others = {
        fingerprint(properties={"datetime": "2024-06-01T10:00:00Z", "updated": "2024-07-01T00:00:00Z"}),
        fingerprint(assets={"image": asset | {"file:checksum": "1220aa"}}),
        fingerprint(assets={"image": asset | {"href": "s3://bucket/y.tif"}}),
    }
    assert len(others) == 3 and plain not in others
    raster = write_geotiff(tmp_path / "x.tif", make_noise(1, 8, 8))
    api.items = [make_stac_item("x", f"file://{raster}")]
    before = search(api).scenes[0]
    assert search(api).scenes[0] == before
    write_geotiff(raster, make_noise(1, 8, 8, seed=1))
    assert search(api).scenes[0].fingerprint != before.fingerprint


# --- static catalogues -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pystac.Catalog]:
    """Eight items in nested catalogues, written by pystac."""
    folder = tmp_path_factory.mktemp("catalogue")
    root = pystac.Catalog("root", "scenes")
    years = {year: pystac.Catalog(str(year), "of a year") for year in (2023, 2024)}
    root.add_children(years.values())
    for number in range(8):
        west = number * 10.0
        scene = pystac.Item(
            f"scene-{number}",
            shapely.geometry.mapping(shapely.box(west, 0, west + 5, 5)),
            [west, 0, west + 5, 5],
            datetime(2023 + number % 2, 1 + number, 1, tzinfo=UTC),
            {},
        )
        scene.add_asset("image", pystac.Asset(f"https://example.com/{number}.tif", media_type="image/tiff"))
        years[2023 + number % 2].add_item(scene)
    root.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return folder, root


@pytest.mark.parametrize(
    "fields",
    [{}, {"bbox": (12, 1, 33, 2)}, {"bbox": (64, -5, 2, 5)}, {"datetime": "2024"}, {"datetime": "2023-03/2024-04-01"}],
)
@pytest.mark.parametrize("remote", [False, True])
def test_a_static_catalogue_is_walked_to_its_end(
    catalogue: tuple[Path, pystac.Catalog], fields: dict[str, Any], remote: bool
) -> None:
    folder, root = catalogue
    wanted = list(root.get_items(recursive=True))
    if box := fields.get("bbox"):
        sides = [(box[0], box[2])] if box[0] <= box[2] else [(box[0], 180), (-180, box[2])]
        wanted = [i for i in wanted if any(i.bbox[0] <= east and i.bbox[2] >= west for west, east in sides)]
    if fields.get("datetime") == "2024":
        wanted = [i for i in wanted if i.datetime.year == 2024]
    elif "datetime" in fields:
        first, last = (datetime(*day, tzinfo=UTC) for day in ((2023, 3, 1), (2024, 4, 2)))
        wanted = [i for i in wanted if first <= i.datetime < last]
    with serve_directory(StacApi([]), folder) as server:
        start = f"{server.url}/catalog.json" if remote else str(folder / "catalog.json")
        found = discover(StacCatalog(href=start, **fields))
        assert names(found) == [i.id for i in wanted] != [] and found.rejected == ()
        before = str(folder)
        hrefs = [i.self_href.replace(before, server.url) if remote else i.self_href for i in wanted]
        assert [scene.source for scene in found.scenes] == hrefs


def test_what_is_broken_in_a_catalogue_stops_nothing(catalogue: tuple[Path, pystac.Catalog], tmp_path: Path) -> None:
    folder, _ = catalogue
    good = json.loads((folder / "2023" / "catalog.json").read_text())
    children = {
        "good.json": json.dumps(
            {
                **good,
                "links": [
                    {"rel": "item", "href": str(folder / "2023" / "scene-0" / "scene-0.json")},
                    {"rel": "child", "href": "./catalog.json"},  # a circle
                    {"rel": "item", "href": "./odd.json"},
                    {"rel": "item", "href": "./gone.json"},
                ],
            }
        ),
        "odd.json": "[1, 2]",
        "torn.json": '{"type": "Catalog", "links": [',
        "other.json": json.dumps({"type": "Feature", "links": []}),
        "links.json": json.dumps({"type": "Catalog", "links": "none"}),
    }
    for name, text in children.items():
        (tmp_path / name).write_text(text)
    links = [{"rel": "child", "href": f"./{name}"} for name in children if name != "odd.json"]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "x", "links": links}))
    found = discover(StacCatalog(href=str(tmp_path / "catalog.json")))
    assert names(found) == ["scene-0"]
    bad = {Path(scene.source).name: scene.reason for scene in found.rejected}
    assert set(bad) == {"odd.json", "gone.json", "torn.json", "other.json", "links.json"}
    assert all(bad.values()) and not any("\n" in reason for reason in bad.values())
    for root in ("odd.json", "gone.json", "torn.json", "other.json"):
        with pytest.raises(InputError, match=root):
            discover(StacCatalog(href=str(tmp_path / root)))


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "example.com"},
        {"bbox": (1, 2, 3)},
        {"bbox": (0, 10, 1, 5)},
        {"datetime": "yesterday"},
        {"datetime": "2024", "days": 3},
        {"days": 0},
        {"collections": ()},
        {"limit": 0},
        {"colections": ("s2",)},
    ],
)
def test_wrong_searches_are_refused_before_they_are_made(fields: dict[str, Any]) -> None:
    StacSearch(url="https://example.com", collections=("s2",))
    with pytest.raises(ValidationError):
        StacSearch(**{"url": "https://example.com", "collections": ("s2",), **fields})
