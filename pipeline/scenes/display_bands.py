"""Which bands of a scene are shown as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

_RGB = ("red", "green", "blue")


def choose_display_bands(names: Sequence[str]) -> list[int]:
    """Return the positions of three bands to show: red, green and blue if all exist, otherwise the first bands."""
    if has_true_color(names):
        return [names.index(name) for name in _RGB]
    return [min(position, len(names) - 1) for position in range(3)]


def has_true_color(names: Sequence[str]) -> bool:
    """Return whether the bands of these names include red, green and blue."""
    return set(_RGB) <= set(names)
