"""What was done of a collection: a small file for each source, so that a run knows what is new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from seamline.flows.collection.fingerprint import Found, Refused
from seamline.pipeline.common.errors import without_secrets
from seamline.pipeline.storage.atomic import replacing

FOLDER = ".collection"
REFUSED = "refused"


@dataclass(frozen=True)
class Entry:
    """The last word on a source. ``tries``: how often its present content failed in a row, with ``reason``."""

    source: str
    fingerprint: str
    scene: str
    model: str
    options: str
    outcome: Literal["published", "failed"]
    tries: int
    reason: str
    time: str

    def gone(self) -> bool:
        """Whether the source was a file or folder that is not there any more."""
        return self.source.startswith("/") and not self.source.startswith("/vsi") and not Path(self.source).exists()


@dataclass(frozen=True)
class Ledger:
    """What runs with one ``model`` and ``options`` (digests of both) did for the catalogue ``out``.

    Every source has a file of its own below ``out``/.collection, which is replaced in one step: no lock, nothing torn
    by a kill, and two processes at once leave one whole entry.
    """

    out: Path
    model: str
    options: str

    def new(self, found: Iterable[Found], holds: Callable[[str], bool]) -> list[Found]:
        """Those that are not published as they are now: never seen, changed, failed last time, or lost since.

        ``holds`` knows whether the catalogue has a scene's result.
        """
        return [scene for scene in found if not (self._noted(scene) and holds(scene.name))]

    def note(self, scene: Found, outcome: Literal["published", "failed"], reason: str = "") -> Entry:
        """Write down how it went; when this returns it is on the disk."""
        before = self.entry(scene)
        failed_before = before is not None and before.outcome == "failed" and self._same(before, scene)
        tries = 1 + (before.tries if before is not None and failed_before else 0) if outcome == "failed" else 0
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = " ".join(without_secrets(reason).split())
        source = without_secrets(scene.source)
        entry = Entry(source, scene.fingerprint, scene.name, self.model, self.options, outcome, tries, said, now)
        path = self._path(scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, shared=True) as part:
            part.write_text(json.dumps(asdict(entry), indent=1) + "\n", encoding="utf-8")
        return entry

    def refuse(self, collection: str, refused: Sequence[Refused]) -> None:
        """Write down what a ``collection`` (an address, a folder, a pattern) named that cannot be a scene, in place of
        what it named before.
        """
        path = self.out / FOLDER / REFUSED / _file_of(collection)
        if not refused:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, shared=True) as part:
            said = {"collection": without_secrets(collection), "refused": [asdict(scene) for scene in refused]}
            part.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    def entry(self, scene: Found) -> Entry | None:
        """The last word on the scene's source, of whatever content, model and options; None without one."""
        return _read(self._path(scene))

    def _noted(self, scene: Found) -> bool:
        entry = self.entry(scene)
        return entry is not None and entry.outcome == "published" and self._same(entry, scene)

    def _same(self, entry: Entry, scene: Found) -> bool:
        there = entry.source, entry.fingerprint, entry.scene, entry.model, entry.options
        return there == (without_secrets(scene.source), scene.fingerprint, scene.name, self.model, self.options)

    def _path(self, scene: Found) -> Path:
        return self.out / FOLDER / _file_of(without_secrets(scene.source))


def entries(out: Path) -> Iterator[Entry]:
    """The last words on all sources whose scenes went to the catalogue ``out``."""
    found = (_read(path) for path in (out / FOLDER).glob("*.json"))
    yield from (entry for entry in found if entry is not None)


def refusals(out: Path) -> Iterator[Refused]:
    """What the collections of the catalogue ``out`` named, when they were looked at last, that cannot be a scene."""
    for path in (out / FOLDER / REFUSED).glob("*.json"):
        with suppress(OSError, ValueError, TypeError, LookupError):
            yield from [Refused(**scene) for scene in json.loads(path.read_text(encoding="utf-8"))["refused"]]


def _file_of(source: str) -> str:
    return f"{hashlib.sha256(source.encode(errors='surrogatepass')).hexdigest()[:32]}.json"


def _read(path: Path) -> Entry | None:
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # none, or of another version: the scene is looked at again, which costs no inference
