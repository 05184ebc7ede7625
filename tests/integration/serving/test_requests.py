"""Any request to the routes of the map: the answer is one that its OpenAPI document describes, never a crash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import schemathesis.specs.openapi.schemas  # now: Python 3.11 may fail if garbage is collected while pytest rewrites it
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from morecantile import tms
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from seamline.flows.serving.app import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW = settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)
UTM = (-61.67, 47.76, -61.50, 47.85)
"""West, south, east, north of the scene ``utm``."""
FORBIDDEN_NUMBERS = ["nan", "-inf", "1e308", "1e400", "-1", "9" * 400, "", "1_0", "٣", "\0", "zoom"]


def tile_numbers(zoom: int) -> dict[str, int]:
    tile = tms.get("WebMercatorQuad").tile(-61.58, 47.8, zoom)
    return {"z": tile.z, "x": tile.x, "y": tile.y}


SCENES = st.sampled_from(["utm", "utm", "rotated", "nowhere", "damaged", "other", "..", "%2e%2e"])
TILES = st.integers(0, 24).map(tile_numbers)
SIDES = st.floats(-180, 180).map(str) | st.sampled_from(FORBIDDEN_NUMBERS)
FILES = st.sampled_from(
    ["item.json", "segmentation.tif", "preview.png", "report.html", "other", ".run", "..", "%2e%2e"]
)
KEYS = st.sampled_from(["zarr.json", "segmentation/zarr.json", "segmentation/c/0/0", "other", "../item.json", ".", ""])
BOXES = st.just(",".join(map(str, UTM))) | st.lists(SIDES, min_size=3, max_size=5).map(",".join)
MAPS = st.sampled_from(["monthly", "monthly", "land", "utm", "other", "..", "%2e%2e"])
PERIODS = st.sampled_from(["2024-06", "2024-06", "all", "2024-08", "..", ""])
MAP_PLACES = st.just({"lon": 12.0, "lat": 48.0}) | st.fixed_dictionaries({"lon": SIDES, "lat": SIDES})
PLACES = st.just({"lon": -61.58, "lat": 47.8}) | st.fixed_dictionaries({"lon": SIDES, "lat": SIDES})


def draw_values(data: Any, path: str) -> dict[str, Any]:
    """Values that strangers would never hit upon: of scenes that are there, tiles that they have, boxes."""
    known: dict[str, Any] = {"path_parameters": {}}
    if "{scene}" in path:
        known["path_parameters"]["scene"] = data.draw(SCENES)
    if "{z}" in path:
        known["path_parameters"] |= data.draw(TILES)
    if path.startswith("/maps/"):
        known["path_parameters"]["name"] = data.draw(MAPS)
        known["query"] = data.draw(MAP_PLACES)
        if path.endswith("/scenes"):
            known["query"] |= {"period": data.draw(PERIODS)}
    elif "{name}" in path:
        known["path_parameters"]["name"] = data.draw(FILES)
    if "{key}" in path:
        known["path_parameters"]["key"] = data.draw(KEYS)
    if "{layer}" in path:
        known["path_parameters"]["layer"] = data.draw(st.sampled_from(["segmentation", "segmentation", "confidence"]))
        known["query"] = {"hidden": data.draw(st.sampled_from(["", "1", "0,2"]))}
    if path in ("/scenes", "/scenes/{scene}/polygons"):
        known["query"] = {"bbox": data.draw(BOXES)}
    if path.endswith("/pixel"):
        known["query"] = data.draw(PLACES)
    return known


@pytest.fixture(scope="module")
def operations(served_folder: Path, served_map: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("requests") / "out"
    shutil.copytree(served_folder, folder)
    shutil.copytree(served_map, folder, dirs_exist_ok=True)
    shutil.copytree(folder / "utm", folder / "damaged")  # whose item is of another scene
    app = create_app(folder)
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    return [found.ok() for found in schema.get_all_operations()]


def ask(operation: Any, mode: GenerationMode) -> set[int]:
    """Send requests to one route and return the statuses of the answers, each of which is as described."""
    statuses = set()

    @FEW
    @given(st.data())
    def check_answers(data: Any) -> None:
        values = draw_values(data, operation.path)
        if mode is GenerationMode.NEGATIVE:
            values.pop("query", None)
            # What is not there is not found, whatever the parameters are; so it is of something that is there.
            there = {"scene": "utm", "name": "monthly" if "/maps/" in operation.path else "item.json"}
            values["path_parameters"] |= {key: there[key] for key in there.keys() & values["path_parameters"].keys()}
        case = data.draw(operation.as_strategy(mode, **values))
        answer = case.call()
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    check_answers()
    return statuses


def test_every_answer_is_one_that_the_openapi_document_describes(operations: list[Any]) -> None:
    seen: set[int] = set()
    for operation in operations:
        statuses = ask(operation, GenerationMode.POSITIVE)
        seen |= statuses
        assert 200 in statuses, operation.label  # something that is there was among it
        if operation.query:
            assert 422 in ask(operation, GenerationMode.NEGATIVE), operation.label
    assert len(operations) == 16 and {404, 409} <= seen
