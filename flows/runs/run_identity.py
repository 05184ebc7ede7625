"""Whether a run that is recorded on disk is the one that is asked for: the same scene, model, plan and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seamline.flows.runs.scene_job import SceneJob
from seamline.pipeline.common.errors import OtherRunError
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.run_record import RunRecord

READING_OPTIONS = ("bands", "scale", "offset", "nodata", "aoi")
"""Options that say how to read a scene."""
_DIGEST_LENGTH = 64
"""Characters of a SHA-256; messages show the first twelve."""
_STORE_DEFAULTS: dict[str, Any] = {"zarr_format": 3, "zarr_shards": False}


@dataclass(frozen=True)
class RecordedRun:
    """What is recorded of a run that was begun or finished.

    Attributes:
        what: how messages call it.
        scene_digest: SHA-256 of the scene and of how it is read.
        model_digest: SHA-256 of the model.
        plan: window, halo, overlap and chunk_tiles.
        settings: how the network runs.
        options: what the user asked for, without defaults.
        outputs: names of its outputs.
        can_have_layers: whether the layers that are asked for now can be had of it; what they are made of is gone.
        bad_blocks: number of blocks of the source that it took for nodata.
    """

    what: str
    scene_digest: str
    model_digest: str
    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    outputs: tuple[str, ...]
    can_have_layers: bool
    bad_blocks: int = 0


def describe_finished_run(what: str, record: RunRecord, job: SceneJob) -> RecordedRun:
    """Describe a finished run for comparison with a job.

    Args:
        what: how messages call the run.
        record: its record.
        job: what is asked for now.

    Returns:
        What is recorded of the run.
    """
    return RecordedRun(
        what,
        record.scene_digest,
        record.model_digest,
        record.plan.model_dump(),
        record.settings,
        record.options,
        record.outputs,
        can_have_layers=set(job.options.outputs) & set(LAYERS) <= set(record.outputs),
        bad_blocks=len(record.bad_blocks),
    )


def refuse_other_run(run: RecordedRun, job: SceneJob) -> None:
    """Refuse a run that is not the one of ``job``.

    Args:
        run: what is recorded.
        job: what is asked for.

    Raises:
        OtherRunError: it is of another scene, model or plan, less exact than what is asked for, or its outputs cannot
            become those that are asked for.
    """
    _refuse_other_plan(run, job)
    _refuse_less_exact(run, job)
    _refuse_other_outputs(run, job)


def _refuse_other_plan(run: RecordedRun, job: SceneJob) -> None:
    options = job.options
    asked: dict[str, Any] = {
        "scene_digest": job.identity.scene_digest,
        "model_digest": job.identity.model_digest,
        "window": options.window,
        "halo": options.halo,
        "overlap": options.overlap,
        "chunk_tiles": options.chunk_tiles,
        **options.engine_request.get_fixed_settings(),
    }
    recorded = {"scene_digest": run.scene_digest, "model_digest": run.model_digest, **run.plan, **run.settings}
    if job.identity.scene_digest != run.scene_digest:  # name the options that read it otherwise, if that is the cause
        now = options.model_dump(mode="json", exclude_defaults=True)
        for name in READING_OPTIONS:
            recorded[f"--{name}"] = run.options.get(name, "none")
            if now.get(name) != run.options.get(name):
                asked[f"--{name}"] = now.get(name, "none")
    other = {name: value for name, value in asked.items() if value is not None and value != recorded.get(name)}
    if other:
        raise OtherRunError(
            run.what,
            got=", ".join(f"{name} {_shorten(recorded.get(name, 'unknown'))}" for name in other),
            expected=", ".join(f"{name} {_shorten(value)}" for name, value in other.items()) + " as asked",
            fix="take the same scene, model and plan, another --out, or --overwrite to start over",
        )


def _refuse_less_exact(run: RecordedRun, job: SceneJob) -> None:
    """Without options to the contrary, no tile border can be seen where a halo allows that, and every block is read."""
    exact, halo = job.model.reach.exact_halo, run.plan["halo"]
    if job.options.halo is None and exact is not None and halo < exact:
        raise OtherRunError(
            run.what,
            got=f"halo {halo}, with which tile borders may be seen",
            expected=f"halo {exact}, since no --halo is given",
            fix=f"give --halo {halo} to take it, another --out, or --overwrite to start over",
        )
    narrow = {
        name: run.options[name]
        for name in ("halo", "overlap")
        if exact is None and run.options.get(name) is not None and getattr(job.options, name) is None
    }
    if narrow:
        asked = " ".join(f"--{name} {value}" for name, value in narrow.items())
        raise OtherRunError(
            run.what,
            got=f"{asked}, with which tile borders may be seen",
            expected="what the labels of the scene need, since it is not given now",
            fix=f"give {asked} to take it, another --out, or --overwrite to start over",
        )
    if job.options.on_bad_block == "fail" and run.bad_blocks:
        raise OtherRunError(
            run.what,
            got=f"nodata in place of {run.bad_blocks} blocks of the source that could not be read",
            expected="every block, since --on-bad-block is fail",
            fix="give --on-bad-block nodata to take it, or --overwrite to read them again",
        )


def _refuse_other_outputs(run: RecordedRun, job: SceneJob) -> None:
    """Layers are made of what is gone when a run is finished; the Zarr store keeps the layout it was begun with."""
    recorded = _STORE_DEFAULTS | dict(run.options)
    asked = {name: getattr(job.options, name) for name in _STORE_DEFAULTS}
    other = {
        f"--{name.replace('_', '-')}": (recorded[name], value)
        for name, value in asked.items()
        if value not in (_STORE_DEFAULTS[name], recorded[name])
    }
    if not run.can_have_layers:
        other["--outputs"] = ",".join(run.outputs), ",".join(job.options.outputs)
    if other:
        raise OtherRunError(
            run.what,
            got=", ".join(f"{name} {had}" for name, (had, _) in other.items()),
            expected=", ".join(f"{name} {wanted}" for name, (_, wanted) in other.items()) + " as asked",
            fix="take the same outputs, another --out, or --overwrite to start over",
        )


def _shorten(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == _DIGEST_LENGTH else text
