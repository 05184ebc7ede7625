"""Names and places that belong to maps are kept from scenes, changes and tables, and the other way round."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import seamline
from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.results.verify import verify
from tests.support.region_results import RegionResults, copy_scenes
from tests.support.run_folders import FIXED_ENGINE

OPTIONS = MosaicOptions(crs="EPSG:32632", resolution=10, unseen=("cloud", "cloud shadow"), period="month")


@pytest.fixture(scope="module")
def results(region_results: RegionResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with a map ``land`` beside them."""
    folder = copy_scenes(region_results, tmp_path_factory.mktemp("places") / "results")
    seamline.mosaic(folder, folder / "land", OPTIONS)
    return folder


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["land-2024-05", "land"])
def test_no_scene_takes_the_name_of_a_map(
    results: Path, region_results: RegionResults, tmp_path: Path, name: str, overwrite: bool
) -> None:
    source, before = tmp_path / f"{name}.tif", read_files(results)
    shutil.copy(region_results.sources[0], source)
    options = seamline.SegmentOptions(overwrite=overwrite, **FIXED_ENGINE)
    with pytest.raises(InputError, match=f"^scene {name}: got a map of this name, or a period of one, in "):
        seamline.segment(source, "land-water-cloud", results, options)
    assert read_files(results) == before and list(verify(results)) == []


def test_nothing_is_written_into_a_map_or_a_result(
    results: Path, region_results: RegionResults, tmp_path: Path
) -> None:
    before, scene = read_files(results), region_results.region.scenes[0].id
    (tmp_path / "zones.geojson").write_text("{}")
    for place in (results / "land", results / "land" / "land-2024-05" / "segmentation.zarr", results / scene):
        with pytest.raises(InputError, match="expected a folder of its own"):
            seamline.change(results / "land", out=place / "c", from_period="2024-05", to_period="2024-06")
        with pytest.raises(InputError, match="expected a folder of its own"):
            seamline.zones(results, tmp_path / "zones.geojson", place / "z.csv")
        with pytest.raises(InputError, match="expected a folder of its own"):
            seamline.mosaic(results, place / "other", OPTIONS)
        with pytest.raises(InputError, match="expected a folder of its own"):
            seamline.segment(region_results.sources[0], "land-water-cloud", place)
    assert read_files(results) == before


def test_a_pixel_is_no_larger_than_the_map(results: Path, tmp_path: Path) -> None:
    for changes in ({"resolution": 1e300}, {"resolution": 1001.0, "bounds": (5e5, 5e6, 5e5 + 1000, 5e6 + 500)}):
        with pytest.raises(InputError, match=r"resolution: got .* metre, expected at most"):
            seamline.mosaic(results, tmp_path / "land", OPTIONS.model_copy(update=changes))
    assert not (tmp_path / "land").exists()
