"""The classes of a segmentation, as the pipeline writes them: label value, name, colour."""

from __future__ import annotations

from dataclasses import dataclass

NODATA = 255
"""The label of pixels without data, in every raster that Seamline writes."""


@dataclass(frozen=True)
class LabelClass:
    """One class: the label ``value`` in the raster (0 to 254), its ``name`` and its colour (R, G, B; 0 to 255)."""

    value: int
    name: str
    color: tuple[int, int, int]
    description: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.value < NODATA:
            raise ValueError(f"class {self.name!r}: label {self.value} is not in 0..254 ({NODATA} is nodata)")
        if len(self.color) != 3 or not all(0 <= part <= 255 for part in self.color):
            raise ValueError(f"class {self.name!r}: colour {self.color} is not (R, G, B) in 0..255")


def percent(share: float) -> str:
    """A share for people: what is there is never 0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %"
