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
from seamline.pipeline.storage.digests import describe_file
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

    for step in ("vectors._convert_polygons", "tile_pyramid._join_tiles"):  # a kill between two files, and in one
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(f"seamline.pipeline.vectors.{step}", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            run(outputs=("cog", "polygons", "confidence"), chunk_tiles=2, polygon_formats=tuple(POLYGON_FILES))
    assert not (folder / "run.json").exists() and (folder / ".run" / "plan.json").exists()
    assert not (folder / POLYGON_FILES["pmtiles"]).exists()
    result = run(outputs=("cog", "polygons", "confidence"), polygon_formats=tuple(POLYGON_FILES))
    assert result.computed and list(verify(out)) == [] and not (folder / ".run").exists()
    assets = json.loads((folder / "item.json").read_text())["assets"]
    assert {"polygons", "polygons-fgb", "polygons-gpkg", "polygons-pmtiles"} <= set(assets)
    tiles = folder / POLYGON_FILES["pmtiles"]
    first_tiles = tiles.read_bytes()
    assert assets["polygons-pmtiles"].items() >= {"type": "application/vnd.pmtiles", **describe_file(tiles)}.items()
    first = read_rows(folder / POLYGON_FILES["gpkg"])
    pixels = {row.value: row.pixels for row in result.record.classes if row.pixels}
    assert {value: sum(row[2] for row in first if row[0] == value) for value in pixels} == pixels
    for row in result.record.classes:
        assert row.area_m2 == pytest.approx(sum(other[3] for other in first if other[0] == row.value))
    assert all(0 <= row[4] <= 1 for row in first)

    tiles.write_bytes(first_tiles[:-1])
    assert {finding.subject for finding in verify(out)} == {"polygons.pmtiles"}
    assert run(outputs=("cog", "polygons", "confidence"), polygon_formats=("pmtiles",)).rewritten == ("polygons",)
    assert tiles.read_bytes() == first_tiles  # whatever the workers
    (folder / POLYGON_FILES["gpkg"]).unlink()  # without a store of labels, and without a cluster
    again = run(outputs=("cog", "polygons", "confidence"))
    assert again.rewritten == ("polygons",) and read_rows(folder / POLYGON_FILES["gpkg"]) == first
    other = run(outputs=("cog", "polygons"), polygon_min_area=2700.0, polygon_formats=("gpkg",))
    assert other.rewritten == ("polygons",) and other.record.polygons["min_area"] == 2700
    assert tiles.read_bytes() != first_tiles  # made anew with the others
    sieved = read_rows(folder / POLYGON_FILES["gpkg"])
    assert (
        len(sieved) < len(first) and read_rows(folder / POLYGON_FILES["parquet"]) == sieved and list(verify(out)) == []
    )
    assert not run(outputs=("cog", "polygons"), polygon_min_area=2700.0).rewritten
    run(outputs=("cog", "zarr"), overwrite=True)
    assert not list(folder.glob("polygons.*"))
