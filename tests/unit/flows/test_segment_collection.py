"""The form that Prefect shows for a run of ``segment-collection``."""

from __future__ import annotations

from seamline.flows.segment_collection import segment_collection


def test_the_run_form_offers_every_kind_of_source() -> None:
    schema = segment_collection.parameters.model_dump()
    forms = [
        form["$ref"].rsplit("/", 1)[-1] for form in schema["properties"]["scenes"]["anyOf"]
    ]  # of oneOf it makes none
    kinds = {schema["definitions"][form]["properties"]["kind"]["const"] for form in forms}
    assert kinds == {"stac-api", "stac-catalog", "glob", "manifest", "inbox"}
