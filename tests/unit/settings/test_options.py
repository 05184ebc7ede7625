"""What the options of a run take, and what they make of it."""

from __future__ import annotations

from pathlib import Path

from seamline.flows.settings.options import SegmentOptions


def test_an_area_is_given_as_text_or_as_a_path() -> None:
    text, path = SegmentOptions(aoi="area.geojson"), SegmentOptions(aoi=Path("area.geojson"))
    assert text == path and text.aoi_file == text.aoi == Path("area.geojson")
    assert text.result_digest == path.result_digest
    assert SegmentOptions().aoi_file is None
