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

from seamline.flows.collection.fingerprint import RejectedSource, SceneRef
from seamline.pipeline.common.errors import redact_secrets
from seamline.pipeline.storage.atomic import atomic_write

LEDGER_FOLDER = ".collection"
REJECTED_FOLDER = "refused"


@dataclass(frozen=True)
class LedgerEntry:
    """The last word on a source. ``tries``: how often its present content failed in a row, with ``describe_error``."""

    source: str
    fingerprint: str
    scene: str
    model: str
    options: str
    outcome: Literal["published", "failed"]
    tries: int
    reason: str
    time: str

    def is_gone(self) -> bool:
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

    def find_new(self, found: Iterable[SceneRef], holds: Callable[[str], bool]) -> list[SceneRef]:
        """Those that are not published as they are now: never seen, changed, failed last time, or lost since.

        ``holds`` knows whether the catalogue has a scene's result.
        """
        return [scene for scene in found if not (self._is_published(scene) and holds(scene.name))]

    def record_outcome(self, scene: SceneRef, outcome: Literal["published", "failed"], reason: str = "") -> LedgerEntry:
        """Write down how it went; when this returns it is on the disk."""
        before = self.read_entry(scene)
        failed_before = before is not None and before.outcome == "failed" and self._is_same(before, scene)
        tries = 1 + (before.tries if before is not None and failed_before else 0) if outcome == "failed" else 0
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = " ".join(redact_secrets(reason).split())
        source = redact_secrets(scene.source)
        entry = LedgerEntry(source, scene.fingerprint, scene.name, self.model, self.options, outcome, tries, said, now)
        path = self._get_entry_path(scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as part:
            part.write_text(json.dumps(asdict(entry), indent=1) + "\n", encoding="utf-8")
        return entry

    def record_rejected(self, collection: str, refused: Sequence[RejectedSource]) -> None:
        """Write down what a ``to_item_collection`` (an address, a folder, a pattern) named that cannot be a scene, in place of
        what it named before.
        """
        path = self.out / LEDGER_FOLDER / REJECTED_FOLDER / _build_file_name(collection)
        if not refused:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as part:
            said = {"collection": redact_secrets(collection), "refused": [asdict(scene) for scene in refused]}
            part.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    def read_entry(self, scene: SceneRef) -> LedgerEntry | None:
        """The last word on the scene's source, of whatever content, model and options; None without one."""
        return _read_entry_file(self._get_entry_path(scene))

    def _is_published(self, scene: SceneRef) -> bool:
        entry = self.read_entry(scene)
        return entry is not None and entry.outcome == "published" and self._is_same(entry, scene)

    def _is_same(self, entry: LedgerEntry, scene: SceneRef) -> bool:
        there = entry.source, entry.fingerprint, entry.scene, entry.model, entry.options
        return there == (redact_secrets(scene.source), scene.fingerprint, scene.name, self.model, self.options)

    def _get_entry_path(self, scene: SceneRef) -> Path:
        return self.out / LEDGER_FOLDER / _build_file_name(redact_secrets(scene.source))


def read_entries(out: Path) -> Iterator[LedgerEntry]:
    """The last words on all sources whose scenes went to the catalogue ``out``."""
    found = (_read_entry_file(path) for path in (out / LEDGER_FOLDER).glob("*.json"))
    yield from (entry for entry in found if entry is not None)


def read_rejected(out: Path) -> Iterator[RejectedSource]:
    """What the collections of the catalogue ``out`` named, when they were looked at last, that cannot be a scene."""
    for path in (out / LEDGER_FOLDER / REJECTED_FOLDER).glob("*.json"):
        with suppress(OSError, ValueError, TypeError, LookupError):
            yield from [RejectedSource(**scene) for scene in json.loads(path.read_text(encoding="utf-8"))["refused"]]


def _build_file_name(source: str) -> str:
    return f"{hashlib.sha256(source.encode(errors='surrogatepass')).hexdigest()[:32]}.json"


def _read_entry_file(path: Path) -> LedgerEntry | None:
    try:
        return LedgerEntry(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # none, or of another version: the scene is looked at again, which costs no inference
