"""A scene as a Prefect task: its stages as tasks of their own, its progress as an artifact. Dask owns its chunks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from distributed import Client
from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.planning import Plan
from seamline.flows.runs.scene_job import open_scene_jobs
from seamline.flows.runs.segment import segment_anew
from seamline.flows.settings.model_folder import open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.tracking import artifacts
from seamline.flows.tracking.best_effort import show
from seamline.model.spec.errors import ModelError
from seamline.pipeline.common.errors import BadBlockError, InputError
from seamline.pipeline.execution.run_chunks import Totals
from seamline.pipeline.storage.confinement import Confinement

T = TypeVar("T")
_SECONDS_BETWEEN_UPDATES = 1.0


class PrefectObserver:
    """Shows the run of a scene in Prefect: log lines, a task for each stage, progress once a second at most.

    ``also`` is called with everything as well: a progress bar, where there is a terminal. ``with_picture`` has
    Prefect's database keep a preview of the scene.
    """

    def __init__(self, scene: str, also: RunObserver, with_picture: bool) -> None:
        self._scene, self._also, self._with_picture = scene, also, with_picture
        self._log = get_run_logger()
        self._artifact: UUID | None = None
        self._updated = 0.0
        self.observer = RunObserver(
            self._log_line, self._show_plan, self._show_progress, self._show_result, self._run_stage
        )

    def _run_stage(self, name: str, work: Callable[[], T]) -> T:
        def stage() -> T:
            return work()

        step: Task[[], T] = Task(
            stage, name=name, task_run_name=f"{name} {self._scene}", persist_result=False, cache_policy=NO_CACHE
        )
        return step()

    def _log_line(self, text: str) -> None:
        self._log.info("%s: %s", self._scene, text)
        self._also.say(text)

    def _show_plan(self, plan: Plan) -> None:
        tiling = plan.tiling
        for warning in plan.scene.warnings:
            self._log.warning("%s: %s", plan.scene.id, warning)
        self._log.info(
            "%s: %d windows of %d, halo %d, overlap %d, %.2f network pixels per scene pixel, about %.0f s",
            plan.scene.id,
            tiling.tile_count,
            tiling.window,
            tiling.halo,
            tiling.overlap,
            tiling.redundancy,
            plan.seconds,
        )
        key, description = artifacts.make_artifact_key("progress", plan.scene.id), f"chunks of {plan.scene.id}"
        artifact = show(
            self._log,
            f"{self._scene}: progress",
            lambda: create_progress_artifact(progress=0.0, key=key, description=description),
        )
        self._artifact = artifact if isinstance(artifact, UUID) else None
        self._also.planned(plan)

    def _show_progress(self, totals: Totals, plan: Plan) -> None:
        self._also.progress(totals, plan)
        now, all_done = time.monotonic(), totals.chunks_done == totals.chunks
        artifact = self._artifact
        if artifact is None or (now - self._updated < _SECONDS_BETWEEN_UPDATES and not all_done):
            return
        self._updated = now
        percent = 100.0 * totals.chunks_done / max(1, totals.chunks)
        show(self._log, f"{self._scene}: progress", lambda: update_progress_artifact(artifact, progress=percent))

    def _show_result(self, result: RunResult) -> None:
        folder, seconds = result.url or result.folder, result.record.seconds["total"]
        if result.computed:
            self._log.info("%s: published in %s after %.0f s", self._scene, folder, seconds)
        elif result.rewritten:
            self._log.info("%s: written anew in %s: %s", self._scene, folder, ", ".join(result.rewritten))
        else:
            self._log.info("%s: finished before, nothing to do", self._scene)
        if result.computed or result.rewritten:
            show(
                self._log,
                f"{self._scene}: published, but it",
                lambda: artifacts.create_scene_artifacts(result, self._with_picture),
            )
        self._also.finished(result)


def _is_worth_a_retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a retry may help. It does not where the input is wrong or a file cannot be read."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, InputError | ModelError | BadBlockError)


@task(
    name="segment",
    task_run_name="segment {name}",
    retries=2,
    retry_delay_seconds=[5, 60],
    retry_condition_fn=_is_worth_a_retry,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def segment_task(
    name: str,
    source: str,
    model: str,
    out: str | Path,
    options: SegmentOptions,
    get_client: Callable[[], Client],
    also: RunObserver,
    renew: bool = False,
    confinement: Confinement | None = None,
    with_picture: bool = True,
) -> RunResult:
    """Segment a scene. What is done is kept on disk, so a retry goes on where the last try stopped.

    Args:
        name: what logs call the scene.
        source: a raster, a folder of band files, or a STAC item.
        model: name of an embedded model, or a model folder.
        out: folder of the catalogue, or ``s3://bucket/prefix``.
        options: everything that has a default.
        get_client: returns the client of a cluster; called only if there is something to infer.
        also: an observer that is called as well.
        renew: replace a result of another model or plan. One of an earlier state of the same source always is.
        confinement: what the source may name; None if it may name anything.
        with_picture: whether Prefect's database keeps a preview of the scene.

    Returns:
        What the run left.

    Raises:
        SeamlineError: the scene failed.
    """
    observer = PrefectObserver(name, also, with_picture).observer
    (job,) = observer.run_stage(
        "check", lambda: open_scene_jobs([source], open_model(model), out, options, confinement)
    )
    result = segment_anew(job, get_client, observer, renew=renew)
    observer.finished(result)
    return result


def quieten_dask() -> None:
    """Log only warnings and errors of Dask, since Prefect would add all of its messages to a flow run.

    Bokeh, which draws its dashboard, warns at each start of a cluster that any host may ask for it: only errors count.
    """
    for name, level in (("distributed", logging.WARNING), ("tornado", logging.WARNING), ("bokeh", logging.ERROR)):
        logging.getLogger(name).setLevel(level)
