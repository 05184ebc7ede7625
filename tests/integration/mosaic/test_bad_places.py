"""Scenes that are damaged where no size tells it, and disks that cannot be written to: one line, and it goes on."""

from __future__ import annotations

import errno
import io
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import seamline
from seamline.flows.maps.make_map import make_map
from seamline.flows.maps.observer import MapObserver
from seamline.flows.maps.options import MosaicOptions
from seamline.pipeline.common.errors import DamagedSceneError, InputError, RunError, SeamlineError
from seamline.pipeline.fusion import period_run
from seamline.pipeline.maps import map_folder
from seamline.pipeline.results.verify import verify
from seamline.pipeline.storage import atomic
from tests.support.command_line import CommandLine
from tests.support.region_results import RegionResults, copy_scenes

OPTIONS = MosaicOptions(crs="EPSG:32632", resolution=10, unseen=("cloud", "cloud shadow"))
SKIP = OPTIONS.model_copy(update={"on_bad_scene": "skip"})


def read_rasters(folder: Path) -> dict[str, bytes]:
    found = [path for path in (*folder.glob("*/*.tif"), *folder.glob("**/c/**/*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if ".run" not in path.parts}


def damage(results: Path, name: str) -> None:
    """Flip a byte of a chunk of probabilities; sizes stay as they are."""
    chunk = next((results / name / "segmentation.zarr" / "probabilities").glob("c/0/*/*"))
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0xFF
    chunk.unlink()  # other catalogues have links to it
    chunk.write_bytes(content)


@pytest.fixture
def names(region_results: RegionResults) -> list[str]:
    return [scene.id for scene in region_results.region.scenes]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("on_workers", [False, True])
def test_scenes_whose_damage_shows_are_left_out(
    on_workers: bool, region_results: RegionResults, names: list[str], tmp_path: Path, client: Client
) -> None:
    """Two of them, in a map that is there already: as in a map that never had them."""
    results = copy_scenes(region_results, tmp_path / "results", names[:3])
    seamline.mosaic(results, results / "land", OPTIONS)
    before = read_rasters(results / "land")
    copy_scenes(region_results, results, names)
    for name in (names[1], names[3]):
        damage(results, name)
    with pytest.raises(DamagedSceneError, match="with on_bad_scene skip"):
        seamline.mosaic(results, results / "land", OPTIONS)
    assert read_rasters(results / "land") == before
    said: list[str] = []

    @contextmanager
    def lend(*_: object) -> Iterator[Client]:
        yield client

    observer = MapObserver(say=said.append)
    result = make_map(results, results / "land", SKIP, observer, lend if on_workers else None)
    assert {scene.id for scene in result.record.skipped} == {names[1], names[3]}
    assert all(f"without scene {name}: " in " ".join(said) for name in (names[1], names[3]))
    other = copy_scenes(region_results, tmp_path / "other", [names[0], names[2], *names[4:]])
    seamline.mosaic(other, other / "land", OPTIONS)
    assert read_rasters(results / "land") == read_rasters(other / "land")
    assert names[1] in (results / "land" / "land-all" / "report.html").read_text()
    for name in (names[1], names[3]):
        shutil.rmtree(results / name)
    copy_scenes(region_results, results)
    assert not seamline.mosaic(results, results / "land", SKIP).record.skipped, "they are back"
    assert list(verify(results)) == [] and list(verify(results / "land")) == []


def test_only_damaged_scenes_make_no_map(region_results: RegionResults, names: list[str], tmp_path: Path) -> None:
    results = copy_scenes(region_results, tmp_path / "results", names[:1])
    damage(results, names[0])
    with pytest.raises(InputError, match=f"1 scene that cannot be read: {names[0]} "):
        seamline.mosaic(results, tmp_path / "land", SKIP)


def test_a_damaged_scene_is_told_in_one_line(
    region_results: RegionResults,
    names: list[str],
    tmp_path: Path,
    command_line: CommandLine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    results = copy_scenes(region_results, tmp_path / "results", names[:2])
    damage(results, names[0])
    words = ("mosaic", str(results), "--crs", "EPSG:32632", "--resolution", "10", "--unseen", "cloud", "--quiet")
    code, _, error = command_line(*words, "--out", str(tmp_path / "land"))
    assert (code, error.count("\n"), caplog.text) == (1, 1, "")
    assert error.startswith(f"seamline: scene {names[0]}: ") and "--on-bad-scene skip" in error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name"), [(period_run, "write_store_raster"), (map_folder, "write_time_store"), (atomic, "sync")]
)
def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on(
    module: object,
    name: str,
    region_results: RegionResults,
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    results = copy_scenes(region_results, tmp_path / "results", names[:2])
    options = OPTIONS.model_copy(update={"period": "month"})

    def fail(*args: object, **kwargs: object) -> object:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(SeamlineError, match=r"No space left on device.*make room.* same command again"):
            seamline.mosaic(results, results / "land", options)
    assert caplog.text == "" and not (results / "land" / "map.json").exists()
    seamline.mosaic(results, results / "land", options)
    assert list(verify(results)) == [] and list(verify(results / "land")) == []


def test_places_that_cannot_be_written_to_are_refused_before_any_work(
    region_results: RegionResults, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rights of the user of these tests are, who may be root."""
    results = copy_scenes(region_results, tmp_path / "results", names[:1])
    shut: set[Path] = set()
    temporary_file = atomic.tempfile.TemporaryFile

    def refuse(dir: Path) -> io.IOBase:
        if Path(dir) in shut:
            raise OSError(errno.EROFS, "Read-only file system")
        return temporary_file(dir=dir)

    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)
    for place, said in ((tmp_path / "maps", "^out "), (results, "whose catalogue lists the map")):
        (tmp_path / "maps").mkdir(exist_ok=True)
        shut = {place}
        with pytest.raises(InputError, match=f"{said}.*got Read-only file system"):
            seamline.mosaic(results, tmp_path / "maps" / "land", OPTIONS)
        assert not any((tmp_path / "maps").iterdir())


def test_tables_and_changes_tell_of_a_full_disk(
    small_map: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise FULL

    monkeypatch.setattr(atomic, "sync", fail)
    with pytest.raises(RunError, match=r"/change: No space left on device; .* same command again"):
        seamline.change(small_map, out=tmp_path / "change", from_period="2024", to_period="2025")
