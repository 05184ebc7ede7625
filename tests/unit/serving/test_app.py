"""What ``seamline serve`` answers: lists, tiles, pixels, polygons, and what it refuses."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from matplotlib import colormaps
from morecantile import tms
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Transformer
from scipy import ndimage
from starlette.testclient import TestClient

from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.scene_ref import RejectedSource, SceneRef
from seamline.flows.serving import vectors
from seamline.flows.serving.app import create_app
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.sidecars import build_ramp_style
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.served_scenes import (
    ACROSS,
    CLASSES,
    COLORS,
    GRIDS,
    SHAPE,
    edit_item,
    make_smooth_labels,
    publish_labels,
)

Client = Any


@pytest.fixture(scope="module")
def client(served_folder: Path) -> Client:
    return TestClient(create_app(served_folder), raise_server_exceptions=False)


def tile(client: Client, scene: str, layer: str, z: int, x: int, y: int, hidden: Sequence[int] = ()) -> np.ndarray:
    asked = {"tilesize": 256} | ({"hidden": ",".join(map(str, hidden))} if hidden else {})
    response = client.get(f"/scenes/{scene}/layers/{layer}/tiles/WebMercatorQuad/{z}/{x}/{y}.png", params=asked)
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGBA"))


def expected_labels(grid: GeoBox, labels: np.ndarray, z: int, x: int, y: int) -> np.ndarray:
    """The label below the middle of every pixel of a tile, by pyproj; NODATA beside the scene."""
    left, bottom, right, top = tms.get("WebMercatorQuad").xy_bounds(x, y, z)
    middle = (np.arange(256) + 0.5) / 256
    across, down = np.meshgrid(left + middle * (right - left), top - middle * (top - bottom))
    there = Transformer.from_crs("EPSG:3857", grid.crs.proj, always_xy=True).transform(across, down)
    if grid.crs.geographic:
        there = (grid.extent.boundingbox.left + (there[0] - grid.extent.boundingbox.left) % 360, there[1])
    col, row = (np.floor(part).astype(int) for part in ~grid.transform @ there)
    inside = (row >= 0) & (row < SHAPE[0]) & (col >= 0) & (col < SHAPE[1])
    return np.where(inside, labels[row.clip(0, SHAPE[0] - 1), col.clip(0, SHAPE[1] - 1)], NODATA)


def test_the_list_of_scenes_is_that_of_a_query(client: Client, served_folder: Path) -> None:
    def ids(**parameters: str) -> list[str]:
        return [scene["id"] for scene in client.get("/scenes", params=parameters).json()["scenes"]]

    assert len(ids()) == len(GRIDS)
    west, south, east, north = client.get("/scenes/utm").json()["bbox"]
    assert "utm" in ids(bbox=f"{west},{south},{east},{north}", datetime="2000/..")
    assert ids(bbox="170,80,171,81") == ids(datetime="2000/2001") == []


def test_the_list_names_what_was_rejected_and_why(tmp_path: Path) -> None:
    update_catalog(tmp_path)
    ledger = Ledger(tmp_path, "m", "o")
    there, gone = tmp_path / "four.tif", tmp_path / "gone.tif"
    there.touch()
    for path in (there, gone):
        ledger.record_outcome(SceneRef(str(path), path.stem, "1"), "failed", "bands <b>", "scene")
    ledger.record_rejected("/inbox", [RejectedSource("/inbox/text.tif", "text.tif", "no raster", "2")])
    client = TestClient(create_app(tmp_path))
    assert client.get("/scenes").json()["rejected"] == [
        {"name": "four.tif", "reason": "bands <b>"},
        {"name": "text.tif", "reason": "no raster"},
    ]
    assert client.get("/scenes", params={"bbox": "1,2,3,4"}).json()["rejected"] == []
    ledger.record_rejected("/inbox", [])
    ledger.record_outcome(SceneRef(str(there), "four", "2"), "published")
    assert client.get("/scenes").json()["rejected"] == []


def test_the_list_follows_the_files(served_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(served_folder / "utm", tmp_path / "out" / "utm")
    update_catalog(tmp_path / "out")
    client = TestClient(create_app(tmp_path / "out"))
    assert client.get("/scenes/utm").json()["polygons"]
    (tmp_path / "out" / "utm" / "polygons.fgb").unlink()
    assert client.get("/scenes").json()["scenes"][0]["polygons"] is False
    edit_item(lambda item: item["geometry"].update(type="Heap"))(tmp_path / "out" / "utm")
    assert "problem" in client.get("/scenes?").json()["scenes"][0]


def test_polygons_of_too_many_corners_are_left_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def corners(answer: dict[str, Any]) -> list[int]:
        return sorted(
            shapely.get_num_coordinates(shapely.geometry.shape(one["geometry"])) for one in answer["features"]
        )

    world = "/scenes/utm/polygons?bbox=-180,-90,180,90"
    every = corners(client.get(world).json())
    monkeypatch.setattr(vectors, "_MAX_CORNERS", sum(every) - 1)
    answer = client.get(world).json()
    assert answer["truncated"] and corners(answer) == every[:-1]


def test_a_polygon_without_confidence_has_null(served_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(served_folder / "utm", tmp_path / "out" / "utm")
    update_catalog(tmp_path / "out")
    square = np.array([shapely.to_wkb(shapely.box(601_000, 5_292_000, 602_000, 5_293_000))], object)
    path, unknown = tmp_path / "out" / "utm" / "polygons.fgb", [np.array([np.nan])]
    options = {"crs": "EPSG:32620", "geometry_type": "Polygon", "driver": "FlatGeobuf"}
    pyogrio.raw.write(path, square, unknown, ["confidence"], **options)
    answer = TestClient(create_app(tmp_path / "out")).get("/scenes/utm/polygons?bbox=-180,-90,180,90")
    assert [feature["properties"] for feature in answer.json()["features"]] == [{"confidence": None}]


def test_the_list_of_scenes_takes_no_expression(client: Client) -> None:
    answer = client.get("/scenes", params={"where": "land_share > 0.5"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "parameter where: got land_share > 0.5, expected only bbox and datetime; "
        "leave it out; `seamline query` takes an SQL expression (--where)"
    )


@pytest.mark.parametrize("scene", ["utm", "degrees", "rotated"])
def test_a_tile_shows_each_label_where_it_lies(client: Client, scene: str) -> None:
    summary = client.get(f"/scenes/{scene}").json()
    grid, labels = GRIDS[scene], make_smooth_labels(list(GRIDS).index(scene))
    west, south, east, north = summary["bbox"]
    around = tms.get("WebMercatorQuad").tile((west + east) / 2, (south + north) / 2, 13)
    for x, y in [(around.x, around.y), (around.x - 1, around.y - 1)]:
        seen, want = tile(client, scene, "segmentation", 13, x, y), expected_labels(grid, labels, 13, x, y)
        assert len(np.unique(want)) > 1
        colors = np.where((want == NODATA)[..., None], 0, np.dstack([COLORS[want % 3], np.full(want.shape, 255)]))
        alike = (seen == colors).all(-1) | ((seen[..., 3] == 0) & (want == NODATA))
        assert alike.mean() > 0.99  # GDAL's warper is exact to an eighth of a pixel
        picture = tile(client, scene, "overview", 13, x, y)
        shown = ndimage.binary_erosion(want != NODATA, iterations=4)
        assert (picture[shown, 3] == 255).all()
        assert np.abs(picture[shown, 0].astype(int) - want[shown] * 60.0).mean() < 8


def test_the_legend_has_the_colors_of_the_map_and_of_qgis(client: Client) -> None:
    ramps = client.get("/scenes").json()["ramps"]
    styles = {name: build_ramp_style(LAYERS[name]).iter("item") for name in ("confidence", "disagreement")}
    for name, style in styles.items():
        points = [(float(item.get("value", "")), item.get("color")) for item in style]
        assert [color for _, color in points[::4]] == ramps[name]["colors"] and points[-1][0] == ramps[name][
            "brightest"
        ]
    west, south, east, north = client.get("/scenes/utm").json()["bbox"]
    there = tms.get("WebMercatorQuad").tile((west + east) / 2, (south + north) / 2, 13)
    drawn = tile(client, "utm", "confidence", 13, there.x, there.y)
    expected = colormaps["viridis"](100 * 0.004, bytes=True)[:3]  # all of the layer is digital number 100
    assert np.abs(drawn[drawn[..., 3] == 255, :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("scene", ["utm", "degrees", "rotated"])
def test_a_pixel_tells_its_class_and_probabilities(client: Client, scene: str) -> None:
    grid, labels = GRIDS[scene], make_smooth_labels(list(GRIDS).index(scene))
    to_degrees = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True)
    for row, col in [(0, 0), (299, 419), (150, 200), (41, 59), (77, 311)]:
        lon, lat = to_degrees.transform(*grid.pix2wld(col + 0.5, row + 0.5))
        found = client.get(f"/scenes/{scene}/pixel", params={"lon": lon, "lat": lat}).json()
        label = int(labels[row, col])
        assert (found["row"], found["col"], found["value"]) == (row, col, label)
        assert found["class"] == (None if label == NODATA else CLASSES[label].name)
        odds = [None] * 3 if label == NODATA else [0.6 if k == label else 0.2 for k in range(3)]
        assert list(found["probabilities"].values()) == odds
        assert shapely.Polygon(found["outline"]).contains(shapely.Point(lon, lat))


def test_the_list_has_every_scene_with_shares_and_areas(client: Client) -> None:
    scenes = {scene["id"]: scene for scene in client.get("/scenes").json()["scenes"]}
    assert set(scenes) == set(GRIDS)
    assert scenes["utm"]["date"] == "2026-11-22T12:00:00+00:00"
    assert scenes["utm"]["layers"] == ["segmentation", "overview", "confidence"] and scenes["utm"]["polygons"]
    assert [entry["color"].lower() for entry in scenes["utm"]["classes"]] == ["#c8b478", "#1e5ac8", "#fafafa"]
    assert sum(entry["share"] for entry in scenes["utm"]["classes"]) == pytest.approx(1)
    assert sum(entry["area_m2"] for entry in scenes["utm"]["classes"]) == pytest.approx(
        (300 * 420 - 2400) * 900, rel=2e-3
    )
    assert scenes["nowhere"]["bbox"] is None and scenes["nowhere"]["layers"] == [] and scenes["nowhere"]["preview"]
    assert client.get("/scenes/nowhere/preview.png").headers["content-type"] == "image/png"


def test_polygons_in_a_box_are_those_that_meet_it(client: Client, served_folder: Path) -> None:
    west, south, east, north = client.get("/scenes/utm").json()["bbox"]
    box = (west, south, (west + east) / 2, (south + north) / 2)
    found = client.get("/scenes/utm/polygons", params={"bbox": ",".join(map(str, box))}).json()
    _, _, geometries, columns = pyogrio.raw.read(served_folder / "utm" / "polygons.fgb")
    around = shapely.box(*Transformer.from_crs("OGC:CRS84", "EPSG:32620", always_xy=True).transform_bounds(*box))
    met = [shapely.box(*shape.bounds).intersects(around) for shape in shapely.from_wkb(geometries)]
    areas = sorted(feature["properties"]["area_m2"] for feature in found["features"])
    assert areas == sorted(columns[1][met].tolist()) and 0 < len(areas) < len(met) and not found["truncated"]
    world = client.get("/scenes/utm/polygons", params={"bbox": "-180,-90,180,90"}).json()
    whole = client.get("/scenes/utm/polygons", params={"bbox": f"{west},{south},{east},{north}"}).json()
    assert len(world["features"]) == len(whole["features"]) == len(geometries)
    for aside in ("-1,-1,1,1", f"{east + 1},{south},{east + 2},{north}"):
        beside = client.get("/scenes/utm/polygons", params={"bbox": aside})
        assert (beside.status_code, beside.json()["features"]) == (200, [])
    few = client.get("/scenes/utm/polygons", params={"bbox": f"{west},{south},{east},{north}", "limit": 2}).json()
    assert len(few["features"]) == 2 and few["truncated"]


@pytest.mark.parametrize("scene", ACROSS)
def test_a_scene_across_the_antimeridian_is_whole(antimeridian_folder: Path, scene: str) -> None:
    client, grid = TestClient(create_app(antimeridian_folder)), ACROSS[scene]
    labels = make_smooth_labels(list(ACROSS).index(scene))
    west, south, east, north = client.get(f"/scenes/{scene}").json()["bbox"]
    assert west > 179 and east < -179
    told = client.get(f"/scenes/{scene}/layers/segmentation/WebMercatorQuad/tilejson.json").json()
    assert told["bounds"][::2] == [-180, 180] and 12 <= told["maxzoom"] <= 14
    for lon in (179.999, -179.999):
        there = tms.get("WebMercatorQuad").tile(lon, (south + north) / 2, 11)
        seen, want = (
            found(scene, there)
            for found in (  # the last and the first column of tiles
                lambda scene, at: tile(client, scene, "segmentation", at.z, at.x, at.y)[..., 3] > 0,
                lambda _, at: expected_labels(grid, labels, at.z, at.x, at.y) != NODATA,
            )
        )
        assert want.mean() > 0.1 and (seen == want).mean() > 0.99
    answer = client.get(f"/scenes/{scene}/layers/segmentation/tiles/WebMercatorQuad/11/1000/700.png")
    assert (answer.status_code, answer.content) == (204, b"")  # nothing is there

    to_degrees = Transformer.from_crs(grid.crs.proj, "OGC:CRS84", always_xy=True)
    for row, col in [(0, 0), (150, 5), (150, 415), (299, 419), (150, 200)]:
        lon, lat = to_degrees.transform(*grid.pix2wld(col + 0.5, row + 0.5))
        for turn in (-360, 0, 360):
            place = {"lon": (lon + 180) % 360 - 180 + turn, "lat": lat}
            found = client.get(f"/scenes/{scene}/pixel", params=place).json()
            assert (found["row"], found["col"], found["value"]) == (row, col, labels[row, col])
            assert np.ptp(np.array(found["outline"])[:, 0]) < 0.01

    def areas(*box: float) -> list[float]:
        answer = client.get(f"/scenes/{scene}/polygons", params={"bbox": ",".join(map(str, box))}).json()
        around = [np.ptp(np.array(feature["geometry"]["coordinates"][0])[:, 0]) for feature in answer["features"]]
        assert max(around) < 1  # no polygon goes around the world
        return sorted(feature["properties"]["area_m2"] for feature in answer["features"])

    _, _, _, columns = pyogrio.raw.read(antimeridian_folder / scene / "polygons.fgb")
    left, right = areas(west, south, 180, north), areas(-180, south, east, north)
    assert areas(west, south, east, north) == areas(-180, -90, 180, 90) == sorted(columns[1].tolist())
    assert 0 < len(left) < len(columns[1]) and 0 < len(right) < len(columns[1])


POLES = {
    "south": GeoBox(SHAPE, Affine(0.1, 0, 10, 0, -1 / 6, -40), "EPSG:4326"),
    "globe": GeoBox(SHAPE, Affine(6 / 7, 0, -180, 0, -0.6, 90), "EPSG:4326"),
    "beyond": GeoBox(SHAPE, Affine(0.1, 0, 10, 0, -0.01, 90), "EPSG:4326"),
}
"""To where Web Mercator ends and farther."""


@pytest.mark.parametrize("scene", POLES)
def test_a_scene_that_reaches_a_pole_has_tiles(scene: str, tmp_path: Path) -> None:
    publish_labels(tmp_path / "out" / scene, POLES[scene], make_smooth_labels(0))
    client = TestClient(create_app(tmp_path / "out"))
    told = client.get(f"/scenes/{scene}/layers/segmentation/WebMercatorQuad/tilejson.json")
    assert told.status_code == 200, told.text
    as_large = np.log2(360 / 256 / POLES[scene].transform.a)
    assert abs(told.json()["maxzoom"] - as_large - 2) <= 1  # pixels of several of a tile have their shape


TILE = "/scenes/utm/layers/segmentation/tiles/WebMercatorQuad"
REFUSED = {
    "/scenes?where=land_share > 0.5": 422,
    "/scenes?where=": 422,
    "/scenes?box=0,0,1,1": 422,
    "/scenes?bbox=1,2,3": 422,
    "/scenes?datetime=yesterday": 422,
    "/scenes/other": 404,
    "/scenes/other/preview.png": 404,
    "/scenes/%2e%2e": 404,
    "/scenes/..%2fsecret/preview.png": 404,
    "/scenes/%2e%2e/preview.png": 404,
    "/scenes/.hidden": 404,
    "/scenes/..%5csecret": 404,
    "/scenes/%00": 404,
    f"/scenes/{'x' * 5000}": 404,
    "/scenes/catalog.json": 404,
    "/static/..%2fapp.py": 404,
    "/static/%2e%2e/app.py": 404,
    "/maplibre/..%2f__init__.py": 404,
    "/scenes/utm/layers/run.json/tiles/WebMercatorQuad/0/0/0.png": 422,
    f"{TILE}/0/0/0.exe": 422,
    f"{TILE}/-3/0/0.png": 404,
    f"{TILE}/99/0/0.png": 404,
    f"{TILE}/x/0/0.png": 404,
    f"{TILE}/1000000/0/0.png": 404,
    f"{TILE}/5/-1/0.png": 404,
    f"{TILE}/5/{9**400}/0.png": 404,
    f"{TILE}/0/0/0.png?tilesize=99999": 422,
    "/scenes/utm/layers/segmentation/tiles/Mars/0/0/0.png": 422,
    "/scenes/utm/layers/disagreement/WebMercatorQuad/tilejson.json": 404,
    "/scenes/utm/pixel": 422,
    "/scenes/utm/pixel?lon=nan&lat=0": 422,
    "/scenes/utm/pixel?lon=a&lat=0": 422,
    "/scenes/utm/pixel?lon=0&lat=91": 422,
    "/scenes/utm/pixel?lon=0&lat=0": 404,
    "/scenes/nowhere/pixel?lon=0&lat=0": 404,
    f"{TILE}/0/0/0.png".replace("utm", "nowhere"): 404,
    "/scenes/utm/polygons": 422,
    "/scenes/utm/polygons?bbox=1,2,3": 422,
    "/scenes/utm/polygons?bbox=1,3,2,2": 422,
    "/scenes/utm/polygons?bbox=nan,0,1,1": 422,
    "/scenes/utm/polygons?bbox=0,0,1,1&limit=0": 422,
    "/scenes/rotated/polygons?bbox=0,0,1,1": 404,
}


def test_bad_requests_are_refused_and_nothing_is_changed(client: Client, served_folder: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in served_folder.rglob("*")}

    before = state()
    answers = {path: client.get(path) for path in REFUSED}
    assert {path: answer.status_code for path, answer in answers.items()} == REFUSED
    assert all(answer.json()["detail"] for answer in answers.values())
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/scenes/utm").status_code == 405
    assert client.get("/").status_code == 200
    tile(client, "utm", "confidence", 0, 0, 0)
    assert state() == before


def linked(name: str) -> Callable[[Path], None]:
    """The file lies outside, a link to it in its place."""

    def link(scene: Path) -> None:
        outside = scene.parent.parent / f"outside-{name}"
        (scene / name).rename(outside)
        (scene / name).symlink_to(outside)

    return link


def virtual(scene: Path) -> None:
    """A raster that names another file, under the name of the labels."""
    path = scene / "segmentation.tif"
    secret = path.rename(scene.parent.parent / "secret.tif")
    source = f"<SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource>"
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    path.write_text(f'<VRTDataset rasterXSize="420" rasterYSize="300">{band}</VRTDataset>')
    edit_item(lambda item: item["assets"]["segmentation"].update({"file:size": path.stat().st_size}))(scene)


def zeros(scene: Path) -> None:
    size = (scene / "segmentation.tif").stat().st_size
    (scene / "segmentation.tif").write_bytes(b"\0" * size)


WRONG: dict[str, tuple[Callable[[Path], object], int]] = {
    "unfinished": (lambda scene: (scene / "item.json").unlink(), 409),
    "item that is no JSON": (lambda scene: (scene / "item.json").write_text("{"), 409),
    "item of another scene": (edit_item(lambda item: item.update(id="other")), 409),
    "item without classes": (edit_item(lambda item: item["properties"].pop("seamline:classes")), 409),
    "another record": (lambda scene: (scene / "run.json").write_text("{ }"), 409),
    "no record": (lambda scene: (scene / "run.json").unlink(), 409),
    "half a file": (lambda scene: os.truncate(scene / "segmentation.tif", 2000), 409),
    "other bytes": (zeros, 409),
    "a virtual raster": (virtual, 409),
    "a link out of the folder": (linked("segmentation.tif"), 404),
    "a linked item": (linked("item.json"), 404),
    "no labels": (lambda scene: (scene / "segmentation.tif").unlink(), 404),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_whole_or_lies_elsewhere_is_refused(case: str, served_folder: Path, tmp_path: Path) -> None:
    change, status = WRONG[case]
    copy = tmp_path / "out"
    shutil.copytree(served_folder / "utm", copy / "utm")
    shutil.copytree(served_folder / "degrees", copy / "degrees")
    update_catalog(copy)
    change(copy / "utm")
    served = TestClient(create_app(copy), raise_server_exceptions=False)
    answer = served.get(f"{TILE}/0/0/0.png")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert served.get("/scenes/utm/pixel?lon=-61.58&lat=47.8").status_code == status
    listed = {scene["id"]: scene for scene in served.get("/scenes").json()["scenes"]}
    assert "problem" not in listed["degrees"]  # the others are shown all the same
    tile(served, "degrees", "segmentation", 0, 0, 0)


def test_a_raster_of_other_bytes_and_the_same_size_is_refused_once_it_was_read(
    served_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(served_folder / "utm", tmp_path / "out" / "utm")
    shutil.copytree(served_folder / "degrees", tmp_path / "out" / "degrees")
    update_catalog(tmp_path / "out")
    with (tmp_path / "out" / "utm" / "confidence.tif").open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        flipped = bytes(255 - byte for byte in file.read(1))
        file.seek(-100, os.SEEK_END)
        file.write(flipped)
    served = TestClient(create_app(tmp_path / "out"), raise_server_exceptions=False)
    end = time.monotonic() + 30
    while served.get(f"{TILE}/0/0/0.png".replace("segmentation", "confidence")).status_code != 409:
        assert time.monotonic() < end
    listed = {scene["id"]: scene.get("problem", "") for scene in served.get("/scenes").json()["scenes"]}
    assert "confidence.tif is damaged" in listed["utm"] and listed["degrees"] == ""
    tile(served, "degrees", "confidence", 0, 0, 0)
