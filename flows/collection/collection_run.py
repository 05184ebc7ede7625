"""A run over the scenes of a collection: which of them are new, how each ends, and what the run says at its end."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from seamline.flows.collection.containment import make_confinement
from seamline.flows.collection.discovery import discover
from seamline.flows.collection.inbox import sync_notes
from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import Discovery, RejectedSource, SceneRef
from seamline.flows.collection.scene_sources import Glob, Inbox, SceneSource
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.storage.atomic import check_writable
from seamline.pipeline.storage.confinement import Confinement

_MOST_REASONS = 20
"""Failures that the message of a run tells."""


_SEGMENT_COMMAND = re.compile(r"seamline segment [^;]*")
"""What ``open_scene`` advises where a folder holds several scenes."""


def _match_rasters(folder: Path) -> str:
    """Return the pattern of the most frequent kind of file in a folder, or of all that is in it."""
    suffixes = Counter(path.suffix for path in sorted(folder.iterdir()) if path.is_file())
    return f"{folder}/*{max(suffixes, key=lambda suffix: suffixes[suffix]) if suffixes else ''}"


@dataclass(frozen=True)
class CollectionRun:
    """What a run over a collection has to do.

    Attributes:
        source: where the scenes come from.
        ledger: what earlier runs did.
        discovery: the scenes that there are.
        new: those of them that are to be segmented.
        set_aside: path of each source of an inbox that failed before and would fail again → why.
    """

    source: SceneSource
    ledger: Ledger
    discovery: Discovery
    new: tuple[SceneRef, ...]
    set_aside: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        source: SceneSource,
        ledger: Ledger,
        has_result: Callable[[str], bool],
        discover: Callable[[SceneSource, Sequence[RejectedSource]], Discovery] = discover,
        retry: bool = False,
    ) -> CollectionRun:
        """Find the scenes, and note in the ledger which sources are refused.

        Whoever drops files into an inbox is not asked, and looks follow each other by the minute. So a source of an
        inbox that cannot be used fails once, and is set aside until it changes.

        Args:
            source: where the scenes come from.
            ledger: what earlier runs with this model and these options did.
            has_result: whether the catalogue has the result of a scene id.
            discover: finds the scenes, given what was rejected before and need not be opened again.
            retry: try what was set aside, too.

        Raises:
            InputError: the source does not exist, or the catalogue cannot be written to.
            RunError: a server does not answer.
        """
        check_writable(ledger.out, f"out {ledger.out}")
        ledger.refuse_other_files()
        location = source.get_location()
        discovery = discover(source, () if retry else ledger.read_rejected(location))
        ledger.out.mkdir(parents=True, exist_ok=True)  # a catalogue without scenes can be published, too
        new, set_aside = ledger.find_new(discovery.scenes, has_result), {}
        if isinstance(source, Inbox) and not retry:
            rejected = ledger.find_rejected_before(location, discovery.rejected)
            scenes = ledger.find_set_aside(new, has_result)
            new = [scene for scene in new if scene not in scenes]
            set_aside = {each.source: each.reason for each in rejected}
            set_aside |= {scene.source: reason for scene, reason in scenes.items()}
        ledger.record_rejected(location, discovery.rejected)
        return cls(source, ledger, discovery, tuple(new), set_aside)

    def __str__(self) -> str:
        there, refused, new = len(self.discovery.scenes), len(self.discovery.rejected), len(self.new)
        text = f"{self.source.kind}: {there + refused} scenes, {new} new or not yet published, {refused} refused"
        return text + (f", {len(self.set_aside)} set aside before" if self.set_aside else "")

    @property
    def known(self) -> int:
        """Number of scenes that were published before."""
        return sum(scene.source not in self.set_aside for scene in self.discovery.scenes) - len(self.new)

    @property
    def confinement(self) -> Confinement | None:
        """What the scenes may name; None if they may name anything."""
        return make_confinement(self.source) if isinstance(self.source, Inbox) else None

    def list_refused(self) -> list[Outcome]:
        """Return an outcome for each source that is refused, now or because it is set aside."""
        known = [(source.source, source.name, source.reason) for source in self.discovery.rejected]
        known += [
            (scene.source, scene.name, self.set_aside[scene.source])
            for scene in self.discovery.scenes
            if scene.source in self.set_aside
        ]
        return [
            self.explain(Outcome(name, "set aside" if source in self.set_aside else "failed", reason), is_refused=True)
            for source, name, reason in known
        ]

    def explain(self, outcome: Outcome, *, is_refused: bool = False) -> Outcome:
        """Return an outcome whose reason names the pattern to give where a folder of scenes was given as one scene.

        Args:
            outcome: of a scene.
            is_refused: whether its files could not even be listed.
        """
        folder = Path(self.source.pattern) if isinstance(self.source, Glob) else None
        if outcome.state != "failed" or folder is None or not folder.is_dir():
            return outcome
        command = f"seamline collect {shlex.quote(_match_rasters(folder))}"
        reason, count = _SEGMENT_COMMAND.subn(lambda _: command, outcome.reason)
        if not count and (is_refused or outcome.fault == "scene"):
            reason += f"; a folder is one scene, and if each raster in it is a scene of its own: {command}"
        return replace(outcome, reason=reason)

    def record(self, scene: SceneRef, outcome: Outcome) -> None:
        """Note in the ledger how a scene ended."""
        if outcome.state != "in use":
            has_failed = outcome.state == "failed"
            state: Literal["published", "failed"] = "failed" if has_failed else "published"
            self.ledger.record_outcome(scene, state, outcome.reason, outcome.fault)

    def finish(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Write the table of failures, and return what the run did.

        Args:
            outcomes: of all sources that were refused and all scenes that were new.

        Returns:
            Number of scenes by outcome, of those known before, and the names of those that are still arriving.

        Raises:
            RunError: a scene failed.
        """
        failed = [outcome for outcome in outcomes if outcome.state == "failed"]
        table = self.ledger.record_failures(self.source.get_location(), failed)
        self._leave_notes()
        if failed:
            reasons = "; ".join(f"{outcome.name}: {outcome.reason}" for outcome in failed[:_MOST_REASONS])
            if len(failed) > _MOST_REASONS:
                reasons += f"; {len(failed) - _MOST_REASONS} more in the log and in {table}"
            raise RunError(f"{len(failed)} of {self.known + len(outcomes)} scenes failed: {reasons}")
        counts = Counter(outcome.state for outcome in outcomes)
        return {"known": self.known, "waiting": list(self.discovery.waiting)} | counts

    def _leave_notes(self) -> None:
        """Leave a note beside each source of an inbox that is set aside from now on."""
        if isinstance(self.source, Inbox) and self.source.notes:
            faulty = self.ledger.find_set_aside(self.discovery.scenes, lambda name: True)
            reasons = {scene.source: reason for scene, reason in faulty.items()}
            sync_notes(self.source, reasons | {each.source: each.reason for each in self.discovery.rejected})
