"""Chunks that are computed, taken over or empty, beside brute force over the pixels of the lattice."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from seamline.pipeline.geometry.map_grid import CHUNK
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.mosaic import changes
from seamline.pipeline.mosaic.changes import PeriodChanges, find_changes
from seamline.pipeline.mosaic.map_record import MapExtent, MapRecord, MapScene, SceneGrid
from tests.unit.mosaic.test_map_record import DEFINITION

CRS = "EPSG:32620"
STEP = DEFINITION.resolution
INSET = 128
"""Pixels between a scene and the edges of its chunks: a chunk that a scene almost touches may count as touched."""
Corner = tuple[int, int, int, int]
"""First row and column of a scene in chunks of the lattice, and its height and width."""
Key = tuple[int, int]


def make_scene(name: str, corner: Corner, version: str = "1") -> MapScene:
    """A scene that fills whole chunks of the lattice but for their edges."""
    row, col, height, width = corner
    edge = CHUNK * STEP
    transform = Affine(STEP, 0, col * edge + INSET * STEP, 0, -STEP, -row * edge - INSET * STEP)
    grid = GeoBox((height * CHUNK - 2 * INSET, width * CHUNK - 2 * INSET), transform, CRS)
    return MapScene(
        id=name,
        version=version,
        acquired=None,
        grid=SceneGrid.from_geobox(grid),
        votes="probabilities",
        storage="zarr",
        folder=f"/results/{name}",
        href=f"/results/{name}/item.json",
    )


def find_corner(scene: MapScene) -> Corner:
    _, _, x, _, _, y = scene.grid.transform
    row, col = -y / STEP // CHUNK, x / STEP // CHUNK
    height, width = ((edge + 2 * INSET) // CHUNK for edge in scene.grid.shape)
    return int(row), int(col), height, width


def make_record(periods: Mapping[str, list[MapScene]]) -> MapRecord:
    """A map of the chunks of the lattice that the scenes cover."""
    corners = [find_corner(scene) for scenes in periods.values() for scene in scenes]
    top, left = min(corner[0] for corner in corners), min(corner[1] for corner in corners)
    bottom, right = max(row + height for row, _, height, _ in corners), max(col + width for _, col, _, width in corners)
    return MapRecord(
        definition=DEFINITION.model_copy(update={"period": "year"}),
        outputs=("cog", "zarr"),
        grid=MapExtent(left=left * CHUNK, top=top * CHUNK, width=(right - left) * CHUNK, height=(bottom - top) * CHUNK),
        periods={name: tuple(scenes) for name, scenes in periods.items()},
    )


def find_lattice_key(record: MapRecord, chunk: Index) -> Key:
    return chunk.row + record.grid.top // CHUNK, chunk.col + record.grid.left // CHUNK


def find_touching(record: MapRecord, name: str) -> dict[Key, set[tuple[str, str]]]:
    """For each chunk of a map, by its place in the lattice, the scenes that touch it: brute force."""
    found: dict[Key, set[tuple[str, str]]] = {
        find_lattice_key(record, chunk): set() for chunk in record.map_grid.chunks
    }
    for scene in record.periods.get(name, ()):
        row, col, height, width = find_corner(scene)
        for down in range(height):
            for across in range(width):
                found[row + down, col + across].add((scene.id, scene.version))
    return found


@st.composite
def scene_lists(draw: st.DrawFn) -> list[MapScene]:
    """Some of five scenes, each in one of two versions, which lie in other places."""
    scenes = []
    for name in "abcde":
        version = draw(st.sampled_from(["", "1", "2"]))
        if version:
            where = PLACES[name, version]
            scenes.append(make_scene(name, where, version))
    return scenes or [make_scene("a", PLACES["a", "1"])]


PLACES: dict[tuple[str, str], Corner] = {
    ("a", "1"): (0, 0, 2, 2),
    ("a", "2"): (0, 0, 2, 2),
    ("b", "1"): (1, 1, 2, 2),
    ("b", "2"): (1, 2, 2, 1),
    ("c", "1"): (-3, -2, 1, 2),
    ("c", "2"): (2, 0, 1, 1),
    ("d", "1"): (0, 3, 1, 1),
    ("d", "2"): (-1, 3, 3, 1),
    ("e", "1"): (1, 0, 1, 4),
    ("e", "2"): (4, -1, 1, 1),
}


@given(scene_lists(), scene_lists())
def test_a_chunk_is_computed_if_and_only_if_the_scenes_that_touch_it_are_others(
    before: list[MapScene], after: list[MapScene]
) -> None:
    old, new = make_record({"2024": before}), make_record({"2024": after})
    found = find_changes(old, new).periods["2024"]
    was, now = find_touching(old, "2024"), find_touching(new, "2024")
    for chunk in new.map_grid.chunks:
        key = find_lattice_key(new, chunk)
        assert (chunk in found.computed) is (was.get(key, set()) != now[key])
        assert (chunk in found.kept) is (key in was and was[key] == now[key])
        if chunk in found.kept:
            assert find_lattice_key(old, found.kept[chunk]) == key
    parts = [*found.computed, *found.kept, *found.empty]
    assert sorted(parts) == sorted(new.map_grid.chunks)
    assert all(not now[find_lattice_key(new, chunk)] for chunk in found.empty)
    assert old.is_same_map(new) is (before == after)


@given(scene_lists())
def test_nothing_changes_with_the_order_of_scenes_or_where_they_lie_now(scenes: list[MapScene]) -> None:
    moved = [scene.model_copy(update={"folder": "/elsewhere", "href": "/elsewhere/item.json"}) for scene in scenes]
    old, new = make_record({"2024": scenes}), make_record({"2024": moved[::-1]})
    found = find_changes(old, new)
    assert not found.periods["2024"].computed and not found.withdrawn and old.is_same_map(new)
    assert found.periods["2024"].kept == {chunk: chunk for chunk in old.map_grid.chunks}


def tell(changes: PeriodChanges) -> dict[tuple[int, int], str]:
    return {(chunk.row, chunk.col): reason for chunk, reason in changes.computed.items()}


def test_reasons_name_scenes() -> None:
    a, b, c = (make_scene(name, PLACES[name, "1"]) for name in "abc")
    assert set(tell(find_changes(None, make_record({"2024": [a]})).periods["2024"]).values()) == {"new map"}
    old = make_record({"2024": [a, b], "2023": [a]})
    new = make_record({"2024": [a, make_scene("b", PLACES["b", "2"], "2"), c], "2025": [b]})
    found = find_changes(old, new)
    assert found.withdrawn == ("2023",)
    assert set(tell(found.periods["2025"]).values()) == {"new period"}
    assert len(tell(found.periods["2025"])) == 4
    # The map has grown by three chunks to the north and two to the west.
    reasons = tell(found.periods["2024"])
    assert reasons[0, 0] == reasons[0, 1] == "new scene c"
    assert reasons[4, 3] == "scene b replaced" and (3, 2) not in reasons
    assert found.periods["2024"].kept[Index(3, 2)] == Index(0, 0)
    withdrawn = find_changes(old, make_record({"2024": [b]})).periods["2024"]
    assert tell(withdrawn)[0, 0] == "scene a withdrawn"


def test_many_scenes_of_a_chunk_are_counted() -> None:
    scenes = [make_scene(f"s{number}", (0, 0, 1, 1)) for number in range(9)]
    found = find_changes(make_record({"2024": scenes[:1]}), make_record({"2024": scenes}))
    assert tell(found.periods["2024"]) == {(0, 0): "new scene s1, new scene s2, new scene s3 and 5 other scenes"}


def test_chunks_at_an_edge_that_moves_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of given bounds may end within a chunk; another extent has none of its pixels in the same place."""
    scene = make_scene("a", (0, 0, 2, 2))
    old = make_record({"2024": [scene]})
    small = old.model_copy(update={"grid": old.grid.model_copy(update={"width": CHUNK + 100})})
    assert set(tell(find_changes(small, old).periods["2024"])) == {(0, 1), (1, 1)}
    shifted = old.model_copy(update={"grid": old.grid.model_copy(update={"left": 100})})
    found = find_changes(old, shifted).periods["2024"]
    assert not found.kept and set(tell(found).values()) == {"the map has grown"}


def test_each_scene_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that stay as they are not at all, unless the map has grown."""
    looked = []

    def look(*arguments: object) -> list[Index]:
        looked.append(arguments)
        return []

    monkeypatch.setattr(changes, "list_touched_chunks", look)
    scenes = [make_scene(f"s{number}", (0, 0, 1, 1)) for number in range(9)]
    find_changes(make_record({"2024": scenes[:8]}), make_record({"2024": scenes}))
    assert len(looked) == 1


def test_maps_of_two_definitions_are_not_compared() -> None:
    record = make_record({"2024": [make_scene("a", (0, 0, 1, 1))]})
    other = record.model_copy(update={"definition": record.definition.model_copy(update={"unseen": ()})})
    with pytest.raises(ValueError, match="two definitions"):
        find_changes(record, other)
