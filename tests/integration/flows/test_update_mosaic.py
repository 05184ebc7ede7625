"""The flow ``update-mosaic`` on a Prefect server: makes a map, finds nothing to do, waits for another run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from seamline.flows.maps.options import MosaicOptions
from seamline.flows.update_mosaic import update_mosaic
from seamline.pipeline.common.errors import InUseError
from seamline.pipeline.execution.run_directory import RunDirectory
from tests.support.region_results import RegionResults, copy_scenes

OPTIONS = MosaicOptions(crs="EPSG:32632", resolution=20, period="month", workers=1)


def test_a_map_is_made_and_then_up_to_date(region_results: RegionResults, tmp_path: Path) -> None:
    catalogue = copy_scenes(region_results, tmp_path / "results")
    out = tmp_path / "land"
    lock = RunDirectory(out / ".run").lock()
    lock.__enter__()
    with pytest.raises(InUseError):
        update_mosaic(catalogue, out, OPTIONS, wait=0)
    ended = threading.Timer(2, lambda: lock.__exit__(None, None, None))
    ended.start()
    made = update_mosaic(catalogue, out, OPTIONS)
    assert made["computed"] and made["periods"] == {"2024-05": 2, "2024-06": 2, "2024-07": 2}
    assert (out / "map.zarr").is_dir()
    assert not update_mosaic(catalogue, out, OPTIONS)["computed"]
