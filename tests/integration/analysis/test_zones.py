"""``seamline zones``: areas of classes by zones are those of every pixel; files that others read; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

import seamline
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.command_line import CommandLine
from tests.support.served_scenes import CLASSES, GRIDS
from tests.support.small_map import PERIODS, make_period_labels

GRID = GRIDS["utm"]
X, Y = GRID.transform.c, GRID.transform.f
SHAPES = {
    "lake": shapely.Point(X + 6000, Y - 4000).buffer(500).difference(shapely.Point(X + 6000, Y - 4000).buffer(100)),
    "islands": shapely.MultiPolygon([shapely.box(X + at, Y - 777, X + at + 123, Y - 333) for at in (1000, 1500, 2100)]),
    "half": shapely.box(X - 900, Y - 3000, X + 900, Y - 2000),
    "empty": None,
}


@pytest.fixture(scope="module")
def zones_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zones") / "zones.gpkg"
    geopandas.GeoDataFrame({"name": list(SHAPES)}, geometry=list(SHAPES.values()), crs=GRID.crs.to_wkt()).to_file(path)
    return path


def sum_by_brute_force(shape: shapely.Geometry | None, labels: np.ndarray) -> list[float]:
    """Areas of the classes: each pixel around a shape is cut with it by itself."""
    if shape is None:
        return [0.0] * len(CLASSES)
    areas = measure_pixel_areas(GRID)
    assert areas is not None
    outline = shapely.bounds(shape)
    (left, top), (right, bottom) = GRID.wld2pix(outline[0], outline[3]), GRID.wld2pix(outline[2], outline[1])
    rows, cols = np.mgrid[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1]
    x0, y0 = GRID.pix2wld(cols, rows)
    shares = shapely.area(shapely.intersection(shapely.box(x0, y0 - 30, x0 + 30, y0), shape)) / 900
    covered = shares * areas[0 : labels.shape[0]][rows, cols]
    return [float(covered[labels[rows, cols] == label.value].sum()) for label in CLASSES]


def test_areas_are_those_of_every_pixel(small_map: Path, zones_file: Path, tmp_path: Path) -> None:
    table = seamline.zones(small_map, zones_file, tmp_path / "zones.parquet", by="name")
    assert list(table.columns) == [
        *("zone", "period", "start", "end", "class", "value"),
        *("area_m2", "share", "seen_m2", "seen_share", "zone_m2"),
    ]
    assert len(table) == len(SHAPES) * len(PERIODS) * len(CLASSES)
    for (zone, period), rows in table.groupby(["zone", "period"], sort=False):
        expected = sum_by_brute_force(SHAPES[zone], make_period_labels(period))
        assert rows["class"].tolist() == [label.name for label in CLASSES]
        assert np.allclose(rows["area_m2"], expected, rtol=1e-8, atol=0)
        assert np.allclose(rows["seen_m2"], sum(expected))
        assert rows["start"].iloc[0] == pd.Timestamp(f"{period}-01-01", tz="UTC")
        if zone == "empty":
            assert rows["share"].isna().all() and not rows[["seen_m2", "seen_share", "zone_m2"]].any(axis=None)
            continue
        assert np.allclose(rows["share"], np.array(expected) / sum(expected))
        assert np.allclose(rows["zone_m2"], SHAPES[zone].area, rtol=2e-3)  # UTM stretches by up to 0.1 %
        assert np.allclose(rows["seen_share"], sum(expected) / SHAPES[zone].area, rtol=2e-3)
    read = geopandas.read_parquet(tmp_path / "zones.parquet")
    assert read.crs == GRID.crs.to_wkt() and read.drop(columns="geometry")["zone"].tolist() == table["zone"].tolist()
    lake = read[read["zone"] == "lake"].geometry
    assert all(shape.equals(SHAPES["lake"]) for shape in lake) and read[read["zone"] == "empty"].geometry.isna().all()


def test_duckdb_reads_the_tables(small_map: Path, zones_file: Path, tmp_path: Path) -> None:
    for ending in ("parquet", "csv"):
        path = tmp_path / f"zones.{ending}"
        table = seamline.zones(small_map, zones_file, path, by="name")
        rows = duckdb.sql(
            f"SELECT zone, period::VARCHAR, area_m2, start FROM '{path}' WHERE class = 'water'"
        ).fetchall()
        water = table[table["class"] == "water"]
        assert [row[:3] for row in rows] == list(zip(water["zone"], water["period"], water["area_m2"], strict=True))
        assert rows[0][3].isoformat() == "2024-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    "names", [[9007199254740993, None, 9007199254740992], ["", None, 'x "y",\nz'], [True, None, False]]
)
def test_names_keep_their_type_in_both_tables(small_map: Path, tmp_path: Path, names: list[Any]) -> None:
    shape = json.loads(shapely.to_geojson(SHAPES["half"]))
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{GRID.crs.epsg}"}}
    features = [{"type": "Feature", "properties": {"n": name}, "geometry": shape} for name in names]
    (tmp_path / "z.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    for ending in ("parquet", "csv"):
        path = tmp_path / f"zones.{ending}"
        table = seamline.zones(small_map, tmp_path / "z.geojson", path, by="n")
        shown = [None if pd.isna(name) else name for name in table["zone"].drop_duplicates().tolist()]
        assert shown == names and [type(name) for name in shown] == [type(name) for name in names]
        source = f"read_csv('{path}', allow_quoted_nulls = false)" if ending == "csv" else f"'{path}'"
        read = [row[0] for row in duckdb.sql(f"SELECT zone FROM {source}").fetchall()]
        assert list(dict.fromkeys(read)) == names


def test_labels_of_a_cog_are_those_of_the_store(small_map: Path, zones_file: Path, tmp_path: Path) -> None:
    shutil.copytree(small_map, tmp_path / "land")
    for store in (tmp_path / "land").glob("*/segmentation.zarr"):
        shutil.rmtree(store)
    pd.testing.assert_frame_equal(seamline.zones(tmp_path / "land", zones_file), seamline.zones(small_map, zones_file))


def test_scenes_have_rows_where_they_meet_zones(
    served_folder: Path, small_map: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A catalogue of scenes, among which a map is listed; one scene has no place on Earth."""
    out = tmp_path / "results"
    shutil.copytree(served_folder, out)
    shutil.copytree(small_map / "land-2024", out / "land-2024")
    update_catalog(out)
    shapes = [
        shapely.box(12.1, 45.8, 12.3, 45.9),
        shapely.box(-60, -60, -59, -59),
        None,
        shapely.box(-61.6, 47.7, -61.5, 47.8),
    ]
    geopandas.GeoDataFrame({"n": [3, 1, 2, 4]}, geometry=shapes, crs=4326).to_file(
        tmp_path / "a.fgb", SPATIAL_INDEX="NO"
    )
    table = seamline.zones(out, tmp_path / "a.fgb", by="n")
    assert table.columns[1] == "scene"
    met, lost = table[table["zone"] == 3], table[table["zone"].isin([1, 2])]
    assert table[table["zone"] == 4]["scene"].tolist() == ["utm"] * 3
    assert met["scene"].tolist() == ["degrees"] * 3 and met["area_m2"].sum() > 1e8
    assert met["seen_share"].iloc[0] == pytest.approx(1, abs=1e-4)
    assert lost["zone"].tolist() == [1, 1, 1, 2, 2, 2] and lost["scene"].isna().all() and not lost["area_m2"].any()
    assert "left out: 1 scene without a CRS" in caplog.text


def test_the_command_says_what_it_wrote(
    small_map: Path, zones_file: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    words = ("zones", str(small_map), str(zones_file), "--by", "name", "--out", str(tmp_path / "a.csv"))
    code, out, _ = command_line(*words)
    assert code == 0 and "a.csv: 4 zones, 2 periods, 24 rows" in out
    code, out, _ = command_line(*words, "--json")
    assert json.loads(out) == {"file": str(tmp_path / "a.csv"), "zones": 4, "periods": 2, "rows": 24}


def test_what_cannot_be_measured_is_refused(
    small_map: Path, zones_file: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(tmp_path / "far.gpkg")
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]).to_file(tmp_path / "bare.gpkg")
    (tmp_path / "none").mkdir()
    update_catalog(tmp_path / "none")
    damaged = tmp_path / "damaged"
    shutil.copytree(small_map, damaged / "land")
    next((damaged / "land" / "land-2025").glob("segmentation.zarr/segmentation/zarr.json")).write_text("{")
    table = tmp_path / "t.parquet"
    for results, polygons, out, text in (
        (small_map, tmp_path / "far.gpkg", table, "got 1 zone beside all results"),
        (small_map, tmp_path / "bare.gpkg", table, "got no CRS"),
        (small_map, tmp_path / "gone.gpkg", table, "got No such file or directory"),
        (tmp_path, zones_file, table, "got no catalog.json"),
        (tmp_path / "none", zones_file, table, "got no scenes in it"),
        (damaged / "land", zones_file, table, "got a damaged segmentation.zarr"),
        (small_map, zones_file, tmp_path / "t.xlsx", "got .xlsx, expected .parquet or .csv"),
        (small_map, zones_file, tmp_path / "no" / "t.csv", "got no folder"),
        ("s3://Bucket/land", zones_file, table, "got s3://Bucket/land, expected s3://bucket/prefix"),
    ):
        code, _, error = command_line("zones", str(results), str(polygons), "--out", str(out))
        assert (code, text in error, error.count("\n")) == (2, True, 1), error
        assert not out.exists()


def test_a_chunk_that_is_damaged_leaves_no_table(small_map: Path, zones_file: Path, tmp_path: Path) -> None:
    shutil.copytree(small_map, tmp_path / "land")
    for chunk in (tmp_path / "land" / "land-2025" / "segmentation.zarr" / "segmentation" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk")
    with pytest.raises(InputError, match=r"land-2025: got a damaged segmentation\.zarr"):
        seamline.zones(tmp_path / "land", zones_file, tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()
