"""The run directory: what of a scene is done already, on disk, so that a killed run goes on where it stopped.

::

    <scene>/.run/plan.json           which scene, model and plan this is: a rerun with another one is refused
                 lock                held by the client that runs the scene
                 <start>/            of this start from nothing; another one has another name
                    segmentation.zarr      takes its final place when every chunk is written
                    inferred/<r>-<c>.json  a chunk's tiles have been inferred: its report; without overlap that is all
                    votes/<r>-<c>.npz      what it must still say to its neighbours and what it waits for (overlap only)
                    written/<r>-<c>.json   its pixels stand in the store (overlap only)
                    quicklook/<r>-<c>.npz  every n-th pixel of the scene, for the preview: the scene is read once

Every file is written beside and renamed, and after what it vouches for: what has a report is whole. A task that a
killed client left on a cluster may outlive the run that it belonged to. It knows its own start's folder only, so
that a run that started over is out of its reach.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError, InUseError
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.storage.atomic import atomic_write, open_npz

_RASTER_PREFIX = "raster-"


@dataclass(frozen=True)
class Report:
    """What a worker says of one step of a chunk. Small and plain, so that it crosses any border.

    ``seconds`` by stage; ``read_peak_memory`` in bytes is the most that the process, and a device of its own, held.
    """

    chunk: Index
    seconds: dict[str, float]
    windows: int = 0
    pixels_inferred: int = 0
    peak_memory: int = 0
    device_memory: int = 0
    bad_blocks: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """The inverse of ``to_dict``."""
        return cls(**{**values, "chunk": Index(*values["chunk"]), "bad_blocks": tuple(values["bad_blocks"])})


@dataclass(frozen=True)
class Votes:
    """An inferred chunk of a plan with overlap, before its neighbours' votes are in.

    ``rasters`` by name, the labels (height, width) and layers beside them, uint8, are final where no neighbour votes.
    ``above`` (classes, v, width) and ``left`` (classes, height, v) are its own votes where neighbours vote too,
    ``strips`` its votes on the neighbours' pixels; where squares are counted, they are one class more.
    """

    rasters: dict[str, NDArray[np.uint8]]
    above: NDArray[np.int32]
    left: NDArray[np.int32]
    strips: dict[Index, NDArray[np.int32]]


@dataclass(frozen=True)
class RunDirectory:
    """Files of one run below ``path``; those of its chunks below ``path/start``."""

    path: Path
    start: str = ""

    @property
    def files(self) -> Path:
        """Folder of this start. Raises ``ValueError`` for a directory without a start."""
        if not self.start:
            raise ValueError(f"{self.path} has not been started")
        return self.path / self.start

    @property
    def store(self) -> Path:
        """The Zarr store while it is being written."""
        return self.files / "segmentation.zarr"

    @property
    def plan_file(self) -> Path:
        """What this run is of."""
        return self.path / "plan.json"

    def with_new_start(self) -> RunDirectory:
        """This directory, cleared, with the empty folders of a new start; ``write_plan`` makes a run of it."""
        self.clear()
        new = RunDirectory(self.path, uuid.uuid4().hex[:12])
        for name in ("inferred", "written", "votes", "quicklook"):
            (new.files / name).mkdir(parents=True)
        return new

    def with_start(self, start: str) -> RunDirectory:
        """Return this directory with the folder of the start of that name."""
        return RunDirectory(self.path, start)

    def with_recorded_start(self) -> RunDirectory:
        """This directory with the start that its plan names."""
        found = self.read_plan()
        return self if found is None else RunDirectory(self.path, found["start"])

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan, which is what makes this start a run, after the store was created."""
        with atomic_write(self.plan_file) as part:
            part.write_text(json.dumps({**plan, "start": self.start}, indent=2) + "\n", encoding="utf-8")

    def clear(self) -> None:
        """Remove everything but the lock; the plan first, since without it nothing that is left counts."""
        self.plan_file.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                # A task of a dead run may still write there; what it leaves is nobody's.
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()

    def read_plan(self) -> dict[str, Any] | None:
        """What ``write_plan`` was given and the name of the start, ``None`` where there is no run."""
        try:
            return json.loads(self.plan_file.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"plan of the unfinished run {self.plan_file}",
                got=error,
                expected="the JSON that Seamline wrote",
                fix="start over with --overwrite",
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; a dead one's hold ends with it. Raises ``InUseError`` if it is held.

        Folders that this made, and nothing was written to, are gone afterwards.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with self._acquire_lock():
            try:
                yield
            finally:
                with suppress(OSError):  # not empty, or gone
                    if [path.name for path in self.path.iterdir()] == ["lock"]:
                        (self.path / "lock").unlink()
                    for folder in made:
                        folder.rmdir()

    def _acquire_lock(self) -> TextIO:
        """The lock, held until it is closed: the file of its name, since another process may just have removed one."""
        path = self.path / "lock"
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack, suppress(FileNotFoundError):
                file = stack.enter_context(path.open("w"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise InUseError(
                        f"run of {self.path.parent.name}",
                        got="another process that works on it",
                        expected="one run of a scene at a time",
                        fix="wait for it, or give another --out",
                    ) from None
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file

    def read_inferred(self) -> dict[Index, Report]:
        """Reports of chunks whose tiles need not be inferred again."""
        return self._read_reports("inferred")

    def read_written(self) -> dict[Index, Report]:
        """Reports of chunks whose pixels stand in the store."""
        return self._read_reports("written")

    def report_inferred(self, report: Report) -> None:
        """Say that a chunk's tiles are inferred, after its votes or its pixels were saved."""
        self._write_report("inferred", report)

    def report_written(self, report: Report) -> None:
        """Say that a chunk's pixels stand in the store."""
        self._write_report("written", report)

    def save_votes(self, chunk: Index, votes: Votes) -> None:
        """Keep an inferred chunk until its neighbours' votes are in, and its own with them."""
        strips = {f"strip-{_name_chunk(to)}": strip for to, strip in votes.strips.items()}
        rasters = {f"{_RASTER_PREFIX}{name}": raster for name, raster in votes.rasters.items()}
        with atomic_write(self._get_votes_path(chunk), shared=True) as part, part.open("wb") as file:
            np.savez(file, above=votes.above, left=votes.left, **rasters, **strips)  # type: ignore[arg-type]

    def load_votes(self, chunk: Index) -> Votes:
        """What ``save_votes`` was given, without the strips (``load_strip``)."""
        with open_npz(self._get_votes_path(chunk)) as arrays:
            rasters = {
                name.removeprefix(_RASTER_PREFIX): arrays[name] for name in arrays if name.startswith(_RASTER_PREFIX)
            }
            return Votes(rasters, arrays["above"], arrays["left"], {})

    def load_strip(self, giver: Index, receiver: Index) -> NDArray[np.int32]:
        """The votes of ``giver``'s tiles on ``receiver``'s pixels, (classes, height, width)."""
        with open_npz(self._get_votes_path(giver)) as arrays:
            return arrays[f"strip-{_name_chunk(receiver)}"]

    def drop_votes(self, chunk: Index) -> None:
        """Remove what nobody waits for any more."""
        self._get_votes_path(chunk).unlink(missing_ok=True)

    def save_quicklook(self, chunk: Index, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Keep every n-th pixel (bands, height, width) of a chunk and where it is valid (height, width)."""
        with atomic_write(self._get_quicklook_path(chunk), shared=True) as part, part.open("wb") as file:
            np.savez_compressed(file, pixels=pixels, valid=valid)

    def load_quicklook(self, chunk: Index) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """What ``save_quicklook`` was given."""
        with open_npz(self._get_quicklook_path(chunk)) as arrays:
            return arrays["pixels"], arrays["valid"]

    def _get_quicklook_path(self, chunk: Index) -> Path:
        return self.files / "quicklook" / f"{_name_chunk(chunk)}.npz"

    def _get_votes_path(self, chunk: Index) -> Path:
        return self.files / "votes" / f"{_name_chunk(chunk)}.npz"

    def _write_report(self, state: str, report: Report) -> None:
        with atomic_write(self.files / state / f"{_name_chunk(report.chunk)}.json", shared=True) as part:
            part.write_text(json.dumps(report.to_dict()), encoding="utf-8")

    def _read_reports(self, state: str) -> dict[Index, Report]:
        found = (Report.from_dict(json.loads(path.read_text())) for path in (self.files / state).glob("[0-9]*.json"))
        return {report.chunk: report for report in found}

    def read_report(self, chunk: Index) -> Report | None:
        """The report of a chunk that has been inferred, ``None`` if it has not."""
        path = self.files / "inferred" / f"{_name_chunk(chunk)}.json"
        try:
            return Report.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None


def _name_chunk(chunk: Index) -> str:
    return f"{chunk.row}-{chunk.col}"
