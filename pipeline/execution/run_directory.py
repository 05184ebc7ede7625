"""The run directory: the state of a scene's run on disk, from which a killed run is resumed.

::

    <scene>/.run/plan.json           scene, model and plan of the run; a run with other ones is refused
                 lock                locked by the client that runs the scene
                 <start>/            files of this start; each start from nothing has its own name
                    result/                takes the place of <scene> when everything in it is written
                       segmentation.zarr   the store that chunks are written to
                    inferred/<r>-<c>.json  report of a chunk whose tiles are inferred (without overlap: and written)
                    votes/<r>-<c>.npz      undecided votes of a chunk, and its votes on its neighbours (overlap only)
                    written/<r>-<c>.json   report of a chunk whose pixels are in the store (overlap only)
                    quicklook/<r>-<c>.npz  every n-th pixel of the scene, for the preview: the scene is read once

Every file is written to a temporary name and renamed. A report is written after the data that it reports is on the
disk, and holds the digests of their files; plan and reports hold digests of themselves. Who reads them again later
(``done_chunks.py``) takes nothing that is not as it was written.

A task of a killed client may go on running on a cluster. It knows only the folder of its own start, so it cannot change
the files of a run that was started over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError, InUseError
from seamline.pipeline.common.layout import RUNNING, ZARR
from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.storage.atomic import atomic_write, open_npz, remove
from seamline.pipeline.storage.digests import (
    Digests,
    compute_digest,
    compute_digests,
    decode_with_digest,
    encode_with_digest,
)

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
        files: digests of the files that the step wrote, by their paths below the folder of the start; those that are
            kept until the results are published.
        votes: digest of the file of votes; None if the step wrote none.
    """

    chunk: Index
    seconds: dict[str, float]
    windows: int = 0
    pixels_inferred: int = 0
    peak_memory: int = 0
    device_memory: int = 0
    bad_blocks: tuple[str, ...] = field(default=())
    files: Digests = field(default_factory=dict)
    votes: str | None = None

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
    def result(self) -> Path:
        """Folder of the results until all of them are written."""
        return self.files / "result"

    @property
    def store(self) -> Path:
        """The Zarr store while it is being written."""
        return self.result / ZARR

    @property
    def plan_file(self) -> Path:
        """JSON file with scene, model and plan of the run."""
        return self.path / "plan.json"

    def create_new_start(self) -> RunDirectory:
        """Clear the directory and return it with the empty folders of a new start; ``write_plan`` makes it a run."""
        self.clear()
        new = RunDirectory(self.path, uuid.uuid4().hex[:12])
        new.make_folders()
        return new

    def make_folders(self) -> None:
        """Make the folders of the start that are not there."""
        for name in ("inferred", "written", "votes", "quicklook", "result"):
            (self.files / name).mkdir(parents=True, exist_ok=True)

    def with_start(self, start: str) -> RunDirectory:
        """Return this directory with the folder of the start of that name."""
        return RunDirectory(self.path, start)

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan with the name of this start. Written last, after the store: it makes this start a run."""
        with atomic_write(self.plan_file) as part:
            part.write_bytes(encode_with_digest({**plan, "start": self.start}))

    def clear(self) -> None:
        """Remove everything but the lock; the plan first, since other files count only beside a plan."""
        remove(self.plan_file)
        for path in self.path.iterdir():
            if path.is_dir():
                # Errors are ignored: a task of a killed run may still write here. No later run reads what it leaves.
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.lock_file:
                path.unlink()

    def read_plan(self) -> dict[str, Any] | None:
        """Return what ``write_plan`` was given, with the name of the start; None if there is no run.

        Raises:
            InputError: the file is damaged.
        """
        try:
            return decode_with_digest(self.plan_file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, IsADirectoryError) as error:
            raise InputError(
                f"plan of the unfinished run {self.plan_file}",
                got=f"a plan of another version, or a damaged one ({error})",
                expected="what this version of Seamline wrote",
                fix="take another --out, or --overwrite to start over",
            ) from error

    @property
    def lock_file(self) -> Path:
        """File that the client which runs the scene has locked; it is there as long as that client works."""
        return self.path / "lock"

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
                    if list(self.path.iterdir()) == [self.lock_file]:
                        self.lock_file.unlink()
                    for folder in created:
                        folder.rmdir()

    @contextmanager
    def announce(self, catalogue: Path) -> Iterator[None]:
        """Leave a mark of the scene in the catalogue's folder, from now until no plan of a run is left.

        So who watches the catalogue sees what is worked on, or unfinished, without looking into each scene's folder.
        Called with the lock held.
        """
        mark = catalogue / RUNNING / self.path.parent.name
        while True:
            mark.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another run has just removed the folder, which was empty
                mark.touch()
                break
        try:
            yield
        finally:
            self.remove_mark(catalogue)

    def remove_mark(self, catalogue: Path) -> None:
        """Remove the mark of the scene from the catalogue's folder, unless the plan of a run is left."""
        if not self.plan_file.exists():
            mark = catalogue / RUNNING / self.path.parent.name
            mark.unlink(missing_ok=True)
            with suppress(OSError):  # others are worked on
                mark.parent.rmdir()

    def _acquire_lock(self) -> TextIO:
        """Return the lock file, locked until it is closed.

        Another process may remove the file between opening and locking it. Then the lock is on a file that no longer
        has the name, and the next one is tried.
        """
        path = self.lock_file
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
        """Return the reports of all chunks whose tiles are inferred; damaged ones are left out."""
        return self._read_reports("inferred")

    def read_written(self) -> dict[Index, Report]:
        """Return the reports of all chunks whose pixels are in the store; damaged ones are left out."""
        return self._read_reports("written")

    def read_report(self, chunk: Index) -> Report | None:
        """Return the report of a chunk whose tiles are inferred; None if they are not, or if it is damaged."""
        return self._read_report(self._get_report_path("inferred", chunk))

    def compute_digests(self, files: Iterable[Path]) -> Digests:
        """Return the digests of files of this start, for a report."""
        return compute_digests(self.files, (file.relative_to(self.files).as_posix() for file in files))

    def has_files_of(self, report: Report) -> bool:
        """Return whether the files that a step of a chunk wrote, votes apart, are as it wrote them."""
        return compute_digests(self.files, report.files) == report.files

    def has_votes_of(self, report: Report) -> bool:
        """Return whether the votes of an inferred chunk are as they were saved."""
        return report.votes is not None and compute_digest(self._get_votes_path(report.chunk)) == report.votes

    def forget_inferred(self, chunk: Index) -> None:
        """Remove the report of a chunk that is to be inferred again."""
        self._get_report_path("inferred", chunk).unlink(missing_ok=True)

    def report_inferred(self, report: Report) -> None:
        """Record that a chunk's tiles are inferred; called after its votes or its pixels are saved."""
        self._write_report("inferred", report)

    def report_written(self, report: Report) -> None:
        """Record that a chunk's pixels are in the store."""
        self._write_report("written", report)

    def save_votes(self, chunk: Index, votes: Votes) -> str | None:
        """Save an inferred chunk, with its votes on its neighbours, until all are written; return the file's digest."""
        strips = {f"strip-{_name_chunk(to)}": strip for to, strip in votes.strips.items()}
        rasters = {f"{_RASTER_PREFIX}{name}": raster for name, raster in votes.rasters.items()}
        with atomic_write(self._get_votes_path(chunk), shared=True) as part, part.open("wb") as file:
            np.savez(file, above=votes.above, left=votes.left, **rasters, **strips)  # type: ignore[arg-type]
        return compute_digest(self._get_votes_path(chunk))

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

    def save_quicklook(self, chunk: Index, pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> Path:
        """Save every n-th pixel of a chunk.

        Args:
            chunk: row and column of the chunk.
            pixels: digital numbers, (bands, height, width).
            valid: (height, width), True where a label is wanted.

        Returns:
            The file.
        """
        path = self._get_quicklook_path(chunk)
        with atomic_write(path, shared=True) as part, part.open("wb") as file:
            np.savez(file, pixels=pixels, valid=valid)
        return path

    def load_quicklook(self, chunk: Index) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Return what ``save_quicklook`` was given."""
        with open_npz(self._get_quicklook_path(chunk)) as arrays:
            return arrays["pixels"], arrays["valid"]

    def _get_quicklook_path(self, chunk: Index) -> Path:
        return self.files / "quicklook" / f"{_name_chunk(chunk)}.npz"

    def _get_votes_path(self, chunk: Index) -> Path:
        return self.files / "votes" / f"{_name_chunk(chunk)}.npz"

    def _write_report(self, state: str, report: Report) -> None:
        with atomic_write(self._get_report_path(state, report.chunk), shared=True) as part:
            part.write_bytes(encode_with_digest({"start": self.start, "report": report.to_dict()}))

    def _read_reports(self, state: str) -> dict[Index, Report]:
        reports = map(self._read_report, (self.files / state).glob("[0-9]*.json"))
        return {report.chunk: report for report in reports if report is not None}

    def _read_report(self, path: Path) -> Report | None:
        try:
            document = decode_with_digest(path.read_bytes())
            report = Report.from_dict(document["report"])
        except (FileNotFoundError, IsADirectoryError, ValueError, LookupError, TypeError):
            return None
        is_own = document["start"] == self.start and path.stem == _name_chunk(report.chunk)
        return report if is_own else None

    def _get_report_path(self, state: str, chunk: Index) -> Path:
        return self.files / state / f"{_name_chunk(chunk)}.json"


def _name_chunk(chunk: Index) -> str:
    return f"{chunk.row}-{chunk.col}"
