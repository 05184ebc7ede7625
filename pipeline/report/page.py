"""A page for pictures that matplotlib draws, laid out in inches; colours of all pictures, and how they are saved."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from seamline.pipeline.storage.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

INK, GREY, FAINT = "#1f2933", "#66717d", "#d5dae0"
VOID, HATCH = "#ccd2d9", "#a9b1bb"
"""Fill and hatching of areas without data."""
MARGIN = 0.3
"""Empty margin around the contents of a page, in inches."""
_COMPRESSION = 3
"""Level of the compression of PNGs: files are an eighth larger than at Pillow's 6, in half of the time."""
DPI = 160
"""Pixels of an inch."""


class Page:
    """A page of ``width`` × ``height`` inches; places on it are measured from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second to import
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes with a frame and without ticks.

        Args:
            left: inches from the left edge of the page.
            top: inches from the upper edge of the page.
            width: in inches.
            height: in inches.

        Returns:
            The axes.
        """
        rectangle = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        axes = self.figure.add_axes(rectangle)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=FAINT, linewidth=0.8)
        return axes

    def text(
        self,
        left: float,
        top: float,
        string: str,
        *,
        color: str = INK,
        fontsize: float = 9,
        weight: str = "normal",
    ) -> None:
        """Write text.

        Args:
            left: inches from the left edge of the page.
            top: inches from the upper edge of the page to the baseline.
            string: the text. ``$…$`` in it is no formula, since it may come from the name of a file or class.
            color: colour of matplotlib.
            fontsize: in points.
            weight: weight of the font.
        """
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, string, color=color, fontsize=fontsize, weight=weight, parse_math=False)

    def legend(self, left: float, top: float, handles: Sequence[tuple[Artist, str]], columns: int) -> None:
        """Add a legend without a frame, filled row by row.

        Args:
            left: inches from the left edge of the page.
            top: inches from the upper edge of the page.
            handles: artists and their texts.
            columns: number of columns.
        """
        # matplotlib fills a legend column by column.
        handles = [handle for column in range(columns) for handle in handles[column::columns]]
        legend = self.figure.legend(
            [handle for handle, _ in handles],
            [text for _, text in handles],
            loc="upper left",
            bbox_to_anchor=(left / self.width, 1 - top / self.height),
            ncols=columns,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.3,
            handleheight=1.0,
            columnspacing=1.6,
            fontsize=9,
            labelcolor=INK,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)

    def save(self, path: Path) -> None:
        """Write the page as a PNG, which appears whole or not at all."""
        self.canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]  # nothing on a page is transparent
        save_png(Image.fromarray(pixels), path)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG, which appears whole or not at all."""
    with atomic_write(path) as part:
        picture.save(part, "PNG", compress_level=_COMPRESSION, compress_type=zlib.Z_RLE, dpi=(DPI, DPI))
