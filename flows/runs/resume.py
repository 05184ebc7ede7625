"""Whether what lies in a scene's folder is this run: finished, to be gone on with, or another one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.measurement import Measurement
from seamline.pipeline.common.errors import InputError, OtherRunError
from seamline.pipeline.common.layout import RECORD
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.publishing.publish import can_complete


@dataclass(frozen=True)
class Identity:
    """What a result is of: digests of the scene, with how it is read, and of the model."""

    scene_digest: str
    model_digest: str


@dataclass(frozen=True)
class Resumed:
    """An unfinished run to be gone on with: its directory, plan and what the plan was chosen from."""

    directory: RunDirectory
    tiling: Tiling
    measured: Measurement


READING = ("bands", "scale", "offset", "nodata", "aoi")
"""Options that say how to read a scene."""
DIGEST = 64
"""Characters of a digest, of which twelve tell it from another."""


def finished_record(folder: Path, identity: Identity, options: SegmentOptions) -> dict[str, Any] | None:
    """The record of a finished run of the same scene, model and plan whose labels are there; otherwise ``None``.

    Raises:
        OtherRunError: there is a finished run of something else.
    """
    if RunDirectory(folder / ".run").plan_file.exists():
        return None
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record["plan"], record["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or not one that Seamline wrote
    same_run(f"finished run in {folder}", record, identity, options)
    return record if can_complete(folder, record["outputs"]) else None


def same_run(what: str, record: dict[str, Any], identity: Identity, options: SegmentOptions) -> None:
    """Refuse (``InputError``, which calls it ``what``) the record of a run of another scene, model or plan."""
    _refuse_other(what, record, record["plan"], record["settings"], identity, options)
    _refuse_outputs(what, record, options, set(options.outputs) & set(LAYERS) <= set(record["outputs"]))


def resumable(directory: RunDirectory, identity: Identity, options: SegmentOptions) -> Resumed | None:
    """The unfinished run of the same scene, model and plan; ``None`` where there is none.

    What the options leave open stays as the unfinished run chose it.

    Raises:
        OtherRunError: there is an unfinished run of something else, and the options do not overwrite it.
    """
    try:
        found = directory.identity()
        if found is None:
            return None
        tiling, measured = Tiling(**found["tiling"]), Measurement.from_dict(found["measured"])
        plan = {name: getattr(tiling, name) for name in ("window", "halo", "overlap", "chunk_tiles")}
        settings = asdict(measured.settings_for(tiling.window))
        what = f"unfinished run in {directory.path.parent}"
        _refuse_other(what, found, plan, settings, identity, options)
        begun = SegmentOptions.model_validate(found["options"] | {"aoi": None})
        _refuse_outputs(what, {"outputs": begun.outputs, **found}, options, begun.layers == options.layers)
    except InputError:
        if options.overwrite:
            return None
        raise
    except (LookupError, TypeError, ValueError) as error:
        if options.overwrite:
            return None
        raise InputError(
            f"unfinished run in {directory.path.parent}",
            got=f"a plan of another version ({type(error).__name__}: {error})",
            expected="one that this version wrote",
            fix="take another --out, or --overwrite to start over",
        ) from error
    return Resumed(directory.resumed(), tiling, measured)


def _refuse_other(
    what: str,
    found: dict[str, Any],
    plan: dict[str, Any],
    settings: dict[str, Any],
    identity: Identity,
    options: SegmentOptions,
) -> None:
    asked = {
        "scene_digest": identity.scene_digest,
        "model_digest": identity.model_digest,
        "window": options.window,
        "halo": options.halo,
        "overlap": options.overlap,
        "chunk_tiles": options.chunk_tiles,
        **options.engine_request.get_fixed_settings(),
    }
    there = {**found, **plan, **settings}
    if identity.scene_digest != found["scene_digest"]:  # told by what was said of the scene, where that is it
        before = found.get("options", {})
        now = options.model_dump(mode="json", exclude_defaults=True)
        asked |= {f"--{name}": now.get(name, "none") for name in READING if now.get(name) != before.get(name)}
        there |= {f"--{name}": before.get(name, "none") for name in READING}
    other = {name: value for name, value in asked.items() if value is not None and value != there.get(name)}
    if other:
        raise OtherRunError(
            what,
            got=", ".join(f"{name} {_short(there.get(name, 'unknown'))}" for name in other),
            expected=", ".join(f"{name} {_short(value)}" for name, value in other.items()) + " as asked",
            fix="take the same scene, model and plan, another --out, or --overwrite to start over",
        )


def _refuse_outputs(what: str, found: dict[str, Any], options: SegmentOptions, layers_fit: bool) -> None:
    """Layers are made of what is gone when a run is finished; the store lies as it was begun."""
    standard: dict[str, Any] = {"zarr_format": 3, "zarr_shards": False}
    there = standard | found.get("options", {})
    asked = {name: getattr(options, name) for name in standard}
    other = {
        f"--{name.replace('_', '-')}": (there[name], value)
        for name, value in asked.items()
        if value not in (standard[name], there[name])
    }
    if not layers_fit:
        other["--outputs"] = ",".join(found["outputs"]), ",".join(options.outputs)
    if other:
        raise OtherRunError(
            what,
            got=", ".join(f"{name} {had}" for name, (had, _) in other.items()),
            expected=", ".join(f"{name} {wanted}" for name, (_, wanted) in other.items()) + " as asked",
            fix="take the same outputs, another --out, or --overwrite to start over",
        )


def _short(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == DIGEST else text
