"""A run that goes on, or is asked for again, takes nothing that is not as it was written."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.results.verify import verify
from tests.support.processes import wait_until_idle
from tests.support.run_folders import FIXED_ENGINE, read_rasters
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

Cluster = Callable[[int], str]

EDGE = 256
CHUNKS = 4 * 4
KINDS = (
    "inferred/*.json",
    "written/*.json",
    "votes/*.npz",
    "quicklook/*.npz",
    "result/*/zarr.json",
    "result/*/segmentation/zarr.json",
    "result/*/segmentation/c/*/*",
    "result/*/confidence/c/*/*",
    "result/*/x/c/0",
)
"""Files of a start that a resumed run reads again. One of each kind is damaged, of different chunks where it can be."""


class Stop(Exception):
    """The test ends a run."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    return write_geotiff(folder / "scene.tif", make_noise(6, EDGE, EDGE), names=BAND_NAMES, nodata=0)


def stop_halfway(totals, plan) -> None:
    if totals.chunks_done >= CHUNKS // 2:
        raise Stop


def run(
    scene: Path,
    model: Model,
    out: Path,
    address: str,
    overlap: int,
    progress: Callable[..., None] = lambda totals, plan: None,
    **more: bool,
) -> RunResult:
    """Segment the scene in chunks of one tile."""
    options = SegmentOptions(
        window=160 + overlap,
        halo=48,
        overlap=overlap,
        chunk_tiles=1,
        cluster=address,
        **FIXED_ENGINE,
        outputs=("cog", "zarr", "confidence"),
        **more,
    )
    return segment(scene, model.folder, out, options, RunObserver(progress=progress))


@pytest.fixture(scope="module")
def stopped(
    scene: Path, small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], tuple[Path, dict[str, bytes]]]:
    """With this overlap: the folder of a run that was stopped halfway, and the rasters of one that was not."""

    @cache
    def of_overlap(overlap: int) -> tuple[Path, dict[str, bytes]]:
        whole = run(scene, small_model, tmp_path_factory.mktemp("whole"), cluster(1), overlap)
        half = tmp_path_factory.mktemp("half")
        with pytest.raises(Stop):
            run(scene, small_model, half, cluster(1), overlap, stop_halfway)
        wait_until_idle(cluster(1))
        return half, read_rasters(whole.folder)

    return of_overlap


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path: Path, other: Path) -> None:
    path.unlink()


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(path: Path, other: Path) -> None:
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def copy(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def make_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_bytes(b"")


def delete_folder(path: Path, other: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)  # it may be below another one that is gone


DAMAGES = {damage.__name__: damage for damage in (empty, truncate, delete, flip, swap, copy, delete_folder)}


def iter_victims(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a file of each kind, and another one of its kind (itself if it is alone)."""
    for place, kind in enumerate(KINDS):
        files = sorted(folder.glob(f"scene/.run/*/{kind}"))
        if files:
            yield files[(3 * place) % len(files)], files[(3 * place + 1) % len(files)]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("overlap", [0, 32])
def test_what_is_damaged_is_inferred_again(
    stopped: Callable[[int], tuple[Path, dict[str, bytes]]],
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    overlap: int,
    damage: str,
    tmp_path: Path,
) -> None:
    half, whole = stopped(overlap)
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    victims = list(iter_victims(tmp_path))
    assert len(victims) == (len(KINDS) if overlap else len(KINDS) - 2)
    for path, other in victims:
        DAMAGES[damage](path, other)
    result = run(scene, small_model, tmp_path, cluster(1), overlap)
    assert read_rasters(result.folder) == whole
    assert not list(verify(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"scene", "catalog.json", "collection.json", "items.parquet"}


@pytest.mark.parametrize("overlap", [0, 32])
def test_files_of_another_run_are_not_taken(
    stopped: Callable[[int], tuple[Path, dict[str, bytes]]],
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    overlap: int,
    tmp_path: Path,
) -> None:
    """Of a scene of the same size and name, so that all shapes fit."""
    half, whole = stopped(overlap)
    (tmp_path / "in").mkdir()
    other = write_geotiff(tmp_path / "in" / "scene.tif", make_noise(6, EDGE, EDGE, seed=9), names=BAND_NAMES, nodata=0)
    with pytest.raises(Stop):
        run(other, small_model, tmp_path / "other", cluster(1), overlap, stop_halfway)
    wait_until_idle(cluster(1))
    out = shutil.copytree(half, tmp_path / "out")
    (mine,) = (path.parent for path in out.glob("scene/.run/*/inferred"))
    (theirs,) = (path.parent for path in tmp_path.glob("other/scene/.run/*/inferred"))
    for kind in KINDS:
        for path in sorted(theirs.glob(kind))[::3]:
            target = mine / path.relative_to(theirs)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    assert read_rasters(run(scene, small_model, out, cluster(1), overlap).folder) == whole


@pytest.mark.parametrize(("damage", "overlap"), [("delete", 0), ("truncate", 0), ("flip", 0), ("copy", 32)])
def test_a_chunk_that_is_lost_while_the_run_goes_on_ends_it_with_a_word(
    stopped: Callable[[int], tuple[Path, dict[str, bytes]]],
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    damage: str,
    overlap: int,
    tmp_path: Path,
) -> None:
    """Whether it can still be read or not."""
    _, whole = stopped(overlap)
    lost: list[Path] = []

    def lose_one(totals, plan) -> None:
        if not lost and totals.chunks_done > 3:
            lost.extend(sorted(tmp_path.glob("scene/.run/*/result/*/segmentation/c/*/*"))[:2])
            DAMAGES[damage](*lost)

    with pytest.raises(RunError, match=r"files of 1 chunks .* run the same command again"):
        run(scene, small_model, tmp_path, cluster(1), overlap, lose_one)
    again = run(scene, small_model, tmp_path, cluster(1), overlap)
    assert overlap or again.record.windows == 1
    assert read_rasters(again.folder) == whole


@pytest.mark.parametrize("damage", [empty, truncate, flip, make_folder], ids=lambda damage: damage.__name__)
def test_a_damaged_plan_is_one_line(
    stopped: Callable[[int], tuple[Path, dict[str, bytes]]],
    scene: Path,
    small_model: Model,
    cluster: Cluster,
    damage: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    half, whole = stopped(0)
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    plan = tmp_path / "scene" / ".run" / "plan.json"
    damage(plan, plan)
    with pytest.raises(
        InputError, match=r"plan of the unfinished run .* or a damaged one .* --overwrite to start over"
    ):
        run(scene, small_model, tmp_path, cluster(1), 0)
    assert read_rasters(run(scene, small_model, tmp_path, cluster(1), 0, overwrite=True).folder) == whole


@pytest.fixture(scope="module")
def finished(scene: Path, small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, to be copied."""
    out = tmp_path_factory.mktemp("finished")
    run(scene, small_model, out, cluster(1), 0)
    return out


RESULT_FILES = (
    "segmentation.tif",
    "confidence.tif",
    "segmentation.zarr/segmentation/c/2/1",
    "segmentation.zarr/confidence/zarr.json",
    "segmentation.zarr/x/c/0",
    "segmentation.zarr/zarr.json",
    "overview.tif",
    "preview.png",
    "report.html",
    "segmentation.qml",
    "segmentation.tif.aux.xml",
    "item.json",
    "run.json",
    "../items.parquet",
    "../catalog.json",
)


@pytest.mark.parametrize(
    ("damage", "name"),
    [*(("truncate", name) for name in RESULT_FILES), *(("flip", name) for name in RESULT_FILES if name != "run.json")],
)
def test_a_damaged_result_is_mended_or_refused(
    finished: Path, scene: Path, small_model: Model, cluster: Cluster, damage: str, name: str, tmp_path: Path
) -> None:
    """Damage that leaves the size as it is is found with ``check``."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "scene"
    DAMAGES[damage](folder / name, folder / name)
    run(scene, small_model, tmp_path, cluster(1), 0, check=damage == "flip")
    assert read_rasters(folder) == read_rasters(finished / "scene")
    assert not list(verify(tmp_path))


def test_a_changed_record_is_refused_and_a_changed_item_written_again(
    finished: Path, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "scene"
    record, item = (folder / name for name in ("run.json", "item.json"))
    checksum = hashlib.sha256(record.read_bytes()).hexdigest()
    item.write_text(item.read_text().replace(checksum, checksum[::-1]))
    assert run(scene, small_model, tmp_path, cluster(1), 0).rewritten == ("item",)
    assert item.read_bytes() == (finished / "scene" / "item.json").read_bytes()
    record.write_text(record.read_text().replace('"windows": 16', '"windows": 17'))
    with pytest.raises(InputError, match=r"run\.json of scene scene: got another content .* bring the file back"):
        run(scene, small_model, tmp_path, cluster(1), 0)
    assert run(scene, small_model, tmp_path, cluster(1), 0, overwrite=True).computed


def test_labels_without_an_undamaged_raster_are_inferred_again(
    finished: Path, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "scene"
    for name in ("segmentation.tif", "segmentation.zarr/segmentation/c/2/1"):
        flip(folder / name, folder / name)
    assert not run(scene, small_model, tmp_path, cluster(1), 0).computed
    result = run(scene, small_model, tmp_path, cluster(1), 0, check=True)
    assert result.computed and result.record.windows == CHUNKS
    assert read_rasters(folder) == read_rasters(finished / "scene")


def test_chunks_that_changed_places_are_noticed(
    finished: Path, scene: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    """Their labels are valid, and the counts of the classes are the same."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    chunks = tmp_path / "scene" / "segmentation.zarr" / "segmentation" / "c"
    swap(chunks / "1" / "1", chunks / "2" / "2")
    (tmp_path / "scene" / "segmentation.tif").unlink()
    problems = [finding.problem for finding in verify(tmp_path)]
    assert "its content is not that which was sealed" in problems
    assert run(scene, small_model, tmp_path, cluster(1), 0).computed
    assert read_rasters(tmp_path / "scene") == read_rasters(finished / "scene")
