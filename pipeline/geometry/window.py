"""Pixel windows and blocks on a grid, and the mirroring of pixels beyond the edges of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: rows [row, row + height) and columns [col, col + width).

    A window may overhang the grid on any side: rows and columns may be negative or beyond the last ones.

    Attributes:
        row: First row.
        col: First column.
        height: Number of rows.
        width: Number of columns.
    """

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise ValueError(f"a window has a size of at least 0×0, got {self.height}×{self.width}")

    @property
    def stop_row(self) -> int:
        """The row after the last one."""
        return self.row + self.height

    @property
    def stop_col(self) -> int:
        """The column after the last one."""
        return self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def pixel_count(self) -> int:
        """Number of pixels in the window."""
        return self.height * self.width

    def shift(self, rows: int, cols: int) -> Window:
        """Return a window of the same size, moved by ``rows`` and ``cols``."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def relative_to(self, other: Window) -> Window:
        """Return the same pixels, counted from the first row and column of ``other``."""
        return self.shift(-other.row, -other.col)

    def intersection(self, other: Window) -> Window:
        """Return the pixels that lie in both windows; a window of size 0 where they do not meet."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = max(0, min(self.stop_row, other.stop_row) - row)
        width = max(0, min(self.stop_col, other.stop_col) - col)
        return Window(row, col, height, width)

    def to_slices(self) -> tuple[slice, slice]:
        """Return (rows, columns) to index an array with.

        Raises:
            ValueError: The window starts before the array.
        """
        if self.row < 0 or self.col < 0:
            raise ValueError(f"{self} starts before the array, an index would count from its end")
        return slice(self.row, self.stop_row), slice(self.col, self.stop_col)


@dataclass(frozen=True)
class Blocks:
    """Square blocks of pixels of a lattice.

    Attributes:
        row: First rows, shape (n,).
        col: First columns.
        size: Edge in pixels.
    """

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    size: int

    def select(self, wanted: NDArray[np.bool_]) -> Blocks:
        """Return some of the blocks."""
        return Blocks(self.row[wanted], self.col[wanted], self.size)

    def divide(self) -> Blocks:
        """Return the quarters of all blocks."""
        half = self.size // 2
        row = self.row[:, None] + half * np.array([0, 0, 1, 1])
        return Blocks(row.ravel(), (self.col[:, None] + half * np.array([0, 1, 0, 1])).ravel(), half)

    def shift(self, rows: int, cols: int) -> Blocks:
        """Return the blocks moved by some rows and columns."""
        return Blocks(self.row + rows, self.col + cols, self.size)

    def meet(self, window: Window) -> NDArray[np.bool_]:
        """Return which blocks have pixels of a window."""
        in_rows = (self.row < window.stop_row) & (self.row + self.size > window.row)
        return in_rows & (self.col < window.stop_col) & (self.col + self.size > window.col)

    def place(self, at: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return rows and columns of a lattice in each block, (n, m, m), from the (m,) distances to its first pixel."""
        return list(np.broadcast_arrays(self.row[:, None, None] + at[:, None], self.col[:, None, None] + at))


def mirror_indices(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the pixels that stand for [start, stop) of one axis when a scene is mirrored at its edges.

    The pixel at the edge is not repeated, as in numpy's mode ``reflect``. A scene shorter than the overhang is mirrored
    as often as needed, a scene of one pixel is repeated. This is the overlap-tile strategy of Ronneberger, Fischer and
    Brox (2015), figure 2.

    Args:
        start: First pixel; may be negative.
        stop: The pixel after the last one; may be beyond the scene.
        size: Length of the scene along the axis in pixels.

    Returns:
        Indices in [0, size), shape (stop − start,).
    """
    if size < 1:
        raise ValueError(f"a scene has at least one pixel, got {size}")
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (size - 1)
    phase = np.mod(np.arange(start, stop, dtype=np.intp), period)
    folded: NDArray[np.intp] = np.minimum(phase, period - phase)
    return folded


def locate_mirrored(start: int, stop: int, size: int) -> tuple[int, int]:
    """Return the first pixel, and the one after the last, of those that stand for [start, stop) of a mirrored axis.

    Args:
        start: First pixel; may be negative.
        stop: The pixel after the last one; may be beyond the scene.
        size: Length of the scene along the axis in pixels.
    """
    indices = mirror_indices(start, stop, size)
    return int(indices.min()), int(indices.max()) + 1


def find_mirrored(window: Window, shape: tuple[int, int]) -> Window:
    """Return the pixels inside a scene that a window shows, those among them that it shows mirrored.

    Args:
        window: The window; may overhang the scene.
        shape: (height, width) of the scene.
    """
    top, bottom = locate_mirrored(window.row, window.stop_row, shape[0])
    left, right = locate_mirrored(window.col, window.stop_col, shape[1])
    return Window(top, left, bottom - top, right - left)


def mirror_pixels(
    array: NDArray[Any],
    inside: Window,
    window: Window,
    shape: tuple[int, int],
    whole: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the pixels of a window, (…, height, width), from those of the scene that it shows, mirrored or not.

    To gather all of them by index would take longer than to decode them.

    Args:
        array: Pixels of ``inside``.
        inside: The part of the scene that the window shows.
        window: The window; may overhang the scene.
        shape: (height, width) of the scene.
        whole: An array for the window that ``array`` is a part of already; None if there is none.
    """
    if inside == window:
        return array
    common = inside.intersection(window)
    if whole is None:
        whole = np.empty((*array.shape[:-2], *window.shape), array.dtype)
        whole[..., *common.relative_to(window).to_slices()] = array[..., *common.relative_to(inside).to_slices()]
    rows = mirror_indices(window.row, window.stop_row, shape[0]) - inside.row
    cols = mirror_indices(window.col, window.stop_col, shape[1]) - inside.col
    down, across = common.relative_to(window).to_slices()
    for beyond in (slice(0, down.start), slice(down.stop, None)):
        whole[..., beyond, :] = array[..., rows[beyond, None], cols]
    for beyond in (slice(0, across.start), slice(across.stop, None)):
        whole[..., down, beyond] = array[..., rows[down, None], cols[beyond]]
    return whole
