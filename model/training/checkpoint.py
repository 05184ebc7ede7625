"""What a training needs to go on after it was killed: written whole, or not at all."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from seamline.model.spec.errors import ModelError


class Stateful(Protocol):
    """What torch's modules, optimisers and schedulers have in common."""

    def state_dict(self) -> Any:
        """What it has learned."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take it up again."""
        ...


def save_checkpoint(path: Path, digest: str, state: Mapping[str, Stateful], record: Mapping[str, Any]) -> None:
    """Write the state of a training with this digest, and what else it knows: numbers, texts, lists, tensors."""
    part = path.with_suffix(".part")
    try:
        held = {name: part_of.state_dict() for name, part_of in state.items()}
        torch.save({"digest": digest, "state": held, "record": dict(record)}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's for a full disk
        part.unlink(missing_ok=True)
        raise ModelError(
            f"checkpoint {path}",
            got=_shorten(error),
            expected="room for it",
            fix="make some and give the same command again",
        ) from error


def restore_checkpoint(path: Path, digest: str, state: Mapping[str, Stateful]) -> dict[str, Any] | None:
    """Give everything in ``state`` what it had then, and return the record; ``None`` if there is no checkpoint."""
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["digest"] != digest:
            raise ValueError("a training by another recipe or on other images")
        for name, part_of in state.items():
            part_of.load_state_dict(saved["state"][name])
        record: dict[str, Any] = saved["record"]
    except Exception as error:  # whatever the bytes lead torch to
        raise ModelError(
            f"checkpoint {path}",
            got=str(error) if type(error) is ValueError else _shorten(error),
            expected="what a training by the same recipe left",
            fix="remove it to start over, or choose another folder",
        ) from error
    return record


def _shorten(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder="…")
