"""Inputs that are valid and too large: they are refused before they take minutes and all memory."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.flows.runs.scene_job import open_input
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.training.recipe_documents import read_recipe
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.results.verify import verify
from seamline.pipeline.scenes.aoi import read_aoi
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.items import read_item_table
from tests.support.small_rasters import BAND_NAMES, UTM
from tests.support.stac_items import make_scene_item

GRID = GeoBox((300, 300), Affine(30, 0, 500_000, 0, -30, 6_000_000), "EPSG:32620")
INSIDE = (-62.99, 54.07, -62.9, 54.13)
"""West, south, east, north of ground in the scene."""


def write_geojson(path: Path, *shapes: shapely.Geometry) -> Path:
    features = [{"type": "Feature", "geometry": shapely.geometry.mapping(shape)} for shape in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def draw_points(count: int) -> np.ndarray:
    west, south, east, north = INSIDE
    return np.random.default_rng(0).uniform((west, south), (east, north), (count, 2))


def test_an_area_of_few_crossings_is_repaired_and_one_of_many_refused(tmp_path: Path) -> None:
    few = write_geojson(tmp_path / "few.geojson", shapely.Polygon(draw_points(20)))
    assert shapely.from_wkt(read_aoi(few, GRID)).is_valid
    many = write_geojson(tmp_path / "many.geojson", shapely.Polygon(draw_points(20_000)))
    with pytest.raises(InputError, match=r"too complex an area: got more than 2000 crossings .*ogr2ogr -makevalid"):
        read_aoi(many, GRID)


def test_a_detailed_area_without_crossings_is_taken(tmp_path: Path) -> None:
    west, south, east, north = INSIDE
    circle = shapely.Point((west + east) / 2, (south + north) / 2).buffer((north - south) / 3, quad_segs=5000)
    area = shapely.from_wkt(read_aoi(write_geojson(tmp_path / "circle.geojson", circle), GRID))
    assert area.is_valid and area.area > 0


def test_neighbours_are_united_and_thousands_on_one_spot_refused(tmp_path: Path) -> None:
    west, south, east, north = INSIDE
    cells = [shapely.box(x, south, u, north) for x, u in pairwise(np.linspace(west, east, 51))]
    area = shapely.from_wkt(read_aoi(write_geojson(tmp_path / "a.geojson", *cells), GRID))
    assert isinstance(area, shapely.Polygon)
    corners = draw_points(3 * 1500).reshape(-1, 3, 2)
    with pytest.raises(InputError, match=r"got 1500 polygons that overlap"):
        read_aoi(write_geojson(tmp_path / "b.geojson", *map(shapely.Polygon, corners)), GRID)


@pytest.mark.parametrize("levels", [500, 990, 100_000])
def test_a_deeply_nested_area_is_one_line(levels: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.geojson"
    inner = '{"type": "GeometryCollection", "geometries": ['
    path.write_text(inner * levels + "]}" * levels)
    with pytest.raises(InputError, match="is no area for this scene"):
        read_aoi(path, GRID)


def test_a_raster_in_one_huge_compressed_block_is_refused(embedded_model: Model, tmp_path: Path) -> None:
    height, width = 12_000, 4000
    profile = {"blockysize": height, "compress": "deflate", "SPARSE_OK": True, "names": BAND_NAMES}
    with pytest.raises(InputError, match=r"compressed in blocks of 12000×4000 pixels: got 549 MiB .*TILED=YES"):
        open_input(write_sparse(tmp_path / "one.tif", height, width, **profile), embedded_model, SegmentOptions())
    profile["blockysize"] = 16
    many = write_sparse(tmp_path / "many.tif", height, width, **profile)
    assert open_input(many, embedded_model, SegmentOptions()).grid.shape == (height, width)


def write_sparse(path: Path, height: int, width: int, **profile: object) -> Path:
    """A raster of six bands without a single block in it."""
    import rasterio

    names = profile.pop("names")
    shape = {"count": len(names), "height": height, "width": width, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", transform=UTM, crs="EPSG:32620", **shape, **profile) as file:
        for index, name in enumerate(names, start=1):
            file.set_band_description(index, name)
    return path


def test_a_collection_of_items_is_no_item(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature"}] * 1000}))
    with pytest.raises(InputError, match=r"a document of type 'FeatureCollection', expected a STAC item"):
        read_source_item(str(path))


def test_a_document_of_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "item.json"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(InputError, match=r"got 200 MiB, expected a STAC item"):
        read_source_item(str(path))


def test_a_recipe_of_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with path.open("wb") as file:
        file.truncate(300 * 2**20)
    with pytest.raises(InputError, match=r"got 300 MiB, more than a recipe may have, 2, expected a YAML file"):
        read_recipe(path)


def test_items_of_too_many_properties_are_left_out_of_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a table has no more columns than its readers can take, however many properties its items have together."""
    for number in range(5):
        make_scene_item_with(tmp_path, f"scene{number}", {f"a{number}-{key}": key for key in range(900)})
    make_scene_item_with(tmp_path, "strange", {f"b{key}": key for key in range(20_000)})
    update_catalog(tmp_path)
    rows = read_item_table(tmp_path / "items.parquet")
    assert sorted(rows) == [f"scene{number}" for number in range(5)]
    assert all("datetime" in row and "water_share" in row for row in rows.values())
    columns = {name for row in rows.values() for name in row}
    assert 3900 < len(columns) < 4100
    assert "no columns for" in caplog.text
    assert not [finding for finding in verify(tmp_path) if finding.subject == "items.parquet" and finding.scene]


def make_scene_item_with(out: Path, scene: str, properties: dict[str, int]) -> None:
    path = write_item(make_scene_item(out / scene, GeoBox((60, 50), GRID.transform, GRID.crs)), out / scene)
    item = json.loads(path.read_text())
    item["properties"] |= properties
    path.write_text(json.dumps(item))
