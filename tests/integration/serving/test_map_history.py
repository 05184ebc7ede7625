"""What ``seamline serve`` says of a pixel of a map: in all periods, and in the scenes that they were made of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from starlette.testclient import TestClient

from seamline.flows.serving.app import create_app
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.stac.assets import compute_file_info
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.served_map import MONTHS, build_map

NAMES = {0: "land", 1: "water", 2: "cloud", 3: "cloud shadow", NODATA: None}
SEEN = ("land", "water")


@pytest.fixture(scope="module")
def client(served_map: Path) -> Any:
    return TestClient(create_app(served_map), raise_server_exceptions=False)


def copy(served_map: Path, folder: Path) -> Path:
    """A copy of the catalogue: links that are replaced, not written to."""
    shutil.copytree(served_map, folder, copy_function=os.link)
    return folder


def rewrite(path: Path, content: str | bytes) -> None:
    """Write a file whose other links stay as they are."""
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document."""
    document = json.loads(path.read_text())
    change(document)
    rewrite(path, json.dumps(document))


def sample(path: Path, lon: float, lat: float) -> int | None:
    """The number of a raster at a location, by rasterio and pyproj; None beside it."""
    with rasterio.open(path) as file:
        x, y = Transformer.from_crs("OGC:CRS84", file.crs.to_wkt(), always_xy=True).transform(lon, lat)
        row, col = (int(np.floor(part)) for part in (~file.transform @ (x, y))[::-1])
        if not (0 <= row < file.height and 0 <= col < file.width):
            return None
        return int(file.read(1)[row, col])


def list_places(results: Path, count: int = 25) -> list[tuple[float, float]]:
    """Centres of pixels of the map, which lie well inside of the pixels of all scenes, as longitude and latitude."""
    with rasterio.open(results / "monthly" / "monthly-2024-06" / "segmentation.tif") as file:
        labels, transform, crs = file.read(1), file.transform, file.crs.to_wkt()
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    rng = np.random.default_rng(4)
    rows, cols = np.nonzero(labels != NODATA)
    found = []
    while len(found) < count:
        index = rng.integers(rows.size)
        lon, lat = to_degrees.transform(*(transform @ (cols[index] + 0.5, rows[index] + 0.5)))
        if all(is_well_inside(path, lon, lat) for path in results.glob("2024*/segmentation.tif")):
            found.append((lon, lat))
    return found


def is_well_inside(path: Path, lon: float, lat: float) -> bool:
    """Whether a location is not at the edge of a pixel: the map's places are exact to a fiftieth of a pixel."""
    with rasterio.open(path) as file:
        to_grid = Transformer.from_crs("OGC:CRS84", file.crs.to_wkt(), always_xy=True)
        parts = np.array(~file.transform @ to_grid.transform(lon, lat)) % 1
    return bool((np.abs(parts - 0.5) < 0.47).all())


def test_a_history_is_what_the_rasters_of_all_periods_say(client: Any, served_map: Path) -> None:
    for lon, lat in list_places(served_map):
        answer = client.get("/maps/monthly/history", params={"lon": lon, "lat": lat}).json()
        assert (answer["map"], answer["count"], answer["next"]) == ("monthly", 3, None)
        assert [entry["period"] for entry in answer["periods"]] == [*MONTHS][::-1]
        for entry in answer["periods"]:
            folder = served_map / "monthly" / f"monthly-{entry['period']}"
            numbers = {
                name: sample(folder / f"{name}.tif", lon, lat)
                for name in ("segmentation", "agreement", "observations", "last_date")
            }
            label, agreement, seen, day = numbers.values()
            assert (entry["value"], entry["class"]) == (label, NAMES[label or 0])
            assert entry["agreement"] == (None if agreement == 255 else pytest.approx(agreement * 0.004))
            assert entry["observations"] == (None if seen == 65535 else seen)
            assert entry["last_date"] == (None if day == 65535 else str(np.datetime64("1970-01-01") + day))
            assert entry["scene"] == f"monthly-{entry['period']}" and entry["start"].startswith(entry["period"])
        west, south = np.min(answer["outline"], axis=0)
        east, north = np.max(answer["outline"], axis=0)
        assert west < lon < east and south < lat < north


def test_the_scenes_of_a_pixel_are_those_that_its_layers_count(client: Any, served_map: Path) -> None:
    """``observations`` and ``agreement`` of the map are an oracle for the list of scenes; so are their own rasters."""
    for lon, lat in list_places(served_map):
        for name, period in [("land", "all"), *(("monthly", month) for month in MONTHS)]:
            answer = client.get(f"/maps/{name}/scenes", params={"period": period, "lon": lon, "lat": lat}).json()
            folder = served_map / name / f"{name}-{period}"
            votes = [scene["class"] for scene in answer["scenes"] if scene["counts"]]
            assert len(votes) == sample(folder / "observations.tif", lon, lat) % 65535
            if votes:
                label = NAMES[sample(folder / "segmentation.tif", lon, lat)]
                share = sample(folder / "agreement.tif", lon, lat) * 0.004
                assert votes.count(label) / len(votes) == pytest.approx(share, abs=0.002)
            rasters = {path.parent.name: sample(path, lon, lat) for path in served_map.glob("2024*/segmentation.tif")}
            of_period = {scene: value for scene, value in rasters.items() if period == "all" or is_in(scene, period)}
            assert {scene["scene"]: scene["value"] for scene in answer["scenes"]} == {
                scene: value for scene, value in of_period.items() if value not in (None, NODATA)
            }
            assert answer["count"] == sum(value is not None for value in of_period.values())
            assert all(scene["state"] == "current" for scene in answer["scenes"])
            assert all(scene["counts"] == (scene["class"] in SEEN) for scene in answer["scenes"])
            days = [scene["start"] for scene in answer["scenes"]]
            assert days == sorted(days, reverse=True)


def is_in(scene: str, month: str) -> bool:
    return scene.startswith(month.replace("-", ""))


def test_every_place_in_a_pixel_has_the_answer_of_its_centre(client: Any, served_map: Path) -> None:
    """Scenes have other pixels: which of them counts is decided at the centre of the map's pixel."""
    with rasterio.open(served_map / "land" / "land-all" / "observations.tif") as file:
        counts, transform, crs = file.read(1).astype(int), file.transform, file.crs.to_wkt()
    edges = np.argwhere((np.diff(counts, axis=1)[:-1] != 0) & (np.diff(counts, axis=0)[:, :-1] != 0))
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    for row, col in np.random.default_rng(1).choice(edges, 8):
        places = [
            to_degrees.transform(*(transform @ (col + 0.5 + 0.45 * right, row + 0.5 + 0.45 * down)))
            for right, down in ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1))
        ]
        for path in ("/maps/monthly/history?", "/maps/land/scenes?period=all&"):
            answers = [client.get(f"{path}lon={lon}&lat={lat}").json() for lon, lat in places]
            assert all(answer == answers[0] for answer in answers) and answers[0]["count"]


@pytest.mark.parametrize("turn", [-360, 360])
def test_longitudes_wrap(client: Any, served_map: Path, turn: int) -> None:
    (lon, lat), *_ = list_places(served_map, 1)
    for path in ("/maps/monthly/history?", "/maps/monthly/scenes?period=2024-06&"):
        first, other = (client.get(f"{path}lon={x}&lat={lat}").json() for x in (lon, lon + turn))
        assert first == other


def test_long_lists_come_in_parts(client: Any, served_map: Path) -> None:
    (lon, lat), *_ = list_places(served_map, 1)
    for path, key in {"/maps/monthly/history": "periods", "/maps/land/scenes": "scenes"}.items():
        asked: dict[str, Any] = {"lon": lon, "lat": lat} | ({"period": "all"} if key == "scenes" else {})
        whole = client.get(path, params=asked).json()
        found, first = [], 0
        while first is not None:
            part = client.get(path, params=asked | {"limit": 1, "first": first}).json()
            assert part["count"] == whole["count"] and len(part[key]) <= 1
            found += part[key]
            first = part["next"]
        assert found == whole[key] and len(found) > 1
        beyond = client.get(path, params=asked | {"first": 1000}).json()
        assert (beyond[key], beyond["next"]) == ([], None)


PLACE = "lon=12.0&lat=48.02"
REFUSED = {
    "/maps/monthly/history": 422,
    "/maps/monthly/history?lon=12": 422,
    "/maps/monthly/history?lon=nan&lat=0": 422,
    "/maps/monthly/history?lon=inf&lat=0": 422,
    "/maps/monthly/history?lon=0&lat=90.1": 422,
    "/maps/monthly/history?lon=541&lat=0": 422,
    "/maps/monthly/history?lon=0&lat=0": 404,
    "/maps/monthly/history?lon=-168&lat=-48": 404,
    f"/maps/monthly/history?{PLACE}&limit=0": 422,
    f"/maps/monthly/history?{PLACE}&limit=61": 422,
    f"/maps/monthly/history?{PLACE}&first=-1": 422,
    f"/maps/monthly/history?{PLACE}&first={10**30}": 422,
    f"/maps/other/history?{PLACE}": 404,
    f"/maps/20240514-32632-0/history?{PLACE}": 404,
    f"/maps/monthly-2024-05/history?{PLACE}": 404,
    f"/maps/..%2fresults/history?{PLACE}": 404,
    f"/maps/%00/history?{PLACE}": 404,
    f"/maps/{'x' * 5000}/history?{PLACE}": 404,
    f"/maps/monthly/scenes?{PLACE}": 422,
    f"/maps/monthly/scenes?{PLACE}&period=2024-08": 404,
    f"/maps/monthly/scenes?{PLACE}&period=all": 404,
    f"/maps/monthly/scenes?{PLACE}&period=..%2f2024-05": 404,
    f"/maps/monthly/scenes?{PLACE}&period=2024-05&limit=61": 422,
    "/maps/monthly/scenes?lon=nan&lat=0&period=2024-05": 422,
    "/maps/monthly/scenes?lon=0&lat=0&period=2024-05": 404,
    f"/maps/other/scenes?{PLACE}&period=2024-05": 404,
}


def test_bad_requests_are_refused(client: Any) -> None:
    answers = {path: client.get(path) for path in REFUSED}
    assert {path: answer.status_code for path, answer in answers.items()} == REFUSED
    assert all(answer.json()["detail"] for answer in answers.values())


def test_the_list_says_which_results_are_periods_of_a_map(client: Any) -> None:
    listed = client.get("/scenes").json()["scenes"]
    found = {scene["id"]: (scene["map"], scene["period"]) for scene in listed}
    assert {key: value for key, value in found.items() if not key.startswith("2024")} == {
        "land-all": ("land", "all"),
        **{f"monthly-{month}": ("monthly", month) for month in MONTHS},
    }
    assert all(value == (None, None) for key, value in found.items() if key.startswith("2024"))


def test_scenes_that_are_gone_replaced_or_damaged_are_told_apart(
    served_map: Path, region_results: RegionResults, tmp_path: Path
) -> None:
    results = copy(served_map, tmp_path / "results")
    lon, lat = next(place for place in list_places(served_map, 60) if count_scenes(served_map, place) == 2)
    asked = {"period": "2024-06", "lon": lon, "lat": lat}
    west, east = results / "20240621-32632-0", results / "20240621-32633-0"
    edit(west / "run.json", lambda record: record.update(seconds={}))
    edit(west / "item.json", lambda item: item["assets"]["run"].update(compute_file_info(west / "run.json")))
    shutil.rmtree(east)
    update_catalog(results)
    client = TestClient(create_app(results))
    states = {one["scene"]: one["state"] for one in client.get("/maps/monthly/scenes", params=asked).json()["scenes"]}
    assert states == {west.name: "replaced", east.name: "absent"}
    rewrite(west / "segmentation.tif", bytes((west / "segmentation.tif").stat().st_size))
    scenes = client.get("/maps/monthly/scenes", params=asked).json()["scenes"]
    assert {one["scene"]: (one["state"], one["value"], one["counts"]) for one in scenes} == {
        west.name: ("damaged", None, False),
        east.name: ("absent", None, False),
    }


def count_scenes(results: Path, place: tuple[float, float]) -> int:
    values = [sample(path, *place) for path in results.glob("20240621*/segmentation.tif")]
    return sum(value not in (None, NODATA) for value in values)


def test_a_map_that_is_served_by_itself_names_its_scenes(served_map: Path) -> None:
    """They lie beside the folder that is served, so that nothing of them is read."""
    client = TestClient(create_app(served_map / "monthly"))
    (lon, lat), *_ = list_places(served_map, 1)
    assert len(client.get(f"/maps/monthly/history?lon={lon}&lat={lat}").json()["periods"]) == 3
    scenes = client.get(f"/maps/monthly/scenes?period=2024-06&lon={lon}&lat={lat}").json()["scenes"]
    assert scenes and {(one["state"], one["value"]) for one in scenes} == {("absent", None)}


def damage_record(results: Path) -> None:
    rewrite(results / "monthly" / "map.json", "{}")


def damage_grid(results: Path) -> None:
    def flatten(record: dict[str, Any]) -> None:
        for scene in record["periods"]["2024-06"]:
            scene["grid"]["transform"] = [0] * 6

    edit(results / "monthly" / "map.json", flatten)


def damage_crs(results: Path) -> None:
    edit(results / "monthly" / "map.json", lambda record: record["definition"].update(crs="EPSG:nowhere"))


def link_record(results: Path) -> None:
    path = results / "monthly" / "map.json"
    path.rename(results.parent / "elsewhere.json")
    path.symlink_to(results.parent / "elsewhere.json")


@pytest.mark.parametrize(
    ("damage", "status"), [(damage_record, 409), (damage_grid, 409), (damage_crs, 409), (link_record, 404)]
)
def test_a_record_that_cannot_be_used_is_refused(damage: Any, status: int, served_map: Path, tmp_path: Path) -> None:
    results = copy(served_map, tmp_path / "results")
    client = TestClient(create_app(results), raise_server_exceptions=False)
    (lon, lat), *_ = list_places(served_map, 1)
    path = f"/maps/monthly/scenes?period=2024-06&lon={lon}&lat={lat}"
    assert client.get(path).status_code == 200
    damage(results)
    answer = client.get(path)
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)
    assert client.get(f"/maps/monthly/history?lon={lon}&lat={lat}").status_code == 200


def test_a_damaged_period_does_not_hide_the_others(served_map: Path, tmp_path: Path) -> None:
    results = copy(served_map, tmp_path / "results")
    client = TestClient(create_app(results), raise_server_exceptions=False)
    (lon, lat), *_ = list_places(served_map, 1)
    path = f"/maps/monthly/history?lon={lon}&lat={lat}"
    before = client.get(path).json()["periods"]
    raster = results / "monthly" / "monthly-2024-06" / "agreement.tif"
    rewrite(raster, bytes(raster.stat().st_size))
    latest, damaged, earliest = client.get(path).json()["periods"]
    assert [latest, earliest] == [before[0], before[2]]
    assert damaged["period"] == "2024-06" and damaged["problem"] and "class" not in damaged


def test_a_layer_that_changes_is_another_version(served_map: Path, tmp_path: Path) -> None:
    """One more scene may change agreement and observations and no label; the page is to draw them anew."""
    results = copy(served_map, tmp_path / "results")
    client = TestClient(create_app(results))
    first = client.get("/scenes/monthly-2024-06").json()["version"]
    path = results / "monthly" / "monthly-2024-06" / "item.json"
    edit(path, lambda item: item["properties"].update(title="other"))
    assert client.get("/scenes/monthly-2024-06").json()["version"] == first
    edit(path, lambda item: item["assets"]["agreement"].update({"file:checksum": "1220" + 64 * "0"}))
    assert client.get("/scenes/monthly-2024-06").json()["version"] != first


def test_a_renewed_map_is_read_anew(region_results: RegionResults, tmp_path: Path) -> None:
    west = [scene.id for scene in region_results.region.scenes if scene.zone == 0]
    results = copy_scenes(region_results, tmp_path / "results", west)
    build_map(results, "land", "all")
    client = TestClient(create_app(results))
    centres = [scene.grid.extent.to_crs("OGC:CRS84").centroid.coords[0] for scene in region_results.region.scenes]
    lon, lat = np.mean(centres, 0)  # which scenes of both zones show
    path = f"/maps/land/scenes?period=all&lon={lon}&lat={lat}"
    before = client.get(path).json()
    copy_scenes(region_results, results)
    build_map(results, "land", "all")
    after = client.get(path).json()
    values = [sample(path, lon, lat) for path in results.glob("2024*/segmentation.tif")]
    assert before["count"] < after["count"] == sum(value is not None for value in values)
    assert {one["scene"] for one in before["scenes"]} < {one["scene"] for one in after["scenes"]}
