"""Killed at any operation on a file, the same command leads to the same results, and nothing is left over.

A few of the operations are tried, others each time. All of them: ``SEAMLINE_KILL_POINTS=all``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.publishing.upload import upload
from seamline.pipeline.publishing.uploaded import find_uploaded
from seamline.pipeline.results.verify import verify
from seamline.pipeline.results.verify_objects import verify_objects
from seamline.pipeline.stac import stamped_table, waiting
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.storage import atomic
from seamline.pipeline.storage.object_store import ObjectFolder
from seamline.pipeline.storage.s3_access import use_access
from tests.support.kill_points import choose_points, count_changes, kill_at_change
from tests.support.run_folders import FIXED_ENGINE, list_names, read_rasters
from tests.support.s3_server import start_s3_server
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

Cluster = Callable[[int], str]
SAMPLE = 4
CATALOGUE = ("items.parquet", "catalog.json", "collection.json")
"""Files that are renewed after the scene; they may be those from before it."""
OUTPUTS = ("cog", "zarr", "confidence")
OPERATIONS = ("run", "overwrite", "overwrite without exchange", "restore")


def run(
    scene: Path,
    model: Path,
    out: Path,
    address: str,
    overwrite: bool = False,
    exchanges: bool = True,
    outputs: tuple[str, ...] = OUTPUTS,
) -> None:
    """Segment a scene in two chunks; ``exchanges``: as on a file system that can exchange two folders."""
    if not exchanges:
        atomic._exchange_at_once = lambda first, second: False
    options = SegmentOptions(
        window=160,
        halo=48,
        chunk_tiles=2,
        cluster=address,
        **FIXED_ENGINE,
        outputs=outputs,
        overwrite=overwrite,
    )
    segment(scene, model, out, options, RunObserver())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two scenes of one name."""
    found = {}
    for seed, name in enumerate(("old", "new")):
        folder = tmp_path_factory.mktemp(name)
        pixels = make_noise(6, 100, 200, seed=seed)
        found[name] = write_geotiff(folder / "scene.tif", pixels, names=BAND_NAMES, nodata=0)
    return found


@pytest.fixture(scope="module")
def results(
    scenes: dict[str, Path], small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of results of both scenes, which nothing has disturbed."""
    found = {name: tmp_path_factory.mktemp(f"{name}-results") for name in scenes}
    for name, scene in scenes.items():
        run(scene, small_model.folder, found[name], cluster(1))
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_at_any_operation_on_files_is_not_seen_afterwards(
    scenes: dict[str, Path],
    results: dict[str, Path],
    small_model: Model,
    cluster: Cluster,
    operation: str,
    tmp_path: Path,
) -> None:
    arguments = (scenes["new"], small_model.folder)
    options = {"overwrite": operation.startswith("overwrite"), "exchanges": "without" not in operation}

    def prepare(name: str) -> Path:
        out = tmp_path / name
        if operation != "run":
            shutil.copytree(results["new" if operation == "restore" else "old"], out)
        if operation == "restore":
            (out / "scene" / "confidence.tif").unlink()
        return out

    def get_arguments(out: Path) -> tuple[object, ...]:
        return (*arguments, out, cluster(1), *options.values())

    whole, names = read_rasters(results["new"] / "scene"), list_names(results["new"])
    old = read_rasters(results["old"] / "scene")
    out = prepare("counted")
    points = count_changes(run, *get_arguments(out), below=out)
    assert points > 30
    for point in choose_points(points, SAMPLE):
        out = prepare(f"killed-{point}")
        was_killed = kill_at_change(point, run, *get_arguments(out), below=out)
        if operation == "overwrite":  # what stands there is all old or all new
            assert read_rasters(out / "scene") in (old, whole), point
            assert not [finding for finding in verify(out) if finding.subject not in CATALOGUE], point
        run(*get_arguments(out)[:-1])
        assert read_rasters(out / "scene") == whole, point
        assert not list(verify(out)), point
        assert list_names(out) == names, point
        assert was_killed or point > points - 20
        shutil.rmtree(out)


def add_polygons(scene: Path, model: Path, out: Path, address: str) -> None:
    """Ask for another output in a catalogue that is large, so that the record changes."""
    waiting.LARGE_TABLE = stamped_table.LARGE_TABLE = 1
    run(scene, model, out, address, outputs=(*OUTPUTS, "polygons"))


def test_a_restore_that_is_killed_while_the_scene_waits_for_its_row_is_done_by_the_next(
    scenes: dict[str, Path], results: dict[str, Path], small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    def prepare(name: str) -> tuple[Path, Path, Path, str]:
        out = shutil.copytree(results["new"], tmp_path / name)
        waiting.note_waiting(out, "scene")
        return scenes["new"], small_model.folder, out, cluster(1)

    points = count_changes(add_polygons, *prepare("counted"), below=tmp_path / "counted")
    whole = read_rasters(results["new"] / "scene")
    for point in choose_points(points, 2 * SAMPLE):
        out = tmp_path / f"killed-{point}"
        arguments = prepare(out.name)
        kill_at_change(point, add_polygons, *arguments, below=out)
        run(*arguments, outputs=(*OUTPUTS, "polygons"))
        assert read_rasters(out / "scene") == whole, point
        assert (out / "scene" / "polygons.parquet").exists() and not list(verify(out)), point
        shutil.rmtree(out)


def test_a_catalogue_whose_update_is_killed_is_whole_after_the_next(results: dict[str, Path], tmp_path: Path) -> None:
    names = list_names(results["new"])

    def prepare(name: str) -> Path:
        out = shutil.copytree(results["new"], tmp_path / name)
        (out / "catalog.json").write_bytes(b"")
        (out / "items.parquet").unlink()
        return out

    out = prepare("counted")
    points = count_changes(update_catalog, out, below=out)
    assert points >= SAMPLE
    for point in choose_points(points, SAMPLE):
        out = prepare(f"killed-{point}")
        assert kill_at_change(point, update_catalog, out, below=out)
        update_catalog(out)
        assert not list(verify(out)), point
        assert list_names(out) == names, point


def publish(folder: Path, catalogue: ObjectFolder, *, by_workers: bool = False) -> None:
    """Upload a scene's folder; runs in a process of its own, which does the work of workers, too."""
    use_access(catalogue.access)
    upload(folder, catalogue, map_groups=map if by_workers else None)


publish_by_workers = partial(publish, by_workers=True)


def list_published(catalogue: ObjectFolder) -> dict[str, int]:
    """Sizes of the files that the scene's item leads to."""
    scene = find_uploaded(catalogue, "scene")
    assert scene
    return {key.partition("/")[2]: size for key, size in catalogue.subfolder("scene").list_sizes(scene.version).items()}


@pytest.mark.parametrize("publish_new", [publish, publish_by_workers], ids=["client", "workers"])
def test_an_upload_that_is_killed_at_any_request_is_whole_after_the_next(
    results: dict[str, Path], publish_new: Callable[..., None]
) -> None:
    """Over an older version of the scene; readers see the old or the new one."""
    with start_s3_server() as server:

        def prepare(name: str) -> ObjectFolder:
            catalogue = server.bucket(name)
            publish(results["old"] / "scene", catalogue)
            return catalogue

        new, counted = results["new"] / "scene", prepare("counted")
        before = list_published(counted)
        points = count_changes(publish_new, new, counted, below=None)
        after = list_published(counted)
        assert points > 10 and before != after
        for point in choose_points(points, SAMPLE):
            catalogue = prepare(f"killed-{point}")
            assert kill_at_change(point, publish_new, new, catalogue, below=None)
            assert not [finding for finding in verify_objects(catalogue) if finding.subject not in CATALOGUE], point
            publish_new(new, catalogue)
            assert not list(new.glob(".upload*")), point
            assert not list(verify_objects(catalogue)), point
            assert list_published(catalogue) == after, point
            assert len(catalogue.subfolder("scene").list_folders()) == 2, point
            assert set(catalogue.list_sizes()) - set(catalogue.list_sizes("scene")) == set(CATALOGUE), point
