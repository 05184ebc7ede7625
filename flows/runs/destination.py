"""Where results go: a folder, or object storage with a working folder beside it."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seamline.flows.runs.resume import same_run
from seamline.pipeline.common.layout import ITEM, PREVIEW, RECORD, ZARR
from seamline.pipeline.publishing.publish import RASTERS
from seamline.pipeline.publishing.upload import Published, fetch, is_listed, is_whole, published, renew_catalog, upload
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url

if TYPE_CHECKING:
    from seamline.flows.runs.scene_job import Request
    from seamline.flows.runs.segment import Result, Stage


@dataclass(frozen=True)
class Destination:
    """The catalogue's ``folder`` on disk and, where that is only where the work is done, ``objects``, where it goes."""

    folder: Path
    objects: ObjectFolder | None = None

    @classmethod
    def of(cls, out: str | Path, work: Path | None) -> Destination:
        """Of a folder, or of ``s3://bucket/prefix`` with a folder of its own below ``work``.

        Chunks have one writer each, wait for each other's votes and are renamed, which object storage cannot do.
        Raises ``InputError`` for an address that is none, or where nothing can be written.
        """
        if not is_object_url(str(out)):
            return cls(make_absolute(out))  # workers may have another working directory
        objects = ObjectFolder.from_url(str(out))
        objects.check_writable(f"--out {objects}")
        folder = make_absolute(work or _work())
        return cls(folder / "s3" / objects.bucket / objects.prefix, objects)

    def holds(self, scene: str) -> bool:
        """Whether a scene is published there, with all files that its item names."""
        if self.objects is not None:
            return self.objects.subfolder(scene).get_version(ITEM) is not None
        folder = self.folder / scene
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            assets = json.loads((folder / ITEM).read_text(encoding="utf-8"))["assets"].values()
            return (folder / RECORD).is_file() and all((folder / asset["href"]).exists() for asset in assets)
        return False


def _work() -> Path:
    if folder := os.environ.get("SEAMLINE_WORK"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seamline" / "work"


def published_record(request: Request) -> dict[str, Any] | None:
    """The record of the same run, published whole with all that is asked for.

    What is published without an output that is asked for now is brought back, so that it can be written from the rest.
    The catalogue is renewed if it does not know the scene.

    Raises:
        InputError: what is published is of another scene, model or plan.
    """
    catalogue = request.objects
    if catalogue is None or request.options.overwrite or (found := published(catalogue, request.scene.id)) is None:
        return None
    place = catalogue.subfolder(found.scene).to_url()
    same_run(f"published run in {place}", found.record, request.identity, request.options)
    if not is_whole(catalogue, found):
        return None
    if not _has_outputs(found, request):
        if not (request.folder / RECORD).exists():
            fetch(catalogue, found, request.folder)
        return None
    if not is_listed(catalogue, found):
        renew_catalog(catalogue)
    return found.record


def _has_outputs(found: Published, request: Request) -> bool:
    options = request.options
    names = {posixpath.basename(asset["href"]) for asset in found.item["assets"].values()}
    wanted = {f"{RASTERS[output]}.tif" for output in options.outputs if output in RASTERS}
    wanted |= {ZARR} & {f"segmentation.{output}" for output in options.outputs}
    return wanted <= names and (
        options.polygon_options is None or options.polygon_options.has_files_among(names, found.record)
    )


def delivered(request: Request, run: Callable[[], Result], stage: Stage) -> Result:
    """What ``run`` leaves of a request, published where the results go; nothing is done where that was done before."""
    from seamline.flows.runs.segment import Result

    catalogue = request.objects
    if catalogue is None:
        return run()
    place = catalogue.subfolder(request.scene.id).to_url()
    record = published_record(request)
    if record is not None:
        return Result(request.folder, record, computed=False, place=place)
    result = run()
    with request.directory.locked():
        stage("upload", lambda: upload(request.folder, catalogue))
        for path in request.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != PREVIEW:  # which is shown to those who watch the run
                path.unlink()
    return replace(result, place=place)
