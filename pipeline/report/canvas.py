"""A page that Pillow draws: rectangles, text and pictures, laid out in inches from its upper left corner.

It is for pictures that are drawn with every scene. Pillow takes half the time of matplotlib, and no time to import.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seamline.pipeline.report.page import DPI, HATCH, INK, VOID, save_png

_HATCH_STEP = 12
"""Pixels from one line of the hatching to the next one, along a row."""
_SMOOTHING = 4
"""Shapes that are not parallel to the page are drawn so many times as large, and made smaller."""
_LARGE_PIXELS = 3
"""A picture that is drawn so many times as wide keeps its pixels."""
_OUTLINE = 2
"""Width in pixels of what surrounds light text and shapes on a picture."""


class Rectangle(NamedTuple):
    """A rectangle on a page, in inches from the page's upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def corners(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Column and row of its first pixel, and of the first one beyond it."""
        return _to_pixels(self.left, self.top), _to_pixels(self.left + self.width, self.top + self.height)

    @property
    def size(self) -> tuple[int, int]:
        """Its width and its height in pixels, at least one."""
        first, last = self.corners
        return max(1, last[0] - first[0]), max(1, last[1] - first[1])


class Canvas:
    """A white page of ``width`` × ``height`` inches. Every place and length is in inches, font sizes are in points."""

    def __init__(self, width: float, height: float) -> None:
        self.picture = Image.new("RGB", (round(width * DPI), round(height * DPI)), "white")
        self._draw = ImageDraw.Draw(self.picture)

    def text(
        self, left: float, base: float, string: str, *, color: str = INK, size: float = 9, weight: str = "Sans"
    ) -> None:
        """Write text.

        Args:
            left: where it begins.
            base: its base line.
            string: the text.
            color: its colour.
            size: size of the font in points.
            weight: "Sans", or "Sans-Bold".
        """
        self._draw.text((left * DPI, base * DPI), string, color, _open_font(size, weight), "ls")

    def outline_text(self, left: float, base: float, string: str, anchor: str, weight: str = "Sans") -> None:
        """Write white text with a dark outline.

        Args:
            left: the place that the anchor names.
            base: the place that the anchor names.
            string: the text.
            anchor: one of Pillow's.
            weight: "Sans", or "Sans-Bold".
        """
        font = _open_font(10, weight)
        self._draw.text((left * DPI, base * DPI), string, "white", font, anchor, stroke_width=_OUTLINE, stroke_fill=INK)

    def rectangle(self, area: Rectangle, fill: str) -> None:
        """Fill a rectangle with a colour; nothing is drawn where it is narrower than a pixel's half."""
        first, last = area.corners
        if last[0] > first[0] and last[1] > first[1]:
            self._draw.rectangle((*first, last[0] - 1, last[1] - 1), fill)

    def frame(self, area: Rectangle, color: str, thickness: int) -> None:
        """Draw a line around a rectangle.

        Args:
            area: the rectangle.
            color: colour of the line.
            thickness: its width in pixels.
        """
        first, last = area.corners
        around = (first[0] - thickness, first[1] - thickness, last[0] + thickness - 1, last[1] + thickness - 1)
        self._draw.rectangle(around, outline=color, width=thickness)

    def hatch(self, area: Rectangle) -> None:
        """Fill a rectangle with the hatching of areas without data."""
        columns, rows = area.size
        tiles = np.tile(_render_hatching(), (-(-rows // _HATCH_STEP), -(-columns // _HATCH_STEP), 1))
        self.picture.paste(Image.fromarray(np.ascontiguousarray(tiles[:rows, :columns])), area.corners[0])

    def paste(self, area: Rectangle, rgba: NDArray[np.uint8], *, interpolate: bool) -> None:
        """Draw a picture over what is there.

        Args:
            area: where it goes.
            rgba: the picture (h, w, 4).
            interpolate: whether to smooth it, unless its pixels become large. Otherwise it keeps its colours.
        """
        smooth = interpolate and area.size[0] < _LARGE_PIXELS * rgba.shape[1]
        method = Image.Resampling.HAMMING if smooth else Image.Resampling.NEAREST
        drawn = Image.fromarray(rgba).resize(area.size, method)
        self.picture.paste(drawn, area.corners[0], drawn)

    def arrow(self, left: float, top: float, length: float, degrees: float) -> None:
        """Draw a white arrow with a dark outline.

        Args:
            left: its middle.
            top: its middle.
            length: how long it is.
            degrees: where it points, clockwise from up.
        """
        edge = math.ceil(1.4 * length * DPI) * _SMOOTHING
        shape, turn, scale = Image.new("RGBA", (edge, edge)), math.radians(degrees), DPI * _SMOOTHING
        draw = ImageDraw.Draw(shape)
        half = length / 2
        for color, more in ((INK, _OUTLINE / DPI), ("white", 0.0)):
            shaft, head, neck = 0.014 + more, 0.05 + 1.4 * more, half - 0.11 - 0.4 * more
            corners = [(-shaft, -half - more), (-shaft, neck), (-head, neck), (0.0, half + 1.8 * more)]
            outline = [*corners, *((-x, y) for x, y in reversed(corners[:3]))]
            points = [
                (
                    edge / 2 + scale * (x * math.cos(turn) + y * math.sin(turn)),
                    edge / 2 + scale * (x * math.sin(turn) - y * math.cos(turn)),
                )
                for x, y in outline
            ]
            draw.polygon(points, color)
        small = shape.resize((edge // _SMOOTHING,) * 2, Image.Resampling.BOX)
        place = _to_pixels(left, top)
        self.picture.paste(small, (place[0] - small.width // 2, place[1] - small.height // 2), small)

    def measure(self, string: str, size: float = 9) -> float:
        """Return how long a text is."""
        return float(_open_font(size, "Sans").getlength(string)) / DPI

    def save(self, path: Path) -> None:
        """Write the page as a PNG, which appears whole or not at all."""
        save_png(self.picture, path)


def _to_pixels(left: float, top: float) -> tuple[int, int]:
    return round(left * DPI), round(top * DPI)


def _open_font(size: float, weight: str) -> ImageFont.FreeTypeFont:
    """Return a font of its own, since threads may not share one. The one library that is always there draws the text.

    Args:
        size: in points.
        weight: "Sans", or "Sans-Bold".
    """
    path = _find_fonts() / f"DejaVu{weight}.ttf"
    return ImageFont.truetype(path, size * DPI / 72, layout_engine=ImageFont.Layout.BASIC)


@cache
def _find_fonts() -> Path:
    """Return the folder of the fonts that come with matplotlib, without importing it."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.submodule_search_locations  # one of our dependencies
    return Path(spec.submodule_search_locations[0], "mpl-data", "fonts", "ttf")


@cache
def _render_hatching() -> NDArray[np.uint8]:
    """Return the square (``_HATCH_STEP``, ``_HATCH_STEP``, 3) of which hatching is made."""
    place = np.add.outer(np.arange(_HATCH_STEP), np.arange(_HATCH_STEP)) % _HATCH_STEP
    distance = np.abs(place - _HATCH_STEP / 2) / math.sqrt(2)
    share = np.clip(1.5 - distance, 0, 1)[..., np.newaxis]
    ground, line = (np.array(Image.new("RGB", (1, 1), color).getpixel((0, 0))) for color in (VOID, HATCH))
    pattern: NDArray[np.uint8] = np.rint(ground + share * (line - ground)).astype(np.uint8)
    return pattern
