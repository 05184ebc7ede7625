"""What a run leaves behind, opened with the programs that people use: GDAL, QGIS, xarray, titiler, DuckDB.

Programs that are not Python packages are installed by ``.ci/readers``; where one is missing its tests skip.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rioxarray
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from matplotlib import colormaps
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Transformer
from rasterio.crs import CRS
from titiler.core.factory import TilerFactory
from titiler.xarray.dependencies import XarrayParams
from titiler.xarray.factory import TilerFactory as XarrayTilerFactory

from seamline import flows
from seamline.flows.api.maps import change as compare_periods
from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.options import SegmentOptions
from seamline.model.networks.unet import UNet
from seamline.model.spec.config import UNetConfig
from seamline.model.spec.document import write_model_spec
from seamline.model.spec.spec import ModelClass
from seamline.pipeline.analysis.transitions import Transition
from seamline.pipeline.analysis.write_change import Change
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.maps.time_store import PeriodStore, write_time_store
from seamline.pipeline.products.seal import seal
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels
from seamline.pipeline.publishing.completeness import list_missing_outputs
from seamline.pipeline.results.verify import verify
from tests.support.small_grids import CLASSES, GRIDS, make_labels
from tests.support.small_map import publish_map
from tests.support.small_models import save_model
from tests.support.small_rasters import make_noise, write_geotiff
from tests.support.vector_tiles import TileFile, find_classes, locate

SUPPORT = Path(__file__).parents[2] / "support"
PROGRAMS = SUPPORT.parents[1] / "build" / "readers"
INSTALL = "; .ci/readers installs it"
NAMED = (
    ModelClass('water <deep> & "wide"', (30, 90, 200)),
    ModelClass("Gebüsch, 'üppig' лес", (0, 160, 60)),
    ModelClass("sand", (250, 200, 7)),
)
BLOCK = 50
"""Pixels across a square of the scene in which nothing changes."""


@dataclass(frozen=True)
class Results:
    """A scene's folder, and what its labels (y, x) and grid should be."""

    folder: Path
    labels: NDArray[np.uint8]
    grid: GeoBox

    @property
    def cog(self) -> Path:
        return self.folder / "segmentation.tif"

    @property
    def points(self) -> list[tuple[int, int]]:
        """Row and column in the middle of some squares, one of them without data."""
        return [(BLOCK * k + BLOCK // 2, BLOCK * (2 * k % 17) + BLOCK // 2) for k in range(14)]

    def place(self, row: int, col: int) -> tuple[float, float]:
        """x and y of a pixel's centre."""
        x, y = self.grid.transform @ (col + 0.5, row + 0.5)
        return x, y

    def colors(self) -> NDArray[np.uint8]:
        """The labels as people should see them, RGBA (y, x, 4)."""
        palette = np.zeros((NODATA + 1, 4), np.uint8)
        for value, label in enumerate(NAMED):
            palette[value] = (*label.color, 255)
        return palette[self.labels]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cluster: Callable[[int], str]) -> Results:
    folder = tmp_path_factory.mktemp("readers")
    torch.manual_seed(1)
    network = UNet(UNetConfig(2, 3, depth=2, base_width=4, norm="none")).eval()
    (folder / "model").mkdir()
    spec = save_model(folder / "model", network, ("red", "nir"))
    write_model_spec(replace(spec, classes=NAMED), folder / "model")
    pixels = make_noise(2, 14, 18).repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    pixels[:, :BLOCK, : 3 * BLOCK] = 0
    scene = write_geotiff(folder / "scene.tif", pixels, names=("red", "nir"), nodata=0)
    outputs = ("cog", "zarr", "polygons", "probabilities", "confidence", "disagreement")
    plan = {"window": 192, "device": "cpu", "precision": "fp32", "engine": "torch"}
    formats = ("fgb", "gpkg", "parquet", "pmtiles")
    options = SegmentOptions(cluster=cluster(1), outputs=outputs, polygon_formats=formats, **plan)
    done = segment(scene, folder / "model", folder / "out", options, RunObserver())
    labels = open_labels(done.folder / "segmentation.zarr")[:]
    assert set(np.unique(labels)) == {0, 1, 2, NODATA}
    return Results(done.folder, labels, GeoBox(labels.shape, rasterio.open(scene).transform, "EPSG:32620"))


def output(*command: object, text: str | None = None) -> Any:
    """What a program prints, as JSON."""
    done = subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def gdal_bin() -> None:
    if shutil.which("gdalinfo") is None:
        pytest.skip(f"no gdalinfo{INSTALL}")


def test_gdalinfo_finds_place_colours_names_and_counts(gdal_bin: None, results: Results) -> None:
    info = output("gdalinfo", "-json", results.cog)
    (band,) = info["bands"]
    assert CRS.from_wkt(info["coordinateSystem"]["wkt"]) == CRS.from_epsg(32620)
    assert info["geoTransform"] == list(results.grid.transform.to_gdal())
    assert (band["noDataValue"], band["colorInterpretation"]) == (NODATA, "Palette")
    assert [tuple(entry) for entry in band["colorTable"]["entries"][:3]] == [(*label.color, 255) for label in NAMED]
    assert "STATISTICS_MEAN" in band["metadata"][""]
    columns = [field["name"] for field in info["rat"]["fieldDefn"]]
    rows = [dict(zip(columns, row["f"], strict=True)) for row in info["rat"]["row"]]
    assert rows == [
        {"Value": value, "Count": (results.labels == value).sum(), "Class": label.name}
        | dict(zip(("Red", "Green", "Blue", "Alpha"), (*label.color, 255), strict=True))
        for value, label in enumerate(NAMED)
    ]
    # GDALRATFieldUsage: MinMax, PixelCount, Name, Red, Green, Blue, Alpha
    assert [field["usage"] for field in info["rat"]["fieldDefn"]] == [5, 1, 2, 6, 7, 8, 9]


def test_what_gdal_adds_beside_the_rasters_is_no_damage(gdal_bin: None, results: Results, tmp_path: Path) -> None:
    shutil.copytree(results.folder.parent, tmp_path / "out")
    folder = tmp_path / "out" / results.folder.name
    table, outputs = folder / "segmentation.tif.aux.xml", ("cog", "zarr", "confidence")
    before = table.read_text()
    for name in ("segmentation.tif", "confidence.tif", "overview.tif"):
        output("gdalinfo", "-json", "-stats", "-hist", folder / name)
    assert "<Histograms>" in table.read_text() != before
    assert list(verify(tmp_path / "out")) == []
    assert list_missing_outputs(folder, outputs, None, check=True) == []
    table.write_text(table.read_text().replace("<F>1</F>", "<F>9</F>", 1))
    assert [finding.subject for finding in verify(tmp_path / "out")] == [table.name]
    assert list_missing_outputs(folder, outputs, None, check=True) == ["style"]


def test_gdallocationinfo_and_gdal_translate_read_pixels_and_overviews(
    gdal_bin: None, results: Results, tmp_path: Path
) -> None:
    told = subprocess.run(
        ["gdallocationinfo", "-valonly", str(results.cog)],
        input="\n".join(f"{col} {row}" for row, col in results.points),
        capture_output=True,
        text=True,
    )
    assert [int(line) for line in told.stdout.split()] == [results.labels[point] for point in results.points]
    coarse = tmp_path / "coarse.tif"
    subprocess.run(["gdal_translate", "-q", "-ovr", "0", str(results.cog), str(coarse)], check=True)
    with rasterio.open(coarse) as file:
        assert file.shape == (350, 450)
        overview = file.read(1)
    assert [overview[row // 2, col // 2] for row, col in results.points] == [
        results.labels[point] for point in results.points
    ]


def stored(path: Path, grid: GeoBox, labels: NDArray[np.uint8], storage: ZarrLayout) -> Path:
    create_store(path, grid, CLASSES, storage, title=path.stem)
    write_labels(path, Window(0, 0, *grid.shape), labels)
    seal(path, {})
    return path


def test_an_old_gdal_reads_a_store_of_version_2(gdal_bin: None, tmp_path: Path) -> None:
    """Debian's GDAL 3.6, which QGIS 3.22 reads with, knows a draft of version 3 only."""
    grid = GRIDS["projected"]
    path = stored(tmp_path / "s.zarr", grid, make_labels(grid), ZarrLayout(32, zarr_format=2))
    info = output("gdalinfo", "-json", path)
    assert CRS.from_wkt(info["coordinateSystem"]["wkt"]) == CRS.from_epsg(32620)
    assert info["geoTransform"] == list(grid.transform.to_gdal())
    assert info["bands"][0]["noDataValue"] == NODATA
    subprocess.run(["gdal_translate", "-q", str(path), str(tmp_path / "s.tif")], check=True)
    with rasterio.open(tmp_path / "s.tif") as file:
        np.testing.assert_array_equal(file.read(1), make_labels(grid))


QGIS = "/usr/bin/python3"
"""Debian's Python, which has QGIS where the package python3-qgis is installed."""


@cache
def _has_qgis() -> bool:
    found = [QGIS, "-c", "import importlib.util as u; raise SystemExit(u.find_spec('qgis') is None)"]
    return Path(QGIS).exists() and subprocess.run(found, capture_output=True).returncode == 0


def asked_of_qgis(folder: Path, *requests: dict[str, Any]) -> list[Any]:
    """The answers of ``tests/support/qgis_reader.py``, one to each request."""
    if not _has_qgis():
        pytest.skip(f"no QGIS for {QGIS}{INSTALL}")
    surroundings = {"QT_QPA_PLATFORM": "offscreen", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    done = subprocess.run(
        [QGIS, str(SUPPORT / "qgis_reader.py")],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **surroundings},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)["answers"]
    return answers


def test_qgis_shows_the_classes_by_name_identifies_and_draws_them(results: Results, tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    points = [results.place(*point) for point in results.points]
    request = {"reader": "raster", "path": str(results.cog), "points": points, "png": str(picture)}
    (layer,) = asked_of_qgis(tmp_path, request)
    assert (layer["valid"], layer["crs"], layer["renderer"]) == (True, "EPSG:32620", "paletted")
    assert layer["size"] == list(results.labels.shape)
    assert layer["classes"] == [[value, label.name, [*label.color, 255]] for value, label in enumerate(NAMED)]
    labels = [int(results.labels[point]) for point in results.points]
    assert layer["identified"] == [None if label == NODATA else label for label in labels]
    with Image.open(picture) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn.convert("RGBA")), results.colors())


@pytest.mark.parametrize("name", ["polygons.fgb", "polygons.gpkg"])
def test_qgis_shows_polygons_by_class(results: Results, tmp_path: Path, name: str) -> None:
    picture, size = tmp_path / "map.png", results.labels.shape[::-1]
    request = {"reader": "vector", "path": str(results.folder / name), "size": size, "png": str(picture)}
    (layer,) = asked_of_qgis(tmp_path, request)
    assert (layer["valid"], layer["crs"], layer["renderer"]) == (True, "EPSG:32620", "categorizedSymbol")
    assert layer["classes"] == [[value, label.name, [*label.color, 255]] for value, label in enumerate(NAMED)]
    np.testing.assert_allclose(layer["extent"], results.grid.extent.boundingbox.bbox)
    with Image.open(picture) as drawn:
        colors = np.asarray(drawn.convert("RGBA"))
    found = {tuple(color) for color in colors.reshape(-1, 4).tolist()}
    assert {(*label.color, 255) for label in NAMED} <= found
    # All but outlines, which are a pixel wide.
    same = (colors == results.colors()).all(-1)
    assert same[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].mean() > 0.9 and same.mean() > 0.6


def test_gdal_reads_tiles_of_polygons(results: Results) -> None:
    """GDAL of pyogrio, since that of Debian knows no PMTiles."""
    file = TileFile(results.folder / "polygons.pmtiles")
    info = pyogrio.read_info(file.path)
    assert (info["crs"], info["layer_name"]) == ("EPSG:3857", "polygons")
    assert set(info["fields"]) == {"mvt_id", "class", "name", "color", "pixels", "area_m2", "confidence"}
    rows, cols = np.indices(results.labels.shape).reshape(2, -1)
    expected = np.where(results.labels == NODATA, -1, results.labels.astype(int))[rows, cols]
    places = locate(results.grid, file.zoom, rows, cols)
    np.testing.assert_array_equal(find_classes(file, file.zoom, places), expected)
    drawn = {file.read(file.zoom, *place)[1]["color"][0] for place in file.places[file.zoom]}
    assert drawn <= {"#{:02x}{:02x}{:02x}".format(*label.color) for label in NAMED}


def test_qgis_shows_layers_by_ramps(results: Results, tmp_path: Path) -> None:
    shown = {"probabilities": ("viridis", 1), "confidence": ("viridis", 1), "disagreement": ("magma", 0.25)}
    pictures = {name: str(tmp_path / f"{name}.png") for name in shown}
    requests = [
        {"reader": "ramp", "path": str(results.folder / f"{name}.tif"), "png": pictures[name]} for name in shown
    ]
    for (name, (colormap, most)), layer in zip(shown.items(), asked_of_qgis(tmp_path, *requests), strict=True):
        assert (layer["renderer"], layer["limits"]) == ("singlebandpseudocolor", [0, most])
        assert [value for value, _ in layer["colors"]][:: len(layer["colors"]) - 1] == [0, most]
        with rasterio.open(results.folder / f"{name}.tif") as file, Image.open(pictures[name]) as drawn:
            values, colors = file.read(1), np.asarray(drawn.convert("RGBA")).astype(int)
        np.testing.assert_array_equal(colors[..., 3] == 0, values == NODATA)
        expected = colormaps[colormap](values * 0.004 / most, bytes=True)[..., :3]
        assert (np.abs(colors[..., :3] - expected)[values != NODATA] <= 6).all()


def test_a_new_gdal_reads_the_store_with_its_place(results: Results, tmp_path: Path) -> None:
    """GDAL 3.12, that of rasterio 1.5, whose Python may be newer than ours; only its library is needed."""
    library = next((PROGRAMS / "gdal" / "rasterio.libs").glob("libgdal*"), None)
    if library is None:
        pytest.skip(f"no newer GDAL in {PROGRAMS}{INSTALL}")
    stores = {"": f'ZARR:"{results.folder}/segmentation.zarr":/segmentation'}
    expected = {"": (results.grid, results.labels)}
    for name, grid in GRIDS.items():
        expected[name] = grid, make_labels(grid)
        stores[name] = str(stored(tmp_path / f"{name}.zarr", *expected[name], ZarrLayout(32)))
    grid, layout = GRIDS["projected"], ZarrLayout(32)
    periods = []
    for month in (1, 2):
        labels = np.roll(make_labels(grid), month, axis=1)
        path = stored(tmp_path / f"period-{month}.zarr", grid, labels, layout)
        periods.append(PeriodStore(f"2024-0{month}", date(2024, month, 1), date(2024, month + 1, 1), path))
        name = f"period {month}"
        expected[name], stores[name] = (grid, labels), f'ZARR:"{tmp_path}/map.zarr":/segmentation:{month - 1}'
    write_time_store(tmp_path / "map.zarr", periods, grid, CLASSES, title="two months", attributes={})
    data = PROGRAMS / "gdal" / "rasterio"
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "gdal_reader.py"), str(library), *stores.values()],
        capture_output=True,
        text=True,
        env={"PROJ_DATA": str(data / "proj_data"), "GDAL_DATA": str(data / "gdal_data")},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for (grid, labels), raster in zip(expected.values(), json.loads(done.stdout)["rasters"], strict=True):
        info = raster["info"]
        pixels = np.frombuffer(base64.b64decode(raster["pixels"]), np.uint8)
        np.testing.assert_array_equal(pixels.reshape(grid.shape), labels)
        assert info["bands"][0]["noDataValue"] == NODATA
        if grid.crs is None:
            assert "coordinateSystem" not in info
        else:
            assert CRS.from_wkt(info["coordinateSystem"]["wkt"]) == CRS.from_wkt(grid.crs.to_wkt())
        if grid.axis_aligned:  # what a rotated grid says, GDAL reads from 3.13 on
            np.testing.assert_allclose(info["geoTransform"], grid.transform.to_gdal(), rtol=1e-12)


def test_rioxarray_opens_the_cog_lazily(results: Results) -> None:
    with rioxarray.open_rasterio(results.cog, chunks=256) as cog:
        assert cog.chunks is not None
        assert (cog.rio.crs.to_epsg(), cog.rio.nodata) == (32620, NODATA)
        assert cog.rio.transform() == results.grid.transform
        np.testing.assert_array_equal(cog[0], results.labels)


ZARR = XarrayTilerFactory(router_prefix="/zarr", reader_dependency=XarrayParams)
COG = TilerFactory(router_prefix="/cog")


@pytest.fixture(scope="module")
def titiler() -> TestClient:
    """titiler's own application of both factories."""
    application = FastAPI()
    application.include_router(COG.router, prefix="/cog")
    application.include_router(ZARR.router, prefix="/zarr")
    return TestClient(application)


@pytest.mark.parametrize("kind", ["cog", "zarr"])
def test_titiler_serves_info_points_and_tiles(titiler: TestClient, results: Results, kind: str) -> None:
    query = {"url": str(results.cog)}
    if kind == "zarr":
        query = {"url": str(results.folder / "segmentation.zarr"), "variable": "segmentation"}
    info = titiler.get(f"/{kind}/info", params=query).json()
    assert info["crs"].endswith("/EPSG/0/32620")
    np.testing.assert_allclose(info["bounds"], results.grid.extent.boundingbox.bbox)
    assert (info["dtype"], info["nodata_type"]) == ("uint8", "Nodata")
    to_degrees = Transformer.from_crs(32620, 4326, always_xy=True)
    for row, col in results.points:
        lon, lat = to_degrees.transform(*results.place(row, col))
        answer = titiler.get(f"/{kind}/point/{lon},{lat}", params=query)
        label = int(results.labels[row, col])
        assert answer.json()["values"] == [None if label == NODATA else label]

    row, col = results.points[6]
    lon, lat = to_degrees.transform(*results.place(row, col))
    assert COG.supported_tms is not None
    tile = COG.supported_tms.get("WebMercatorQuad").tile(lon, lat, 15)  # a quarter of a square or less
    palette = {} if kind == "cog" else {"colormap": json.dumps({k: [*c.color, 255] for k, c in enumerate(NAMED)})}
    png = titiler.get(f"/{kind}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png", params={**query, **palette})
    assert png.status_code == 200, png.text
    with Image.open(BytesIO(png.content)) as drawn:
        pixels = np.asarray(drawn.convert("RGBA")).reshape(-1, 4)
    assert {tuple(pixel) for pixel in pixels.tolist()} <= {(*label.color, 255) for label in NAMED} | {(0, 0, 0, 0)}
    bounds = COG.supported_tms.get("WebMercatorQuad").bounds(tile)
    across, down = (lon - bounds.left) / (bounds.right - bounds.left), (bounds.top - lat) / (bounds.top - bounds.bottom)
    shown = pixels.reshape(256, 256, 4)[int(down * 256), int(across * 256)]
    np.testing.assert_array_equal(shown, results.colors()[row, col])


def asked_of_duckdb(sql: str) -> list[Any]:
    """The rows of a query with the spatial extension, which there is for DuckDB 1.5 and not yet for 2.0."""
    extension = next((PROGRAMS / "duckdb").rglob("spatial.duckdb_extension"), None)
    if extension is None:
        pytest.skip(f"no spatial extension of DuckDB in {PROGRAMS}{INSTALL}")
    query = f"""
import sys
sys.path.insert(0, {str(PROGRAMS / "duckdb")!r})
import duckdb, json
duckdb.load_extension({str(extension)!r})
print(json.dumps(duckdb.sql({sql!r}).fetchall()))
"""
    rows: list[Any] = output(sys.executable, "-c", query)
    return rows


def test_duckdb_spatial_reads_the_item(results: Results) -> None:
    area = "ST_Area_Spheroid(ST_FlipCoordinates(geom))"  # latitude first
    item = results.folder / "item.json"
    ((scene, inside, found),) = asked_of_duckdb(
        f"SELECT id, ST_Contains(geom, ST_Centroid(geom)), {area} FROM ST_Read('{item}')"
    )
    assert (scene, inside) == ("scene", True)
    pixel = 900 / 0.9996**2  # in the middle of the zone
    labelled = np.count_nonzero(results.labels != 255)
    assert labelled * pixel * 0.999 < found < results.labels.size * pixel * 1.001  # the hull of what has labels


@pytest.mark.parametrize("lost", [None, "segmentation.zarr"])
def test_a_notebook_shows_our_class_names(results: Results, lost: str | None, tmp_path: Path) -> None:
    shutil.copytree(results.folder.parent, tmp_path / "out")
    if lost:
        shutil.rmtree(tmp_path / "out" / "scene" / lost)
    opened = flows.open_result(tmp_path / "out", "scene")
    assert opened.seamline.classes == {value: label.name for value, label in enumerate(NAMED)}
    np.testing.assert_array_equal(opened["segmentation"], results.labels)


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> Change:
    """What ``seamline change`` leaves of a map of two years."""
    folder = tmp_path_factory.mktemp("change")
    land = publish_map(folder / "land")
    return compare_periods(land, out=folder / "change", from_period="2024", to_period="2025")


def test_gdal_shows_transitions_by_name_colour_and_count(gdal_bin: None, change: Change) -> None:
    info = output("gdalinfo", "-json", change.folder / "transitions.tif")
    (band,) = info["bands"]
    assert (band["type"], band["noDataValue"], band["colorInterpretation"]) == ("UInt16", 65535, "Palette")
    entries = band["colorTable"]["entries"]
    assert [tuple(entries[entry.value]) for entry in change.transitions] == [
        (*entry.color, 255) for entry in change.transitions
    ]
    columns = [field["name"] for field in info["rat"]["fieldDefn"]]
    rows = [dict(zip(columns, row["f"], strict=True)) for row in info["rat"]["row"]]
    expected = [
        (entry.value, entry.name, entry.pixels, *entry.color) for entry in sorted(change.transitions, key=get_code)
    ]
    names = ("Value", "Class", "Count", "Red", "Green", "Blue")
    assert [tuple(row[name] for name in names) for row in sorted(rows, key=lambda row: row["Value"])] == expected
    assert info["metadata"][""]["FROM"] and info["metadata"][""]["TO"] and "100 × label" in info["metadata"][""]["CODE"]
    assert info["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"


def get_code(entry: Transition) -> int:
    return entry.value


def test_qgis_shows_transitions_by_name_identifies_and_draws_them(change: Change, tmp_path: Path) -> None:
    path, picture = change.folder / "transitions.tif", tmp_path / "map.png"
    with rasterio.open(path) as file:
        codes, transform = file.read(1), file.transform
    places = [(row, col) for row in range(5, codes.shape[0], 60) for col in range(5, codes.shape[1], 60)]
    points = [transform @ (col + 0.5, row + 0.5) for row, col in places]
    request = {"reader": "raster", "path": str(path), "points": points, "png": str(picture)}
    (layer,) = asked_of_qgis(tmp_path, request)
    assert (layer["valid"], layer["renderer"]) == (True, "paletted") and layer["size"] == list(codes.shape)
    legend = [[entry.value, entry.name, [*entry.color, 255]] for entry in sorted(change.transitions, key=get_code)]
    assert sorted(layer["classes"]) == legend
    found = [int(codes[place]) for place in places]
    assert layer["identified"] == [None if code == 65535 else code for code in found]
    assert 65535 in found and len(set(found)) > 3
    palette = np.zeros((65536, 4), np.uint8)
    for value, _, color in legend:
        palette[value] = color
    with Image.open(picture) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn.convert("RGBA")), palette[codes])
