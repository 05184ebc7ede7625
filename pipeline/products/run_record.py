"""The record of a run, ``run.json``: what was segmented, how, and what came of it.

Only this module validates and writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import RECORD
from seamline.pipeline.storage.atomic import atomic_write

_VERSION: Literal[1] = 1
"""Version of the layout. A record without a version is of version 1.

Increase the number when a field is added that has no default, or changes its meaning, and read older versions, too.
"""


@dataclass(frozen=True)
class ClassArea:
    """How much of a scene a class covers.

    Attributes:
        name: name of the class.
        value: its label.
        pixels: number of its pixels.
        share: its part of the valid pixels, 0 to 1.
        area_m2: area on the ellipsoid in m². ``None``: unknown, without a CRS.
    """

    name: str
    value: int
    pixels: int
    share: float
    area_m2: float | None


class TilingRecord(BaseModel):
    """The tiling of a run, in pixels; ``chunk_tiles`` counts tiles along an edge of a chunk."""

    model_config = ConfigDict(frozen=True)

    window: int
    halo: int
    overlap: int
    chunk_tiles: int
    divisor: int
    stride: int


class InferenceRecord(BaseModel):
    """What is known of a run when its chunks are all written and nothing is published yet.

    Attributes:
        record_version: version of this layout.
        scene: id of the scene.
        source: path or address of the scene.
        model: name of the model.
        scene_digest: SHA-256 of the scene and of how it is read.
        model_digest: SHA-256 of the model.
        plan: tiling of the run.
        settings: how the network ran (engine, precision, device, batch, …).
        options: what the user asked for, without defaults.
        outputs: names of the outputs that are there.
        pixels_scene: pixels of the scene.
        pixels_inferred: network input pixels of this run.
        windows: windows that this run inferred.
        chunks: chunks of the scene.
        seconds: read, infer, blend, write summed over workers; start, run, overviews, cog, polygons, publish and total
            as wall time.
        workers: worker processes.
        peak_memory_bytes: most memory of any worker.
        projected_memory_bytes: what the plan expected of it.
        device_memory_bytes: most memory on a device of its own.
        bad_blocks: blocks of the source that could not be read.
        warnings: what was assumed of the scene.
        radiometry: what the numbers of the scene mean, and what says so.
        versions: versions of the software that decides the results.
        started: when the run began, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="allow")  # fields that others add are kept

    record_version: Literal[1] = _VERSION
    scene: str
    source: str
    model: str
    scene_digest: str
    model_digest: str
    plan: TilingRecord
    settings: dict[str, Any]
    options: dict[str, Any] = {}
    outputs: tuple[str, ...]
    pixels_scene: int
    pixels_inferred: int
    windows: int
    chunks: int
    seconds: dict[str, float]
    workers: int
    peak_memory_bytes: int
    projected_memory_bytes: int
    device_memory_bytes: int = 0
    bad_blocks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    radiometry: str = ""
    versions: dict[str, str] = {}
    started: str = ""


class RunRecord(InferenceRecord):
    """The record of a finished run.

    Attributes:
        polygons: rules by which the polygons were made; None without polygons.
        classes: how much of the scene each class covers.
        hull: (column, row) of the corners of the hull of the labels; None where there are none.
        finished: when the results were published, ISO 8601 with a time zone.
    """

    polygons: dict[str, float] | None = None
    classes: tuple[ClassArea, ...]
    hull: tuple[tuple[float, float], ...] | None = None
    finished: str

    @property
    def digests(self) -> dict[str, str]:
        """Digests of scene and model, by their names in the record."""
        return {"scene_digest": self.scene_digest, "model_digest": self.model_digest}

    @property
    def given_time(self) -> str | None:
        """When the scene was taken by the ``--datetime`` that the run was given; None if it was given none."""
        text = self.options.get("datetime")
        return None if text is None else str(text)


def read_record(folder: Path) -> RunRecord:
    """Read the record in a scene's folder.

    Raises:
        OSError: there is none.
        ValueError: it is no JSON object.
        InputError: it is a JSON object, but no record, or one of a version that is not known here.
    """
    return parse_record((folder / RECORD).read_bytes(), folder.name)


def parse_record(data: bytes, scene: str) -> RunRecord:
    """Parse the content of a scene's ``run.json``; raises ``ValueError`` or ``InputError`` as ``read_record`` does."""
    values = from_json(data)  # unlike json, a ValueError for documents that are nested too deep
    if not isinstance(values, dict):
        raise ValueError(f"{RECORD} is no JSON object")
    version = values.get("record_version", _VERSION)
    if type(version) is not int or version != _VERSION:
        raise InputError(
            f"{RECORD} of scene {scene}",
            got=f"record_version {version!r}",
            expected=f"{_VERSION}",
            fix="use the version of Seamline that wrote it, or give another --out",
        )
    try:
        return RunRecord.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"{RECORD} of scene {scene}",
            got=describe_validation_error(error),
            expected="what Seamline wrote",
            fix="bring the file back, or start over with --overwrite",
        ) from error


def describe_validation_error(error: ValidationError) -> str:
    """Return the first field that is missing or wrong, and why, in at most 160 characters without its value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    return (f"{place}: {first['msg']}" if place else first["msg"])[:160]


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record to a scene's folder in one step."""
    with atomic_write(folder / RECORD) as part:
        part.write_bytes(encode_record(record))


def encode_record(record: RunRecord) -> bytes:
    """Return the content of ``run.json``."""
    values = record.model_dump(mode="json", exclude={"polygons"} if record.polygons is None else None)
    return (json.dumps(values, indent=2) + "\n").encode("utf-8")
