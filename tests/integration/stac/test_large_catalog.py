"""Catalogues of many scenes: what publishing one more touches, and what readers see while scenes wait for rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seamline.pipeline.common.layout import CATALOG, COLLECTION, ITEM, ITEMS, STAMPS, WAITING
from seamline.pipeline.publishing import upload
from seamline.pipeline.publishing.upload import list_in_catalog, renew_catalog
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac import items, stamped_table, waiting
from seamline.pipeline.stac.catalog import build_catalog, list_waiting_scenes, parse_links, update_catalog
from seamline.pipeline.stac.items import build_item_table, list_folders, read_item, read_item_table, replace_rows
from seamline.pipeline.stac.query import query_items
from seamline.pipeline.storage.object_store import ObjectFolder
from tests.support.catalogues import Item, count_files, make_catalog, make_item, put_item
from tests.support.kill_points import choose_points, count_changes, kill_at_change
from tests.support.s3_server import start_s3_server


def publish(out: Path, scene: str, **properties: Any) -> None:
    put_item(out, scene, **properties)
    update_catalog(out, scene)


def list_links(out: Path) -> list[str]:
    links = json.loads((out / CATALOG).read_text())["links"]
    return [link["href"].split("/")[1] for link in links if link["rel"] == "item"]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every catalogue is so large that scenes wait, up to four of them."""
    monkeypatch.setattr(waiting, "LARGE_TABLE", 1)
    monkeypatch.setattr(stamped_table, "LARGE_TABLE", 1)
    monkeypatch.setattr(waiting, "_BYTES_PER_SCENE", 1)
    monkeypatch.setattr(waiting, "_MOST_WAITING", 4)
    monkeypatch.setattr(waiting, "_LONGEST_RENEWAL_S", 0)


def test_publishing_one_scene_touches_as_many_files_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (waiting, stamped_table):
        monkeypatch.setattr(module, "LARGE_TABLE", 100_000)
    touched = {}
    for count in (1000, 2000):
        out = make_catalog(tmp_path / str(count), count)
        assert (out / ITEMS).stat().st_size > waiting.LARGE_TABLE
        put_item(out, "new")
        with count_files() as seen:
            update_catalog(out, "new")
        touched[count] = [path for path in seen if str(out) in path]
        assert out not in map(Path, touched[count])  # the folder with all scenes
        assert [scene["id"] for scene in query_items(out, where="id = 'new'")] == ["new"]
        assert list_links(out) == list_folders(pq.read_table(out / ITEMS)) != ["new"]
    assert len(touched[1000]) == len(touched[2000]) < 10


def test_a_renewal_reads_the_items_that_wait(tmp_path: Path, large: None) -> None:
    out = make_catalog(tmp_path, 50)
    for number in range(4):
        publish(out, f"new-{number}")
    assert len(waiting.list_notes(out)) == 4 and len(list_links(out)) == 50
    put_item(out, "new-4")
    with count_files() as seen:
        update_catalog(out, "new-4")
    read = {Path(path).parent.name for path in seen if path.endswith(ITEM)}
    assert read == {f"new-{number}" for number in range(5)}
    assert len(list_links(out)) == len(read_item_table(out / ITEMS)) == 55
    assert {path.name for path in out.iterdir() if path.is_file()} == {CATALOG, COLLECTION, ITEMS, STAMPS}
    assert not (out / WAITING).exists()


VALUES = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.floats(0, 1),
    st.booleans(),
    st.text("ab", max_size=2),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from("xy"), st.one_of(st.integers(0, 3), st.text("z", max_size=1)), max_size=2),
)
PROPERTIES = st.dictionaries(st.sampled_from(["p", "q", "r"]), VALUES, max_size=3)
SCENES = st.dictionaries(st.sampled_from("abcdef"), PROPERTIES, min_size=1)


@settings(max_examples=300, deadline=None)
# Arrow takes True for a number after a float, and refuses it before one.
@example(before={"a": {"p": 1.0}, "b": {"p": True}, "c": {"p": 0.0}}, changes={"a": {}})
@example(before={"a": {"p": {"x": 1.0}}, "b": {"p": {"x": False}}, "c": {"p": {"x": 0.5}}}, changes={"a": None})
@given(before=SCENES, changes=st.dictionaries(st.sampled_from("abcdefgh"), st.none() | PROPERTIES))
def test_replaced_rows_are_those_of_a_table_of_all_items(before: Item, changes: Item) -> None:
    """Or another table is asked for, which is where values are of several kinds."""
    old = {scene: make_item(scene, **before[scene]) for scene in sorted(before)}
    new = {scene: make_item(scene, **changes[scene]) for scene in sorted(changes) if changes[scene] is not None}
    now = {scene: item for scene, item in sorted((old | new).items()) if changes.get(scene, {}) is not None}
    table = build_item_table(old)
    replaced = replace_rows(table, {*now} - {*changes}, new)
    if replaced is None:
        values = [item["properties"] for item in (*old.values(), *new.values())]
        kinds = [{type(p[name]) for p in values if p.get(name) is not None} for name in ("p", "q", "r")]
        assert any(len(kind) > 1 or dict in kind or list in kind for kind in kinds)
        return
    if not now:
        assert replaced.num_rows == 0
        return
    expected = build_item_table(now)
    assert list_rows(replaced) == list_rows(expected)
    assert replaced.schema.metadata == expected.schema.metadata


def list_rows(table: Any) -> list[Item]:
    """Rows in order, without nulls."""

    def drop(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: drop(part) for name, part in value.items() if part is not None}
        return [drop(part) for part in value] if isinstance(value, list) else value

    return [drop(row) for row in table.to_pylist()]


def test_readers_see_what_waits(tmp_path: Path, large: None) -> None:
    """New, changed and removed scenes, also one whose value makes its column another one."""
    out = make_catalog(tmp_path, 5)
    publish(out, "new", water_share=0.9)
    publish(out, "s-00001", water_share=0.8)
    publish(out, "s-00002", number="two")
    shutil.rmtree(out / "s-00002")
    found = query_items(out, where="water_share > 0.7")
    assert [item["id"] for item in found] == ["new", "s-00001"]
    publish(out, "odd", number="three")
    assert [item["id"] for item in query_items(out, where="number = '\"three\"'")] == ["odd"]
    damaged = [finding for finding in verify(out) if finding.subject in (CATALOG, ITEMS)]
    assert {finding.scene for finding in damaged} <= {"s-00002"}
    list_waiting_scenes(out)
    assert not (out / WAITING).exists()
    scenes = ["new", "odd", "s-00000", "s-00001", "s-00003", "s-00004"]
    assert list_links(out) == scenes
    expected = build_item_table({scene: read_item(out / scene / ITEM) for scene in scenes})
    assert list_rows(pq.read_table(out / ITEMS)) == list_rows(expected)


def test_a_scene_does_not_wait_for_ever(tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_catalog(tmp_path, 3)
    publish(out, "a")
    assert "a" not in list_links(out)
    now = waiting.time.time_ns()
    monkeypatch.setattr(waiting.time, "time_ns", lambda: now + 3601 * 10**9)
    publish(out, "b")
    assert {"a", "b"} <= set(list_links(out))


@pytest.mark.parametrize("name", [CATALOG, ITEMS, STAMPS])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 100)])
def test_lost_or_cut_files_are_mended_by_the_next_renewal(tmp_path: Path, large: None, name: str, damage: Any) -> None:
    out = make_catalog(tmp_path, 3)
    publish(out, "a")
    damage(out / name)
    publish(out, "b")
    list_waiting_scenes(out)
    assert list_links(out) == list(read_item_table(out / ITEMS)) == ["a", "b", "s-00000", "s-00001", "s-00002"]


def publish_many(out: Path) -> None:
    for number in range(7):
        publish(out, f"new-{number}")


def make_large() -> None:
    waiting.LARGE_TABLE = stamped_table.LARGE_TABLE = waiting._BYTES_PER_SCENE = 1
    waiting._MOST_WAITING = 4
    waiting._LONGEST_RENEWAL_S = 0


def publish_as_large(out: Path) -> None:
    make_large()
    publish_many(out)


def test_a_kill_at_any_operation_is_mended_by_the_next_scenes(tmp_path: Path, large: None) -> None:
    names = [*(f"new-{number}" for number in range(7)), "s-00000", "s-00001", "s-00002"]
    out = make_catalog(tmp_path / "counted", 3)
    points = count_changes(publish_as_large, out, below=out)
    assert points > 40
    for point in choose_points(points, 8):
        out = make_catalog(tmp_path / f"killed-{point}", 3)
        assert kill_at_change(point, publish_as_large, out, below=out)
        written = [scene for scene in names[:7] if (out / scene / ITEM).exists()]
        publish(out, "s-00000")
        # The last one may have been killed before it left its note; its own next run lists it.
        assert {item["id"] for item in query_items(out)} >= set(written[:-1]), point
        publish_many(out)
        assert {item["id"] for item in query_items(out)} == set(names), point
        list_waiting_scenes(out)
        assert list_links(out) == list(read_item_table(out / ITEMS)) == names, point
        assert not (out / WAITING).exists(), point


RIVAL = """
import sys
from pathlib import Path
from tests.integration.stac import test_large_catalog as scenes
scenes.make_large()
out, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for turn in (1, 2):
    for number in range(8):
        scenes.publish(out, f"{name}-{number}", turn=turn)
"""


def test_rivals_lose_nothing(tmp_path: Path, large: None) -> None:
    out = make_catalog(tmp_path, 3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path)])}
    command = [sys.executable, "-c", RIVAL, str(out)]
    runs = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True, env=environment) for name in "abc"]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.close()
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    names = {f"{name}-{number}" for name in "abc" for number in range(8)} | {f"s-{number:05}" for number in range(3)}
    assert {item["id"] for item in query_items(out, where="turn = 2 OR turn IS NULL")} == names
    list_waiting_scenes(out)
    rows = read_item_table(out / ITEMS)
    assert set(list_links(out)) == set(rows) == names
    assert {row.get("turn") for row in rows.values()} == {2, None}


def test_object_storage_is_renewed_for_many_scenes_at_once(large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_s3_server() as server:
        catalogue = server.bucket("large")

        def put(scene: str, **properties: Any) -> None:
            catalogue.put(f"{scene}/{ITEM}", json.dumps(make_item(scene, **properties)).encode())

        for number in range(6):
            put(f"s-{number}")
        assert renew_catalog(catalogue) == 6
        read: list[str] = []
        get = ObjectFolder.get
        monkeypatch.setattr(ObjectFolder, "get", lambda folder, key: read.append(key) or get(folder, key))
        for number in range(4):
            put(f"new-{number}")
            list_in_catalog(catalogue, f"new-{number}")
        assert not read
        assert len(query_items(catalogue)) == 10
        read.clear()
        put("s-0", water_share=0.1)
        list_in_catalog(catalogue, "s-0")
        scenes = {"s-0", *(f"new-{number}" for number in range(4))}
        assert {key for key in read if key.endswith(ITEM)} == {f"{scene}/{ITEM}" for scene in scenes}
        assert not waiting.list_notes(catalogue)
        assert [item["id"] for item in query_items(catalogue, where="water_share < 0.2")] == ["s-0"]
        before = read_documents(catalogue)
        renew_catalog(catalogue)
        assert before == read_documents(catalogue)


def read_documents(catalogue: ObjectFolder) -> tuple[bytes, list[Item]]:
    catalog, table = catalogue.get(CATALOG), catalogue.get(ITEMS)
    assert catalog is not None and table is not None
    return catalog.data, list_rows(pq.read_table(BytesIO(table.data)))


def test_a_renewal_at_work_keeps_nobody_busy_and_a_killed_one_is_mended(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LONGEST_RENEWAL_S", 60)
    out = make_catalog(tmp_path, 3)
    other = waiting.note_waiting(out, "")  # of a renewal elsewhere
    publish(out, "a")
    assert "a" not in list_links(out)
    list_waiting_scenes(out)
    assert "a" in list_links(out) and waiting.list_notes(out) == [other]
    (out / CATALOG).write_text(json.dumps(build_catalog(["s-00000"])))  # the other one wrote what it had read
    now = waiting.time.time_ns()
    monkeypatch.setattr(waiting.time, "time_ns", lambda: now + 61 * 10**9)
    list_waiting_scenes(out)
    assert list_links(out) == ["a", "s-00000", "s-00001", "s-00002"] and not waiting.list_notes(out)


def test_an_item_that_could_not_be_read_for_a_moment_is_read_again(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_catalog(tmp_path, 3)
    put_item(out, "s-00001", number=7)
    with monkeypatch.context() as patch:
        read = items.read_item

        def fail(path: Path) -> Item:
            if path.parent.name == "s-00001":
                raise OSError("too many open files")
            return read(path)

        patch.setattr(items, "read_item", fail)
        update_catalog(out, "s-00001")
        list_waiting_scenes(out)
    assert "s-00001" not in read_item_table(out / ITEMS)
    publish(out, "a")
    list_waiting_scenes(out)
    assert set(read_item_table(out / ITEMS)) == {"a", "s-00000", "s-00001", "s-00002"}


def test_a_rival_in_the_midst_of_a_renewal_of_object_storage_loses_no_row(
    large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival has looked for notes before a scene was published, and renews between our two files."""
    with start_s3_server() as server:
        catalogue = server.bucket("rivals")
        for scene in ("a", "b"):
            catalogue.put(f"{scene}/{ITEM}", json.dumps(make_item(scene)).encode())
        renew_catalog(catalogue)
        for scene in ("x", "y"):
            catalogue.put(f"{scene}/{ITEM}", json.dumps(make_item(scene)).encode())
        early = [waiting.note_waiting(catalogue, "x")]
        waiting.note_waiting(catalogue, "y")
        swap, swapped = ObjectFolder.compare_and_swap, []

        def swap_around_rival(folder: ObjectFolder, key: str, data: bytes, version: str | None) -> bool:
            swapped.append(key)
            if len(swapped) == 2:
                with monkeypatch.context() as patch:
                    patch.setattr(waiting, "list_notes", lambda out: early)
                    renew_catalog(catalogue, only_waiting=True)
            return swap(folder, key, data, version)

        monkeypatch.setattr(ObjectFolder, "compare_and_swap", swap_around_rival)
        monkeypatch.setattr(upload, "wait_randomly", lambda: None)
        renew_catalog(catalogue, only_waiting=True)
        assert len(swapped) > 3 and not waiting.list_notes(catalogue)
        catalog, rows = read_documents(catalogue)
        assert parse_links(catalog) == {"a", "b", "x", "y"} == {row["id"] for row in rows}
