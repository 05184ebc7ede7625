"""The scenes of a map, chosen from catalogues on disk and in object storage; what cannot be fused is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from scipy.spatial import cKDTree

from seamline.pipeline.common import extras
from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.mosaic import selection
from seamline.pipeline.mosaic.map_record import MapScene
from seamline.pipeline.mosaic.periods import PeriodRule
from seamline.pipeline.mosaic.selection import SceneChoice, Selection, select_scenes
from seamline.pipeline.publishing.upload import upload
from seamline.pipeline.results.map_copies import MAP_PROPERTY
from seamline.pipeline.stac import query, waiting
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.stac.items import list_text_columns, read_table
from seamline.pipeline.storage.object_store import ObjectFolder
from tests.support.catalogues import count_files
from tests.support.map_scenes import CLASSES, SIZE, make_scene_grid, publish_map_scene
from tests.support.s3_server import S3Server, start_s3_server

UTM = CRS("EPSG:32620")
EDGE = SIZE * 30
"""Metres along an edge of a scene."""
SCENES: dict[str, dict[str, Any]] = {
    "july": {"acquired": "2024-07-23T14:20:00Z"},
    "august": {"acquired": "2024-08-01", "grid": make_scene_grid(600_000 + EDGE)},
    "december": {"acquired": "2024-12-31", "files": ("cog", "probabilities")},
    "next-zone": {
        "acquired": "2025-01-01",
        "grid": make_scene_grid(200_000, crs="EPSG:32621"),
        "files": ("zarr", "probabilities"),
    },
    "undated": {"acquired": None},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scenes of one model, and a map of them."""
    out = tmp_path_factory.mktemp("it's [a] *folder*") / "results"
    for scene, options in SCENES.items():
        publish_map_scene(out, scene, **options)
    edit_item(publish_map_scene(out, "map-2024"), lambda item: item["properties"].update({MAP_PROPERTY: "map"}))
    update_catalog(out)
    return out


@pytest.fixture
def out(published: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(published, tmp_path / "results"))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with start_s3_server() as running:
        yield running


def edit_item(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    item = json.loads((folder / "item.json").read_text())
    change(item)
    (folder / "item.json").write_text(json.dumps(item))


def choose(period: str = "all", **options: Any) -> SceneChoice:
    return SceneChoice(PeriodRule.parse(period), options.pop("crs", UTM), **options)


def list_ids(selection: Selection) -> dict[str, list[str]]:
    return {name: [scene.id for scene in scenes] for name, scenes in selection.periods.items()}


def refuse(out: Path | ObjectFolder, choice: SceneChoice) -> str:
    with pytest.raises(InputError) as refused:
        select_scenes(out, choice)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("all", {"all": sorted(SCENES)}),
        ("year", {"2024": ["august", "december", "july"], "2025": ["next-zone"]}),
        ("season", {"2024-JJA": ["august", "july"], "2025-DJF": ["december", "next-zone"]}),
        ("month", {"2024-07": ["july"], "2024-08": ["august"], "2024-12": ["december"], "2025-01": ["next-zone"]}),
        ("2024-08/2024-12-30", {"2024-08-01_2024-12-30": ["august"]}),
    ],
)
def test_scenes_are_put_into_periods(published: Path, period: str, expected: dict[str, list[str]]) -> None:
    selection = select_scenes(published, choose(period))
    assert list_ids(selection) == expected and list(selection.periods) == list(expected)
    left_out = ["left out: 1 scene of unknown time; --period all takes them in: undated"]
    assert list(selection.warnings) == ([] if period == "all" else left_out)


def test_what_is_told_of_scenes(published: Path) -> None:
    """Neither an item nor a pixel is read."""
    with count_files() as opened:
        selection = select_scenes(published, choose())
    assert not [path for path in opened if Path(path).name in ("item.json", "segmentation.tif")]
    assert (selection.model, selection.unseen) == ("a U-Net", ("cloud",))
    assert [(entry.value, entry.name, entry.color) for entry in selection.classes] == [
        (entry.value, entry.name, entry.color) for entry in CLASSES
    ]
    assert not selection.skipped
    scenes = {scene.id: scene for scene in selection.periods["all"]}
    for name, scene in scenes.items():
        folder = published / name
        item = json.loads((folder / "item.json").read_text())
        assert scene.version == item["assets"]["run"]["file:checksum"]
        assert selection.model_digest == item["properties"]["model_digest"]
        assert (scene.folder, scene.href) == (str(folder), str(folder / "item.json"))
        assert scene.grid.geobox == SCENES[name].get("grid", make_scene_grid()) and scene.votes == "probabilities"
        assert (scene.acquired is None) is (name == "undated")
    assert scenes["july"].storage == scenes["next-zone"].storage == "zarr" and scenes["december"].storage == "cog"


def test_nothing_but_an_expression_needs_duckdb(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = select_scenes(published, choose(where="id <> 'july' AND coalesce(water_share, 0) > 0.1"))
    assert list_ids(chosen) == {"all": ["august", "december", "next-zone", "undated"]}
    monkeypatch.setattr(query, "select_links", None)
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    assert list_ids(select_scenes(published, choose("year")))["2025"] == ["next-zone"]
    assert "--where: got no duckdb here" in refuse(published, choose(where="id = 'july'"))


def test_scenes_that_wait_for_their_rows_are_selected(out: Path) -> None:
    """New ones, and ones that were published again."""
    before = select_scenes(out, choose()).periods["all"]
    publish_map_scene(out, "late", "2024-07-24")
    assert select_scenes(out, choose()).periods["all"] == before
    publish_map_scene(out, "august", "2024-08-02")
    for scene in ("late", "august"):
        waiting.note_waiting(out, scene)
    after = {scene.id: scene for scene in select_scenes(out, choose()).periods["all"]}
    assert sorted(after) == sorted([*SCENES, "late"])
    changed = {scene.id for scene in before if after[scene.id].version != scene.version}
    assert changed == {"august"} and "2024-08-02" in str(after["august"].time_span)


def test_a_scene_that_is_published_again_meanwhile_is_taken_as_it_is(out: Path) -> None:
    """Its folder is there, and its row and its note are not yet."""
    publish_map_scene(out, "august", "2024-12-24")
    edit_item(out / "july", lambda item: item["assets"].pop("run"))
    (out / "july" / "run.json").unlink()
    assert "1 scene that cannot be read: july (run.json is gone)" in refuse(out, choose())
    selection = select_scenes(out, choose("month", on_bad_scene="skip"))
    assert list_ids(selection)["2024-12"] == ["august", "december"] and "2024-08" not in selection.periods
    assert [scene.id for scene in selection.skipped] == ["july"]


def test_object_storage_has_the_same_scenes(out: Path, server: S3Server) -> None:
    bucket = server.bucket("selection")
    for scene in (*SCENES, "map-2024"):
        upload(out / scene, bucket)
    local, remote = (select_scenes(place, choose("season")) for place in (out, bucket))
    assert list_ids(local) == list_ids(remote)
    assert (local.model_digest, local.unseen, local.warnings) == (remote.model_digest, remote.unseen, remote.warnings)
    for here, there in zip(*(sum(found.periods.values(), ()) for found in (local, remote)), strict=True):
        place, version = {"folder": "", "href": ""}, there.folder.rpartition("/")[2]
        assert here.model_copy(update=place) == there.model_copy(update=place)
        assert there.folder == bucket.to_url(f"{there.id}/{version}")
        assert bucket.get(f"{there.id}/{version}/run.json") is not None
        assert there.href == bucket.to_url(f"{there.id}/item.json")
    expression = choose("season", where="id = 'july'")
    assert list_ids(select_scenes(bucket, expression)) == {"2024-JJA": ["july"]}
    (july,) = (scene for scene in remote.periods["2024-JJA"] if scene.id == "july")
    key = july.folder.removeprefix(bucket.to_url() + "/")
    bucket.delete([f"{key}/segmentation.zarr/zarr.json"])
    assert {scene.storage for scene in select_scenes(bucket, expression).periods["2024-JJA"]} == {"cog"}
    bucket.put(f"{key}/probabilities.tif", b"cut")
    text = refuse(bucket, choose("season"))
    assert "1 scene that cannot be read: july (segmentation.zarr has" in text
    bucket.delete([f"{key}/run.json"])
    assert "july (run.json is gone" in refuse(bucket, choose("season"))
    bucket.delete(["july/item.json"])
    warnings = select_scenes(bucket, choose("season")).warnings
    assert warnings[1] == "left out: 1 scene whose item is gone, though the table lists it: july"


def test_a_catalogue_without_scenes(tmp_path: Path, server: S3Server) -> None:
    assert "no such folder" in refuse(tmp_path / "gone", choose())
    (tmp_path / "results").mkdir()
    assert "no items.parquet" in refuse(tmp_path / "results", choose())
    assert "no items.parquet" in refuse(server.bucket("empty"), choose())
    publish_map_scene(tmp_path, "map-2024")
    edit_item(tmp_path / "map-2024", lambda item: item["properties"].update({MAP_PROPERTY: "map"}))
    update_catalog(tmp_path)
    assert "got no scenes, expected published scenes" in refuse(tmp_path, choose())
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    assert "items.parquet with damage" in refuse(tmp_path, choose())


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (choose("2020/2021"), "--period 2020/2021: got none of 5 scenes, taken 2024-07-23 to 2025-01-01, 1 of unknown"),
        (choose("year", where="id = 'undated'"), "none of 1 scene, all of unknown time"),
        (choose(where="id = 'nobody'"), "--where: got id = 'nobody': none of 5 scenes, taken 2024-07-23 to 2025-01-01"),
        (choose(where="id ="), "--where: got id ="),
        (
            choose(model="another"),
            "--model: got another, which segmented none of 5 scenes, expected the name",
        ),
        (choose(area=shapely.box(0, 0, 100, 100)), "none of 5 scenes, taken 2024-07-23 to 2025-01-01"),
        (choose(crs=CRS("EPSG:32620"), area=shapely.box(9e7, 9e7, 9.1e7, 9.1e7)), "of which nothing is on Earth"),
        (
            choose(unseen=("fog",)),
            "--unseen: got fog, which is no class, expected some of the classes land",
        ),
        (choose(unseen=("land", "water", "cloud")), "--unseen: got all classes"),
    ],
)
def test_a_choice_of_nothing_is_refused(published: Path, choice: SceneChoice, said: str) -> None:
    assert said in refuse(published, choice)


def test_scenes_of_several_models_are_refused(out: Path) -> None:
    publish_map_scene(out, "other", model="another")
    publish_map_scene(out, "newer", unseen=("cloud", "water"))  # the same name, another digest
    update_catalog(out)
    assert "scenes of 3 models: 5 of a U-Net (" in (text := refuse(out, choose()))
    assert "1 of another (" in text and "--where" in text
    assert list_ids(select_scenes(out, choose(model="another"))) == {"all": ["other"]}
    text = refuse(out, choose(model="a U-Net"))
    assert "scenes of 2 models: 5 of a U-Net (" in text and "--where \"model_digest = '" in text
    expression = text.partition('--where "')[2].partition('"')[0]
    assert list_ids(select_scenes(out, choose(where=expression))) == {"all": sorted(SCENES)}
    shutil.rmtree(out / "newer")
    update_catalog(out)
    assert "choose with --model NAME" in refuse(out, choose())


def test_scenes_of_other_classes_are_refused(out: Path) -> None:
    publish_map_scene(out, "odd", classes=(*CLASSES[:2], LabelClass(2, "ice", (250, 250, 250))))
    update_catalog(out)
    text = refuse(out, choose())
    assert "scenes of 2 tables of classes: 5 of 0=land 1=water 2=cloud" in text and "2=ice (odd, …)" in text


def test_scenes_without_probabilities_vote_only_if_labels_may(out: Path) -> None:
    for number in range(7):
        publish_map_scene(out, f"bare-{number}", files=("zarr", "cog"))
    update_catalog(out)
    text = refuse(out, choose())
    assert "7 scenes without probabilities: bare-0, bare-1, bare-2, bare-3, bare-4 and 2 more" in text
    assert "--outputs cog,zarr,probabilities" in text and "--labels" in text
    scenes = select_scenes(out, choose(labels_allowed=True)).periods["all"]
    assert {scene.id for scene in scenes if scene.votes == "labels"} == {f"bare-{number}" for number in range(7)}


def unseal(folder: Path) -> None:
    path = folder / "segmentation.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"sealed": true', '"sealed": null'))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (lambda folder: (folder / "run.json").unlink(), "run.json is gone"),
    "another record": (
        lambda folder: (folder / "run.json").write_text((folder / "run.json").read_text().replace("fp32", "fp16")),
        "run.json has another content than its item says",
    ),
    "not sealed": (unseal, "segmentation.zarr is not sealed"),
    "a chunk more": (
        lambda folder: (folder / "segmentation.zarr" / "more").write_bytes(b"more"),
        "segmentation.zarr has",
    ),
    "no store": (lambda folder: shutil.rmtree(folder / "segmentation.zarr"), "segmentation.zarr is gone"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_scenes_whose_files_are_damaged_are_refused_or_left_out(out: Path, damage: str) -> None:
    harm, reason = DAMAGES[damage]
    (out / "july" / "probabilities.tif").unlink()  # or the COGs would do
    assert len(select_scenes(out, choose()).periods["all"]) == 5
    harm(out / "july")
    text = refuse(out, choose())
    assert f"1 scene that cannot be read: july ({reason}" in text and "--on-bad-scene skip" in text
    selection = select_scenes(out, choose(on_bad_scene="skip"))
    assert list_ids(selection)["all"] == ["august", "december", "next-zone", "undated"]
    (skipped,) = selection.skipped
    assert skipped.id == "july" and skipped.reason.startswith(reason)
    assert "july" in refuse(out, choose(on_bad_scene="skip", where="id = 'july'"))


def test_whole_cogs_stand_in_for_a_damaged_store(out: Path) -> None:
    unseal(out / "july")
    scenes = {scene.id: scene.storage for scene in select_scenes(out, choose()).periods["all"]}
    assert scenes["july"] == "cog" and scenes["august"] == "zarr"


def test_a_scene_without_a_place_is_no_scene_of_a_map(out: Path) -> None:
    publish_map_scene(out, "micrograph", grid=make_scene_grid(crs=None))
    update_catalog(out)
    assert "micrograph (no place on Earth: its raster has no CRS)" in refuse(out, choose())
    x, y = 600_000, 5_300_000
    assert list_ids(select_scenes(out, choose(area=shapely.box(x, y - 100, x + 100, y)))) == {
        "all": ["december", "july", "undated"]
    }


def test_a_withdrawn_scene_is_left_out_with_a_warning(out: Path) -> None:
    shutil.rmtree(out / "july")
    selection = select_scenes(out, choose())
    assert list_ids(selection)["all"] == ["august", "december", "next-zone", "undated"]
    assert selection.warnings == ("left out: 1 scene whose item is gone, though the table lists it: july",)
    assert "july (its item is gone)" in refuse(out, choose(where="id = 'july'"))


def test_a_scene_of_a_long_time_is_pointed_out(out: Path) -> None:
    publish_map_scene(out, "composite", "2024")
    update_catalog(out)
    selection = select_scenes(out, choose("month"))
    assert "composite" in list_ids(selection)["2024-07"]
    assert selection.warnings[1] == "1 scene taken over a longer time than the period of its middle: composite"
    assert len(select_scenes(out, choose("year")).warnings) == 1


def test_columns_that_hold_text_are_read(out: Path) -> None:
    """An item of somebody else gives some properties other kinds of values."""
    odd = {"model": 5, "proj:shape": "small", "proj:transform": {"a": True}, MAP_PROPERTY: ["of", 1]}
    edit_item(publish_map_scene(out, "odd"), lambda item: item["properties"].update(odd))
    roles = {"roles": "metadata"}  # the others have lists there
    edit_item(publish_map_scene(out, "odd-2"), lambda item: item["assets"]["model"].update(roles))
    update_catalog(out)
    assert set(list_text_columns(read_table(out / "items.parquet"))) >= {"model", "proj:shape", "assets"}
    found = select_scenes(out, choose())
    assert list_ids(found) == {"all": sorted([*SCENES, "odd-2"])} and found.model == "a U-Net"
    assert list_ids(select_scenes(out, choose(model="a U-Net"))) == list_ids(found)
    assert all(scene.grid.geobox.shape == (SIZE, SIZE) for scene in found.periods["all"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda item: item["assets"].pop("run"), "a damaged item (KeyError: 'run')"),
        (lambda item: item["properties"].pop("seamline:classes"), "a damaged item"),
        (lambda item: item["properties"].update({"proj:code": "EPSG:1"}), "a damaged item (no CRS that PROJ knows"),
        (lambda item: item.update(id="august"), "a damaged item (its id is 'august')"),
    ],
)
def test_scenes_whose_items_are_damaged_are_named(out: Path, change: Callable[[Any], object], reason: str) -> None:
    edit_item(out / "july", change)
    update_catalog(out)
    assert f"1 scene that cannot be read: july ({reason}" in refuse(out, choose())
    assert list_ids(select_scenes(out, choose(on_bad_scene="skip")))["all"] == sorted(SCENES.keys() - {"july"})


@pytest.mark.parametrize(
    ("said", "wanted", "unseen", "warned"),
    [
        (("cloud",), None, ("cloud",), False),
        ((), None, (), False),
        (None, None, (), True),
        (None, (), (), False),
        (None, ("cloud", "water"), ("water", "cloud"), False),
        (("cloud",), (), (), False),
    ],
)
def test_the_document_names_unseen_classes_and_the_user_overrules_it(
    tmp_path: Path, said: Any, wanted: Any, unseen: tuple[str, ...], warned: bool
) -> None:
    publish_map_scene(tmp_path, "a", unseen=said, files=("cog", "probabilities"))
    update_catalog(tmp_path)
    selection = select_scenes(tmp_path, choose(unseen=wanted))
    assert selection.unseen == unseen and bool(selection.warnings) is warned
    if warned:
        assert "if cloud should not, give --unseen 'cloud', otherwise --unseen none" in selection.warnings[0]


def test_a_damaged_copy_of_the_models_document_does_not_count(out: Path) -> None:
    (out / "august" / "model.json").write_text('{"properties": {"seamline:unseen": ["water"]}}')
    (out / "december" / "model.json").unlink()
    assert select_scenes(out, choose()).unseen == ("cloud",)


def test_unseen_classes_of_the_document_must_be_classes(tmp_path: Path) -> None:
    publish_map_scene(tmp_path, "a", unseen=("fog",), files=("cog", "probabilities"))
    update_catalog(tmp_path)
    assert "seamline:unseen of the model's document: got fog, which is no class" in refuse(tmp_path, choose())


PLACES: dict[str, tuple[float, float, float]] = {
    "EPSG:3857": (-7e6, 3e6, 1e5),
    "EPSG:3035": (4.3e6, 3.2e6, 1e5),
    "EPSG:32620": (5e5, 5e6, 1e5),
    "EPSG:32601": (2.7e5, 5.3e6, 1e5),
    "EPSG:4326": (179.9, 50, 1),
    "EPSG:3832": (3.3e6, -1.9e6, 1e5),
    "EPSG:3413": (0, 0, 1e5),
}
"""A place in each CRS of a map, some at the antimeridian and one at the pole, and the edge of a scene there."""


@cache
def make_transformer(crs: str, other: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, other, always_xy=True)


def spread_points(box: shapely.Polygon) -> np.ndarray:
    """Points (n, 2) all over a box."""
    west, south, east, north = box.bounds
    steps = (np.arange(24) + 0.5) / 24
    x, y = np.meshgrid(west + steps * (east - west), south + steps * (north - south))
    return np.column_stack([x.ravel(), y.ravel()])


def to_space(crs: str, points: np.ndarray) -> np.ndarray:
    """Places (n, 3) in metres from the middle of the Earth, where there is neither antimeridian nor pole."""
    return np.column_stack(make_transformer(crs, "EPSG:4978").transform(*points.T, np.zeros(len(points))))


@dataclass(frozen=True)
class Scattered:
    """Scenes in many CRSs, and points all over each."""

    out: Path
    codes: dict[str, str]
    points: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Scattered:
    found = Scattered(tmp_path_factory.mktemp("scattered"), {}, {})
    for place, (code, (x, y, edge)) in enumerate(PLACES.items()):
        for number, (right, up) in enumerate([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (2, 2)]):
            transform = Affine(edge / SIZE, 0, x + right * edge, 0, -edge / SIZE, y + up * edge)
            grid = GeoBox((SIZE, SIZE), transform, code)
            scene = f"s{place}-{number}"
            found.codes[scene], found.points[scene] = code, spread_points(grid.extent.geom)
            publish_map_scene(found.out, scene, grid=grid, files=("cog", "probabilities"))
    update_catalog(found.out)
    return found


@given(st.sampled_from(sorted(PLACES)), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.floats(0.01, 2))
def test_scenes_in_an_area_are_selected_and_others_are_not(
    scattered: Scattered, code: str, right: float, up: float, size: float
) -> None:
    """Points of the scenes lie in the area by pyproj; whatever else is selected lies beside it."""
    x, y, edge = PLACES[code]
    west, south = x + right * edge, y + up * edge
    area = shapely.box(west, south, west + size * edge, south + size * edge)
    inside = set()
    for scene, points in scattered.points.items():
        px, py = make_transformer(scattered.codes[scene], code).transform(*points.T)
        turns = (-360, 0, 360) if code == "EPSG:4326" else (0,)
        if any(shapely.contains_xy(area, px + turn, py).any() for turn in turns):
            inside.add(scene)
    try:
        found = set(list_ids(select_scenes(scattered.out, choose(crs=CRS(code), area=area)))["all"])
    except InputError:
        found = set()
    assert inside <= found
    lon, lat = make_transformer(code, "EPSG:4326").transform(*spread_points(area).T)
    around_earth = np.ptp(lon) > 180  # over a pole, or across the antimeridian
    margin = 111_320 * selection._MARGIN * (360 if around_earth else max(np.ptp(lon), np.ptp(lat)) + 1)
    around = cKDTree(to_space(code, spread_points(area)))
    for scene in found - inside:
        distance, _ = around.query(to_space(scattered.codes[scene], scattered.points[scene]))
        assert distance.min() < 20_000 + margin  # points of both lie up to 10 km apart


def test_map_scenes_are_the_same_for_equal_choices(published: Path) -> None:
    first, second = (select_scenes(published, choose("month")) for _ in range(2))
    assert first == second and all(isinstance(scene, MapScene) for scene in first.periods["2024-07"])
