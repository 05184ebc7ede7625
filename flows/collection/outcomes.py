"""How one scene of a collection ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["published", "unchanged", "in use", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How one scene of a collection ended.

    Attributes:
        name: Name of the scene in its source.
        state: "published"; "unchanged", the result was there already; "in use", another run works on the scene;
            "failed".
        reason: Why the scene failed or was left to another run.
        scene: Id of the result; empty without a result.
        seconds: Wall time of the run; 0 if nothing was computed.
        shares: Share of the valid pixels by class name, 0 to 1.
    """

    name: str
    state: State
    reason: str = ""
    scene: str = ""
    seconds: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
