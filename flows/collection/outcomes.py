"""What became of a scene in a run over many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["published", "unchanged", "in use", "failed"]


@dataclass(frozen=True)
class Outcome:
    """Of one scene: published, unchanged (it was there already), in use by another run, or failed with its reason.

    ``name`` is what the source calls it, ``scene`` the id of its results; ``shares`` of the valid pixels by class.
    """

    name: str
    state: State
    reason: str = ""
    scene: str = ""
    seconds: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
