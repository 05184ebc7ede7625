"""The classes of a segmentation (label value, name, colour), and counts and shares as text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NODATA = 255
"""The label of pixels without data, in every raster that Seamline writes."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a segmentation.

    Attributes:
        value: Label in the raster, 0 to 254.
        name: Name for people.
        color: Red, green and blue, each 0 to 255.
        description: What the class means, or an empty string.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    description: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.value < NODATA:
            raise ValueError(f"class {self.name!r}: label {self.value} is not in 0..254 ({NODATA} is nodata)")
        if len(self.color) != 3 or not all(0 <= part <= 255 for part in self.color):
            raise ValueError(f"class {self.name!r}: colour {self.color} is not (R, G, B) in 0..255")

    @property
    def hex(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


def make_column_names(classes: Sequence[LabelClass]) -> tuple[str, ...]:
    """Return a name for each class that SQL takes without quotes: ``cloud shadow`` becomes ``cloud_shadow``.

    Names consist of ``a-z``, ``0-9`` and ``_`` and begin with a letter. Equal names get the labels of their classes
    appended until all names differ.
    """
    names = [_sql_name(label) for label in classes]
    while len(counts := Counter(names)) < len(names):
        names = [
            f"{name}_{label.value}" if counts[name] > 1 else name for name, label in zip(names, classes, strict=True)
        ]
    return tuple(names)


def _sql_name(label: LabelClass) -> str:
    ascii_only = unicodedata.normalize("NFKD", label.name).encode("ascii", "ignore").decode().lower()
    plain = re.sub("[^a-z0-9]+", "_", ascii_only).strip("_")
    return plain if plain[:1].isalpha() else f"class_{plain or label.value}"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 scene``, ``2 scenes``, ``no scenes``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def format_percent(share: float) -> str:
    """Return a share (0 to 1) as percent for people; a share above zero is never shown as zero."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %"
