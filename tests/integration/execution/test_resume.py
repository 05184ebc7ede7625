"""Kills, reruns and changes of mind: nothing is inferred twice, nothing unfinished is published."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
from distributed import Client, Future, LocalCluster
from numpy.typing import NDArray

from seamline.flows.runs import planning
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.scene_job import open_input
from seamline.flows.runs.segment import segment, segment_scenes
from seamline.flows.settings.model_folder import Model, RuntimeLoader, get_radiometry
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.config import EngineSettings
from seamline.model.spec.errors import ModelError
from seamline.pipeline.cluster import losses, workers
from seamline.pipeline.cluster.workers import run_on_first_host
from seamline.pipeline.common.errors import BadBlockError, InputError, RunError
from seamline.pipeline.execution import chunk_tasks as running
from seamline.pipeline.execution.chunk_context import ChunkContext
from seamline.pipeline.execution.chunk_inference import infer_chunk
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.products import cog
from seamline.pipeline.products.run_record import read_record
from seamline.pipeline.products.seal import is_sealed
from seamline.pipeline.products.zarr_store import open_labels, open_store_raster
from seamline.pipeline.publishing import publication, restore, result_files
from seamline.pipeline.publishing import publish as publishing
from seamline.pipeline.publishing.result_files import ResultFiles
from seamline.pipeline.results.verify import verify
from tests.support.command_line import to_words
from tests.support.host_predictors import HostPredictor
from tests.support.processes import run_scheduler_and_worker, wait_until, wait_until_idle
from tests.support.run_folders import list_inferred_chunks, read_rasters
from tests.support.small_rasters import BAND_NAMES, damage_block, make_noise, write_geotiff

Cluster = Callable[[int], str]
PLAN = {"window": 160, "halo": 48, "precision": "fp32", "device": "cpu", "engine": "torch"}
EVERYTHING: dict[str, Any] = {
    "outputs": ("cog", "zarr", "probabilities", "confidence", "polygons"),
    "polygon_formats": ("fgb", "gpkg", "parquet", "pmtiles"),
    "zarr_shards": True,
}
EDGE = 512
WINDOWS = 8 * 8  # of a scene of 512² in strides of 64
CHUNKS_OF_FOUR = 4 * 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_geotiff(
        path,
        make_noise(6, EDGE // 4, EDGE // 4).repeat(4, axis=1).repeat(4, axis=2),  # so that polygons are few
        names=BAND_NAMES,
        nodata=0,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
    )


def run(source: Path, model: Model, out: Path, watcher: RunObserver | None = None, **options: object) -> RunResult:
    return segment(source, model.folder, out, SegmentOptions(**{**PLAN, **options}), watcher or RunObserver())


@pytest.fixture(scope="module")
def finished(source: Path, small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, to be copied."""
    out = tmp_path_factory.mktemp("finished")
    run(source, small_model, out, cluster=cluster(1), **EVERYTHING)
    return out


@pytest.fixture(scope="module")
def unpublished(source: Path, small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after its last chunk, to be copied."""
    out = tmp_path_factory.mktemp("unpublished")
    with pytest.MonkeyPatch.context() as monkeypatch, stopped_at("seal", monkeypatch):
        run(source, small_model, out, cluster=cluster(1))
    return out


@pytest.fixture(scope="module")
def whole(
    source: Path, small_model: Model, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[str, bytes]]:
    """What a run with this overlap writes that nothing disturbs, in chunks of one tile; run once."""

    @cache
    def undisturbed(overlap: int) -> dict[str, bytes]:
        out = tmp_path_factory.mktemp("whole")
        options = {"chunk_tiles": 1, "overlap": overlap, "window": 160 + overlap}
        return read_rasters(run(source, small_model, out, cluster=cluster(2), **options).folder)

    return undisturbed


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, dirs_exist_ok=True)


class Stop(Exception):
    """The test ends a run."""


def stop_after(chunks: int) -> RunObserver:
    def progress(totals, plan) -> None:
        if totals.chunks_done >= chunks:
            raise Stop

    return RunObserver(progress=progress)


@pytest.mark.parametrize("overlap", [0, 32])
def test_a_resumed_run_infers_only_what_is_missing(
    source: Path,
    small_model: Model,
    cluster: Cluster,
    whole: Callable[[int], dict[str, bytes]],
    overlap: int,
    tmp_path: Path,
) -> None:
    options = {"cluster": cluster(2), "chunk_tiles": 1, "overlap": overlap, "window": 160 + overlap}
    with pytest.raises(Stop):
        run(source, small_model, tmp_path, stop_after(24), **options)
    wait_until_idle(options["cluster"])
    inferred = list_inferred_chunks(tmp_path)
    assert 24 <= len(inferred) < WINDOWS
    if overlap:  # nobody waits for the first chunk any more, so that its votes are gone
        votes = {path.stem for path in (tmp_path / "scene" / ".run").glob("*/votes/*.npz")}
        assert votes
        assert "0-0" in inferred - votes
    assert not list(tmp_path.rglob("segmentation.tif"))
    assert not (tmp_path / "catalog.json").exists()
    resumed = run(source, small_model, tmp_path, **options)
    assert resumed.record.windows == WINDOWS - len(inferred)
    assert resumed.record.pixels_inferred == resumed.record.windows * (160 + overlap) ** 2
    assert read_rasters(resumed.folder) == whole(overlap)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"record_version": 1', '"record_version": 2', "got record_version 2, expected 1"),
        ('"workers"', '"hands"', "got workers: Field required"),
    ],
)
def test_a_result_of_which_it_cannot_be_told_of_which_run_it_is_is_left_as_it_is(
    source: Path, small_model: Model, cluster: Cluster, finished: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    out = copied(finished, tmp_path / "out")
    record = out / "scene" / "run.json"
    record.write_text(record.read_text().replace(old, new))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=said):
        run(source, small_model, out, cluster=cluster(1))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    found = {(finding.subject, finding.problem.split(" is ")[0]) for finding in verify(out)}
    assert ("run.json", "file:checksum") in found
    assert any(subject == "run.json" and said in problem for subject, problem in found)
    assert run(source, small_model, out, cluster=cluster(1), overwrite=True).computed


def test_the_lock_is_that_of_the_file_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens it just before another process removes it, finished, holds nothing yet."""
    directory = RunDirectory(tmp_path / "scene" / ".run")
    flock = fcntl.flock
    calls: list[int] = []

    def overtaken(file: Any, operation: int) -> None:
        calls.append(operation)
        if len(calls) < 3:
            shutil.rmtree(directory.path)
        if len(calls) == 2:
            directory.path.mkdir()
            (directory.path / "lock").touch()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with directory.lock():
        assert len(calls) == 3
        with pytest.raises(InputError, match="another process that works on it"), directory.lock():
            pass
        with (directory.path / "lock").open() as file, pytest.raises(BlockingIOError):
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(tmp_path.iterdir())


def test_a_lock_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    directory = RunDirectory(out / "scene" / ".run")
    with pytest.raises(FileNotFoundError, match="mine"), directory.lock():
        raise FileNotFoundError("mine")
    assert not list(out.iterdir())
    with directory.lock():
        directory.plan_file.write_text("{}")
    assert directory.plan_file.exists()


def stop(*args: object, **more: object) -> None:
    raise Stop


@contextmanager
def stopped_at(step: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Publishing ends at this step, as by a kill."""

    with monkeypatch.context() as patched, pytest.raises(Stop):
        module = next(module for module in (result_files, publication, publishing) if hasattr(module, step))
        patched.setattr(module, step, stop)
        yield


@pytest.fixture(scope="module")
def mortal() -> Iterator[LocalCluster]:
    """A cluster whose workers may be killed; it starts others."""
    with LocalCluster(n_workers=2, threads_per_worker=3, dashboard_address=None) as own:
        yield own


@pytest.mark.parametrize("overlap", [0, 32])
def test_a_worker_that_is_killed_changes_nothing(
    source: Path,
    small_model: Model,
    mortal: LocalCluster,
    whole: Callable[[int], dict[str, bytes]],
    overlap: int,
    tmp_path: Path,
) -> None:
    options = {"chunk_tiles": 1, "overlap": overlap, "window": 160 + overlap}
    killed: list[int] = []

    def kill(totals, plan) -> None:
        if not killed and totals.chunks_done > 10:
            killed.append(mortal.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    result = run(source, small_model, tmp_path, RunObserver(progress=kill), cluster=mortal.scheduler_address, **options)
    assert killed
    assert read_rasters(result.folder) == whole(overlap)


def test_a_worker_that_dies_while_it_measures_is_followed_by_another(
    mortal: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_once(mark: Path) -> str:
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return "measured"

    monkeypatch.setattr(workers, "WORKER_CHECK_INTERVAL", 1)
    with Client(mortal, set_as_default=False) as client:
        assert run_on_first_host(client, 1, dies_once, tmp_path / "mark") == ["measured"]


@pytest.mark.parametrize(("overlap", "sent"), [(0, signal.SIGTERM), (32, signal.SIGKILL)])
def test_a_client_that_is_killed_goes_on_where_it_stopped(
    source: Path,
    small_model: Model,
    cluster: Cluster,
    whole: Callable[[int], dict[str, bytes]],
    overlap: int,
    sent: int,
    tmp_path: Path,
) -> None:
    plan = {**PLAN, "window": 160 + overlap, "overlap": overlap, "chunk_tiles": 1, "workers": 1}
    options = {"model": small_model.folder, "out": tmp_path / "cut", **plan}
    command = [sys.executable, "-m", "seamline", "segment", str(source), *to_words(options)]
    log = tmp_path / "log"
    with log.open("w") as said:
        process = subprocess.Popen(command, start_new_session=True, stderr=said, stdout=said)
    wait_until(lambda: len(list_inferred_chunks(tmp_path / "cut")) >= 8, "eight chunks", pause=0.02)
    os.killpg(process.pid, sent)  # client, scheduler and worker at once
    assert process.wait() == (143 if sent == signal.SIGTERM else -sent)
    if sent == signal.SIGTERM:
        assert "Traceback" not in log.read_text()
        assert log.read_text().endswith("seamline: terminated; give the same command again\n")
    done = len(list_inferred_chunks(tmp_path / "cut"))
    assert 8 <= done < WINDOWS
    assert not list((tmp_path / "cut").rglob("segmentation.tif"))
    options = {"cluster": cluster(1), "chunk_tiles": 1, "overlap": overlap, "window": 160 + overlap}
    again = run(source, small_model, tmp_path / "cut", **options)
    assert WINDOWS - done - 1 <= again.record.windows <= WINDOWS - done
    assert read_rasters(again.folder) == whole(overlap)


def test_a_sealed_rerun_writes_nothing(source: Path, small_model: Model, finished: Path, tmp_path: Path) -> None:
    copied(finished, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1", **EVERYTHING)  # no cluster is asked for
    assert not again.computed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "step", ["seal", "compress_cog", "_draw_after", "write_report", "write_item", "update_catalog"]
)
def test_a_kill_while_publishing_publishes_again_without_inferring(
    source: Path,
    small_model: Model,
    cluster: Cluster,
    unpublished: Path,
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied(unpublished, tmp_path)
    if step != "seal":
        with stopped_at(step, monkeypatch):
            run(source, small_model, tmp_path, cluster=cluster(1))
    result = run(source, small_model, tmp_path, cluster=cluster(1))
    assert result.computed == (step != "update_catalog")  # then all was in its place, and not listed yet
    assert result.record.windows == 0
    assert json.loads((tmp_path / "catalog.json").read_text())["links"]
    assert not (result.folder / ".run").exists()


def test_a_disk_that_fills_up_while_publishing_keeps_what_was_inferred(
    source: Path,
    small_model: Model,
    cluster: Cluster,
    unpublished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied(unpublished, tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(RunError, match=r"No space left .* run the same command"):
        patched.setattr(cog, "append_bytes", full)
        run(source, small_model, tmp_path, cluster=cluster(1))
    assert not list(tmp_path.rglob("segmentation.tif"))
    assert run(source, small_model, tmp_path, cluster=cluster(1)).record.windows == 0


@pytest.mark.parametrize("finished", [True, False])
def test_another_scene_model_or_plan_is_refused_with_the_difference(
    source: Path, small_model: Model, cluster: Cluster, finished: bool, tmp_path: Path
) -> None:
    scene = tmp_path / "scene.tif"
    scene.write_bytes(source.read_bytes())
    options = {"cluster": cluster(1)}
    if finished:
        run(scene, small_model, tmp_path / "out", **options)
    else:
        with pytest.raises(Stop):
            run(scene, small_model, tmp_path / "out", stop_after(1), **options)
    with pytest.raises(InputError, match=r"got window 160, expected window 176"):
        run(scene, small_model, tmp_path / "out", **{**options, "window": 176})
    with pytest.raises(InputError, match="precision fp32, expected precision bf16"):
        run(scene, small_model, tmp_path / "out", **{**options, "precision": "bf16"})
    with pytest.raises(InputError, match="got --outputs cog,zarr, expected --outputs cog,confidence as asked"):
        run(scene, small_model, tmp_path / "out", **options, outputs=("cog", "confidence"))
    with pytest.raises(InputError, match="got --zarr-format 3, expected --zarr-format 2 as asked"):
        run(scene, small_model, tmp_path / "out", **options, zarr_format=2)
    with rasterio.open(scene, "r+") as file:
        pixels = file.read(1)
        pixels[300, 300] += 1
        file.write(pixels, 1)
    with pytest.raises(InputError, match=r"scene_digest .*--overwrite"):
        run(scene, small_model, tmp_path / "out", **options)
    changed = run(scene, small_model, tmp_path / "out", overwrite=True, **{**options, "window": 176})
    assert changed.record.plan.window == 176
    assert changed.record.windows == 7 * 7


def test_overwriting_an_unfinished_run_of_the_same_plan_goes_on(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    options = {"cluster": cluster(1), "chunk_tiles": 1, "overwrite": True}
    with pytest.raises(Stop):
        run(source, small_model, tmp_path, stop_after(8), **options)
    wait_until_idle(options["cluster"])
    done = len(list_inferred_chunks(tmp_path))
    assert run(source, small_model, tmp_path, **options).record.windows == WINDOWS - done
    assert run(source, small_model, tmp_path, **options).record.windows == WINDOWS  # it was finished: start over


def test_a_task_of_a_run_that_was_started_over_is_out_of_reach_of_the_new_one(
    source: Path, small_model: Model, tmp_path: Path
) -> None:
    scene = open_input(source, small_model, SegmentOptions())
    tiling = Tiling(EDGE, EDGE, 160, 48, 0, 5, 8)
    plans = RunDirectory(tmp_path)
    old = plans.create_new_start()
    old.write_plan({})
    new = plans.create_new_start()
    new.write_plan({})
    assert plans.read_plan() == {"start": new.start}
    assert old.files != new.files
    predictor = RuntimeLoader(small_model.folder, small_model.digest, EngineSettings(), get_radiometry(scene), 48)()
    with pytest.raises((FileNotFoundError, InputError)):
        infer_chunk(ChunkContext(scene, tiling, 4, old), Index(0, 0), predictor, lambda work: work())
    assert not new.read_inferred()


@pytest.mark.parametrize(
    "lost",
    [
        "segmentation.tif",
        "segmentation.qml",
        "segmentation.tif.aux.xml",
        "segmentation.zarr",
        "segmentation.zarr/zarr.json",
        "probabilities.tif",
        "confidence.qml",
        "polygons.gpkg",
        "polygons.pmtiles",
        "polygons.qml",
        "item.json",
        "preview.png",
        "report.html",
        "overview.tif",
        "../catalog.json",
    ],
)
def test_a_lost_result_is_written_again_from_what_is_there(
    source: Path, small_model: Model, finished: Path, lost: str, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path) / "scene"
    with rasterio.open(folder / "segmentation.tif") as file:
        labels, profile = file.read(1), file.profile
    rasters = {name: open_store_raster(folder / "segmentation.zarr", name)[:] for name in EVERYTHING["outputs"][2:4]}
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1", **EVERYTHING)  # no cluster is asked for
    assert not again.computed and again.rewritten
    assert path.exists()
    assert not (folder / ".run").exists()
    assert not run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1").rewritten
    with rasterio.open(folder / "segmentation.tif") as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert file.profile == profile
    np.testing.assert_array_equal(open_labels(folder / "segmentation.zarr")[:], labels)
    assert open_labels(folder / "segmentation.zarr").shards == (again.record.plan.chunk_tiles * 64,) * 2
    assert is_sealed(folder / "segmentation.zarr")
    for name, raster in rasters.items():
        np.testing.assert_array_equal(open_store_raster(folder / "segmentation.zarr", name)[:], raster)
        with rasterio.open(folder / f"{name}.tif") as file:
            np.testing.assert_array_equal(file.read().squeeze(), raster)
    assert {path.name for path in folder.iterdir()} == {path.name for path in (finished / "scene").iterdir()}
    for name in ("segmentation.qml", "segmentation.tif.aux.xml", "confidence.qml", "polygons.qml"):
        assert (folder / name).read_text() == (finished / "scene" / name).read_text()


@pytest.mark.parametrize(
    ("module", "step"),
    [(restore, "write_item_and_record"), (publication, "write_record"), (restore, "update_catalog")],
)
def test_a_kill_while_a_lost_result_is_written_leaves_nothing_untrue(
    source: Path,
    small_model: Model,
    cluster: Cluster,
    module: ModuleType,
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = run(source, small_model, tmp_path, cluster=cluster(1), outputs=("cog",))
    both = {"cluster": "tcp://127.0.0.1:1", "outputs": ("cog", "zarr")}
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(module, step, stop)
        run(source, small_model, tmp_path, **both)
    assert run(source, small_model, tmp_path, **both).record.outputs == ("cog", "zarr")
    item = json.loads((first.folder / "item.json").read_text())
    digest = hashlib.sha256((first.folder / "run.json").read_bytes()).hexdigest()
    assert item["assets"]["run"]["file:checksum"] == f"1220{digest}"
    assert not (first.folder / ".run").exists()


def test_a_kill_between_polygons_by_other_rules_leaves_none_that_the_record_calls_its_own(
    source: Path, small_model: Model, cluster: Cluster, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(finished, tmp_path)
    folder, changed = tmp_path / "scene", {**EVERYTHING, "polygon_min_area": 5e4}
    before = read_record(folder)
    write = ResultFiles.write_polygons

    def write_and_die(*arguments: Any) -> None:
        write(*arguments)
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(ResultFiles, "write_polygons", write_and_die)
        run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1", **changed)
    assert before.polygons and read_record(folder).polygons is None
    by_old_rules = run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1", **EVERYTHING)
    assert "polygons" in by_old_rules.rewritten and by_old_rules.record.polygons == before.polygons
    assert (folder / "polygons.fgb").read_bytes() == (finished / "scene" / "polygons.fgb").read_bytes()


def test_a_plan_of_another_version_is_refused(
    source: Path, small_model: Model, cluster: Cluster, unpublished: Path, tmp_path: Path
) -> None:
    copied(unpublished, tmp_path)
    path = tmp_path / source.stem / ".run" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "measured": {}}))
    with pytest.raises(InputError, match="got a plan of another version"):
        run(source, small_model, tmp_path, cluster=cluster(1))
    assert run(source, small_model, tmp_path, cluster=cluster(1), overwrite=True).record.windows > 0


def test_what_a_killed_publishing_left_lying_about_is_cleared_away(
    source: Path, small_model: Model, cluster: Cluster, unpublished: Path, tmp_path: Path
) -> None:
    copied(unpublished, tmp_path)
    folder = tmp_path / source.stem
    (store,) = folder.glob(".run/*/result/segmentation.zarr")
    (store / "zarr.0123.partial").write_text("half")
    (folder / ".item.json.0123.part").write_text("half")
    (folder / "notes.txt").write_text("what somebody noted beside the results stays")
    run(source, small_model, tmp_path, cluster=cluster(1))
    assert not list(folder.rglob("*.part*"))
    assert (folder / "notes.txt").exists()
    (folder / ".run" / "abc").mkdir(parents=True)
    run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1")
    assert not (folder / ".run").exists()


def test_a_worker_that_the_cluster_lost_and_that_writes_while_results_are_published_changes_nothing(
    source: Path,
    small_model: Model,
    cluster: Cluster,
    unpublished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, put_in_place = copied(unpublished, tmp_path) / "scene", publishing.put_in_place

    def put(directory: RunDirectory) -> None:
        (chunk,) = directory.store.glob("segmentation/c/0/0")
        chunk.with_name("0.0123.partial").write_bytes(b"half")
        content = chunk.read_bytes()
        put_in_place(directory)
        chunk.parent.mkdir(parents=True)  # as Zarr does
        chunk.write_bytes(content)

    monkeypatch.setattr(publishing, "put_in_place", put)
    run(source, small_model, tmp_path, cluster=cluster(1))
    assert not (folder / ".run").exists()
    assert not list(folder.rglob("*.partial"))


def test_an_output_that_was_not_asked_for_at_first_costs_no_inference(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    first = run(source, small_model, tmp_path, cluster=cluster(1), outputs=("cog",))
    assert not (first.folder / "segmentation.zarr").exists()
    more = run(source, small_model, tmp_path, cluster="tcp://127.0.0.1:1", outputs=("cog", "zarr"))
    assert not more.computed
    assert more.record.outputs == ("cog", "zarr")
    assert is_sealed(first.folder / "segmentation.zarr")
    assert set(json.loads((first.folder / "item.json").read_text())["assets"]) >= {"segmentation", "zarr"}


def test_several_scenes_are_checked_first_and_fail_alone(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.tif", tmp_path / "two.tif"
    for path in (one, two):
        path.write_bytes(source.read_bytes())
    options = SegmentOptions(**PLAN, cluster=cluster(1))
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such file"):
        segment_scenes([one, tmp_path / "none.tif"], small_model.folder, out, options, RunObserver())
    with pytest.raises(InputError, match="2 called one"):
        segment_scenes([one, one], small_model.folder, out, options, RunObserver())
    assert not list(out.rglob("plan.json"))
    damage_block(one, 1, 3, 3)
    with pytest.raises(RunError, match=r"1 of 2 scenes failed: scene one, chunk .*block"):
        segment_scenes([one, two], small_model.folder, out, options, RunObserver())
    assert (out / "two" / "segmentation.tif").exists()
    assert not (out / "one" / "segmentation.tif").exists()


def test_a_resumed_run_that_does_not_fit_any_more_is_refused_and_kept(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cluster": cluster(1), "chunk_tiles": 1}
    with pytest.raises(Stop):
        run(source, small_model, tmp_path, stop_after(5), **options)
    wait_until_idle(options["cluster"])
    done = list_inferred_chunks(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(InputError, match=r"memory of a worker: got 0\.0 GiB"):
        patched.setattr(planning, "get_worker_memory", lambda client: 2**20)
        run(source, small_model, tmp_path, **options)
    assert list_inferred_chunks(tmp_path) == done


def test_two_runs_of_one_scene_at_once_are_refused(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    refused: list[str] = []

    def second(totals, plan) -> None:
        if not refused:
            with pytest.raises(InputError, match="one run of a scene at a time") as caught:
                run(source, small_model, tmp_path, cluster=cluster(1))
            refused.append(str(caught.value))

    run(source, small_model, tmp_path, RunObserver(progress=second), cluster=cluster(1))
    assert refused


def test_an_unreadable_block_fails_the_run_and_keeps_the_rest(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    broken = tmp_path / "scene.tif"
    broken.write_bytes(source.read_bytes())
    damage_block(broken, 1, 3, 3)
    options = {"cluster": cluster(2), "chunk_tiles": 2}
    with pytest.raises(BadBlockError, match=r"scene scene, chunk \(\d, \d\) of .*scene.tif.*block"):
        run(broken, small_model, tmp_path / "out", **options)
    kept = len(list_inferred_chunks(tmp_path / "out"))
    assert 0 < kept < CHUNKS_OF_FOUR
    assert not list((tmp_path / "out").rglob("segmentation.tif"))
    with pytest.raises(BadBlockError):
        run(broken, small_model, tmp_path / "out", **options)
    result = run(broken, small_model, tmp_path / "out", on_bad_block="nodata", **options)
    assert result.record.windows <= 4 * (CHUNKS_OF_FOUR - kept)
    assert any("scene.tif" in block for block in result.record.bad_blocks)
    with rasterio.open(result.folder / "segmentation.tif") as file:
        labels = file.read(1)
    assert (labels[384:512, 384:512] == 255).all()
    assert (labels == 255).sum() == 128 * 128


def test_nodata_in_place_of_unreadable_blocks_is_taken_only_where_it_is_asked_for(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    broken = tmp_path / "scene.tif"
    broken.write_bytes(source.read_bytes())
    damage_block(broken, 1, 0, 0)
    options = {"cluster": cluster(1), "chunk_tiles": 2}
    with pytest.raises(Stop):
        run(broken, small_model, tmp_path / "out", stop_after(1), on_bad_block="nodata", **options)
    wait_until_idle(options["cluster"])
    with pytest.raises(BadBlockError):
        run(broken, small_model, tmp_path / "out", **options)
    run(broken, small_model, tmp_path / "out", on_bad_block="nodata", **options)
    with pytest.raises(InputError, match=r"nodata in place of \d blocks .* give --on-bad-block nodata to take it"):
        run(broken, small_model, tmp_path / "out", **options)
    assert not run(broken, small_model, tmp_path / "out", on_bad_block="nodata", **options).computed


def test_without_a_halo_no_run_is_taken_whose_tile_borders_may_be_seen(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    narrow, auto = ({"cluster": cluster(1), "halo": halo, "window": None} for halo in (16, None))
    with pytest.raises(Stop):
        run(source, small_model, tmp_path, stop_after(1), **narrow)
    refused = (
        r"run in .*: got halo 16, with which tile borders may be seen, expected halo \d\d, since no --halo is given"
    )
    with pytest.raises(InputError, match="unfinished " + refused):
        run(source, small_model, tmp_path, **auto)
    run(source, small_model, tmp_path, **narrow)
    with pytest.raises(InputError, match="finished " + refused):
        run(source, small_model, tmp_path, **auto)
    assert not run(source, small_model, tmp_path, **narrow).computed
    assert run(source, small_model, tmp_path, overwrite=True, **auto).record.plan.halo > 16


class Failing(HostPredictor):
    """A network that fails on every window."""

    def score(self, pixels: NDArray, valid: NDArray[np.bool_]) -> NDArray:
        raise RuntimeError("the network is on strike")


class FailingLoader:
    key = "failing"

    def __call__(self) -> Failing:
        return Failing()


def test_a_workers_error_reaches_the_caller_with_scene_chunk_and_file(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seamline.flows.runs import segment as module
    from seamline.pipeline.common.errors import ChunkError

    monkeypatch.setattr(module, "RuntimeLoader", lambda *args: FailingLoader())
    with pytest.raises(
        ChunkError, match=r"scene scene, chunk \(0, \d\) of .*scene\.tif: RuntimeError: the network is on strike"
    ):
        run(source, small_model, tmp_path, cluster=cluster(1))


def test_a_model_that_changes_under_the_run_is_refused_by_the_workers(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    from dataclasses import replace

    from seamline.flows.settings.model_folder import RuntimeLoader
    from seamline.model.spec.config import EngineSettings, Radiometry

    loader = RuntimeLoader(
        small_model.folder, "0" * 64, EngineSettings(), Radiometry((1,) * 6, (0,) * 6, (None,) * 6), 0
    )
    with pytest.raises(ModelError, match="let all machines see the same folder"):
        replace(loader)()


def test_labels_of_a_scene_without_data_are_nodata(small_model: Model, cluster: Cluster, tmp_path: Path) -> None:
    empty = write_geotiff(tmp_path / "empty.tif", np.zeros((6, 70, 90), np.uint16), names=BAND_NAMES, nodata=0)
    for overlap in (0, 32):
        result = run(
            empty, small_model, tmp_path / str(overlap), cluster=cluster(1), overlap=overlap, window=160 + overlap
        )
        assert result.record.pixels_inferred == 0
        with rasterio.open(result.folder / "segmentation.tif") as file:
            assert (file.read(1) == 255).all()


def test_a_cluster_without_workers_ends_the_run_with_a_word(
    source: Path, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WORKER_CHECK_INTERVAL", 1)
    monkeypatch.setattr(losses, "NO_WORKER_TIMEOUT", 2)
    with run_scheduler_and_worker(tmp_path) as (address, _, worker):

        def kill(totals, plan) -> None:
            if totals.chunks_done > 5:
                worker.kill()

        with pytest.raises(RunError, match=r"no worker for 2 s.*run the same command again"):
            run(source, small_model, tmp_path / "out", RunObserver(progress=kill), cluster=address, chunk_tiles=1)
    assert list_inferred_chunks(tmp_path / "out")


@pytest.mark.parametrize("lost", ["worker", "client"])
def test_what_is_lost_with_a_result_in_hand_is_not_waited_for(
    source: Path, small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(running, "WORKER_CHECK_INTERVAL", 1)
    monkeypatch.setattr(losses, "NO_WORKER_TIMEOUT", 2)
    fetch, asked = running.ChunkTaskPool._fetch, itertools.count()
    with run_scheduler_and_worker(tmp_path) as (address, _, worker):

        def fetch_after_a_loss(pool: running.ChunkTaskPool, ended: dict[Future, running.ChunkTask]) -> Any:
            future = next(iter(ended))
            if next(asked) == 3 and lost == "worker":
                worker.kill()
                while future.status != "lost":  # until the client knows
                    time.sleep(0.01)
            elif lost == "client":  # as a flow run does that is cancelled
                future.client.loop.add_callback(future.client.close)
                time.sleep(1)
            return fetch(pool, ended)

        monkeypatch.setattr(running.ChunkTaskPool, "_fetch", fetch_after_a_loss)
        said = "no worker for 2 s" if lost == "worker" else "the cluster is gone"
        with pytest.raises(RunError, match=said):
            run(source, small_model, tmp_path / "out", cluster=address, chunk_tiles=1)


def test_a_scheduler_that_is_killed_ends_the_run_with_a_word_and_it_goes_on_elsewhere(
    source: Path, small_model: Model, cluster: Cluster, tmp_path: Path
) -> None:
    with run_scheduler_and_worker(tmp_path) as (address, scheduler, _):

        def kill(totals, plan) -> None:
            if totals.chunks_done > 5:
                scheduler.kill()

        with pytest.raises(RunError, match=r"(?s)the cluster is gone .*run the same command again"):
            run(source, small_model, tmp_path / "out", RunObserver(progress=kill), cluster=address, chunk_tiles=1)
    done = len(list_inferred_chunks(tmp_path / "out"))
    result = run(source, small_model, tmp_path / "out", cluster=cluster(2), chunk_tiles=1)
    assert result.record.windows == WINDOWS - done
