"""Record what was done with each source of a collection, so that the next run knows which scenes are new."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from seamline.flows.collection.outcomes import Fault, Outcome
from seamline.flows.collection.scene_ref import RejectedSource, SceneRef
from seamline.pipeline.common.errors import InputError, redact_secrets
from seamline.pipeline.storage.atomic import atomic_write, remove_stale_parts

_LEDGER_FOLDER = ".collection"
"""Folder of the ledger in the folder of the catalogue."""

_REJECTED_FOLDER = "refused"
"""Folder in the ledger with a file of rejected sources for each collection."""

_FAILURES_FOLDER = "failures"
"""Folder in the ledger with a table of the failures of the last run for each collection."""

_FAILED_FOLDER = "failed"
"""Folder in the ledger with an empty file for each source that failed, named as its entry. It may have some too many,
and is not there in ledgers of earlier versions."""


@dataclass(frozen=True)
class LedgerEntry:
    """How the last attempt on a source ended; the fields are those of the JSON file.

    Attributes:
        source: Path or URL of the scene, without secrets.
        fingerprint: Fingerprint of the source at the time.
        scene: Id of the scene.
        model: Digest of the model.
        options: Digest of the options that decide the result.
        outcome: How the attempt ended.
        tries: How many times in a row the same content failed with this model and these options.
        reason: Why it failed, in one line.
        time: When it ended, ISO 8601 in UTC.
        fault: What would make the same content fail again.
    """

    source: str
    fingerprint: str
    scene: str
    model: str
    options: str
    outcome: Literal["published", "failed"]
    tries: int
    reason: str
    time: str
    fault: Fault = ""

    def is_gone(self) -> bool:
        """Whether the source was a local file or folder that no longer exists."""
        return self.source.startswith("/") and not self.source.startswith("/vsi") and not Path(self.source).exists()


@dataclass(frozen=True)
class Ledger:
    """What runs with one model and one set of options did for a catalogue.

    Each source has its own JSON file in the ledger folder, which is replaced atomically. So the ledger needs no lock: a
    killed process leaves no torn file, and of two processes that write the same entry at once one wins.

    Attributes:
        out: Folder of the catalogue.
        model: Digest of the model.
        options: Digest of the options that decide the result.
    """

    out: Path
    model: str
    options: str

    def refuse_other_files(self) -> None:
        """Refuse a catalogue in which something else stands where the ledger has its folders.

        Raises:
            InputError: it does.
        """
        ledger = self.out / _LEDGER_FOLDER
        for folder in (ledger, *(ledger / name for name in (_REJECTED_FOLDER, _FAILURES_FOLDER, _FAILED_FOLDER))):
            if folder.exists() and not folder.is_dir():
                raise InputError(
                    f"ledger {folder}", got="a file", expected="a folder", fix="remove it; what it says is found again"
                )

    def find_new(self, scenes: Iterable[SceneRef], has_result: Callable[[str], bool]) -> list[SceneRef]:
        """Return the scenes to segment: never seen, changed, failed last time, or without their result.

        Args:
            scenes: Scenes of the collection.
            has_result: Whether the catalogue has the result of a scene id.
        """
        return [scene for scene in scenes if not (self._is_published(scene) and has_result(scene.name))]

    def find_set_aside(self, scenes: Iterable[SceneRef], has_result: Callable[[str], bool]) -> dict[SceneRef, str]:
        """Return the scenes that would fail again if they were tried, and why.

        Their last attempt failed by what they are, or by a result that is still there, and nothing has changed since.

        Args:
            scenes: Scenes of the collection.
            has_result: Whether the catalogue has the result of a scene id.
        """
        entries = {scene: self.read_entry(scene) for scene in scenes}
        return {
            scene: entry.reason
            for scene, entry in entries.items()
            if entry is not None
            and entry.outcome == "failed"
            and self._is_same(entry, scene)
            and (entry.fault == "scene" or (entry.fault == "result" and has_result(scene.name)))
        }

    def record_outcome(
        self, scene: SceneRef, outcome: Literal["published", "failed"], reason: str = "", fault: Fault = ""
    ) -> LedgerEntry:
        """Write how an attempt on a scene ended; the entry is on disk when the method returns.

        Args:
            scene: The scene that was attempted.
            outcome: How the attempt ended.
            reason: Why it failed; secrets are removed.
            fault: What would make the same content fail again.

        Returns:
            The entry that was written.
        """
        entry = LedgerEntry(
            source=redact_secrets(scene.source),
            fingerprint=scene.fingerprint,
            scene=scene.name,
            model=self.model,
            options=self.options,
            outcome=outcome,
            tries=self._count_failures(scene) + 1 if outcome == "failed" else 0,
            reason=" ".join(redact_secrets(reason).split()),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            fault=fault,
        )
        path = self._get_entry_path(scene)
        mark = _make_failed_folder(self.out) / path.name
        if outcome == "failed":
            mark.touch()
        _write_json(path, asdict(entry))
        if outcome != "failed":
            mark.unlink(missing_ok=True)
        return entry

    def record_rejected(self, collection: str, rejected: Sequence[RejectedSource]) -> None:
        """Write the rejected sources of a collection in place of those of the run before.

        Args:
            collection: Address, folder or pattern of the collection.
            rejected: Its rejected sources; the file is removed if there are none.
        """
        path = self._get_rejected_path(collection)
        if not rejected:
            path.unlink(missing_ok=True)
            return
        _write_json(
            path, {"collection": redact_secrets(collection), "refused": [asdict(source) for source in rejected]}
        )

    def read_rejected(self, collection: str) -> list[RejectedSource]:
        """Return the sources of a collection that the run before rejected."""
        return _read_rejected_file(self._get_rejected_path(collection))

    def find_rejected_before(self, collection: str, rejected: Iterable[RejectedSource]) -> tuple[RejectedSource, ...]:
        """Return those of a collection's rejected sources that the run before rejected in the same state.

        Args:
            collection: Address, folder or pattern of the collection.
            rejected: Its rejected sources now; one without a fingerprint may be another than before.
        """
        known = {(source.source, source.fingerprint) for source in self.read_rejected(collection)}
        return tuple(
            source for source in rejected if source.fingerprint and (source.source, source.fingerprint) in known
        )

    def record_failures(self, collection: str, failures: Sequence[Outcome]) -> Path:
        """Write which scenes of a collection failed in this run, as CSV, in place of those of the run before.

        Args:
            collection: Address, folder or pattern of the collection.
            failures: The scenes that failed; secrets are removed. Without any the file is removed.

        Returns:
            The path of the file.
        """
        path = self.out / _LEDGER_FOLDER / _FAILURES_FOLDER / f"{_hash_text(collection)}.csv"
        if not failures:
            path.unlink(missing_ok=True)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, shared=True) as part, part.open("w", encoding="utf-8", newline="") as file:
            reasons = [(outcome.name, outcome.reason) for outcome in failures]
            rows = csv.writer(file)
            rows.writerow(("scene", "reason"))
            rows.writerows((name, " ".join(redact_secrets(reason).split())) for name, reason in reasons)
        remove_stale_parts(path)
        return path

    def read_entry(self, scene: SceneRef) -> LedgerEntry | None:
        """Return the entry of the scene's source, of any content, model and options; None if there is none."""
        return _read_entry_file(self._get_entry_path(scene))

    def _is_published(self, scene: SceneRef) -> bool:
        entry = self.read_entry(scene)
        return entry is not None and entry.outcome == "published" and self._is_same(entry, scene)

    def _count_failures(self, scene: SceneRef) -> int:
        """Return how many times in a row the scene, as it is now, has failed."""
        entry = self.read_entry(scene)
        return entry.tries if entry is not None and entry.outcome == "failed" and self._is_same(entry, scene) else 0

    def _is_same(self, entry: LedgerEntry, scene: SceneRef) -> bool:
        """Whether an entry is of the scene as it is now, with the same model and options."""
        recorded = entry.source, entry.fingerprint, entry.scene, entry.model, entry.options
        return recorded == (redact_secrets(scene.source), scene.fingerprint, scene.name, self.model, self.options)

    def _get_rejected_path(self, collection: str) -> Path:
        return self.out / _LEDGER_FOLDER / _REJECTED_FOLDER / _build_file_name(collection)

    def _get_entry_path(self, scene: SceneRef) -> Path:
        return self.out / _LEDGER_FOLDER / _build_file_name(redact_secrets(scene.source))


def read_entries(out: Path) -> Iterator[LedgerEntry]:
    """Yield the entries of all sources whose scenes went to the catalogue in folder ``out``."""
    for path in (out / _LEDGER_FOLDER).glob("*.json"):
        entry = _read_entry_file(path)
        if entry is not None:
            yield entry


def read_failures(out: Path) -> Iterator[LedgerEntry]:
    """Yield the entries of sources that failed at the last attempt, at a cost that grows with these alone."""
    try:
        names = [path.name for path in (out / _LEDGER_FOLDER / _FAILED_FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        entries = read_entries(out)
    else:
        found = (_read_entry_file(out / _LEDGER_FOLDER / name) for name in names)
        entries = (entry for entry in found if entry is not None)
    yield from (entry for entry in entries if entry.outcome == "failed")


def _make_failed_folder(out: Path) -> Path:
    """Return the folder of marks of failed sources; in a ledger without one it is made in one step, with all marks."""
    folder = out / _LEDGER_FOLDER / _FAILED_FOLDER
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".") as parts:
        new = Path(parts) / "new"
        new.mkdir()
        for entry in read_entries(out):
            if entry.outcome == "failed":
                (new / _build_file_name(entry.source)).touch()
        with suppress(OSError):  # another process was faster
            new.rename(folder)
    return folder


def _read_rejected(out: Path) -> Iterator[RejectedSource]:
    """Yield the rejected sources of all collections of the catalogue in folder ``out``."""
    for path in (out / _LEDGER_FOLDER / _REJECTED_FOLDER).glob("*.json"):
        yield from _read_rejected_file(path)


def read_reasons(out: Path) -> dict[str, str]:
    """Return why each source, by its name, could not be segmented at the last try; without those that are gone."""
    failed = {entry.source: entry.reason for entry in read_failures(out) if not entry.is_gone()}
    return failed | {rejected.source: rejected.reason for rejected in _read_rejected(out)}


def _read_rejected_file(path: Path) -> list[RejectedSource]:
    """Return the rejected sources in a file; none if it is not there, or damaged."""
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        document = json.loads(path.read_text(encoding="utf-8"))
        return [RejectedSource(**source) for source in document["refused"]]
    return []


def _build_file_name(source: str) -> str:
    return f"{_hash_text(source)}.json"


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, shared=True) as part:
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    remove_stale_parts(path)


def _read_entry_file(path: Path) -> LedgerEntry | None:
    """Return the entry in a file; None if there is none, or it is of another version, which costs no inference."""
    try:
        return LedgerEntry(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
