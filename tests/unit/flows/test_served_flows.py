"""Flows that a user serves from a script: ``serve`` pickles them by value and starts each run in another process."""

import sys
from typing import Any

import cloudpickle
import pytest
from prefect import Flow

from seamline.flows.publish_catalog import publish_catalog_flow
from seamline.flows.segment_collection import segment_collection
from seamline.flows.segment_scene import segment_scene
from seamline.flows.train_model import train_model_flow

FLOWS: list[tuple[Flow[Any, Any], dict[str, Any]]] = [
    (segment_scene, {"source": "scene.tif", "options": {"window": 256}}),
    (segment_collection, {"scenes": {"kind": "inbox", "folder": "inbox"}, "options": {"window": 256}}),
    (publish_catalog_flow, {"out": "results"}),
    (train_model_flow, {"recipe": "recipe.yaml", "data": "data", "out": "model"}),
]


@pytest.mark.parametrize(("flow", "parameters"), FLOWS, ids=[flow.name for flow, _ in FLOWS])
def test_a_flow_that_is_pickled_by_value_knows_the_types_of_its_parameters(
    flow: Flow[Any, Any], parameters: dict[str, Any]
) -> None:
    module = sys.modules[flow.fn.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps(flow)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    loaded = cloudpickle.loads(pickled)
    assert loaded.fn.__globals__ is not flow.fn.__globals__
    assert loaded.validate_parameters(parameters) == flow.validate_parameters(parameters)
