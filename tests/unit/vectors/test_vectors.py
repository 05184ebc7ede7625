"""Files of polygons, read by programs that are not ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import shapes

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import POLYGON_FILES
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_store_raster
from seamline.pipeline.storage.digests import describe_file
from seamline.pipeline.vectors import vectors
from seamline.pipeline.vectors.polygon_options import PolygonOptions, PolygonRules
from seamline.pipeline.vectors.regions import remove_collinear_points
from seamline.pipeline.vectors.vectors import write_polygons
from tests.support.polygon_files import read_rows
from tests.support.small_rasters import UTM, make_blobs

CLASSES = tuple(LabelClass(value, f"class {value}", (value * 60, 100, 20)) for value in range(4))


HEIGHT, WIDTH = 150, 210


EVERYTHING = PolygonOptions()
ROTATED = UTM @ Affine.rotation(20)


def written(
    folder: Path,
    labels: NDArray[np.uint8],
    grid: GeoBox,
    wanted: PolygonOptions = EVERYTHING,
    chunk: int = 64,
    **layers: Any,
) -> Path:
    """The folder with the polygons of the labels."""
    shutil.rmtree(folder / "s.zarr", ignore_errors=True)
    create_store(folder / "s.zarr", grid, CLASSES, ZarrLayout(chunk), title="a scene", layers=list(layers))
    tiling = Tiling(*grid.shape, window=chunk, halo=0, overlap=0, chunk_tiles=1, divisor=1)
    for name, values in {"segmentation": labels, **layers}.items():
        write_store_raster(folder / "s.zarr", name, tiling.scene_window, values)
    infos = write_polygons(folder / "s.zarr", tiling, grid, CLASSES, wanted, folder, folder / "scratch")
    assert not list((folder / "scratch").iterdir())
    assert infos == {path.name: describe_file(path) for path in folder.glob("polygons.*")}
    return folder


@pytest.mark.parametrize("least_points", [1, 10**9], ids=["rows of chunks", "all joined"])
@pytest.mark.parametrize(("crs", "transform"), [("EPSG:32620", ROTATED), (None, Affine.identity())])
def test_files_have_the_polygons_of_the_whole_raster(
    tmp_path: Path, crs: str | None, transform: Affine, least_points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_LEAST_POINTS", least_points)
    labels, grid = make_blobs(HEIGHT, WIDTH, 3, 4, 1), GeoBox((HEIGHT, WIDTH), transform, crs)
    confidence = np.random.default_rng(0).integers(0, 251, labels.shape).astype(np.uint8)
    confidence[labels == NODATA] = NODATA
    folder = written(tmp_path, labels, grid, confidence=confidence)

    whole = []
    for shape, label in shapes(labels, mask=labels != NODATA, connectivity=4):
        polygon = remove_collinear_points(shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]))
        row, col = (int(v) for v in polygon.bounds[1::-1]) if polygon.area == 1 else (-1, -1)
        placed = shapely.transform(polygon, lambda xy: np.column_stack(transform @ xy.T))
        whole.append((int(label), polygon.area, confidence[row, col] if row >= 0 else None, placed.normalize()))
    whole.sort(key=lambda row: (row[0], row[-1].wkb))
    for name in EVERYTHING.files:
        found = read_rows(folder / name)
        assert [(row[0], row[2]) for row in found] == [row[:2] for row in whole]
        assert shapely.equals_exact([row[-1] for row in found], [row[-1] for row in whole], 1e-6).all()
        assert {(row[0], row[1]) for row in found} == {(label.value, label.name) for label in CLASSES}
        for row, (_, _, sure, _) in zip(found, whole, strict=True):
            assert sure is None or row[4] == pytest.approx(sure * 0.004)
        if crs is None:
            assert {row[3] for row in found} == {None}
        else:
            degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
            geod = degrees.target_crs.get_geod()
            for row in found[::20]:
                lonlat = shapely.transform(row[-1], degrees.transform, interleaved=False)
                assert row[3] == pytest.approx(abs(geod.geometry_area_perimeter(lonlat)[0]), rel=1e-4)
    groups = pq.read_metadata(folder / POLYGON_FILES["parquet"]).num_row_groups
    assert groups > 8 if least_points == 1 else groups == 1
    info = pyogrio.read_info(folder / POLYGON_FILES["gpkg"])
    assert info["crs"] == crs and info["geometry_type"] == "Polygon" and info["layer_name"] == "polygons"
    assert pyogrio.read_info(folder / POLYGON_FILES["fgb"])["crs"] == crs


def test_duckdb_finds_polygons_by_their_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_LEAST_POINTS", 1)
    labels, grid = make_blobs(HEIGHT, WIDTH, 3, 4, 2), GeoBox((HEIGHT, WIDTH), UTM, "EPSG:32620")
    path = written(tmp_path, labels, grid) / POLYGON_FILES["parquet"]
    box = shapely.box(500_900, 5_997_000, 502_000, 5_998_000)
    with duckdb.connect() as base:
        found = base.execute(
            f"""SELECT count(*), sum(area_m2), any_value(ST_CRS(geometry)) FROM '{path}'
            WHERE bbox.xmin <= {box.bounds[2]} AND bbox.xmax >= {box.bounds[0]}
            AND bbox.ymin <= {box.bounds[3]} AND bbox.ymax >= {box.bounds[1]}"""
        ).fetchone()
        geo = json.loads(
            base.execute(f"SELECT value FROM parquet_kv_metadata('{path}') WHERE key = 'geo'").fetchone()[0]
        )
    everything = read_rows(path)
    inside = [row for row in everything if shapely.box(*row[-1].bounds).intersects(box)]
    assert found is not None and found[0] == len(inside) < len(everything)
    assert found[1] == pytest.approx(sum(row[3] for row in inside)) and "32620" in found[2]
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0" and column["crs"]["id"]["code"] == 32620
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    assert column["bbox"] == list(shapely.total_bounds([row[-1] for row in everything]))


def test_rules_hold_whatever_the_chunks(tmp_path: Path) -> None:
    labels, grid = make_blobs(HEIGHT, WIDTH, 1.5, 4, 3), GeoBox((HEIGHT, WIDTH), UTM, "EPSG:32620")
    minimum = 12 * 900
    found = []
    for chunk in (48, 512):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        found.append(
            read_rows(
                written(folder, labels, grid, PolygonOptions(("fgb",), PolygonRules(minimum)), chunk)
                / POLYGON_FILES["fgb"]
            )
        )
        assert not (folder / POLYGON_FILES["gpkg"]).exists()
    assert found[0] == found[1]
    assert sum(row[2] for row in found[0]) == (labels != NODATA).sum()
    small, exactly = (
        [row for row in found[0] if row[3] < minimum],
        read_rows(written(tmp_path, labels, grid) / POLYGON_FILES["gpkg"]),
    )
    valid = shapely.union_all([row[-1] for row in exactly])
    isolated = [part for part in shapely.get_parts(valid) if part.area < 20 * minimum]
    assert len(small) < 50 < len(exactly)
    assert all(any(part.covers(row[-1]) for part in isolated) for row in small)

    simple = read_rows(
        written(tmp_path, labels, grid, PolygonOptions(("gpkg",), PolygonRules(minimum, 1.5))) / POLYGON_FILES["gpkg"]
    )
    assert [row[:4] for row in simple] != [] and sorted(row[:4] for row in simple) == sorted(
        row[:4] for row in found[0]
    )
    polygons = [row[-1] for row in simple]
    assert shapely.coverage_is_valid(polygons) and shapely.is_valid(polygons).all()
    count = [shapely.get_num_coordinates([row[-1] for row in table]).sum() for table in (simple, found[0])]
    assert count[0] < 0.7 * count[1]


@pytest.mark.parametrize("rules", [PolygonRules(), PolygonRules(1000, 2)])
def test_a_scene_of_nothing_gives_empty_files(tmp_path: Path, rules: PolygonRules) -> None:
    labels, grid = np.full((100, 90), NODATA, np.uint8), GeoBox((100, 90), UTM, "EPSG:32620")
    written(tmp_path, labels, grid, PolygonOptions(rules=rules))
    for name in EVERYTHING.files:
        assert read_rows(tmp_path / name) == []
    assert pyogrio.read_info(tmp_path / POLYGON_FILES["fgb"])["crs"] == "EPSG:32620"


@pytest.mark.parametrize("values", [{"min_area": -1}, {"simplify": float("nan")}, {"simplify": float("inf")}])
def test_rules_are_numbers_from_zero(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="numbers from 0"):
        PolygonRules(**values)


def test_a_minimum_needs_areas(tmp_path: Path) -> None:
    grid = GeoBox((20, 20), Affine.identity(), None)
    with pytest.raises(InputError, match="--polygon-min-area"):
        written(tmp_path, np.zeros((20, 20), np.uint8), grid, PolygonOptions(rules=PolygonRules(5)))
