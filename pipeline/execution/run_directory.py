"""The run directory: the state of a scene's run on disk, from which a killed run is resumed.

::

    <scene>/.run/plan.json           scene, model and plan of the run; a run with other ones is refused
                 lock                locked by the client that runs the scene
                 <start>/            files of this start; each start from nothing has its own name
                    segmentation.zarr      moves to its final place when every chunk is written
                    inferred/<r>-<c>.json  report of a chunk whose tiles are inferred (without overlap: and written)
                    votes/<r>-<c>.npz      undecided votes of a chunk, and its votes on its neighbours (overlap only)
                    written/<r>-<c>.json   report of a chunk whose pixels are in the store (overlap only)
                    quicklook/<r>-<c>.npz  every n-th pixel of the scene, for the preview: the scene is read once

Every file is written to a temporary name and renamed. A report is written after the data that it reports, so a chunk
with a report is complete. A task of a killed client may go on running on a cluster. It knows only the folder of its
own start, so it cannot change the files of a run that was started over.
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
    """What a worker reports of one step of a chunk. Plain values, for Dask and JSON.

    Attributes:
        chunk: row and column of the chunk.
        seconds: stage → seconds.
        windows: windows that were inferred.
        pixels_inferred: pixels of network input, halos included.
        peak_memory: the most bytes that the process held.
        device_memory: the most bytes that were taken on a device with its own memory.
        bad_blocks: messages of source blocks that could not be read and count as nodata.
    """

    chunk: Index
    seconds: dict[str, float]
    windows: int = 0
    pixels_inferred: int = 0
    peak_memory: int = 0
    device_memory: int = 0
    bad_blocks: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """Return the report that ``to_dict`` turned into plain values, before or after a way through JSON."""
        return cls(**{**values, "chunk": Index(*values["chunk"]), "bad_blocks": tuple(values["bad_blocks"])})


@dataclass(frozen=True)
class Votes:
    """An inferred chunk of a run with overlap v, before the votes of its neighbours are added.

    Votes have a channel for each class, and one more where the sum of squares is needed for the disagreement.

    Attributes:
        rasters: name → labels (height, width) or layer ([bands,] height, width); final where no neighbour votes.
        above: own votes on the rows that chunks above vote on, too, (channels, v, width).
        left: own votes on the columns that chunks to the left vote on, too, (channels, height, v).
        strips: neighbour → votes on that neighbour's pixels, (channels, height, width).
    """

    rasters: dict[str, NDArray[np.uint8]]
    above: NDArray[np.int32]
    left: NDArray[np.int32]
    strips: dict[Index, NDArray[np.int32]]


@dataclass(frozen=True)
class RunDirectory:
    """The files of one scene's run.

    Attributes:
        path: the run directory.
        start: name of the folder below ``path`` with the files of one start; empty before a start is chosen.
    """

    path: Path
    start: str = ""

    @property
    def files(self) -> Path:
        """Folder of the start; ``ValueError`` if no start is chosen."""
        if not self.start:
            raise ValueError(f"{self.path} has not been started")
        return self.path / self.start

    @property
    def store(self) -> Path:
        """The Zarr store while it is being written."""
        return self.files / "segmentation.zarr"

    @property
    def plan_file(self) -> Path:
        """JSON file with scene, model and plan of the run."""
        return self.path / "plan.json"

    def create_new_start(self) -> RunDirectory:
        """Clear the directory and return it with the empty folders of a new start; ``write_plan`` makes it a run."""
        self.clear()
        new = RunDirectory(self.path, uuid.uuid4().hex[:12])
        for name in ("inferred", "written", "votes", "quicklook"):
            (new.files / name).mkdir(parents=True)
        return new

    def with_start(self, start: str) -> RunDirectory:
        """Return this directory with the folder of the start of that name."""
        return RunDirectory(self.path, start)

    def with_recorded_start(self) -> RunDirectory:
        """Return this directory with the start that its plan names, or unchanged if there is no run."""
        plan = self.read_plan()
        return self if plan is None else RunDirectory(self.path, plan["start"])

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan with the name of this start. Written last, after the store: it makes this start a run."""
        with atomic_write(self.plan_file) as part:
            part.write_text(json.dumps({**plan, "start": self.start}, indent=2) + "\n", encoding="utf-8")

    def clear(self) -> None:
        """Remove everything but the lock; the plan first, since other files count only beside a plan."""
        self.plan_file.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                # Errors are ignored: a task of a killed run may still write here. No later run reads what it leaves.
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()

    def read_plan(self) -> dict[str, Any] | None:
        """Return what ``write_plan`` was given, with the name of the start; None if there is no run.

        Raises:
            InputError: the file is no JSON.
        """
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
        """Lock the run for this process; the lock of a process ends with it.

        Folders that were created for the lock are removed afterwards if they are empty.

        Raises:
            InUseError: another process holds the lock.
        """
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with self._acquire_lock():
            try:
                yield
            finally:
                with suppress(OSError):  # not empty, or removed already
                    if [path.name for path in self.path.iterdir()] == ["lock"]:
                        (self.path / "lock").unlink()
                    for folder in created:
                        folder.rmdir()

    def _acquire_lock(self) -> TextIO:
        """Return the lock file, locked until it is closed.

        Another process may remove the file between opening and locking it. Then the lock is on a file that no longer
        has the name, and the next one is tried.
        """
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
        """Return the reports of all chunks whose tiles are inferred."""
        return self._read_reports("inferred")

    def read_written(self) -> dict[Index, Report]:
        """Return the reports of all chunks whose pixels are in the store."""
        return self._read_reports("written")

    def read_report(self, chunk: Index) -> Report | None:
        """Return the report of a chunk whose tiles are inferred; None if they are not."""
        path = self.files / "inferred" / f"{_name_chunk(chunk)}.json"
        try:
            return Report.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None

    def report_inferred(self, report: Report) -> None:
        """Record that a chunk's tiles are inferred; called after its votes or its pixels are saved."""
        self._write_report("inferred", report)

    def report_written(self, report: Report) -> None:
        """Record that a chunk's pixels are in the store."""
        self._write_report("written", report)

    def save_votes(self, chunk: Index, votes: Votes) -> None:
        """Save an inferred chunk, with its votes on its neighbours, until all of them are written."""
        strips = {f"strip-{_name_chunk(to)}": strip for to, strip in votes.strips.items()}
        rasters = {f"{_RASTER_PREFIX}{name}": raster for name, raster in votes.rasters.items()}
        with atomic_write(self._get_votes_path(chunk), shared=True) as part, part.open("wb") as file:
            np.savez(file, above=votes.above, left=votes.left, **rasters, **strips)  # type: ignore[arg-type]

    def load_votes(self, chunk: Index) -> Votes:
        """Return what ``save_votes`` was given, without the strips; ``load_strip`` reads these."""
        with open_npz(self._get_votes_path(chunk)) as arrays:
            rasters = {
                name.removeprefix(_RASTER_PREFIX): arrays[name] for name in arrays if name.startswith(_RASTER_PREFIX)
            }
            return Votes(rasters, arrays["above"], arrays["left"], {})

    def load_strip(self, voter: Index, receiver: Index) -> NDArray[np.int32]:
        """Return the votes of one chunk's tiles on another chunk's pixels, (channels, height, width)."""
        with open_npz(self._get_votes_path(voter)) as arrays:
            return arrays[f"strip-{_name_chunk(receiver)}"]

    def drop_votes(self, chunk: Index) -> None:
        """Remove the votes of a chunk, which are no longer needed."""
        self._get_votes_path(chunk).unlink(missing_ok=True)

    def save_quicklook(self, chunk: Index, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Save every n-th pixel of a chunk.

        Args:
            chunk: row and column of the chunk.
            pixels: digital numbers, (bands, height, width).
            valid: (height, width), True where a label is wanted.
        """
        with atomic_write(self._get_quicklook_path(chunk), shared=True) as part, part.open("wb") as file:
            np.savez_compressed(file, pixels=pixels, valid=valid)

    def load_quicklook(self, chunk: Index) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Return what ``save_quicklook`` was given."""
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
        paths = (self.files / state).glob("[0-9]*.json")
        reports = (Report.from_dict(json.loads(path.read_text())) for path in paths)
        return {report.chunk: report for report in reports}


def _name_chunk(chunk: Index) -> str:
    return f"{chunk.row}-{chunk.col}"
