"""Overviews of any shape are valid COGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from seamline.pipeline.report.thumbnail import write_scene_picture


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (3, 1300), (600, 1300)])
def test_a_narrow_overview_is_a_valid_cog(shape: tuple[int, int], tmp_path: Path) -> None:
    grid = GeoBox(shape, Affine(30, 0, 500_000, 0, -30, 6_000_000), "EPSG:32620")
    path = tmp_path / "overview.tif"
    write_scene_picture(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.bool_), grid, 3, path)
    assert cog_validate(path, quiet=True)[:2] == (True, [])
