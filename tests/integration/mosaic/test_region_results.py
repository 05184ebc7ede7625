"""What the tests of maps take as given of the six scenes."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import rasterio
import zarr

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.results.verify import verify
from tests.support.region_results import RegionResults


def test_six_scenes_are_published_and_nothing_is_wrong_with_them(region_results: RegionResults) -> None:
    items = pq.read_table(region_results.catalogue / "items.parquet").to_pydict()
    assert sorted(items["id"]) == [scene.id for scene in region_results.region.scenes]
    assert len({str(moment) for moment in items["datetime"]}) == 3
    assert list(verify(region_results.catalogue)) == []


def test_the_network_knows_what_it_sees(region_results: RegionResults) -> None:
    """Labels and probabilities are near the truth, so that a map of them can be compared with it."""
    zones = set()
    for source in region_results.sources:
        folder = region_results.catalogue / source.stem
        with rasterio.open(folder / "segmentation.tif") as file:
            labels = file.read(1)
            zones.add(file.crs.to_epsg())
        with rasterio.open(source.with_stem(f"{source.stem}_truth")) as file:
            truth = file.read(1)
        np.testing.assert_array_equal(labels == NODATA, truth == NODATA)
        assert 0.02 < np.mean(labels == NODATA) < 0.1
        assert np.mean(labels == truth) > 0.85  # thin clouds pass for ground
        assert {0, 1, 2} <= set(np.unique(labels))
        probabilities = zarr.open_array(folder / "segmentation.zarr" / "probabilities", mode="r")[:]
        assert probabilities.shape == (4, 256, 256)
        assert np.mean(probabilities.argmax(axis=0)[labels != NODATA] == labels[labels != NODATA]) > 0.99
    assert zones == {32632, 32633}
