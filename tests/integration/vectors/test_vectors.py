"""A run writes polygons, and makes them again from what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.layout import POLYGON_FILES
from seamline.pipeline.results.verify import verify
from tests.support.polygon_files import read_rows
from tests.support.small_rasters import make_noise, write_geotiff


def test_a_run_writes_polygons_and_makes_them_again(
    tmp_path: Path, small_model: Model, cluster: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_geotiff(tmp_path / "scene.tif", make_noise(6, 25, 33).repeat(8, axis=1).repeat(8, axis=2))
    out, folder = tmp_path / "out", tmp_path / "out" / "scene"

    def run(**options: Any) -> RunResult:
        how = {"window": 128, "engine": "torch", "precision": "fp32", "batch": 1, "threads": 1, **options}
        return segment(scene, small_model.folder, out, SegmentOptions(cluster=cluster(1), **how), RunObserver())

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:  # a kill between two files
        patch.setattr(
            "seamline.pipeline.vectors.vectors._convert_polygons", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        run(outputs=("cog", "polygons", "confidence"), chunk_tiles=2)
    assert not (folder / "run.json").exists() and (folder / ".run" / "plan.json").exists()
    result = run(outputs=("cog", "polygons", "confidence"))
    assert result.computed and list(verify(out)) == [] and not (folder / ".run").exists()
    assets = json.loads((folder / "item.json").read_text())["assets"]
    assert {"polygons", "polygons-fgb", "polygons-gpkg"} <= set(assets)
    first = read_rows(folder / POLYGON_FILES["gpkg"])
    pixels = {row.value: row.pixels for row in result.record.classes if row.pixels}
    assert {value: sum(row[2] for row in first if row[0] == value) for value in pixels} == pixels
    for row in result.record.classes:
        assert row.area_m2 == pytest.approx(sum(other[3] for other in first if other[0] == row.value))
    assert all(0 <= row[4] <= 1 for row in first)

    (folder / POLYGON_FILES["gpkg"]).unlink()  # without a store of labels, and without a cluster
    again = run(outputs=("cog", "polygons", "confidence"))
    assert again.rewritten == ("polygons",) and read_rows(folder / POLYGON_FILES["gpkg"]) == first
    other = run(outputs=("cog", "polygons"), polygon_min_area=2700.0, polygon_formats=("gpkg",))
    assert other.rewritten == ("polygons",) and other.record.polygons["min_area"] == 2700
    sieved = read_rows(folder / POLYGON_FILES["gpkg"])
    assert (
        len(sieved) < len(first) and read_rows(folder / POLYGON_FILES["parquet"]) == sieved and list(verify(out)) == []
    )
    assert not run(outputs=("cog", "polygons"), polygon_min_area=2700.0).rewritten
    run(outputs=("cog", "zarr"), overwrite=True)
    assert not list(folder.glob("polygons.*"))
