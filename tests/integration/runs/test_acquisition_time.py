"""When a scene was taken, as the user says it: it belongs to what is published of the scene, and not to its labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import rasterio

from seamline.flows.api.collecting import collect
from seamline.flows.api.segmenting import segment
from seamline.flows.runs.observer import RunResult
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.products.run_record import read_record
from seamline.pipeline.results.dataset import open_result
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac.extent import Interval
from seamline.pipeline.stac.query import query_items
from tests.support.run_folders import FIXED_ENGINE, read_rasters
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff
from tests.support.stac_items import check_core_schema

OPTIONS = {**FIXED_ENGINE, "window": 128}


def run(folder: Path, model: Model, out: str | Path | None = None, **options: Any) -> RunResult:
    """Segment the scene in ``folder``."""
    return segment(folder / "scene.tif", model, out or folder / "out", SegmentOptions(**OPTIONS, **options))


def read_times(result: RunResult) -> list[str | None]:
    item = check_core_schema(json.loads((result.folder / "item.json").read_text()))
    return [item["properties"].get(name) for name in ("datetime", "start_datetime", "end_datetime")]


def find(folder: Path, interval: str) -> list[str]:
    return [item["id"] for item in query_items(folder / "out", interval=Interval.from_text(interval))]


@pytest.fixture(scope="module")
def undated_run(tmp_path_factory: pytest.TempPathFactory, small_model: Model) -> Path:
    folder = tmp_path_factory.mktemp("undated")
    write_geotiff(folder / "scene.tif", make_noise(6, 150, 150), names=BAND_NAMES)
    run(folder, small_model)
    return folder


@pytest.fixture
def undated(undated_run: Path, tmp_path: Path) -> Path:
    """A folder with a scene whose files do not say when it was taken, and its results."""
    shutil.copytree(undated_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_scene_of_unknown_time_was_taken_before_its_run_and_is_found_at_no_time(
    undated: Path, small_model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(undated, small_model)
    assert not result.computed and result.rewritten == ()
    moment, start, end = read_times(result)
    assert (moment, start) == (None, "1900-01-01T00:00:00Z") and end == result.record.finished.replace("+00:00", "Z")
    assert find(undated, "1900/..") == []
    assert "left out: 1 scene of unknown time" in caplog.text
    where = '"seamline:datetime_unknown"'
    assert [item["id"] for item in query_items(undated / "out", where=where)] == ["scene"]
    assert "unknown" in open_result(undated / "out", "scene").attrs["datetime"]
    assert any("give --datetime" in warning for warning in result.record.warnings)


def test_a_finished_scene_is_published_with_the_time_that_it_is_given_later_and_not_inferred(
    undated: Path, small_model: Model
) -> None:
    before, preview = read_rasters(undated / "out" / "scene"), (undated / "out/scene/preview.png").read_bytes()
    for text, found, other in (("2024-06-01", "2024-06", "2025"), ("2025-01/2025-02", "2025-02-11", "2024-06-01")):
        result = run(undated, small_model, datetime=text)
        assert not result.computed and set(result.rewritten) == {"preview", "report", "item"}
        assert read_rasters(result.folder) == before
        assert find(undated, found) == ["scene"] and find(undated, other) == []
        assert result.record.options["datetime"] == read_record(result.folder).options["datetime"] == text
        assert not any("--datetime" in warning for warning in result.record.warnings)
        assert text[:7] in (result.folder / "report.html").read_text()
        assert (result.folder / "preview.png").read_bytes() != preview
        assert list(verify(undated / "out")) == []
        for again in ({}, {"datetime": text}):  # what was given once holds until another time is given
            assert run(undated, small_model, **again).rewritten == ()
    assert read_times(result) == [None, "2025-01-01T00:00:00Z", "2025-02-28T23:59:59Z"]


def test_a_time_that_was_given_goes_before_that_of_the_files(undated: Path, small_model: Model) -> None:
    with rasterio.open(undated / "scene.tif", "r+") as file:
        file.update_tags(ACQUISITION_DATE="2020-01-01")
    assert run(undated, small_model, overwrite=True, outputs=("cog",)).computed
    assert find(undated, "2020") == ["scene"]
    result = run(undated, small_model, outputs=("cog",), datetime="2021-05-05T10:00:00Z")
    assert read_times(result) == ["2021-05-05T10:00:00Z", None, None]


def test_a_run_that_was_killed_keeps_the_time_that_it_was_given(tmp_path: Path, small_model: Model) -> None:
    write_geotiff(tmp_path / "scene.tif", make_noise(6, 150, 150), names=BAND_NAMES)

    def stop(progress: object) -> None:
        if list(tmp_path.glob("out/scene/.run/*/inferred/*.json")):
            raise KeyboardInterrupt

    options = SegmentOptions(**OPTIONS, datetime="2024-06-01")
    with pytest.raises(KeyboardInterrupt):
        segment(tmp_path / "scene.tif", small_model, tmp_path / "out", options, progress=stop)
    result = run(tmp_path, small_model)
    assert result.computed and read_times(result)[0] == "2024-06-01T00:00:00Z"
    assert result.record.options["datetime"] == "2024-06-01"


def test_an_item_that_contradicts_the_time_of_the_run_is_found(undated: Path, small_model: Model) -> None:
    path = run(undated, small_model, datetime="2024-06-01").folder / "item.json"
    path.write_text(path.read_text().replace("2024-06-01T00", "2024-06-02T00"))
    assert any("its time is not the 2024-06-01 of run.json" in finding.problem for finding in verify(undated / "out"))
    assert "item" in run(undated, small_model).rewritten and list(verify(undated / "out")) == []


def test_all_scenes_of_a_collection_get_the_time(undated: Path, small_model: Model) -> None:
    options = SegmentOptions(**OPTIONS)
    source = {"kind": "glob", "pattern": str(undated / "*.tif")}
    collect(source, small_model, undated / "out", options)
    dated = options.model_copy(update={"datetime": "2024-06-01"})
    assert options.result_digest != dated.result_digest  # or the ledger would pass the scene over
    collect(source, small_model, undated / "out", dated)
    assert find(undated, "2024-06-01") == ["scene"]
