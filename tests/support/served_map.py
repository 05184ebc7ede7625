"""A catalogue with maps of its scenes, as runs leave them, for the pages that show maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.region_results import RegionResults, copy_scenes

MONTHS = ("2024-05", "2024-06", "2024-07")


def build_map(results: Path, name: str, period: str) -> Path:
    """Make a map of the scenes of a catalogue in its folder, or bring it up to date."""
    from seamline.flows.maps.make_map import make_map
    from seamline.flows.maps.observer import MapObserver
    from seamline.flows.maps.options import MosaicOptions

    options = MosaicOptions(crs="EPSG:32632", resolution=10, unseen=("cloud", "cloud shadow"), period=period)
    return make_map(results, results / name, options, MapObserver()).folder


@pytest.fixture(scope="session")
def served_map(region_results: RegionResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of six scenes with the map ``monthly`` of three months and the map ``land`` of all dates."""
    results = copy_scenes(region_results, tmp_path_factory.mktemp("served_map") / "results")
    build_map(results, "monthly", "month")
    build_map(results, "land", "all")
    return results
