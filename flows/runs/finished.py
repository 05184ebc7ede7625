"""Results of the same run that are there already, on disk or in object storage."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from seamline.flows.runs.observer import RunResult
from seamline.flows.runs.run_identity import READING_OPTIONS, describe_finished_run, refuse_other_run
from seamline.flows.runs.scene_job import SceneJob
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, RECORD, ZARR
from seamline.pipeline.products.run_record import RunRecord, read_record
from seamline.pipeline.publishing.completeness import (
    can_restore,
    is_upload_intact,
    list_missing_outputs,
    refuse_damaged_record,
)
from seamline.pipeline.publishing.replacement import is_settled
from seamline.pipeline.publishing.result_files import COG_ARRAYS
from seamline.pipeline.publishing.upload import list_in_catalog
from seamline.pipeline.publishing.uploaded import UploadedScene, download, find_uploaded, is_whole, read_listing
from seamline.pipeline.stac.items import read_item
from seamline.pipeline.stac.scene_item import read_acquired
from seamline.pipeline.storage.object_store import ObjectFolder


def find_finished(job: SceneJob) -> RunResult | None:
    """Return the results of the same run if all that the options ask for is there, at the job's location.

    Args:
        job: what is asked for.

    Returns:
        The result, or None if there is anything left to do.

    Raises:
        OtherRunError: there are results of another scene, model or plan.
    """
    location = job.location
    if location.objects is not None:
        record = _find_uploaded_record(job, location.objects)
        return None if record is None else RunResult(location.folder, record, computed=False, url=location.url)
    record = _read_own_record(job)
    if record is None or location.run_directory.path.exists() or not is_settled(location.folder):
        return None
    missing = list_missing(job.with_recorded_time(record.given_time), check=job.options.check)
    return None if missing else RunResult(location.folder, record, computed=False)


def list_missing(job: SceneJob, *, check: bool) -> list[str]:
    """List what a finished run lacks of what a job asks for, as ``list_missing_outputs`` does.

    Args:
        job: what is asked for, with the time of acquisition that an earlier run was given.
        check: compare the content of all files with their checksums, not only the sizes.
    """
    options, folder = job.options, job.location.folder
    missing = list_missing_outputs(folder, options.outputs, options.polygon_options, check=check)
    with suppress(OSError, ValueError, LookupError, TypeError):  # an item that cannot be read is missing already
        if read_acquired(read_item(folder / ITEM)["properties"]) != job.scene.acquired:
            missing += [name for name in ("preview", "report", "item") if name not in missing]
    return missing


def find_record(job: SceneJob) -> RunRecord | None:
    """Return the record of a finished run of the same scene, model and plan whose labels are in the folder.

    Args:
        job: what is asked for.

    Returns:
        The record; None if there is none, or if the options overwrite it.

    Raises:
        OtherRunError: there is a finished run of another scene, model or plan.
        InputError: it cannot be told of which run it is.
    """
    record = _read_own_record(job)
    return record if record is not None and can_restore(job.location.folder, record.outputs) else None


def refuse_result_of_other_run(job: SceneJob) -> None:
    """Raise ``InputError`` if a finished run of something else is in the folder and the options do not overwrite it."""
    _read_own_record(job)


def _read_own_record(job: SceneJob) -> RunRecord | None:
    """Return the record in the folder, of which another run is refused; None if the options overwrite it."""
    folder = job.location.folder
    if job.options.overwrite or job.location.run_directory.plan_file.exists():
        return None
    try:
        record = read_record(folder)
    except (OSError, ValueError):
        return None  # none, or one that is torn: the scene is segmented again
    refuse_damaged_record(folder)
    refuse_other_run(describe_finished_run(f"finished run in {folder}", record, job), job)
    return record


def has_source_changed(job: SceneJob) -> bool:
    """Return whether the recorded run is of the same source with other content.

    Model and options that tell how the source is read are those of that run. Another plan for the same content does not
    count.
    """
    now = job.options.model_dump(mode="json", exclude_defaults=True)
    for recorded in _iter_recorded(job):
        with suppress(LookupError, AttributeError, TypeError):
            return bool(
                recorded["source"] == job.scene.source
                and recorded["scene_digest"] != job.identity.scene_digest
                and recorded["model_digest"] == job.model.digest
                and all(recorded["options"].get(name) == now.get(name) for name in READING_OPTIONS)
            )
    return False


def _iter_recorded(job: SceneJob) -> Iterator[Any]:
    """Yield what is recorded of runs of the scene, begun or finished."""
    with suppress(InputError):
        plan = job.location.run_directory.read_plan()
        if plan is not None:
            yield plan
    with suppress(OSError, ValueError, InputError):
        yield read_record(job.location.folder).model_dump(mode="json")
    if job.location.objects is not None:
        uploaded = find_uploaded(job.location.objects, job.scene.id)
        if uploaded is not None:
            yield uploaded.record.model_dump(mode="json")


def _find_uploaded_record(job: SceneJob, catalogue: ObjectFolder) -> RunRecord | None:
    """Return the record of the same run if it is published whole in object storage, with all that is asked for.

    What is published without an output that is asked for now is downloaded, so that it can be written from the rest.
    The catalogue is renewed if it does not list the scene.
    """
    if job.options.overwrite:
        return None
    uploaded = find_uploaded(catalogue, job.scene.id)
    if uploaded is None:
        return None
    refuse_other_run(describe_finished_run(f"published run in {job.location.url}", uploaded.record, job), job)
    if not is_whole(catalogue, uploaded):
        return None
    if job.options.check and not is_upload_intact(catalogue, uploaded, job.location.catalog.folder):
        return None
    if not (_has_outputs(uploaded, job) and _has_time(uploaded, job)):
        if not (job.location.folder / RECORD).exists():
            download(catalogue, uploaded, job.location.folder)
        return None
    if not read_listing(catalogue).lists(uploaded):
        list_in_catalog(catalogue, uploaded.scene)
    return uploaded.record


def find_recorded_time(job: SceneJob) -> str | None:
    """Return the time of acquisition that a run of the same scene was given, begun or finished; None if none was."""
    for recorded in _iter_recorded(job):
        with suppress(LookupError, TypeError):
            if recorded["scene_digest"] == job.identity.scene_digest and "datetime" in recorded["options"]:
                return str(recorded["options"]["datetime"])
    return None


def _has_time(uploaded: UploadedScene, job: SceneJob) -> bool:
    """Return whether the item of a published scene says when it was taken as it is known now."""
    with suppress(LookupError, TypeError, ValueError):
        wanted = job.with_recorded_time(uploaded.record.given_time).scene.acquired
        return read_acquired(uploaded.item["properties"]) == wanted
    return False


def _has_outputs(uploaded: UploadedScene, job: SceneJob) -> bool:
    options = job.options
    names = {posixpath.basename(asset["href"]) for asset in uploaded.item["assets"].values()}
    wanted = {f"{COG_ARRAYS[output]}.tif" for output in options.outputs if output in COG_ARRAYS}
    if "zarr" in options.outputs:
        wanted.add(ZARR)
    polygons = options.polygon_options
    if polygons is not None and not polygons.follow(uploaded.record.polygons):
        return False
    return names >= wanted | set(polygons.files if polygons is not None else ())
