"""What a user asked for, checked: a scene, a model, and a place for the result."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seamline.flows.runs.destination import Destination
from seamline.flows.runs.resume import READING, Identity, finished_record
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, RECORD
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.execution.planning import Raster, candidates
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.publishing.publish import missing_outputs
from seamline.pipeline.publishing.upload import published
from seamline.pipeline.scenes.open_scene import open_scene
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.storage.atomic import check_writable
from seamline.pipeline.storage.object_store import ObjectFolder

BYTES_PER_PIXEL = 0.5
"""Of all results together and what they need on the way; measured 0.05 to 0.2."""


@dataclass(frozen=True)
class Request:
    """A scene to be segmented with a model into ``out``/<scene id>; ``seconds`` is what the checks took.

    ``objects``: where the catalogue is published, if ``out`` is only a working folder.
    """

    scene: Scene
    model: Model
    out: Path
    options: SegmentOptions
    seconds: float
    objects: ObjectFolder | None = None

    @cached_property
    def identity(self) -> Identity:
        """Digests; of a large scene they take seconds."""
        return Identity(self.scene.compute_digest(), self.model.digest)

    @property
    def folder(self) -> Path:
        """Where the scene's results go."""
        return self.out / self.scene.id

    @property
    def directory(self) -> RunDirectory:
        """Of the unfinished run."""
        return RunDirectory(self.folder / ".run")

    def finished(self) -> dict[str, Any] | None:
        """The record of the same run, finished, if it shall not be done again.

        Raises:
            OtherRunError: there is a finished run of another scene, model or plan.
        """
        if self.options.overwrite or not (self.folder / RECORD).exists():
            return None
        return finished_record(self.folder, self.identity, self.options)

    def seems_done(self) -> bool:
        """Whether it is likely that nothing is left to infer; ``finished`` knows."""
        there = self.objects is not None and self.objects.get_version(f"{self.scene.id}/{ITEM}") is not None
        return there or (self.folder / RECORD).exists()

    def outdated(self) -> bool:
        """Whether what is in the folder is of the same source at an earlier time, read and segmented alike."""
        now = self.options.model_dump(mode="json", exclude_defaults=True)
        for found in self._records():
            with suppress(LookupError, AttributeError, TypeError):
                return bool(
                    found["source"] == self.scene.source
                    and found["model_digest"] == self.model.digest
                    and all(found["options"].get(name) == now.get(name) for name in READING)
                )
        return False

    def _records(self) -> Iterator[Any]:
        """Of what was begun or finished of the scene."""
        for path in (self.directory.plan_file, self.folder / RECORD):
            with suppress(OSError, ValueError):
                yield json.loads(path.read_text(encoding="utf-8"))
        if self.objects is not None and (there := published(self.objects, self.scene.id)) is not None:
            yield there.record

    def overwriting(self) -> Request:
        """The same, which takes the place of whatever is in the folder."""
        return replace(self, options=self.options.model_copy(update={"overwrite": True}))

    def unfinished_business(self) -> bool:
        """Whether a finished run left something to write again or to clear away."""
        options = self.options
        return (
            bool(missing_outputs(self.folder, options.outputs, options.polygon_options)) or self.directory.path.exists()
        )


def open_requests(
    sources: Sequence[str | Path], model: Model, out: str | Path, options: SegmentOptions
) -> list[Request]:
    """A request for each of the scenes. ``out`` is a folder, or ``s3://bucket/prefix``.

    Raises:
        InputError: one of them cannot be worked with, or two would share a folder.
    """
    use_credentials(options.credentials)
    place = Destination.of(out, options.work)
    requests = [_request(source, model, place, options) for source in sources]
    count = Counter(request.scene.id for request in requests)
    for name, times in count.items():
        if times > 1:
            raise InputError(
                "scenes of one name",
                got=f"{times} called {name}",
                expected="a folder below --out for each",
                fix="segment them into different --out",
            )
    return requests


def _request(source: str | Path, model: Model, place: Destination, options: SegmentOptions) -> Request:
    started, out = Stopwatch.now(), place.folder
    scene = open_input(source, model, options)
    candidates(raster_of(scene, model, options), options.plan_options, model.reach)
    if not (out / scene.id / RECORD).exists():
        check_output(out, scene)
    return Request(scene, model, out, options, Stopwatch.now() - started, place.objects)


def open_input(source: str | Path, model: Model, options: SegmentOptions) -> Scene:
    """The scene that the user named, with the model's bands."""
    return open_scene(
        source,
        model.band_needs,
        options.scene_options,
        assumed_nodata=model.spec.assumed_nodata,
        reflectance=model.spec.quantity == "reflectance",
    )


def raster_of(scene: Scene, model: Model, options: SegmentOptions) -> Raster:
    """What the plan must know of the scene."""
    height, width = scene.grid.shape
    classes = len(model.classes)
    layers = sum(classes if LAYERS[name].per_class else 1 for name in options.layers)
    return Raster(height, width, len(scene.bands), np.dtype(scene.dtype).itemsize, classes, layers)


def check_output(out: Path, scene: Scene) -> None:
    """Refuse an output folder that cannot be written to or whose disk is too small; makes nothing."""
    there = check_writable(out / scene.id, f"--out {out}")
    height, width = scene.grid.shape
    needed, free = int(height * width * BYTES_PER_PIXEL), shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"disk of --out {out}",
            got=f"{free / 2**20:.0f} MiB free",
            expected=f"{needed / 2**20:.0f} MiB for a scene of {height}×{width}",
            fix="free some space or choose another disk",
        )
