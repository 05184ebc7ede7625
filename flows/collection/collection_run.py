"""A run over the scenes of a collection: which of them are new, how each ends, and what the run says at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seamline.flows.collection.containment import make_confinement
from seamline.flows.collection.discovery import discover
from seamline.flows.collection.ledger import Ledger
from seamline.flows.collection.outcomes import Outcome
from seamline.flows.collection.scene_ref import Discovery, SceneRef
from seamline.flows.collection.scene_sources import Inbox, SceneSource
from seamline.pipeline.common.errors import RunError
from seamline.pipeline.storage.atomic import check_writable
from seamline.pipeline.storage.confinement import Confinement

_MOST_REASONS = 20
"""Failures that the message of a run tells."""


@dataclass(frozen=True)
class CollectionRun:
    """What a run over a collection has to do.

    Attributes:
        source: where the scenes come from.
        ledger: what earlier runs did.
        discovery: the scenes that there are.
        new: those of them that are to be segmented.
    """

    source: SceneSource
    ledger: Ledger
    discovery: Discovery
    new: tuple[SceneRef, ...]

    @classmethod
    def begin(
        cls,
        source: SceneSource,
        ledger: Ledger,
        has_result: Callable[[str], bool],
        discover: Callable[[SceneSource], Discovery] = discover,
    ) -> CollectionRun:
        """Find the scenes, and note in the ledger which sources are refused.

        Args:
            source: where the scenes come from.
            ledger: what earlier runs with this model and these options did.
            has_result: whether the catalogue has the result of a scene id.
            discover: finds the scenes.

        Raises:
            InputError: the source does not exist, or the catalogue cannot be written to.
            RunError: a server does not answer.
        """
        check_writable(ledger.out, f"out {ledger.out}")
        ledger.refuse_other_files()
        discovery = discover(source)
        ledger.out.mkdir(parents=True, exist_ok=True)  # a catalogue without scenes can be published, too
        ledger.record_rejected(source.get_location(), discovery.rejected)
        return cls(source, ledger, discovery, tuple(ledger.find_new(discovery.scenes, has_result)))

    def __str__(self) -> str:
        there, refused, new = len(self.discovery.scenes), len(self.discovery.rejected), len(self.new)
        return f"{self.source.kind}: {there + refused} scenes, {new} new or not yet published, {refused} refused"

    @property
    def known(self) -> int:
        """Number of scenes that were published before."""
        return len(self.discovery.scenes) - len(self.new)

    @property
    def confinement(self) -> Confinement | None:
        """What the scenes may name; None if they may name anything."""
        return make_confinement(self.source) if isinstance(self.source, Inbox) else None

    def list_refused(self) -> list[Outcome]:
        """Return an outcome for each source that is refused."""
        return [Outcome(rejected.name, "failed", rejected.reason) for rejected in self.discovery.rejected]

    def record(self, scene: SceneRef, outcome: Outcome) -> None:
        """Note in the ledger how a scene ended."""
        if outcome.state != "in use":
            has_failed = outcome.state == "failed"
            self.ledger.record_outcome(scene, "failed" if has_failed else "published", outcome.reason)

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
        if failed:
            reasons = "; ".join(f"{outcome.name}: {outcome.reason}" for outcome in failed[:_MOST_REASONS])
            if len(failed) > _MOST_REASONS:
                reasons += f"; {len(failed) - _MOST_REASONS} more in the log and in {table}"
            raise RunError(f"{len(failed)} of {self.known + len(outcomes)} scenes failed: {reasons}")
        counts = Counter(outcome.state for outcome in outcomes)
        return {"known": self.known, "waiting": list(self.discovery.waiting)} | counts
