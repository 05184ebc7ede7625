"""A map that is given again: its area, and files of others in its folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import shapely

import seamline
from seamline.flows.maps.make_map import preview_map
from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.results.verify import verify
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.region_results import RegionResults, copy_scenes

OPTIONS = MosaicOptions(crs="EPSG:32632", resolution=10, unseen=("cloud", "cloud shadow"))
MONTHS = OPTIONS.model_copy(update={"period": "month"})


def remove_scene(catalogue: Path, name: str) -> None:
    shutil.rmtree(catalogue / name)
    update_catalog(catalogue)


def write_area(path: Path, area: shapely.Geometry) -> Path:
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(area)}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return path


def test_a_map_of_an_area_is_brought_up_to_date(region_results: RegionResults, tmp_path: Path) -> None:
    results = copy_scenes(region_results, tmp_path / "results")
    seen = next(iter(seamline.mosaic(results, tmp_path / "all", OPTIONS).record.periods.values()))[0].grid.geobox
    area = shapely.Point(seen.extent.to_crs("EPSG:32632").centroid.coords[0]).buffer(900)
    area = shapely.MultiPolygon([area.difference(area.centroid.buffer(100))])
    options = OPTIONS.model_copy(update={"aoi": write_area(tmp_path / "area.geojson", area)})
    assert seamline.mosaic(results, tmp_path / "land", options).computed
    assert preview_map(results, tmp_path / "land", options).is_done
    assert not seamline.mosaic(results, tmp_path / "land", options).computed


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_stay_in_the_folders_of_a_map(
    overwrite: bool, region_results: RegionResults, tmp_path: Path
) -> None:
    """As they do in the folder of a scene: in that of the map, of a period that changes, stays, or is withdrawn."""
    names = [scene.id for scene in region_results.region.scenes]
    results = copy_scenes(region_results, tmp_path / "results", [name for name in names if name != names[1]])
    land = results / "land"
    seamline.mosaic(results, land, MONTHS)
    places = [land, *land.glob("land-*"), *results.glob("land-*")]
    assert len(places) == 7
    for place in places:
        (place / "notes.txt").write_text(place.as_posix())
        (place / "more").mkdir()
        (place / "more" / "notes.txt").write_text("more")
    copy_scenes(region_results, results, names[1:2])
    for name in names[4:]:
        remove_scene(results, name)
    options = MONTHS.model_copy(update={"overwrite": overwrite})
    for gone in (None, names[0]):
        if gone is not None:
            remove_scene(results, gone)
        result = seamline.mosaic(results, land, options)
        assert result.computed and list(result.record.periods) == ["2024-05", "2024-06"]
        for place in places:
            assert (place / "notes.txt").read_text() == place.as_posix(), place
            assert (place / "more" / "notes.txt").read_text() == "more"
        assert {path.parent.name for path in land.glob("*/item.json")} == {"land-2024-05", "land-2024-06"}
        assert not list(verify(land)) and not list(verify(results))
