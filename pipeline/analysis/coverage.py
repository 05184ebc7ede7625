"""How much of each pixel a zone covers, exactly, in numbers of double precision.

An edge of a zone adds its height to all pixels to its right, row by row: positive on the left side of the zone,
negative on the right side. The edges are cut at the borders of pixels, so that the piece in a pixel says how much of
that pixel lies to its right. The sum along a row is the covered share. Holes and parts need nothing else, since their
edges run the other way round or stand beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PARTS = 2.0**40
"""Covered shares are multiples of one part of these, so that the inside of a zone has exactly 1, the outside 0."""


@dataclass(frozen=True)
class ZoneEdges:
    """The edges of a zone on a raster.

    Attributes:
        points: Ends (n, 4) of the edges as x, y, x, y in pixels: column and row from the upper left corner. On the left
            side of the zone they run down, to larger rows.
    """

    points: NDArray[np.float64]

    @property
    def columns(self) -> tuple[float, float]:
        """Smallest and largest x."""
        return float(self.points[:, ::2].min()), float(self.points[:, ::2].max())

    @property
    def rows(self) -> tuple[float, float]:
        """Smallest and largest y."""
        return float(self.points[:, 1::2].min()), float(self.points[:, 1::2].max())


class BandCoverage:
    """Covered shares of a band of rows of a raster, block by block from the left to the right.

    The shares of a pixel do not depend on how the raster is cut into bands and blocks.

    Attributes:
        first_row: The first row of the band that the zone meets.
        stop_row: The row after the last one.
        first_col: The first column that the zone meets.
        stop_col: The column after the last one.
    """

    def __init__(self, zone: ZoneEdges, rows: tuple[int, int], width: int) -> None:
        """Cut the edges of a zone.

        Args:
            zone: The zone.
            rows: The first row of the band, and the one after the last.
            width: Columns of the raster.
        """
        low, high = zone.rows
        self.first_row = int(min(max(np.floor(low), rows[0]), rows[1]))
        self.stop_row = int(max(min(np.ceil(high), rows[1]), self.first_row))
        low, high = zone.columns
        self.first_col, self.stop_col = int(max(np.floor(low), 0)), int(min(np.ceil(high), width))
        row, col, value = _cut_edges(zone.points, (self.first_row, self.stop_row), width)
        order = np.argsort(col, kind="stable")
        self._row, self._col, self._value = row[order] - self.first_row, col[order], value[order]
        self._carry = np.zeros(self.stop_row - self.first_row)
        self._done = 0

    def read(self, start: int, stop: int) -> NDArray[np.float64] | None:
        """Return the covered shares of the next columns.

        Args:
            start: The first column, 0 or the ``stop`` of the call before.
            stop: The column after the last one.

        Returns:
            Shares from ``first_row`` to ``stop_row``, and from ``first_col`` to ``stop_col`` as far as they are among
            the columns; None if they are all 0.
        """
        first, last = max(start, self.first_col), min(stop, self.stop_col)
        if first >= last or not len(self._carry):
            return None
        end = int(np.searchsorted(self._col, last))
        added = slice(self._done, end)
        self._done = end
        if added.start == added.stop and not np.rint(self._carry * _PARTS).any():
            return None
        shape = len(self._carry), last - first
        sums = np.zeros(shape)
        np.add.at(sums, (self._row[added], self._col[added] - first), self._value[added])
        sums[:, 0] += self._carry
        np.cumsum(sums, axis=1, out=sums)
        self._carry = sums[:, -1].copy()
        sums *= _PARTS
        np.rint(sums, out=sums)
        sums /= _PARTS
        return np.asarray(np.clip(sums, 0, 1, out=sums))


def _cut_edges(
    points: NDArray[np.float64], rows: tuple[int, int], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return row, column and value of what edges add to a pixel and to all pixels to its right."""
    row, left, right, height = _cut_at_rows(points, *rows)
    edge, col = _repeat(
        np.clip(np.floor(left), -1, width).astype(np.int64),
        np.clip(np.ceil(right) - 1, -1, width).astype(np.int64),
    )
    row, left, right, height = row[edge], left[edge], right[edge], height[edge]
    # Everything to the left of the raster counts as one column, what lies to its right adds nothing.
    begin, end = np.where(col < 0, left, np.maximum(left, col)), np.minimum(right, col + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(right > left, (end - begin) / (right - left), 1.0) * height
    beyond = np.where(col < 0, 1.0, (begin + end) / 2 - col)  # share of the piece that counts from the next pixel on
    row, col = np.concatenate([row, row]), np.concatenate([col, col + 1])
    value = np.concatenate([part * (1 - beyond), part * beyond])
    inside = (col >= 0) & (col < width)
    return row[inside], col[inside], value[inside]


def _cut_at_rows(
    points: NDArray[np.float64], start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return row, smallest and largest x, and height of the pieces of edges in some rows; positive if they run down."""
    x0, y0, x1, y1 = points[(points[:, 1] != points[:, 3])].T
    is_down = y1 > y0
    x0, x1 = np.where(is_down, x0, x1), np.where(is_down, x1, x0)
    y0, y1 = np.where(is_down, y0, y1), np.where(is_down, y1, y0)
    meets = (y1 > start) & (y0 < stop)
    x0, y0, x1, y1, is_down = (part[meets] for part in (x0, y0, x1, y1, is_down))
    first, last = np.maximum(np.floor(y0), start), np.minimum(np.ceil(y1), stop) - 1
    edge, row = _repeat(first.astype(np.int64), last.astype(np.int64))
    x0, y0, x1, y1, is_down = (part[edge] for part in (x0, y0, x1, y1, is_down))
    top, bottom = np.maximum(y0, row), np.minimum(y1, row + 1)
    with np.errstate(invalid="ignore", over="ignore"):
        slope = (x1 - x0) / (y1 - y0)
        upper = np.where(top == y0, x0, x0 + (top - y0) * slope)
        lower = np.where(bottom == y1, x1, x0 + (bottom - y0) * slope)
    low, high = np.minimum(x0, x1), np.maximum(x0, x1)
    upper, lower = np.clip(upper, low, high), np.clip(lower, low, high)
    height = (bottom - top) * np.where(is_down, 1, -1)
    return row, np.minimum(upper, lower), np.maximum(upper, lower), height


def _repeat(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each number from ``first`` to ``last``, of each pair, the number of the pair and the number itself."""
    counts = np.maximum(last - first, 0) + 1
    pair = np.repeat(np.arange(len(first)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts
    return pair, first[pair] + np.arange(len(pair)) - starts[pair]
