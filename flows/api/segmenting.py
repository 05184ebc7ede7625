"""Segment and plan scenes from Python, on a Dask cluster that is there or in the caller's own process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from seamline.flows.api.messages import to_arguments
from seamline.flows.api.models import load_model
from seamline.flows.runs.cluster_session import ClusterSession
from seamline.flows.runs.finished import refuse_result_of_other_run
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.planning import Plan, make_plan
from seamline.flows.runs.scene_job import open_input, open_scene_jobs
from seamline.flows.runs.segment import segment_scene
from seamline.flows.settings.credentials import give_credentials, use_credentials
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.scene import Scene

if TYPE_CHECKING:
    from distributed import Client

    from seamline.pipeline.execution.run_chunks import Totals

T = TypeVar("T")

log = logging.getLogger("seamline")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: what is being done: ``"plan"``, ``"infer"``, ``"publish"`` or ``"upload"``.
        share: share of the scene's pixels that have their labels, 0 to 1.
        message: what takes a while; empty where ``share`` says it.
    """

    stage: str
    share: float
    message: str = ""


def open_scene(source: str | Path, model: str | Path | Model, options: SegmentOptions | None = None) -> Scene:
    """Open a scene with the bands that a model needs, and check it; no pixel is segmented.

    What is assumed of it is logged as warnings (logger ``seamline``), as ``segment`` and ``plan`` do.

    Args:
        source: a raster (path or URL), a folder of band files, or a STAC item.
        model: name of an embedded model, a model folder, or what ``load_model`` returned.
        options: how to read it: ``bands``, ``scale``, ``offset``, ``nodata``, ``aoi``.

    Returns:
        The scene: its grid, its bands in the order of the model, what their numbers mean, and what was assumed.

    Raises:
        InputError: it cannot be opened, lacks a band, or its numbers have no meaning.
    """
    options = check_options(options)
    use_credentials(options.credentials)
    scene = open_input(source, load_model(model), options)
    _log_warnings(scene)
    return scene


def segment(
    scene: str | Path,
    model: str | Path | Model,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    client: Client | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Segment a scene and publish the results in ``out``/<scene id>, as the command ``seamline segment`` does.

    A call that was killed goes on where it stopped; one that is done returns what is there. Without a client the work
    is done in this process; ``options.workers`` starts processes. Neither needs ``if __name__ == "__main__"`` in a
    script.

    Args:
        scene: a raster (path or URL), a folder of band files, or a STAC item.
        model: name of an embedded model, a model folder, or what ``load_model`` returned.
        out: the catalogue's folder, or ``s3://bucket/prefix``.
        options: everything that has a default.
        client: client of a Dask cluster that is there; its workers see scene, model and results under the same paths.
        progress: is called with what is being done, several times a second at most.

    Returns:
        The folder, the record of the run (classes, areas, times, plan), and whether there was anything to do.
        ``open_result(out, result.folder.name)`` opens the rasters.

    Raises:
        InputError, ModelError: the input cannot be worked with; nothing has been inferred.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    options = describe_cluster(check_options(options), client)
    (job,) = open_scene_jobs([scene], load_model(model), out, options)
    refuse_result_of_other_run(job)
    with lend_client(options, client) as get_client:
        return segment_scene(job, get_client, make_observer(progress))


def plan(
    scene: str | Path,
    model: str | Path | Model,
    options: SegmentOptions | None = None,
    *,
    client: Client | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """Return how a scene would be segmented: tiling, settings of the network, memory, time.

    Args:
        scene: a raster (path or URL), a folder of band files, or a STAC item.
        model: name of an embedded model, a model folder, or what ``load_model`` returned.
        options: everything that has a default.
        client: client of a Dask cluster that is there. Default: this process.
        progress: is called with what is being done.

    Returns:
        The plan that ``segment`` would follow.

    Raises:
        InputError, ModelError: scene, model and options do not go together, or no tiling fits into memory.
    """
    options, known = describe_cluster(check_options(options), client), load_model(model)
    opened = open_scene(scene, known, options)
    with lend_client(options, client) as get_client:
        return make_plan(get_client(), opened, known, options, None, make_observer(progress).say)


def check_options(options: object) -> SegmentOptions:
    """Return the options that were given, or the default ones for None.

    Raises:
        InputError: something else was given.
    """
    if options is None:
        return SegmentOptions()
    if not isinstance(options, SegmentOptions):
        raise InputError(
            "options",
            got=f"a {type(options).__name__}",
            expected="a SegmentOptions",
            fix="give seamline.SegmentOptions(scale=0.0001), with the options that you need",
        )
    return options


def describe_cluster(options: SegmentOptions, client: Client | None) -> SegmentOptions:
    """Return options that name the cluster of the client."""
    if client is None:
        return options
    if options.cluster != "local" or options.workers is not None:
        raise InputError(
            "client",
            got="a client beside options.cluster or options.workers",
            expected="one of them",
            fix="leave cluster and workers out of the options",
        )
    return options.model_copy(update={"cluster": client.scheduler.address})


@contextmanager
def lend_client(options: SegmentOptions, client: Client | None) -> Iterator[Callable[[], Client]]:
    """Yield a function that returns the client of a cluster, which is started at its first call where none is given."""
    if client is not None:
        given = client
        give_credentials(given, options.credentials)
        yield lambda: given
        return
    with ClusterSession(options, options.workers or 0) as session:
        yield session.get_client


def make_observer(progress: Callable[[Progress], None] | None) -> RunObserver:
    """Return an observer that calls ``progress``."""
    if progress is None:
        return RunObserver(planned=_log_plan)
    show = progress
    stage = "plan"

    def say(text: str) -> None:
        show(Progress(stage, 0.0, text))

    def tell(totals: Totals, plan: Plan) -> None:
        show(Progress(stage, totals.pixels_done / (plan.tiling.height * plan.tiling.width)))

    def run_stage(name: str, work: Callable[[], T]) -> T:
        nonlocal stage
        stage = name
        show(Progress(name, 1.0 if name in ("publish", "upload") else 0.0, name))
        return work()

    return RunObserver(say=say, planned=_log_plan, progress=tell, run_stage=run_stage)


def _log_plan(plan: Plan) -> None:
    _log_warnings(plan.scene)


def _log_warnings(scene: Scene) -> None:
    """Log what was assumed of a scene."""
    for warning in scene.warnings:
        log.warning("%s: %s", scene.id, to_arguments(warning))
