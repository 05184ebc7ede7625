"""What is lost or changed of a map is found, and restored by the same command; other outputs are no other map."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seamline.flows.maps.make_map import preview_map
from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.common.errors import InputError, OtherRunError
from seamline.pipeline.fusion import period_run
from seamline.pipeline.maps.verify_map import verify_folder
from seamline.pipeline.products import cog
from seamline.pipeline.stac.catalog import update_catalog
from tests.support.map_runs import MONTHS, OPTIONS, build, read_rasters
from tests.support.region_results import RegionResults, copy_scenes


@pytest.fixture(scope="module")
def whole(region_results: RegionResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of months of all scenes, in the folder of the scenes; nothing changes it."""
    folder = tmp_path_factory.mktemp("whole")
    results = copy_scenes(region_results, folder / "results")
    build(results, results / "land", MONTHS)
    return shutil.copytree(results, folder / "whole")


@pytest.fixture
def results(whole: Path) -> Path:
    """A copy of all of it where it was made; of its files none is a link."""
    folder = whole.with_name("results")
    shutil.rmtree(folder)
    return shutil.copytree(whole, folder)


def list_findings(folder: Path) -> list[str]:
    return [f"{finding.scene}/{finding.subject}: {finding.problem}" for finding in verify_folder(folder)]


def flip_byte(path: Path) -> None:
    """Change a byte in the middle, in a file of its own."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def find_chunk(store: Path, array: str = "segmentation") -> Path:
    return next(path for path in sorted((store / array / "c").rglob("*")) if path.is_file())


def change_record(path: Path) -> None:
    document = json.loads(path.read_text())
    document["periods"]["2024-06"][0]["version"] += "0"
    path.write_text(json.dumps(document))


def change_link(path: Path) -> None:
    item = json.loads(path.read_text())
    item["properties"]["seamline:scenes"] += 1
    path.write_text(json.dumps(item))


def forget_copy(results: Path) -> None:
    shutil.rmtree(results / "land-2024-06")
    update_catalog(results)


Damage = tuple[Callable[[Path], object], str, bool]
DAMAGES: dict[str, Damage] = {
    "map.json lost": (lambda r: (r / "land/map.json").unlink(), "/map.json: is not there", True),
    "map.json cut": (lambda r: cut(r / "land/map.json"), "/map.json: map.json of map", True),
    "map.json changed": (lambda r: change_record(r / "land/map.json"), "another content than that of its digest", True),
    "store lost": (lambda r: shutil.rmtree(r / "land/map.zarr"), "/map.zarr: is not sealed", True),
    "chunk lost": (lambda r: find_chunk(r / "land/map.zarr").unlink(), "/map.zarr: its content is not", True),
    "chunk cut": (lambda r: cut(find_chunk(r / "land/map.zarr", "agreement")), "/map.zarr: its content is not", True),
    "chunk changed": (lambda r: flip_byte(find_chunk(r / "land/map.zarr")), "/map.zarr: its content is not", False),
    "overview lost": (lambda r: find_chunk(r / "land/map.zarr/ovr_2x").unlink(), "/map.zarr: its content", True),
    "coordinate lost": (lambda r: find_chunk(r / "land/map.zarr", "time").unlink(), "/map.zarr: its content", True),
    "bounds changed": (lambda r: flip_byte(find_chunk(r / "land/map.zarr", "time_bnds")), "/map.zarr: its", False),
    "metadata lost": (lambda r: (r / "land/map.zarr/y/zarr.json").unlink(), "/map.zarr: ", True),
    "root lost": (lambda r: (r / "land/map.zarr/zarr.json").unlink(), "/map.zarr: is not sealed", True),
    "copy lost": (lambda r: (r / "land-2024-06/item.json").unlink(), "land-2024-06/item.json: is not there", True),
    "copy cut": (lambda r: cut(r / "land-2024-06/item.json"), "land-2024-06/item.json: ", True),
    "copy forgotten": (forget_copy, "land-2024-06/item.json: is not there, and the map in", True),
    "copy changed": (lambda r: change_link(r / "land-2024-06/item.json"), "is not what", True),
    "table lost": (lambda r: (r / "land/items.parquet").unlink(), "/items.parquet: is not there", True),
    "catalogue lost": (lambda r: (r / "land/catalog.json").unlink(), "catalog.json", True),
    "COG lost": (lambda r: (r / "land/land-2024-07/agreement.tif").unlink(), "agreement.tif: is not there", True),
    "COG changed": (lambda r: flip_byte(r / "land/land-2024-07/last_date.tif"), "last_date.tif: file:checksum", False),
    "report lost": (lambda r: (r / "land/land-2024-05/report.html").unlink(), "report.html: is not there", True),
    "item cut": (lambda r: cut(r / "land/land-2024-05/item.json"), "land-2024-05/item.json: ", True),
    "record lost": (lambda r: (r / "land/land-2024-05/run.json").unlink(), "land-2024-05/run.json: ", True),
}
"""What is damaged, what ``verify`` says of folder or map, and whether the sizes of files tell it."""
TOGETHER = (
    ("map.json lost", "table lost", "COG lost", "report lost", "copy lost"),
    ("map.json cut", "copy cut"),
    ("map.json changed", "copy changed"),
    ("chunk lost", "chunk cut", "overview lost", "coordinate lost", "copy forgotten"),
    ("store lost",),
    ("item cut",),
    ("metadata lost", "record lost"),
    ("root lost",),
    ("catalogue lost",),
    ("chunk changed", "bounds changed", "COG changed"),
)
"""Damages that are done, found and restored at once, none of which hides another one."""


def test_a_copy_of_a_map_is_as_good_as_the_map(whole: Path, results: Path, tmp_path: Path) -> None:
    assert list_findings(whole) == list_findings(whole / "land") == []
    assert find_chunk(results / "land/map.zarr").stat().st_nlink == 1
    assert list_findings(results) == list_findings(results / "land") == []
    for name in ("land", "land-of-yesterday"):
        assert list_findings(shutil.copytree(results / "land", tmp_path / "elsewhere" / name)) == []
    assert list_findings(shutil.copytree(results / "land", results / "land2")) == []


def test_all_damages_are_tried() -> None:
    assert sorted(name for names in TOGETHER for name in names) == sorted(DAMAGES)


@pytest.mark.parametrize("damages", TOGETHER, ids=" and ".join)
def test_what_is_lost_of_a_map_is_found_and_restored(
    damages: tuple[str, ...], whole: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same command, without a pixel of a scene; other bytes of the same number with ``--check``."""
    for damage in damages:
        DAMAGES[damage][0](results)
    found: list[str] = []
    for folder in (results, results / "land"):
        try:
            found += list_findings(folder)
        except InputError as error:
            found.append(str(error))
    for damage in damages:
        assert any(DAMAGES[damage][1] in text for text in found), (damage, found)
    fused: list[object] = []
    original = period_run.PeriodRun.fuse_chunk
    monkeypatch.setattr(
        period_run.PeriodRun, "fuse_chunk", lambda self, chunk: fused.append(chunk) or original(self, chunk)
    )
    build(results, results / "land", MONTHS.model_copy(update={"check": not DAMAGES[damages[0]][2]}))
    assert not fused
    assert list_findings(results) == list_findings(results / "land") == []
    assert read_rasters(results / "land") == read_rasters(whole / "land")
    assert not build(results, results / "land", MONTHS.model_copy(update={"check": True})).computed


def test_what_is_lost_of_the_store_of_a_period_is_fused_again(whole: Path, results: Path) -> None:
    find_chunk(results / "land/land-2024-06/segmentation.zarr").unlink()
    plan = preview_map(results, results / "land", MONTHS)
    assert set(plan.periods["2024-06"].computed.values()) == {"files of the map were lost or changed"}
    assert not plan.periods["2024-05"].computed and plan.unchanged == {"2024-05", "2024-07"}
    assert build(results, results / "land", MONTHS).chunks == len(plan.periods["2024-06"].computed)
    assert list_findings(results / "land") == []
    assert read_rasters(results / "land") == read_rasters(whole / "land")


def test_a_changed_chunk_that_two_stores_share_is_fused_again(region_results: RegionResults, tmp_path: Path) -> None:
    results = copy_scenes(region_results, tmp_path / "results")
    build(results, results / "land", MONTHS)
    before, path = read_rasters(results / "land"), find_chunk(results / "land/map.zarr")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    with path.open("r+b") as file:  # the file of the period, too
        file.write(content)
    found = list_findings(results / "land")
    assert {text.partition(":")[0] for text in found} >= {"/map.zarr", "land-2024-05/segmentation.zarr"}
    assert not build(results, results / "land", MONTHS).computed
    build(results, results / "land", MONTHS.model_copy(update={"check": True}))
    assert list_findings(results / "land") == [] and read_rasters(results / "land") == before


def test_a_store_of_earlier_periods_is_found(whole: Path, results: Path) -> None:
    """Its seal is right, but its chunks are not those of the periods."""
    store = results / "land/land-2024-06/segmentation.zarr"
    shutil.rmtree(store)
    shutil.copytree(results / "land/land-2024-07/segmentation.zarr", store)
    assert any("/map.zarr: " in text and "differ from land-2024-06" in text for text in list_findings(results / "land"))


def test_a_lost_record_is_no_way_round_another_definition(results: Path) -> None:
    (results / "land/map.json").unlink()
    before = read_rasters(results / "land")
    for changes in ({"unseen": ()}, {"resolution": 20.0}, {"period": "year"}):
        with pytest.raises(OtherRunError, match=next(iter(changes))):
            build(results, results / "land", MONTHS.model_copy(update=changes))
    assert read_rasters(results / "land") == before
    (results / "land" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="which is no map"):
        build(results, results / "land", MONTHS)


def test_periods_of_other_scenes_are_made_anew_after_the_record_was_lost(
    whole: Path, region_results: RegionResults, tmp_path: Path
) -> None:
    names = [scene.id for scene in region_results.region.scenes]
    results = copy_scenes(region_results, tmp_path / "results", names[:5])
    build(results, results / "land", MONTHS)
    (results / "land/map.json").unlink()
    copy_scenes(region_results, results)
    plan = preview_map(results, results / "land", MONTHS)
    assert not plan.periods["2024-05"].computed and plan.periods["2024-07"].computed
    assert any("map.json" in warning for warning in plan.warnings)
    build(results, results / "land", MONTHS)
    assert list_findings(results) == [] and read_rasters(results / "land") == read_rasters(whole / "land")


POLYGONS = ("cog", "zarr", "polygons")
VOTES = ("cog", "zarr", "probabilities")


@pytest.mark.parametrize(
    ("before", "after", "is_fused"),
    [
        ({}, {"outputs": POLYGONS}, False),
        ({}, {"outputs": VOTES}, True),
        ({"outputs": VOTES}, {}, False),
        ({"outputs": VOTES}, {"outputs": (*VOTES, "polygons")}, False),
        ({"outputs": POLYGONS}, {"outputs": POLYGONS, "polygon_simplify": 1.0}, False),
        ({"outputs": POLYGONS}, {"outputs": POLYGONS, "polygon_formats": ("parquet",)}, False),
        ({"outputs": POLYGONS}, {"outputs": ("zarr",)}, False),
        ({"outputs": ("zarr",)}, {}, False),
        ({}, {"zarr_format": 2}, True),
    ],
)
def test_other_outputs_are_made_of_what_is_there(
    before: dict[str, object],
    after: dict[str, object],
    is_fused: bool,
    region_results: RegionResults,
    tmp_path: Path,
) -> None:
    """The same files as of a map that had these outputs from the beginning."""
    results = copy_scenes(region_results, tmp_path / "results")
    wanted = MosaicOptions(**{**OPTIONS.model_dump(), **after})
    build(results, tmp_path / "scratch" / "land", wanted)
    shutil.rmtree(results / "land-all")
    build(results, tmp_path / "land", MosaicOptions(**{**OPTIONS.model_dump(), **before}))
    plan = preview_map(results, tmp_path / "land", wanted)
    assert not plan.is_done and bool(plan.chunk_count) is is_fused
    assert build(results, tmp_path / "land", wanted).computed
    assert list_findings(tmp_path / "land") == []
    assert list_data(tmp_path / "land") == list_data(tmp_path / "scratch" / "land")
    assert not build(results, tmp_path / "land", wanted).computed


def list_data(folder: Path) -> dict[str, bytes]:
    """The rasters and polygons of a map, and the names of all its files."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    others = (".json", ".html", ".png", "items.parquet", ".gpkg")  # with times, or other bytes each time
    return {name: b"" if name.endswith(others) else path.read_bytes() for name, path in files.items()}


def test_a_map_of_many_chunks_grows_as_one_from_scratch(
    region_results: RegionResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overviews and blocks beside the chunks that a scene touches are those of the map of before."""
    results, other = tmp_path / "results", copy_scenes(region_results, tmp_path / "other")
    options = OPTIONS.model_copy(update={"resolution": 2.0, "outputs": VOTES})
    extent = preview_map(other, tmp_path / "land", options).record.map_grid.geobox.boundingbox.bbox
    options = options.model_copy(update={"bounds": extent})
    names = [scene.id for scene in region_results.region.scenes]
    copy_scenes(region_results, results, names[:-1])
    build(results, results / "land", options)
    copy_scenes(region_results, results)
    compressed: list[int] = []
    original = cog._compress_blocks

    def compress(content: cog.RasterContent, values: object) -> list[bytes]:
        blocks = original(content, values)  # type: ignore[arg-type]
        compressed.append(len(blocks))
        return blocks

    with monkeypatch.context() as patch:
        patch.setattr(cog, "_compress_blocks", compress)
        result = build(results, results / "land", options)
        grown = sum(compressed)
        compressed.clear()
        build(other, other / "land", options)
    assert result.chunks < len(result.record.map_grid.chunks) * 0.8
    assert grown < sum(compressed) * 0.9
    assert read_rasters(results / "land") == read_rasters(other / "land")
    assert list_findings(results / "land") == []
