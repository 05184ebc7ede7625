"""Segment what is new of a collection, scene by scene, without Prefect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from seamline.flows.api.models import load_model
from seamline.flows.api.segmenting import Progress, check_options, describe_cluster, lend_client, make_observer
from seamline.flows.collection.collection_run import CollectionRun
from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import SceneRef
from seamline.flows.collection.scene_sources import SceneSource
from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.result_location import CatalogLocation
from seamline.flows.runs.scene_job import open_scene_jobs
from seamline.flows.runs.segment import segment_anew
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError, SeamlineError

if TYPE_CHECKING:
    from distributed import Client


def collect(
    scenes: SceneSource | Mapping[str, Any] | str,
    model: str | Path | Model,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    renew: bool = False,
    retry: bool = False,
    client: Client | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Segment what is new of a collection since the last call, by content; one that fails stops no other.

    What was done is kept: the next call goes on with the rest. A scene whose pixels have changed is segmented again,
    and its result replaced.

    Args:
        scenes: where the scenes come from: a pattern such as ``"/data/*.tif"``, or one of the sources of
            ``docs/guides/collections.md``, such as ``{"kind": "inbox", "folder": "/data/inbox"}``.
        model: name of an embedded model, a model folder, or what ``load_model`` returned.
        out: the catalogue's folder, or ``s3://bucket/prefix``.
        options: everything that has a default.
        renew: also segment again what another model or other options left; otherwise such scenes fail.
        retry: also try what was set aside of an inbox, where what cannot be used fails once.
        client: client of a Dask cluster that is there. Default: this process.
        progress: is called with what is being done.

    Returns:
        Number of scenes by outcome, of those known before, and the names of those that are still arriving.

    Raises:
        InputError, ModelError: the collection, the model or ``out`` cannot be used; nothing has been inferred.
        RunError: a scene failed; after all others are done.
    """
    observer = make_observer(progress)
    source, loaded = parse_source(scenes), load_model(model)
    with lend_client(options := describe_cluster(check_options(options), client), client) as get_client:
        return run_collection(source, loaded, out, options, get_client, observer, renew=renew, retry=retry)


def run_collection(
    source: SceneSource,
    model: Model,
    out: str | Path,
    options: SegmentOptions,
    get_client: Callable[[], Client],
    observer: RunObserver,
    *,
    renew: bool,
    retry: bool,
) -> dict[str, Any]:
    """Segment what is new of a collection, one scene after the other.

    Args:
        source: where the scenes come from.
        model: the model.
        out: the catalogue's folder, or ``s3://bucket/prefix``.
        options: everything that has a default.
        get_client: returns the client of a cluster; called only if there is something to infer.
        observer: is called with plans, progress and results.
        renew: also segment again what another model or other options left.
        retry: also try what was set aside of an inbox.

    Returns:
        Number of scenes by outcome, of those known before, and the names of those that are still arriving.

    Raises:
        InputError: the source cannot be used, or the catalogue cannot be written to.
        RunError: a scene failed; after all others are done.
    """
    use_credentials(options.credentials)
    destination = CatalogLocation.from_out(out, options.work)
    ledger = Ledger(destination.folder, model.digest, options.result_digest)
    run = CollectionRun.begin(source, ledger, destination.has_result, retry=retry or renew)
    model.tell_limits(observer.say)
    observer.say(str(run))
    outcomes = run.list_refused()
    for refused in outcomes:
        observer.say(f"{refused.name}: {'set aside: ' if refused.state == 'set aside' else ''}{refused.reason}")

    if run.new:
        get_client()  # a missing cluster is no failure of each scene

    def segment(scene: SceneRef) -> Outcome:
        try:
            (job,) = open_scene_jobs([scene.source], model, out, options, run.confinement)
            result = segment_anew(job, get_client, observer, renew=renew)
        except (SeamlineError, OSError) as error:
            outcome = run.explain(Outcome.from_error(scene.name, error))
            observer.say(f"{scene.name}: {outcome.reason or outcome.state}")
            return outcome
        observer.finished(result)
        return Outcome.from_record(scene.name, result.record, is_new=result.computed, is_changed=result.is_changed)

    for scene in run.new:
        outcome = segment(scene)
        run.record(scene, outcome)
        outcomes.append(outcome)
    destination.list_waiting()
    return run.finish(outcomes)


def parse_source(scenes: SceneSource | Mapping[str, Any] | str) -> SceneSource:
    """Return the source of a collection; a text is a pattern.

    Raises:
        InputError: it is none.
    """
    given: Any = {"kind": "glob", "pattern": scenes} if isinstance(scenes, str) else scenes
    try:
        source: SceneSource = TypeAdapter(SceneSource).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "kind"
        raise InputError(
            f"the source of the scenes: {place}",
            got=repr(first["input"])[:200],
            expected=first["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
            fix="see docs/guides/collections.md",
        ) from error
    return source
