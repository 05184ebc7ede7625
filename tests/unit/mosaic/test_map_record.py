"""``map.json``: what is written is read, and what is something else is refused in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from odc.geo.crs import CRS
from pydantic import ValidationError

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.errors import DamagedFileError, InputError, OtherRunError
from seamline.pipeline.common.layout import MAP_RECORD
from seamline.pipeline.mosaic.map_record import (
    MapClass,
    MapDefinition,
    MapExtent,
    MapRecord,
    MapScene,
    SceneGrid,
    SkippedScene,
    name_crs,
    read_map_record,
    refuse_other_definition,
    write_map_record,
)
from tests.support.small_grids import GRIDS, LAEA

LABELS = (
    LabelClass(0, "land", (200, 180, 120)),
    LabelClass(1, "water", (30, 90, 200)),
    LabelClass(4, "ice", (1, 2, 3)),
)
DEFINITION = MapDefinition(
    crs="EPSG:32620",
    resolution=30,
    period="year",
    model="a U-Net",
    model_digest="ab" * 32,
    classes=tuple(map(MapClass.from_label_class, LABELS)),
    unseen=("ice",),
)
AREA = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [0, 1], [0, 0]]]}


def make_scene(grid: str = "projected") -> MapScene:
    return MapScene(
        id="a",
        version="1220ab",
        acquired=(datetime(2024, 7, 1, 3, tzinfo=UTC), datetime(2024, 7, 3, 2, tzinfo=UTC)),
        grid=SceneGrid.from_geobox(GRIDS[grid]),
        votes="labels",
        storage="cog",
        folder="/results/a",
        href="/results/a/item.json",
    )


RECORD = MapRecord(
    definition=DEFINITION,
    outputs=("cog", "zarr"),
    grid=MapExtent(left=-512, top=1024, width=512, height=1024),
    periods={"2024": (make_scene(),), "2023": ()},
    skipped=(SkippedScene(id="b", reason="run.json is gone"),),
)


@pytest.mark.parametrize("grid", ["projected", "geographic", "no code", "rotated"])
def test_what_is_written_is_read(grid: str, tmp_path: Path) -> None:
    record = RECORD.model_copy(update={"periods": {"2024": (make_scene(grid),)}})
    write_map_record(tmp_path, record)
    read = read_map_record(tmp_path)
    assert read == record and read is not None
    assert read.periods["2024"][0].grid.geobox == GRIDS[grid]
    assert read.definition.digest == DEFINITION.digest
    assert read.map_grid.left == -512 and read.map_grid.crs == CRS("EPSG:32620")
    assert read.definition.label_classes == LABELS and read.definition.unseen_positions == {2}


def test_nothing_is_no_record(tmp_path: Path) -> None:
    assert read_map_record(tmp_path) is None and read_map_record(tmp_path / "gone") is None


def test_fields_that_others_add_are_kept(tmp_path: Path) -> None:
    write_map_record(tmp_path, MapRecord.model_validate({**RECORD.model_dump(), "note": "of a later version"}))
    read = read_map_record(tmp_path)
    assert read is not None
    write_map_record(tmp_path, read)
    assert json.loads((tmp_path / MAP_RECORD).read_text())["note"] == "of a later version"


def test_a_record_that_somebody_changed_is_refused(tmp_path: Path) -> None:
    """Although every field of it is valid."""
    write_map_record(tmp_path, RECORD)
    document = json.loads((tmp_path / MAP_RECORD).read_text())
    document["periods"]["2024"][0]["version"] = "1220ac"
    (tmp_path / MAP_RECORD).write_text(json.dumps(document))
    with pytest.raises(DamagedFileError, match="digest"):
        read_map_record(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda document: document.clear(), "record_version None"),
        (lambda document: document.update(record_version=2), "record_version 2"),
        (lambda document: document.update(periods={}), "periods"),
        (lambda document: document.update(periods={"../x": []}), "no name of a period"),
        (lambda document: document["definition"].pop("model"), "definition.model"),
        (lambda document: document["definition"].update(resolution=-1), "definition.resolution"),
        (lambda document: document["definition"].update(unseen=["fog"]), "no class is called 'fog'"),
        (lambda document: document["definition"].update(aoi={"type": "Point"}), "no geometry of GeoJSON"),
        (lambda document: document["periods"]["2024"][0].update(acquired=["2024-01-01", "x"]), "acquired"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(change: Any, problem: str, tmp_path: Path) -> None:
    write_map_record(tmp_path, RECORD)
    document = json.loads((tmp_path / MAP_RECORD).read_text())
    change(document)
    (tmp_path / MAP_RECORD).write_text(json.dumps(document))
    with pytest.raises(InputError) as refused:
        read_map_record(tmp_path)
    assert problem in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MAP_RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="which restores it"):
        read_map_record(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "before", "after"),
    [
        ("resolution", 10.0, "resolution 30", "resolution 10"),
        ("crs", "EPSG:3035", "crs EPSG:32620", "crs EPSG:3035"),
        ("period", "month", "period year", "period month"),
        ("unseen", (), "unseen ice", "unseen none"),
        ("model_digest", "cd" * 32, "model_digest abab", "model_digest cdcd"),
        ("classes", DEFINITION.classes[:1], "classes 0 land #C8B478, 1 water", "classes 0 land #C8B478,"),
        ("labels_allowed", True, "labels_allowed no", "labels_allowed yes"),
        ("bounds", (0.0, 0.0, 1.0, 1.0), "bounds none", "bounds 0.0, 0.0, 1.0, 1.0"),
        ("aoi", AREA, "aoi none", "aoi {'type': 'Polygon'"),
        ("where", "water_share > 0.1", "where none", "where water_share > 0.1"),
    ],
)
def test_another_definition_is_refused_with_what_differs(field: str, value: Any, before: str, after: str) -> None:
    refuse_other_definition(Path("map"), DEFINITION, DEFINITION)
    other = DEFINITION.model_copy(update={field: value})
    assert other.digest != DEFINITION.digest
    with pytest.raises(OtherRunError) as refused:
        refuse_other_definition(Path("map"), DEFINITION, other)
    got, _, expected = str(refused.value).partition(", expected ")
    assert before in got and after.rstrip(",") in expected
    assert got.count(field) == expected.count(field) == 1 and "model a U-Net" not in got
    assert "another --out, or --overwrite" in expected and "\n" not in expected


def test_a_definition_is_validated() -> None:
    values = DEFINITION.model_dump()
    for change in ({"resolution": 0}, {"resolution": float("nan")}, {"classes": ()}, {"period": "week"}):
        with pytest.raises(ValidationError):
            MapDefinition(**{**values, **change})


def test_a_crs_is_called_by_its_code_where_it_has_one() -> None:
    assert name_crs(CRS("EPSG:32620")) == "EPSG:32620"
    assert CRS(name_crs(CRS(LAEA))) == CRS(LAEA)


def test_the_day_of_a_scene_is_that_of_its_middle() -> None:
    scene = make_scene()
    assert scene.day == (datetime(2024, 7, 2) - datetime(1970, 1, 1)).days
    assert scene.model_copy(update={"acquired": None}).day is None
    for moment, day in (
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), None),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2149, 6, 5, 23, 59, tzinfo=UTC), 65534),
        (datetime(2149, 6, 6, tzinfo=UTC), None),
    ):
        assert scene.model_copy(update={"acquired": (moment, moment)}).day == day
