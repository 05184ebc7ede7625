"""Labels of windows of a grid: those of the file, whatever values it has, and one line where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox as OdcGeoBox
from rasterio.vrt import WarpedVRT

from seamline.flows.cli.arguments import parse_label_mapping
from seamline.flows.training.evaluation import evaluate_segmentation
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry import resample as nearest
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.results.compare import read_class_names, read_label_pairs
from seamline.pipeline.results.truth import Truth, make_label_reader
from tests.support.small_rasters import UTM, damage_block, write_geotiff

SHAPE = (300, 280)
GRID = OdcGeoBox(SHAPE, UTM, "EPSG:32620")
WHOLE = Window(0, 0, *SHAPE)
DEGREES = Affine(0.0003, 0, -63.0, 0, -0.0002, 54.147)
"""Of a raster that covers a part of the grid, and lies beside it."""


def labels(path: Path, dtype: str = "uint8", seed: int = 0, **profile: Any) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 330, 350)).astype(dtype)
    return write_geotiff(path, pixels, **{"crs": "EPSG:4326", "transform": DEGREES, **profile})


def exact(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """GDAL's nearest neighbours on the grid, and where there are any."""
    place = {"crs": "EPSG:32620", "transform": UTM, "width": SHAPE[1], "height": SHAPE[0]}
    with rasterio.open(path) as file, WarpedVRT(file, tolerance=1e-9, add_alpha=True, **place) as warped:
        return warped.read(1), warped.read(2) != 0


@pytest.mark.parametrize("nodata", [None, 0, 255])
def test_every_value_of_labels_on_another_grid_can_be_named(tmp_path: Path, nodata: int | None) -> None:
    path = labels(tmp_path / "t.tif", nodata=nodata)
    values, there = exact(path)
    assert 0.1 < there.mean() < 0.9
    found = make_label_reader(GRID, Truth(path, values={"0": 0, "255": 1, "7": 2}))(WHOLE)
    expected = np.select([~there, values == 0, values == 255, values == 7], [255, 0, 1, 2], 255)
    np.testing.assert_array_equal(found, expected)
    assert {0, 1, 2, 255} - {0: {0}, 255: {1}, None: set()}[nodata] == set(np.unique(found))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_segmentation_on_another_grid_has_no_labels_beside_it(tmp_path: Path, dtype: str) -> None:
    path = labels(tmp_path / "p.tif", dtype)
    truth = write_geotiff(tmp_path / "t.tif", np.zeros((1, *SHAPE), np.uint8))
    values, there = exact(path)
    (pair,) = read_label_pairs(path, Truth(truth), margin=0)
    np.testing.assert_array_equal(pair.predicted, np.where(there, values, 255))


@pytest.mark.parametrize("largest", [nearest.MAX_PIXELS, 2000])
def test_labels_of_windows_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    fine = Affine(0.00009, 0, -63.0, 0, -0.00004, 54.147)
    path = write_geotiff(
        tmp_path / "t.tif",
        np.random.default_rng(0).integers(0, 255, (1, 2600, 4000)).astype(np.uint8),
        crs="EPSG:4326",
        transform=fine,
    )
    grid, all_of_it = OdcGeoBox((384, 640), UTM, "EPSG:32620"), Window(0, 0, 384, 640)
    whole = make_label_reader(grid, Truth(path))(all_of_it)
    monkeypatch.setattr(nearest, "MAX_PIXELS", largest)
    read = make_label_reader(grid, Truth(path))
    np.testing.assert_array_equal(read(all_of_it), whole)
    rng = np.random.default_rng(1)
    for _ in range(30):
        row, col = int(rng.integers(0, 350)), int(rng.integers(0, 600))
        window = Window(row, col, *(int(n) for n in rng.integers(1, 300, 2))).intersection(all_of_it)
        np.testing.assert_array_equal(read(window), whole[window.to_slices()])


def test_a_damaged_raster_is_one_line(tmp_path: Path) -> None:
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    good = write_geotiff(tmp_path / "good.tif", np.zeros((1, *SHAPE), np.uint8))
    same = write_geotiff(tmp_path / "same.tif", np.ones((1, *SHAPE), np.uint8), **tiled)
    other = labels(tmp_path / "other.tif", **tiled)
    damage_block(same, 1, 1, 1)
    damage_block(other, 1, 1, 1)
    cut = write_geotiff(tmp_path / "cut.tif", np.ones((1, *SHAPE), np.uint8))
    cut.write_bytes(cut.read_bytes()[:30_000])
    for path in (same, other, cut):
        with pytest.raises(InputError, match=rf"truth .*{path.name}: got .*, expected pixels that GDAL reads"):
            make_label_reader(GRID, Truth(path))(WHOLE)
        with pytest.raises(InputError, match=rf"segmentation .*{path.name}: got .*, expected pixels that GDAL reads"):
            evaluate_segmentation(path, Truth(good))


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    pixels = np.tile(np.array([0, 1, np.nan, -9999.5, 300.5], np.float32), (4, 1))
    grid = OdcGeoBox((4, 5), UTM, "EPSG:32620")
    whole = write_geotiff(tmp_path / "whole.tif", pixels[None])
    found = make_label_reader(grid, Truth(whole))(Window(0, 0, 4, 5))
    np.testing.assert_array_equal(found, np.tile(np.array([0, 1, 255, 255, 255], np.uint8), (4, 1)))
    pixels[1, 1] = 0.7
    parts = write_geotiff(tmp_path / "parts.tif", pixels[None])
    with pytest.raises(InputError, match=r"got fractions such as 0\.7, expected whole numbers, the labels 0 to 254"):
        make_label_reader(grid, Truth(parts))(Window(0, 0, 4, 5))
    with pytest.raises(InputError, match=r"segmentation .* got fractions"):
        evaluate_segmentation(parts, Truth(whole))
    named = make_label_reader(grid, Truth(parts, values={"1": 4}))(Window(0, 0, 4, 5))
    assert np.unique(named).tolist() == [4, 255] and (named == 4).sum() == 3
    hidden = write_geotiff(tmp_path / "hidden.tif", np.where(pixels == pixels[1, 1], 0.5, pixels)[None], nodata=0.5)
    assert make_label_reader(grid, Truth(hidden))(Window(0, 0, 4, 5))[1, 1] == 255
    waves = write_geotiff(tmp_path / "waves.tif", np.ones((1, 4, 5), np.complex64))
    with pytest.raises(InputError, match="got complex numbers"):
        make_label_reader(grid, Truth(waves))(Window(0, 0, 4, 5))


def polygons(path: Path, values: np.ndarray) -> Path:
    boxes = [shapely.box(*(UTM @ (40 * k, 30)), *(UTM @ (40 * k + 20, 10))) for k in range(len(values))]
    pyogrio.raw.write(
        path, shapely.to_wkb(boxes), [values], ["kind"], geometry_type="Polygon", crs="EPSG:32620", driver="GPKG"
    )
    return path


def test_attributes_are_named_as_they_are(tmp_path: Path) -> None:
    days = polygons(tmp_path / "days.gpkg", np.array(["2024-06-01", "2023-01-31"], "datetime64[D]"))
    found = make_label_reader(GRID, Truth(days, "kind", {"2024-06-01": 1, "2023-01-31": 0}))(WHOLE)
    assert (found[15, 10], found[15, 50], found[15, 30]) == (1, 0, 255)
    shares = polygons(tmp_path / "shares.gpkg", np.array([0.7, 1.0]))
    number = polygons(tmp_path / "number.gpkg", np.array([3, 4]))
    raster = write_geotiff(tmp_path / "t.tif", np.zeros((1, *SHAPE), np.uint8))
    cases = [
        (Truth(days, "kind"), "--attribute: got texts such as '2024-06-01', expected labels"),
        (Truth(shares, "kind"), r"got fractions such as 0\.7"),
        (Truth(number, "kind", {"forest": 1}), "--values forest: got a name, expected numbers"),
        (Truth(raster, values={"forest": 1}), "--values forest: got a name, expected numbers"),
    ]
    for truth, message in cases:
        with pytest.raises(InputError, match=message):
            make_label_reader(GRID, truth)(WHOLE)


def geojson(path: Path, *rings: str) -> Path:
    features = [
        f'{{"type": "Feature", "properties": {{}}, "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}'
        for ring in rings
    ]
    path.write_text(f'{{"type": "FeatureCollection", "features": [{", ".join(features)}]}}')
    return path


def test_polygons_that_cannot_be_burnt_are_refused(tmp_path: Path) -> None:
    ring = "[[-63, 54.14], [-62.99, 54.14], [-62.99, 54.15], [-63, 54.14]]"
    point = geojson(tmp_path / "point.geojson", ring, "[[-63, 54.14]]")
    with pytest.raises(InputError, match="got 1 geometries that are none, the first of feature 2"):
        make_label_reader(GRID, Truth(point))
    picture = OdcGeoBox(SHAPE, Affine.identity(), None)
    for vectors in (geojson(tmp_path / "empty.geojson"), geojson(tmp_path / "one.geojson", ring)):
        with pytest.raises(InputError, match="got a CRS for only one of both"):
            make_label_reader(picture, Truth(vectors))
    assert not make_label_reader(GRID, Truth(tmp_path / "empty.geojson"))(WHOLE).any()


def test_digits_that_are_no_numbers(tmp_path: Path) -> None:
    assert parse_label_mapping("0=0,255=1, forest=254") == {"0": 0, "255": 1, "forest": 254}
    for text in ("0=²", "0=٣", "0=255", "0=" + "9" * 5000):
        with pytest.raises(InputError, match="--values: got"):
            parse_label_mapping(text)
    path = write_geotiff(tmp_path / "p.tif", np.zeros((1, 3, 3), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{"CLASS_²": "x", "CLASS_300": "y", "CLASS_1": "water"})
    assert read_class_names(path) == {1: "water"}
