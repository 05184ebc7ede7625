"""The Prefect flow ``segment-collection``: segment the new scenes of a collection, several at the same time."""

# Without `from __future__ import annotations`: Prefect pickles a flow that is served by value, and finds the types of
# its parameters only as objects, not by their names.

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from distributed import Client
from pydantic import Field

from seamline.pipeline.common.extras import explain_missing_extra

with explain_missing_extra("the flow segment-collection", "flows"):
    from prefect import flow, get_run_logger, task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import PrefectFuture, as_completed
    from prefect.task_runners import ThreadPoolTaskRunner

from seamline.flows.collection.collection_run import CollectionRun
from seamline.flows.collection.discovery import discover
from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import SceneSource
from seamline.flows.runs.cluster_session import ClusterSession
from seamline.flows.runs.observer import RunObserver, RunResult
from seamline.flows.runs.result_location import CatalogLocation
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.settings.model_folder import open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.tracking import artifacts
from seamline.flows.tracking.best_effort import show
from seamline.flows.tracking.scene_task import quieten_dask, segment_task

_DEFAULTS = SegmentOptions()
_MOST_PICTURES = 100
"""Scenes of a run of which Prefect's database keeps a preview. Results, report and map have those of all."""

AtOnce = Annotated[int, Field(ge=1, le=64, description="Scenes that are worked on at the same time")]


@flow(name="segment-collection", flow_run_name="{scenes.kind} to {out}", persist_result=False, validate_parameters=True)
def segment_collection(
    scenes: SceneSource,
    model: str = "land-water-cloud",
    out: str | Path = Path("results"),
    options: SegmentOptions = _DEFAULTS,
    at_once: AtOnce = 2,
    renew: bool = False,
    retry: bool = False,
) -> dict[str, Any]:
    """Segment what is new of a collection since the last run, by content; one that fails stops no other.

    The run fails at its end if any scene failed. What was done is kept: the next run goes on with the rest.
    A scene whose pixels have changed is segmented again, and its result replaced. What cannot be used of an inbox fails
    once, and is set aside until it changes.

    Args:
        scenes: Where the scenes come from.
        model: Name of an embedded model, or a model folder.
        out: Folder of the catalogue, or s3://BUCKET/PREFIX.
        options: Everything that has a default.
        at_once: Scenes that are worked on at the same time.
        renew: Also segment again what another model or other options left; otherwise such scenes fail.
        retry: Also try what was set aside of an inbox.

    Returns:
        Number of scenes by outcome, of those known before, and the names of those that are still arriving.

    Raises:
        InputError, ModelError: The collection, the model or ``out`` cannot be used; nothing has been inferred.
        RunError: A scene failed, or there is no cluster.
    """
    quieten_dask()
    use_credentials(options.credentials)
    destination = CatalogLocation.from_out(out, options.work)
    opened = open_model(model)
    ledger = Ledger(destination.folder, opened.digest, options.result_digest)
    run = CollectionRun.begin(scenes, ledger, destination.has_result, discover_task, retry or renew)
    log = get_run_logger()
    opened.tell_limits(log.info)
    log.info("%s", run)
    outcomes = run.list_refused()
    for outcome in _segment_new(run, out, model, options, at_once, renew):
        log.info("%s: %s", outcome.name, outcome.reason or outcome.state)
        outcomes.append(outcome)
    destination.list_waiting()
    show(log, "the disk", lambda: artifacts.report_disk(ledger.out))
    title = f"{scenes.kind} to {out}"
    show(log, "the report", lambda: artifacts.show_collection(outcomes, run.known, run.discovery.waiting, title))
    return run.finish(outcomes)


@task(name="find scenes", persist_result=False, cache_policy=NO_CACHE)
def discover_task(scenes: SceneSource, known: Sequence[RejectedSource]) -> Discovery:
    """List the scenes that the collection holds now."""
    return discover(scenes, known)


@task(name="connect", retries=2, retry_delay_seconds=[5, 30], persist_result=False, cache_policy=NO_CACHE)
def connect_task(client: Callable[[], Client]) -> None:
    """Connect to the cluster once, so that a missing cluster fails the flow run and not each of its scenes."""
    client()


def _segment_new(
    run: CollectionRun, out: str | Path, model: str, options: SegmentOptions, at_once: int, renew: bool
) -> Iterator[Outcome]:
    """Segment scenes, note each outcome in the ledger, and yield the outcomes in the order in which scenes end."""
    # The session is left before the runner: a closed cluster ends the scenes that a cancelled flow run would wait for.
    runner: ThreadPoolTaskRunner[RunResult] = ThreadPoolTaskRunner(max_workers=at_once)
    with runner, ClusterSession(options) as session:
        if run.new:
            connect_task(session.get_client)
        running: dict[PrefectFuture[RunResult], SceneRef] = {}
        left = enumerate(run.new)
        while True:
            # A few more than are worked on, since a task takes memory from when it is submitted.
            for number, scene in islice(left, 2 * at_once - len(running)):
                parameters = {
                    "name": scene.name,
                    "source": scene.source,
                    "model": model,
                    "out": out,
                    "options": options,
                    "get_client": session.get_client,
                    "also": RunObserver(),
                    "renew": renew,
                    "confinement": run.confinement,
                    "with_picture": number < _MOST_PICTURES,
                }
                running[runner.submit(segment_task, parameters)] = scene
            if not running:
                return
            future = next(as_completed(list(running)))
            scene = running.pop(future)
            outcome = run.explain(_make_outcome(scene, future.result(raise_on_failure=False)))
            run.record(scene, outcome)
            yield outcome


def _make_outcome(scene: SceneRef, result: RunResult | BaseException) -> Outcome:
    """Return the outcome of a scene whose run left a result or raised an error."""
    if isinstance(result, BaseException):
        return Outcome.from_error(scene.name, result)
    return Outcome.from_record(scene.name, result.record, is_new=result.computed, is_changed=result.is_changed)
