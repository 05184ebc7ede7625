"""The unfinished run of a scene that a job goes on with."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from seamline.flows.runs.run_identity import RecordedRun, refuse_other_run
from seamline.flows.runs.scene_job import SceneJob
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling


@dataclass(frozen=True)
class UnfinishedRun:
    """An unfinished run: its directory, its plan, and the measurement that the plan was chosen from."""

    directory: RunDirectory
    tiling: Tiling
    measured: Measurement


def find_unfinished(job: SceneJob) -> UnfinishedRun | None:
    """Return the unfinished run of the same scene, model and plan.

    What the options leave open stays as the unfinished run chose it.

    Args:
        job: what is asked for.

    Returns:
        The run, or None if there is none, or if the options overwrite one that cannot be resumed.

    Raises:
        OtherRunError: there is an unfinished run of something else.
        InputError: its plan is damaged or of another version.
    """
    try:
        return _read_unfinished(job)
    except InputError:
        if job.options.overwrite:
            return None
        raise


def _read_unfinished(job: SceneJob) -> UnfinishedRun | None:
    directory = job.location.run_directory
    what = f"unfinished run in {directory.path.parent}"
    plan = directory.read_plan()
    if plan is None:
        return None
    try:
        tiling, measured = Tiling(**plan["tiling"]), Measurement.from_dict(plan["measured"])
        begun = SegmentOptions.model_validate(plan["options"] | {"aoi": None})
        recorded = RecordedRun(
            what,
            plan["scene_digest"],
            plan["model_digest"],
            {name: getattr(tiling, name) for name in ("window", "halo", "overlap", "chunk_tiles")},
            asdict(measured.settings_for(tiling.window)),
            plan["options"],
            begun.outputs,
            can_have_layers=begun.layers == job.options.layers,
        )
    except InputError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            what,
            got=f"a plan of another version ({type(error).__name__}: {error})",
            expected="one that this version wrote",
            fix="take another --out, or --overwrite to start over",
        ) from error
    refuse_other_run(recorded, job)
    return UnfinishedRun(directory.with_start(plan["start"]), tiling, measured)
