"""A sheet of paper for the pictures, and their common colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seamline.pipeline.storage.atomic import atomic_write

INK, GREY, FAINT = "#1f2933", "#66717d", "#d5dae0"
VOID, HATCH = "#ccd2d9", "#a9b1bb"
MARGIN = 0.3
"""Around the contents of a page, in inches."""
_DPI = 160


class Page:
    """A sheet in inches, measured from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """A frame without ticks."""
        place = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        axes = self.figure.add_axes(place)
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
        """Text whose baseline is ``top`` inches below the upper edge."""
        place = left / self.width, 1 - top / self.height
        # Names are names: no $…$ in them is a formula.
        self.figure.text(*place, string, color=color, fontsize=fontsize, weight=weight, parse_math=False)

    def legend(self, left: float, top: float, handles: Sequence[tuple[Artist, str]], columns: int) -> None:
        """The ``handles`` with their texts, row by row in so many columns, without a frame."""
        handles = [handle for column in range(columns) for handle in handles[column::columns]]  # as matplotlib fills it
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
        """Write the PNG; it appears whole or not at all."""
        with atomic_write(path) as part:
            self.figure.savefig(part, format="png")
