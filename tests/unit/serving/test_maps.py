"""Routes of maps: a pixel in all periods, read as rasterio reads it, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import rasterio
from pyproj import Transformer
from starlette.testclient import TestClient

from seamline.flows.serving.app import create_app
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.served_scenes import CLASSES, GRIDS, edit_item
from tests.support.small_map import PERIODS

GRID = GRIDS["utm"]


@pytest.fixture(scope="module")
def client(small_map: Path) -> Any:
    return TestClient(create_app(small_map), raise_server_exceptions=False)


def locate(row: int, col: int) -> dict[str, float]:
    """The centre of a pixel."""
    to_degrees = Transformer.from_crs(GRID.crs.proj, "OGC:CRS84", always_xy=True)
    lon, lat = to_degrees.transform(*GRID.pix2wld(col + 0.5, row + 0.5))
    return {"lon": lon, "lat": lat}


@pytest.mark.parametrize(("row", "col"), [(0, 0), (299, 419), (150, 200), (250, 10), (77, 311)])
def test_a_history_has_the_numbers_of_the_rasters(client: Any, small_map: Path, row: int, col: int) -> None:
    answer = client.get("/maps/land/history", params=locate(row, col)).json()
    assert [entry["period"] for entry in answer["periods"]] == sorted(PERIODS, reverse=True)
    for entry in answer["periods"]:
        numbers = []
        for name in ("segmentation", "agreement", "observations"):
            with rasterio.open(small_map / entry["scene"] / f"{name}.tif") as file:
                numbers.append(int(file.read(1)[row, col]))
        label, agreement, seen = numbers
        names = {entry.value: entry.name for entry in CLASSES}
        assert (entry["value"], entry["class"]) == (label, names.get(label))
        assert entry["agreement"] == (None if agreement == 255 else pytest.approx(agreement * 0.004))
        assert (entry["start"][:10], entry["end"][:10]) == (f"{entry['period']}-01-01", f"{entry['period']}-12-31")
        assert entry["observations"] == (None if seen == 65535 else seen)


def test_a_history_of_many_periods_comes_in_parts(client: Any) -> None:
    place = locate(150, 200)
    first = client.get("/maps/land/history", params=place | {"limit": 1}).json()
    second = client.get("/maps/land/history", params=place | {"limit": 1, "first": first["next"]}).json()
    assert [part["periods"][0]["period"] for part in (first, second)] == ["2025", "2024"]
    assert (first["count"], first["next"], second["next"]) == (2, 1, None)


REFUSED = {
    "/maps/land/history?lon=nan&lat=0": 422,
    "/maps/land/history?lon=0": 422,
    "/maps/land/history?lon=0&lat=91": 422,
    "/maps/land/history?lon=0&lat=0": 404,
    "/maps/land/history?lon=0&lat=0&limit=61": 422,
    "/maps/land/history?lon=0&lat=0&first=-1": 422,
    "/maps/other/history?lon=0&lat=0": 404,
    "/maps/..%2fland/history?lon=0&lat=0": 404,
    "/maps/land/scenes?lon=0&lat=0": 422,
    "/maps/land/scenes?lon=0&lat=0&period=2023": 404,
    "/maps/land/scenes?lon=0&lat=0&period=2024": 409,  # the record of this map says nothing
}


def test_bad_requests_are_refused(client: Any) -> None:
    answers = {path: client.get(path) for path in REFUSED}
    assert {path: answer.status_code for path, answer in answers.items()} == REFUSED
    assert all(answer.json()["detail"] for answer in answers.values())


def test_the_list_says_what_belongs_to_a_map(client: Any) -> None:
    listed = client.get("/scenes").json()["scenes"]
    assert [(scene["map"], scene["period"]) for scene in listed] == [("land", period) for period in PERIODS]


@pytest.mark.parametrize("properties", [{"seamline:map": "land"}, {"seamline:period": "2024"}])
def test_a_scene_that_names_only_a_map_or_a_period_is_of_none(
    properties: dict[str, str], served_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(served_folder / "utm", tmp_path / "out" / "utm")
    edit_item(lambda item: item["properties"].update(properties))(tmp_path / "out" / "utm")
    update_catalog(tmp_path / "out")
    client = TestClient(create_app(tmp_path / "out"))
    assert (client.get("/scenes/utm").json()["map"], client.get("/scenes/utm").json()["period"]) == (None, None)
    assert client.get("/maps/land/history?lon=0&lat=0").status_code == 404


def test_a_scene_that_claims_to_be_of_a_map_has_no_record(served_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(served_folder / "utm", tmp_path / "out" / "utm")
    properties = {"seamline:map": "land", "seamline:period": "2024"}
    edit_item(lambda item: item["properties"].update(properties))(tmp_path / "out" / "utm")
    update_catalog(tmp_path / "out")
    client = TestClient(create_app(tmp_path / "out"))
    assert client.get("/maps/land/history", params=locate(150, 200)).status_code == 200
    assert client.get("/maps/land/scenes", params=locate(150, 200) | {"period": "2024"}).status_code == 404
