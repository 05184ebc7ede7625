"""PMTiles of polygons, compared with the labels that they were made of; GDAL decodes the tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.vectors.polygon_options import PolygonOptions, PolygonRules
from tests.support.polygon_files import read_rows
from tests.support.small_rasters import UTM, make_blobs
from tests.support.vector_tiles import UNITS, TileFile, find_classes, locate
from tests.unit.vectors.test_vectors import CLASSES, written

SHAPE = (300, 420)
GRIDS = {
    "UTM": GeoBox(SHAPE, UTM, "EPSG:32620"),
    "rotated": GeoBox(SHAPE, UTM @ Affine.rotation(20), "EPSG:32620"),
    "degrees": GeoBox(SHAPE, Affine(0.001, 0, 7, 0, -0.001, 50), "EPSG:4326"),
    "across the antimeridian": GeoBox(SHAPE, Affine(60, 0, 655_000, 0, -60, 3e6), "EPSG:32660"),
    "beyond 180°": GeoBox(SHAPE, Affine(0.001, 0, 179.8, 0, -0.001, 50), "EPSG:4326"),
    "the world": GeoBox(SHAPE, Affine(360 / 420, 0, -180, 0, -0.6, 90), "EPSG:4326"),
    "the world from 0°": GeoBox(SHAPE, Affine(360 / 420, 0, 0, 0, -0.6, 90), "EPSG:4326"),
    "the world of equal areas": GeoBox(SHAPE, Affine(82_700, 0, -17_367_000, 0, -48_800, 7_320_000), "EPSG:6933"),
    "arctic": GeoBox(SHAPE, Affine(30, 0, 500_000, 0, -30, -1_000_000), "EPSG:3413"),
}
PMTILES = PolygonOptions(("pmtiles", "gpkg"))


@pytest.mark.parametrize("name", GRIDS)
def test_each_pixel_lies_in_a_polygon_of_its_class(name: str, tmp_path: Path) -> None:
    grid, labels = GRIDS[name], make_blobs(*SHAPE, 3, 4, 1)
    file = TileFile(written(tmp_path, labels, grid, PMTILES) / "polygons.pmtiles")
    rows, cols = np.indices(SHAPE).reshape(2, -1)[:, ::7]
    points = locate(grid, file.zoom, rows, cols)
    shown = (points[:, 1] > 0) & (points[:, 1] < UNITS << file.zoom)
    expected = np.where(labels == NODATA, -1, labels.astype(int))[rows, cols]
    assert shown.mean() > 0.8
    np.testing.assert_array_equal(find_classes(file, file.zoom, points[shown]), expected[shown])
    # Below the highest zoom a cell of 8 units has what lies at its centre.
    centres = np.unique(np.floor(points[shown] / 16), axis=0) * 8 + 4
    fine, coarse = find_classes(file, file.zoom, centres * 2), find_classes(file, file.zoom - 1, centres)
    assert (fine >= 0).mean() > 0.7
    np.testing.assert_array_equal(coarse[fine >= 0], fine[fine >= 0])


@pytest.mark.parametrize("rules", [PolygonRules(), PolygonRules(20_000, 1.5)], ids=["exact", "sieved and simplified"])
def test_tiles_are_covered_once(rules: PolygonRules, tmp_path: Path) -> None:
    labels = make_blobs(*SHAPE, 3, 4, 1)
    labels[labels == NODATA] = 0
    for name in ("UTM", "rotated"):
        folder = tmp_path / name
        folder.mkdir()
        file = TileFile(written(folder, labels, GRIDS[name], PolygonOptions(("pmtiles",), rules)) / "polygons.pmtiles")
        for zoom in range(file.zoom - 4, file.zoom + 1):
            covered = 0.0
            for place in file.places[zoom]:
                polygons, _ = file.read_inner(zoom, *place)
                assert shapely.is_valid(polygons).all()
                union = shapely.union_all(polygons)
                assert union.area == pytest.approx(shapely.area(polygons).sum(), rel=1e-12), (zoom, place)
                assert sum(len(part.interiors) for part in shapely.get_parts(union)) == 0
                covered += union.area
            x, y = GRIDS[name].extent.to_crs("EPSG:3857", resolution=300).boundingbox.bbox[::2], zoom
            scene = GRIDS[name].extent.to_crs("EPSG:3857", resolution=300).geom
            unit = 40075016.685578488 / (UNITS << zoom)
            allowed = 1 if zoom == file.zoom else 8
            assert abs(covered - scene.area / unit**2) < allowed * scene.length / unit, (x, y)


def test_polygons_keep_their_attributes_at_all_zooms(tmp_path: Path) -> None:
    labels, grid = make_blobs(*SHAPE, 3, 4, 2), GRIDS["UTM"]
    confidence = np.random.default_rng(0).integers(0, 251, labels.shape).astype(np.uint8)
    folder = written(tmp_path, labels, grid, PMTILES, confidence=confidence)
    file = TileFile(folder / "polygons.pmtiles")
    meta, fids, _, columns = pyogrio.raw.read(folder / "polygons.gpkg", return_fids=True)
    rows = {
        int(fid): dict(zip(meta["fields"], values, strict=True)) for fid, *values in zip(fids, *columns, strict=True)
    }
    seen = {zoom: set[int]() for zoom in file.places}
    for zoom, places in file.places.items():
        for place in places:
            _, fields = file.read(zoom, *place)
            for number, *values in zip(*fields.values(), strict=True):
                found = dict(zip(list(fields)[1:], values, strict=True))
                color = "#{:02x}{:02x}{:02x}".format(*CLASSES[int(found["class"])].color)
                assert found == {**rows[int(number)], "color": color}
                seen[zoom].add(int(number))
    assert seen[file.zoom] == set(rows)
    assert all(seen[zoom] <= seen[zoom + 1] for zoom in range(min(seen), file.zoom))
    assert file.metadata["vector_layers"][0]["id"] == "polygons"
    assert [row["name"] for row in file.metadata["classes"]] == [label.name for label in CLASSES]
    assert set(file.metadata["vector_layers"][0]["fields"]) == set(list(fields)[1:])


def test_pixels_have_four_units_at_the_highest_zoom_and_no_more_than_needed(tmp_path: Path) -> None:
    for name in ("UTM", "degrees", "the world"):
        (tmp_path / name).mkdir()
        file = TileFile(
            written(tmp_path / name, make_blobs(*SHAPE, 3, 4, 1), GRIDS[name], PMTILES) / "polygons.pmtiles"
        )
        middle = np.array([[SHAPE[0] // 2] * 2, [SHAPE[1] // 2, SHAPE[1] // 2 + 1]])
        (ax, _), (bx, _) = locate(GRIDS[name], file.zoom, *middle)
        assert bx - ax >= 4 and (bx - ax < 12 or file.zoom == 2)
        assert min(file.places) <= 2 and file.header["min_zoom"] == min(file.places)


def test_the_header_says_where_the_polygons_lie(tmp_path: Path) -> None:
    file = TileFile(written(tmp_path, make_blobs(*SHAPE, 3, 4, 1), GRIDS["degrees"], PMTILES) / "polygons.pmtiles")
    found = [file.header[f"{edge}_e7"] / 1e7 for edge in ("min_lon", "min_lat", "max_lon", "max_lat")]
    np.testing.assert_allclose(found, [7, 49.7, 7.42, 50], atol=1e-4)
    (tmp_path / "far").mkdir()
    far = TileFile(
        written(tmp_path / "far", make_blobs(*SHAPE, 3, 4, 1), GRIDS["beyond 180°"], PMTILES) / "polygons.pmtiles"
    )
    assert (far.header["min_lon_e7"], far.header["max_lon_e7"]) == (-180 * 10**7, 180 * 10**7)
    assert far.header["center_lon_e7"] / 1e7 == pytest.approx(-179.99, abs=1e-3)


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels, contents = make_blobs(*SHAPE, 3, 4, 1), []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        contents.append(
            (written(tmp_path / str(number), labels, GRIDS["UTM"], PMTILES) / "polygons.pmtiles").read_bytes()
        )
    assert contents[0] == contents[1]


def test_a_scene_of_nothing_gives_a_file_without_polygons(tmp_path: Path) -> None:
    folder = written(tmp_path, np.full((100, 90), NODATA, np.uint8), GeoBox((100, 90), UTM, "EPSG:32620"), PMTILES)
    assert pyogrio.list_layers(folder / "polygons.pmtiles").tolist() == [["polygons", "Unknown"]]
    assert TileFile(folder / "polygons.pmtiles").places == {0: [(0, 0)]}
    assert read_rows(folder / "polygons.gpkg") == []


@pytest.mark.parametrize(
    ("crs", "transform", "told"),
    [
        (None, Affine.identity(), "without a CRS"),
        ("EPSG:3413", Affine(6000, 0, -900_000, 0, -6000, 900_000), "a pole inside"),
        ("EPSG:3031", Affine(3000, 0, -400_000, 0, -3000, 400_000), "a pole inside"),
        ("EPSG:3413", Affine(30, 0, 20_000, 0, -30, -20_000), "nearer to a pole"),
        ("EPSG:4326", Affine(0.001, 0, 7, 0, -0.001, 88), "nearer to a pole"),
        (
            'ENGCRS["a",EDATUM["b"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]',
            UTM,
            "not of the",
        ),
    ],
)
def test_scenes_without_a_place_in_web_mercator_are_refused(crs: str | None, transform: Affine, told: str) -> None:
    with pytest.raises(InputError, match=f"--polygon-formats pmtiles: got a scene .*{told}.*take fgb, gpkg or parquet"):
        PMTILES.check_grid(GeoBox((300, 300), transform, crs))
    PolygonOptions(("fgb",)).check_grid(GeoBox((300, 300), transform, crs))


@pytest.mark.parametrize("name", GRIDS)
def test_scenes_with_a_place_are_not(name: str) -> None:
    PMTILES.check_grid(GRIDS[name])
