"""The picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.report.page import GREY, INK, MARGIN, Page

_CELL = 0.62
"""Edge of a cell in inches."""


def write_confusion_matrix(counts: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix: for each true class, which share of its pixels was predicted as each class.

    Args:
        counts: pixels (truth, predicted).
        names: names of the classes.
        path: the PNG, which appears whole or not at all.
    """
    count = len(names)
    longest = 0.075 * max(len(name) for name in names)
    left, top, size = MARGIN + 0.35 + longest, 0.95 + longest, count * _CELL
    page = Page(max(5.6, left + size + MARGIN), top + size + MARGIN)
    page.text(MARGIN, 0.4, "Confusion matrix", fontsize=13, weight="bold")
    page.text(MARGIN, 0.62, "per cent of each true class (rows) by what it was called (columns)", color=GREY)
    axes = page.axes(left, top, size, size)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row, col in np.ndindex(*counts.shape):
        text = f"{shares[row, col] * 100:.1f}" if total[row, 0] else "–"
        axes.text(col, row, text, ha="center", va="center", color="white" if shares[row, col] > 0.55 else INK)
    axes.set(xticks=range(count), yticks=range(count))
    axes.set_xticklabels(names, rotation=90, parse_math=False)
    axes.set_yticklabels(names, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK, labeltop=True, labelbottom=False)
    page.save(path)
