"""Checkpoints: the state of an unfinished training in one file, replaced in one step after every epoch."""

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
        """Return the object's state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Set the object's state."""
        ...


def save_checkpoint(path: Path, digest: str, state: Mapping[str, Stateful], record: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its place and rename it, so that a kill leaves the old or the new one whole.

    Args:
        path: the checkpoint.
        digest: of the training's configuration and images; ``restore_checkpoint`` compares it.
        state: the objects whose state is saved, by name.
        record: what else to keep: numbers, texts, lists and tensors.

    Raises:
        ModelError: the file cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        states = {name: stateful.state_dict() for name, stateful in state.items()}
        torch.save({"digest": digest, "state": states, "record": dict(record)}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        part.unlink(missing_ok=True)
        raise ModelError(
            f"checkpoint {path}",
            got=_shorten(error),
            expected="room for it",
            fix="make some and give the same command again",
        ) from error


def restore_checkpoint(path: Path, digest: str, state: Mapping[str, Stateful]) -> dict[str, Any] | None:
    """Read a checkpoint and set the state of the objects in ``state``.

    Args:
        path: the checkpoint.
        digest: of the training's configuration and images.
        state: the objects to restore, by the names under which they were saved.

    Returns:
        The record that was saved with the state, or ``None`` if there is no checkpoint.

    Raises:
        ModelError: the file is damaged or belongs to another training.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["digest"] != digest:
            raise ValueError("a training by another recipe or on other images")
        for name, stateful in state.items():
            stateful.load_state_dict(saved["state"][name])
        kept: dict[str, Any] = saved["record"]
    except Exception as error:  # damaged files make torch raise errors of many classes
        raise ModelError(
            f"checkpoint {path}",
            got=str(error) if type(error) is ValueError else _shorten(error),
            expected="what a training by the same recipe left",
            fix="remove it to start over, or choose another folder",
        ) from error
    return kept


def _shorten(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder="…")
