"""A definition is the same after a way through ``map.json``, whatever it says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import shapely
import shapely.geometry
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.mosaic.changes import find_changes
from seamline.pipeline.mosaic.map_record import (
    MapDefinition,
    MapRecord,
    read_map_record,
    refuse_other_definition,
    write_map_record,
)
from tests.unit.mosaic.test_map_record import DEFINITION, RECORD

NUMBERS = st.floats(-1e7, 1e7, allow_nan=False) | st.integers(-(10**7), 10**7)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def draw_areas(draw: st.DrawFn) -> dict[str, Any]:
    """Polygons, with holes or several, as shapely describes them: with tuples, which JSON does not have."""
    x, y, size = draw(NUMBERS), draw(NUMBERS), draw(st.floats(1, 1e6))
    outer = shapely.Point(x, y).buffer(size, quad_segs=draw(st.integers(1, 3)))
    shape = (
        outer.difference(shapely.Point(x, y).buffer(size / draw(st.integers(2, 9)))) if draw(st.booleans()) else outer
    )
    if draw(st.booleans()):
        shape = shapely.MultiPolygon([shape, shapely.affinity.translate(shape, 3 * size)])
    mapping: dict[str, Any] = shapely.geometry.mapping(shape)
    return mapping


@st.composite
def draw_definitions(draw: st.DrawFn) -> MapDefinition:
    bounds = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
    changes = {
        "crs": draw(st.sampled_from(["EPSG:3035", DEFINITION.crs]) | TEXTS),
        "resolution": draw(st.floats(1e-300, 1e300) | st.integers(1, 10**6)),
        "bounds": draw(st.none() | bounds),
        "aoi": draw(st.none() | draw_areas()),
        "period": draw(st.sampled_from(["all", "year", "season", "month", "2024-05-01/2024-06-15"])),
        "where": draw(TEXTS),
        "model": draw(TEXTS),
        "unseen": draw(st.sampled_from([(), ("ice",), ("water", "ice")])),
        "labels_allowed": draw(st.booleans()),
    }
    return MapDefinition.model_validate({**DEFINITION.model_dump(), **changes})


@given(draw_definitions())
def test_a_map_is_of_its_own_definition(definition: MapDefinition) -> None:
    record = RECORD.model_copy(update={"definition": definition})
    with tempfile.TemporaryDirectory() as folder:
        write_map_record(Path(folder), record)
        read = read_map_record(Path(folder))
    assert isinstance(read, MapRecord) and read == record and read.is_same_map(record)
    assert read.definition.digest == definition.digest
    refuse_other_definition(Path("map"), read.definition, definition)
    same_place = DEFINITION.model_dump(include={"crs", "resolution"})
    before, after = (
        one.model_copy(update={"definition": one.definition.model_copy(update=same_place)}) for one in (read, record)
    )
    assert not any(changes.computed for changes in find_changes(before, after).periods.values())
