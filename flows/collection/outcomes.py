"""How one scene of a collection ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from seamline.pipeline.common.errors import BadBlockError, InUseError, OtherRunError, UnusableSceneError
from seamline.pipeline.products.run_record import RunRecord

State = Literal["published", "unchanged", "in use", "set aside", "failed"]
Fault = Literal["", "scene", "result"]
"""What would make a scene fail again: nothing that is known, its own files, or the result that is there."""


@dataclass(frozen=True)
class Outcome:
    """How one scene of a collection ended.

    Attributes:
        name: Name of the scene in its source.
        state: "published"; "unchanged", the result was there already; "in use", another run works on the scene;
            "set aside", it failed before and is not tried again; "failed".
        reason: Why the scene failed or was left to another run.
        fault: What would make it fail again.
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
    fault: Fault = ""

    @classmethod
    def from_error(cls, name: str, error: BaseException) -> Outcome:
        """Return the outcome of a scene whose run raised an error."""
        if isinstance(error, InUseError):
            return cls(name, "in use", "another run works on it")
        is_of_scene = isinstance(error, UnusableSceneError | BadBlockError)
        fault: Fault = "result" if isinstance(error, OtherRunError) else "scene" if is_of_scene else ""
        return cls(name, "failed", str(error) or type(error).__name__, fault=fault)

    @classmethod
    def from_record(cls, name: str, record: RunRecord, *, is_new: bool, is_changed: bool) -> Outcome:
        """Return the outcome of a scene that is published.

        Args:
            name: name of the scene in its source.
            record: the record of its run.
            is_new: whether this run inferred it.
            is_changed: whether this run wrote any of its files.
        """
        return cls(
            name,
            "published" if is_changed else "unchanged",
            scene=record.scene,
            seconds=record.seconds["total"] if is_new else 0.0,
            shares={row.name: row.share for row in record.classes},
        )
