"""Zones are read with names, repaired and joined, whatever the file; what cannot be zones is refused in one line."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio.raw
import pyproj
import pytest
import shapely

from seamline.pipeline.analysis.zone_file import read_zones
from seamline.pipeline.common.errors import InputError

BOX, OTHER = shapely.box(0, 0, 2, 1), shapely.box(2, 0, 3, 1)
BOW_TIE = shapely.Polygon([(10, 0), (12, 2), (12, 0), (10, 2)])


def write(path: Path, shapes: list[Any], crs: str | None = "EPSG:32632", layer: str = "zones", **columns: Any) -> Path:
    fields = [np.array(values, object if isinstance(values[0], str | None) else None) for values in columns.values()]
    wkb = np.array([None if shape is None else shapely.to_wkb(shape) for shape in shapes], object)
    options = {"layer": layer, "append": path.exists()} if path.suffix == ".gpkg" else {}
    pyogrio.raw.write(path, wkb, fields, list(columns), crs=crs, geometry_type="Unknown", **options)
    return path


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_each_feature_is_a_zone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [BOX, None, BOW_TIE, shapely.Polygon()], name=["a", "b", "c", "d"])
    zones = read_zones(path)
    assert zones.names == (1, 2, 3, 4) and zones.crs == "EPSG:32632"  # numbers of features of a GeoPackage begin at 1
    assert [zone.area for zone in zones.geometries] == [2, 0, 2, 0]
    assert all(zone.is_valid for zone in zones.geometries)
    assert read_zones(path, "name").names == ("a", "b", "c", "d")


def test_holes_stay_holes_where_they_overlap(tmp_path: Path) -> None:
    pierced = shapely.Polygon(
        shapely.box(0, 0, 10, 10).exterior, [shapely.box(2, 2, 6, 6).exterior, shapely.box(4, 4, 8, 8).exterior]
    )
    assert read_zones(write(tmp_path / "a.gpkg", [pierced])).geometries[0].area == 100 - 16 - 16 + 4


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".shp", ".fgb"])
def test_features_of_one_name_are_one_zone(tmp_path: Path, ending: str) -> None:
    crs = "EPSG:4326" if ending == ".geojson" else "EPSG:32632"
    path = write(tmp_path / f"a{ending}", [BOX, OTHER, BOX], crs, code=[7, 8, 7])
    zones = read_zones(path, "code")
    assert dict(zip(zones.names, (zone.area for zone in zones.geometries), strict=True)) == {7: 2, 8: 1}
    united = read_zones(write(tmp_path / f"b{ending}", [BOX, OTHER], crs, state=["x", "x"]), "state")
    assert united.names == ("x",) and united.geometries[0].equals(shapely.box(0, 0, 3, 1))


@pytest.mark.parametrize("crs", ["projected", "default", None])
def test_geoparquet_is_read_without_gdal(tmp_path: Path, crs: str | None) -> None:
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": []}
    if crs != "default":
        column["crs"] = None if crs is None else pyproj.CRS("EPSG:3035").to_json_dict()
    geo = {"version": "1.1.0", "primary_column": "place", "columns": {"place": column}}
    table = pa.table({"place": [shapely.to_wkb(BOX), None], "name": ["a", None]})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "a.parquet")
    if crs is None:
        with pytest.raises(InputError, match=r"a\.parquet: got no CRS, expected one that the file states"):
            read_zones(tmp_path / "a.parquet")
        return
    zones = read_zones(tmp_path / "a.parquet", "name")
    assert zones.names == ("a", None) and zones.crs == ("EPSG:3035" if crs == "projected" else "OGC:CRS84")


NAMES: dict[str, list[Any]] = {
    "whole numbers": [9007199254740993, None, 9007199254740992, 1],
    "yes and no": [True, None, False],
    "numbers": [1.5, None, 2.0],
    "texts": ["a", None, "", "1"],
    "dates": ["2024-01-01", "2024-01-02"],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".parquet"])
def test_names_are_as_the_file_has_them(tmp_path: Path, kind: str, ending: str) -> None:
    shape = json.loads(shapely.to_geojson(BOX))
    features = [{"type": "Feature", "properties": {"n": name}, "geometry": shape} for name in NAMES[kind]]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    expected = [date.fromisoformat(name) for name in NAMES[kind]] if kind == "dates" else NAMES[kind]
    if ending == ".gpkg":
        _, table = pyogrio.raw.read_arrow(path)
        path = tmp_path / "a.gpkg"
        pyogrio.raw.write_arrow(table, path, crs="EPSG:4326", geometry_type="Polygon", geometry_name="wkb_geometry")
    if ending == ".parquet":
        path = tmp_path / "a.parquet"
        geo = {"version": "1.1.0", "primary_column": "g", "columns": {"g": {"encoding": "WKB", "geometry_types": []}}}
        table = pa.table({"g": [shapely.to_wkb(BOX)] * len(expected), "n": expected})
        pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    names = read_zones(path, "n").names
    assert list(map(repr, names)) == list(map(repr, expected))


def test_names_that_are_no_numbers_have_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [BOX, OTHER, BOX], n=[np.nan, 1.0, np.nan])
    zones = read_zones(path, "n")
    assert zones.names == (None, 1.0) and [zone.area for zone in zones.geometries] == [2, 1]


def test_one_of_several_layers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [BOX], layer="lakes")
    write(path, [OTHER], layer="districts")
    assert read_zones(path, layer="districts").geometries[0].equals(OTHER)
    with pytest.raises(InputError, match=r"got 2 layers with geometries, expected one of .*; name one by --layer"):
        read_zones(path)
    with pytest.raises(InputError, match="got no layer towns, expected one of"):
        read_zones(path, layer="towns")


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_is_no_zone_is_refused(tmp_path: Path) -> None:
    def refused(path: Path, by: str = "") -> str:
        with pytest.raises(InputError) as caught:
            read_zones(path, by)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    good = write(tmp_path / "a.gpkg", [BOX], name=["a"], code=[1])
    assert "no attribute nmae, expected one of name, code; correct --by" in refused(good, "nmae")
    assert "got no CRS" in refused(write(tmp_path / "crs.gpkg", [BOX], None))
    assert "a Point in feature 1, expected polygons" in refused(write(tmp_path / "p.gpkg", [shapely.Point(1, 1)]))
    assert "got no features" in refused(write_empty(tmp_path))
    assert "No such file" in refused(tmp_path / "gone.gpkg")
    (tmp_path / "text.gpkg").write_text("no zones")
    assert "no vector file" in refused(tmp_path / "text.gpkg")
    (tmp_path / "text.parquet").write_text("no zones")
    assert "no vector file" in refused(tmp_path / "text.parquet")
    infinite = shapely.Polygon([(0, 0), (1, 0), (np.inf, 1)])
    assert "no numbers in feature 1" in refused(write(tmp_path / "inf.gpkg", [infinite]))

    (tmp_path / "list.geojson").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {"type": "Feature", "properties": {"n": [1]}, "geometry": json.loads(shapely.to_geojson(BOX))}
                ],
            }
        )
    )
    assert "a list as n of feature 0, expected numbers, texts or dates" in refused(tmp_path / "list.geojson", "n")


def write_empty(folder: Path) -> Path:
    path = folder / "empty.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    return path
