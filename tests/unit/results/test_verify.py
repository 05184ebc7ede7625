"""Overviews of any shape are valid COGs; errors of decoders are findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from seamline.pipeline.report.thumbnail import write_scene_picture
from seamline.pipeline.results.verify import _check_cog_layout, verify
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.published_scenes import make_probabilities, publish_scene


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (3, 1300), (600, 1300)])
def test_a_narrow_overview_is_a_valid_cog(shape: tuple[int, int], tmp_path: Path) -> None:
    grid = GeoBox(shape, Affine(30, 0, 500_000, 0, -30, 6_000_000), "EPSG:32620")
    path = tmp_path / "overview.tif"
    write_scene_picture(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.bool_), grid, 3, path)
    assert cog_validate(path, quiet=True)[:2] == (True, [])


def test_a_damaged_chunk_of_zarr_2_is_a_finding(tmp_path: Path) -> None:
    """Its decoder raises errors of its own kind."""
    grid = GeoBox((20, 30), Affine(30, 0, 500_000, 0, -30, 6_000_000), "EPSG:32620")
    folder = publish_scene(tmp_path / "a", grid, make_probabilities((20, 30)), zarr_format=2)
    update_catalog(tmp_path)
    chunk = folder / "segmentation.zarr" / "segmentation" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    found = {(finding.scene, finding.subject) for finding in verify(tmp_path)}
    assert ("a", "segmentation.zarr") in found


@pytest.mark.parametrize("shape", [(700, 512), (1100, 512), (1100, 1024), (600, 600)])
def test_a_raster_as_wide_as_its_tiles_is_tiled(shape: tuple[int, int], tmp_path: Path) -> None:
    """rio-cogeo tells tiles from strips by their width."""
    grid = GeoBox(shape, Affine(30, 0, 500_000, 0, -30, 6_000_000), "EPSG:32620")
    publish_scene(tmp_path / "a", grid, make_probabilities(shape))
    update_catalog(tmp_path)
    assert list(verify(tmp_path)) == []
    with rasterio.open(tmp_path / "a" / "segmentation.tif") as file:
        profile, labels = file.profile, file.read()
    striped = tmp_path / "striped.tif"
    with rasterio.open(striped, "w", **{**profile, "driver": "GTiff", "tiled": False, "blockysize": 1}) as file:
        file.write(labels)
    assert any("not tiled" in problem for problem in _check_cog_layout(striped))
