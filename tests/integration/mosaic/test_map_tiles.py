"""PMTiles of a map's period: its classes, its asset, and the server that clients read it from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from pmtiles.reader import Reader
from starlette.testclient import TestClient

from seamline.flows.maps.make_map import make_map
from seamline.flows.maps.observer import MapObserver
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.serving.app import create_app
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.results.verify import verify
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.vector_tiles import TileFile, find_classes, locate

OPTIONS = MosaicOptions(
    crs="EPSG:32632",
    resolution=10,
    unseen=("cloud", "cloud shadow"),
    outputs=("cog", "zarr", "polygons"),
    polygon_formats=("pmtiles",),
).model_copy(update={"workers": 0})


def test_a_period_has_tiles_of_its_labels_that_clients_read_in_parts(
    region_results: RegionResults, tmp_path: Path
) -> None:
    results = copy_scenes(region_results, tmp_path / "results")
    make_map(results, tmp_path / "land", OPTIONS, MapObserver())
    folder = tmp_path / "land" / "land-all"
    with rasterio.open(folder / "segmentation.tif") as raster:
        labels, grid = raster.read(1), GeoBox(raster.shape, raster.transform, str(raster.crs))
    file = TileFile(folder / "polygons.pmtiles")
    rows, cols = np.indices(labels.shape).reshape(2, -1)[:, ::31]
    expected = np.where(labels == NODATA, -1, labels.astype(int))[rows, cols]
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(find_classes(file, file.zoom, locate(grid, file.zoom, rows, cols)), expected)
    assert not list(verify(tmp_path / "land"))
    asset = json.loads((folder / "item.json").read_text())["assets"]["polygons-pmtiles"]
    assert (asset["type"], asset["href"]) == ("application/vnd.pmtiles", "./polygons.pmtiles")

    client = TestClient(create_app(tmp_path / "land"))

    def read_part(start: int, size: int) -> bytes:
        part = {"Range": f"bytes={start}-{start + size - 1}"}
        answer = client.get("/stac/land-all/polygons.pmtiles", headers=part)
        assert answer.status_code == 206 and answer.headers["content-type"] == asset["type"]
        return answer.content

    reader = Reader(read_part)
    col, row = file.places[file.zoom][0]
    assert reader.metadata()["vector_layers"] == file.metadata["vector_layers"]
    tile = reader.get(file.zoom, col, row)
    assert tile is not None and tile in file.path.read_bytes()


def test_a_map_around_a_pole_is_refused_before_it_is_made(region_results: RegionResults, tmp_path: Path) -> None:
    polar = OPTIONS.model_copy(update={"crs": "EPSG:3413", "resolution": 20_000, "bounds": (-6e6, -6e6, 6e6, 6e6)})
    results = copy_scenes(region_results, tmp_path / "results")
    with pytest.raises(InputError, match="--polygon-formats pmtiles: got a scene that has a pole inside of it"):
        make_map(results, tmp_path / "pole", polar, MapObserver())
    assert not (tmp_path / "pole").exists()
