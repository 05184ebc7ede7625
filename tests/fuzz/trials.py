"""One mutation tried in this process, and judged: it works or says one line, in bounded memory, and asks nobody."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seamline.pipeline.common.errors import SeamlineError
from seamline.pipeline.common.memory import read_peak_memory, reset_peak_memory
from tests.fuzz.kinds import KINDS, damage_variant
from tests.fuzz.surveillance import OpenedFiles, keep_logged_errors, keep_output

MOST_MEMORY = 2 * 2**30
_PACKAGE = "/seamline/"
_LONGEST_LINE = 2000
_LONGEST_OUTPUT = 4000


@dataclass(frozen=True)
class Outcome:
    """How a mutation ended.

    Attributes:
        kind: Kind of the file.
        number: Number of the mutation.
        said: "ok", or the error's line, or what is wrong.
        failure: What kind of failure it is; empty for none.
        seconds: Processor time.
    """

    kind: str
    number: int
    said: str
    failure: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.failure or 'fine'}: {self.said} ({self.seconds:.1f} s)"


@dataclass(frozen=True)
class Place:
    """Where mutations are written.

    Attributes:
        root: A folder of this run: ``seeds``, ``work`` and what lies outside of both.
        server: Address of the server that is also the proxy.
    """

    root: Path
    server: str

    @property
    def seeds(self) -> Path:
        return self.root / "seeds"

    @property
    def outside(self) -> tuple[Path, Path]:
        return self.root / "outside", self.root / "work" / "outside"

    @property
    def requests(self) -> Path:
        return self.root / "requests.txt"

    def get_folder(self, kind: str, number: int) -> Path:
        return self.root / "work" / f"{kind}-{number}"


def try_mutation(kind: str, number: int, place: Place, opened: OpenedFiles) -> tuple[str, str]:
    """Make a mutation, open it and return (what was said, failure)."""
    folder, output = place.get_folder(kind, number), place.root / f"output-{kind}-{number}.txt"
    shutil.rmtree(folder, ignore_errors=True)
    path = damage_variant(kind, number, place.seeds, folder, f"{place.server}/{folder.name}")
    opened.take()
    asked = place.requests.stat().st_size
    reset_peak_memory()
    before = read_peak_memory()
    with keep_logged_errors() as logged, keep_output(output):
        said, failure = _open(kind, path)
        sys.stdout.flush()
        sys.stderr.flush()
    printed = output.read_text(errors="replace")
    output.unlink()
    memory = read_peak_memory() - before
    if KINDS[kind].encloses and not failure:
        asked_now = place.requests.read_text(errors="replace")[asked:]
        if (names := opened.take()) or asked_now:
            said, failure = f"{names} {asked_now[:200]!r}", "went outside"
    if not failure and logged:
        said, failure = _locate(logged[0]), "unforeseen error"
    if not failure and memory > MOST_MEMORY:
        said, failure = f"{memory / 2**20:.0f} MiB; {said}", "memory"
    if not failure and printed:
        said, failure = repr(printed[:_LONGEST_OUTPUT]), "output"
    with suppress(OSError):
        shutil.rmtree(folder)
    return said, failure


def _open(kind: str, path: Path) -> tuple[str, str]:
    try:
        return _judge(KINDS[kind].open(path), "ok")
    except SeamlineError as error:
        return _judge([str(error)], str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return _locate(error), "traceback"


def _judge(lines: Sequence[str], said: str) -> tuple[str, str]:
    for line in lines:
        if len(line) > _LONGEST_LINE:
            return f"{len(line)} characters: {line[:300]!r}", "long line"
        if not line.replace("\u00a0", " ").isprintable():
            return repr(line[:1000]), "control characters"
    return said, ""


def _locate(error: BaseException) -> str:
    """Return an error and where in the project it arose, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if _PACKAGE in f.filename] or ["no line of ours"]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"{text!r} at {' > '.join(own[-4:])}, in {Path(frames[-1].filename).name}"
