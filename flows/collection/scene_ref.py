"""What the discovery of a collection yields: references to scenes, and sources that were rejected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class SceneRef:
    """Reference to one scene of a collection.

    Two references with the same source and the same fingerprint count as the same content. The fingerprint is made of
    sizes, times and metadata, so another fingerprint does not prove other pixels. ``segment`` then compares the pixels.

    Attributes:
        source: Path or URL that ``segment`` accepts.
        name: Id of the scene, which becomes the folder name of its results.
        fingerprint: Hash of file states or metadata; no pixel is read for it.
    """

    source: str
    name: str
    fingerprint: str


@dataclass(frozen=True)
class RejectedSource:
    """A source that was listed as a scene but cannot be segmented.

    Attributes:
        source: Path or URL as it was listed.
        name: Name for messages; not always a valid scene id.
        reason: Why the source was rejected, in one line.
        fingerprint: Hash of the states of its files, which tells whether it is worth another try; empty where it may
            be accepted although nothing changes, and outside of inboxes.
        rules: Hash of what else decides: versions, allowed places, files beside; empty where unknown.
    """

    source: str
    name: str
    reason: str
    fingerprint: str = ""
    rules: str = ""


@dataclass(frozen=True)
class Discovery:
    """Result of looking for the scenes of a collection.

    Attributes:
        scenes: Scenes that can be segmented.
        rejected: Sources that cannot be segmented.
        waiting: Paths in an inbox that are still being written, left for the next run.
    """

    scenes: tuple[SceneRef, ...]
    rejected: tuple[RejectedSource, ...] = ()
    waiting: tuple[str, ...] = ()

    @classmethod
    def from_candidates(
        cls, candidates: Iterable[SceneRef | RejectedSource], failures: Iterable[RejectedSource] = ()
    ) -> Discovery:
        """Sort candidates into scenes and rejected sources, each in the given order.

        Args:
            candidates: Result of the inspection of each source.
            failures: Failures of the search itself; they follow the rejected candidates.

        Returns:
            A discovery in which nothing is waiting.
        """
        scenes: list[SceneRef] = []
        rejected: list[RejectedSource] = []
        for candidate in candidates:
            if isinstance(candidate, SceneRef):
                scenes.append(candidate)
            else:
                rejected.append(candidate)
        return cls(tuple(scenes), (*rejected, *failures))
