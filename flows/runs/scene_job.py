"""What a user asked for, checked: a scene, a model, options, and a place for the result."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from seamline.flows.runs.result_location import CatalogLocation, ResultLocation
from seamline.flows.settings.credentials import use_credentials
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.common.background import call_in_background
from seamline.pipeline.common.errors import InputError, UnusableSceneError
from seamline.pipeline.common.extras import MissingExtraError, require_extras
from seamline.pipeline.common.layout import ITEM, RECORD
from seamline.pipeline.common.stopwatch import Stopwatch
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.planning.memory import Raster
from seamline.pipeline.planning.tilings import list_candidate_tilings
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.scenes.open_scene import open_scene
from seamline.pipeline.scenes.scene import Scene
from seamline.pipeline.storage.atomic import check_writable
from seamline.pipeline.storage.confinement import Confinement, confine
from seamline.pipeline.storage.output_place import refuse_inside_results

_BYTES_PER_PIXEL = 0.5
"""Disk space of all results together and of what a run needs on the way; measured 0.05 to 0.2."""
UNDATED = "when it was taken is unknown: no tag and no name says it; give --datetime, and `query` finds it by its date"
"""Warning of a scene without a time of acquisition."""


@dataclass(frozen=True)
class Identity:
    """What a result is of: the SHA-256 of the scene, with how it is read, and that of the model."""

    scene_digest: str
    model_digest: str


class SceneDigest:
    """The digest of a scene, read once in threads of this process, from when somebody begins it."""

    def __init__(self, scene: Scene) -> None:
        """Read nothing yet."""
        self._scene = scene

    @cached_property
    def _running(self) -> Future[str]:
        return call_in_background(self._scene.compute_digest)

    def begin(self) -> None:
        """Begin to read the scene's files, unless that has begun."""
        _ = self._running

    def wait(self) -> str:
        """Return the digest as soon as it is there."""
        return self._running.result()


@dataclass(frozen=True)
class SceneJob:
    """A scene that is to be segmented with a model.

    Attributes:
        scene: the scene, opened.
        model: the model.
        options: everything that has a default.
        location: where the results go.
        seconds: how long opening and checking took; part of the run's total.
        digest: the scene's digest, which takes seconds.
    """

    scene: Scene
    model: Model
    options: SegmentOptions
    location: ResultLocation
    seconds: float
    digest: SceneDigest

    @property
    def identity(self) -> Identity:
        """Digests of scene and model. That of the scene is waited for: it takes seconds for some gigabytes."""
        return Identity(self.digest.wait(), self.model.digest)

    @property
    def extras(self) -> tuple[str, ...]:
        """Extras of Seamline whose packages the workers need, too."""
        polygons = ("vectors",) if "polygons" in self.options.outputs else ()
        return polygons if self.location.objects is None else (*polygons, "s3")

    def is_probably_done(self) -> bool:
        """Return whether there are results, of this or of another run; ``find_finished`` knows which."""
        objects = self.location.objects
        is_uploaded = objects is not None and objects.get_version(f"{self.scene.id}/{ITEM}") is not None
        return is_uploaded or (self.location.folder / RECORD).exists()

    def with_recorded_time(self, text: str | None) -> SceneJob:
        """Return the same job with the time of acquisition that an earlier run was given, unless this one is given one.

        Args:
            text: the ``--datetime`` of the earlier run.
        """
        if text is None or self.options.datetime is not None or self.options.overwrite:
            return self
        return replace(
            self, options=self.options.model_copy(update={"datetime": text}), scene=_date_scene(self.scene, text)
        )

    def with_overwrite(self) -> SceneJob:
        """Return the same job, which replaces whatever is in the folder."""
        return replace(self, options=self.options.model_copy(update={"overwrite": True}))


def _raise(error: InputError) -> None:
    raise error


def open_scene_jobs(
    sources: Sequence[str | Path],
    model: Model,
    out: str | Path,
    options: SegmentOptions,
    confinement: Confinement | None = None,
    refuse: Callable[[InputError], None] = _raise,
) -> list[SceneJob]:
    """Open and check scenes before any of them is segmented.

    Args:
        sources: for each scene a raster, a folder of band files, or a STAC item.
        model: the model that segments them.
        out: folder of the catalogue, or ``s3://bucket/prefix``.
        options: everything that has a default.
        confinement: what the sources may name, then and while they are read; None if they may name anything.
        refuse: is called with the error of each source that cannot be worked with; by default it raises it.

    Returns:
        A job for each scene that can be worked with.

    Raises:
        InputError: one of them cannot be worked with, or two would share a folder.
    """
    if "polygons" in options.outputs:
        require_extras("polygons", "vectors")
    use_credentials(options.credentials)
    jobs: list[SceneJob] = []
    catalog = CatalogLocation.from_out(out, options.work)
    with confine(confinement):
        for source in sources:
            try:
                jobs.append(_open_scene_job(source, model, catalog, options))
            except InputError as error:
                refuse(error)
    count = Counter(job.scene.id for job in jobs)
    for name, times in count.items():
        if times > 1:
            raise InputError(
                "scenes of one name",
                got=f"{times} called {name}",
                expected="a folder below --out for each",
                fix="segment them into different --out",
            )
    return jobs


def _open_scene_job(source: str | Path, model: Model, catalog: CatalogLocation, options: SegmentOptions) -> SceneJob:
    started = Stopwatch.now()
    with _blame_scene(options):
        scene = _date_scene(open_input(source, model, options), options.datetime)
        if options.polygon_options is not None:
            options.polygon_options.check_grid(scene.grid)
        list_candidate_tilings(describe_raster(scene, model, options), options.plan_options, model.reach)
    # A name that is too long makes pathlib raise; what can be said of it, check_writable says.
    if not os.path.isfile(catalog.folder / scene.id / RECORD):  # noqa: PTH113
        _check_output_folder(catalog.folder, scene)
        catalog.refuse_id_of_map(scene.id)
    location = ResultLocation(catalog, scene.id)
    return SceneJob(scene, model, options, location, Stopwatch.now() - started, SceneDigest(scene))


@contextmanager
def _blame_scene(options: SegmentOptions) -> Iterator[None]:
    """Turn an ``InputError`` into an ``UnusableSceneError``, unless all scenes lack something: their area, an extra."""
    try:
        yield
    except MissingExtraError:
        raise
    except InputError as error:
        if options.aoi_file is not None and not options.aoi_file.exists():
            raise
        raise UnusableSceneError(error.what, got=error.got, expected=error.expected, fix=error.fix) from error


def open_input(source: str | Path, model: Model, options: SegmentOptions) -> Scene:
    """Open the scene that the user named, with the bands that the model needs.

    Args:
        source: a raster, a folder of band files, or a STAC item.
        model: the model that will see it.
        options: how to read it.

    Returns:
        The scene.

    Raises:
        InputError: it cannot be opened, or lacks a band.
    """
    return open_scene(
        source,
        model.band_needs,
        options.scene_options,
        assumed_nodata=model.spec.assumed_nodata,
        reflectance=model.spec.quantity == "reflectance",
    )


def _date_scene(scene: Scene, text: str | None) -> Scene:
    """Return a scene with the time of acquisition that a text says, or with a warning where there is none."""
    acquired = scene.acquired if text is None else TimeSpan.from_text(text)
    warnings = tuple(warning for warning in scene.warnings if warning != UNDATED)
    return replace(scene, acquired=acquired, warnings=warnings if acquired else (*warnings, UNDATED))


def describe_raster(scene: Scene, model: Model, options: SegmentOptions) -> Raster:
    """Describe a scene for the choice of a plan.

    Args:
        scene: the scene.
        model: the model that will see it.
        options: which layers are wanted beside the labels.

    Returns:
        Size of the scene, of its pixels, and of what is made of them.
    """
    height, width = scene.grid.shape
    classes = len(model.classes)
    layers = sum(classes if LAYERS[name].per_class else 1 for name in options.layers)
    return Raster(height, width, len(scene.bands), np.dtype(scene.dtype).itemsize, classes, layers)


def _check_output_folder(out: Path, scene: Scene) -> None:
    """Refuse an output folder of other results, that cannot be written to or whose disk is too small; makes nothing."""
    refuse_inside_results(out, f"--out {out}")
    existing = check_writable(out / scene.id, f"--out {out}")
    height, width = scene.grid.shape
    needed, free = int(height * width * _BYTES_PER_PIXEL), shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"disk of --out {out}",
            got=f"{free / 2**20:.0f} MiB free",
            expected=f"{needed / 2**20:.0f} MiB for a scene of {height}×{width}",
            fix="free some space or choose another disk",
        )
