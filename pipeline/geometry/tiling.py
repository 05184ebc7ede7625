"""The tiling of a scene: where tiles lie, what they read and vote on, and which chunk owns them.

One axis, with window W = stride s + 2·halo h + overlap v::

                     ◄─────────────── window W ───────────────►
      tile i         ├─ h ─┤◄────────── support ──────────►├─ h ─┤
                           │◄───── stride s ─────►│◄─ v ─►│
      scene  ──────────────┼──────────────────────┼───────┼──────────
                          i·s                  (i+1)·s  (i+1)·s + v
      tile i+1                              ├─ h ─┤◄────────── support …

Tile i votes on [i·s, (i+1)·s + v). It shares the last v pixels with tile i+1: there its taper falls as the taper of the
neighbour rises. So votes reach only to the right and downwards, a chunk needs only the votes of chunks above and to the
left of it, and no two chunks wait for each other.

Window i starts at i·s − h. The scene, mirrored by the halo, starts at −h too. With s a multiple of the divisor, every
window therefore lies on the same pooling lattice as one forward pass over the whole mirrored scene. That forward pass
is the reference of every test. Windows at the far edges are not shifted back: they overhang the scene and are mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window, locate_mirrored

T = TypeVar("T")

_STORE_CHUNK_RANGE = 256, 1024
"""Range of the edge of a Zarr chunk in pixels: smaller means too many files, larger more pixels than GIS tools need."""


class Index(NamedTuple):
    """Row and column of a tile or of a chunk in its lattice."""

    row: int
    col: int


class MapChunks(Protocol):
    """Apply a function to chunks and yield the results in the order of the chunks, as the builtin ``map`` does."""

    def __call__(self, function: Callable[[Index], T], chunks: Iterable[Index], /) -> Iterator[T]:
        """Yield ``function(chunk)`` for each chunk; later chunks may be worked on before a result is taken."""


@dataclass(frozen=True)
class Tiling:
    """A scene cut into square tiles of one size and into chunks of ``chunk_tiles`` × ``chunk_tiles`` strides.

    Raises ``InputError`` for a geometry in which the tiles could be seen in the result or in which a tile has no pixels
    to vote on.

    Attributes:
        height: Rows of the scene.
        width: Columns of the scene.
        window: Edge in pixels of what a tile reads.
        halo: Pixels on each side of a window that are read as context only.
        overlap: Pixels that the supports of two neighbouring tiles share.
        chunk_tiles: Tiles along each axis of a chunk.
        divisor: Total downsampling of the network; window, halo and stride are multiples of it.
    """

    height: int
    width: int
    window: int
    halo: int
    overlap: int
    chunk_tiles: int
    divisor: int

    def __post_init__(self) -> None:
        self._check_lengths()
        self._check_lattice()

    def _check_lengths(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a scene has at least one pixel, got {self.height}×{self.width}")
        if self.divisor < 1:
            raise ValueError(f"divisor: got {self.divisor}, expected at least 1")
        for name, least in (("window", 1), ("halo", 0), ("overlap", 0), ("chunk_tiles", 1)):
            if getattr(self, name) < least:
                raise InputError(
                    f"--{name.replace('_', '-')}",
                    got=getattr(self, name),
                    expected=f"at least {least}",
                    fix="choose a larger number",
                )
        if self.stride < 1:
            least = _round_up(2 * self.halo + 2 * self.overlap + 1, self.divisor)
            raise InputError(
                "plan",
                got=f"halo {self.halo} and overlap {self.overlap} in a window of {self.window}",
                expected="2·halo + overlap smaller than the window",
                fix=f"take --window {least} or more, or a smaller --halo",
            )

    def _check_lattice(self) -> None:
        for name in ("window", "halo", "stride"):
            if getattr(self, name) % self.divisor:
                window, halo, overlap = (
                    _round_up(length, self.divisor) for length in (self.window, self.halo, self.overlap)
                )
                raise InputError(
                    f"plan off the lattice: {name}",
                    got=getattr(self, name),
                    expected=f"a multiple of the network's divisor {self.divisor} (stride = window − 2·halo − overlap)",
                    fix=f"take --window {window} --halo {halo} --overlap {overlap}",
                )
        if self.overlap > self.stride:
            raise InputError(
                "--overlap",
                got=f"{self.overlap} with a stride of {self.stride}",
                expected="at most the stride, so that no more than two tiles meet on an axis",
                fix="take a larger --window or a smaller --overlap",
            )

    @property
    def stride(self) -> int:
        """Distance between neighbouring tiles in pixels."""
        return self.window - 2 * self.halo - self.overlap

    @property
    def support(self) -> int:
        """Edge in pixels of the square that a tile votes on."""
        return self.stride + self.overlap

    @property
    def chunk_size(self) -> int:
        """Edge in pixels of a chunk that is not cut off by the edge of the scene."""
        return self.chunk_tiles * self.stride

    @property
    def store_chunk_size(self) -> int:
        """Edge of the Zarr chunks in pixels: a divisor of ``chunk_size``, so that every Zarr chunk has only one writer.

        It is the largest divisor within ``_STORE_CHUNK_RANGE``; if there is none, the smallest divisor above the range.
        """
        divisors = [n for n in range(1, self.chunk_size + 1) if self.chunk_size % n == 0]
        smallest, largest = _STORE_CHUNK_RANGE
        best = max(n for n in divisors if n <= largest)
        return best if best >= min(smallest, self.chunk_size) else min(n for n in divisors if n > largest)

    @cached_property
    def tile_grid(self) -> Index:
        """Number of tiles downwards and across."""
        return Index(math.ceil(self.height / self.stride), math.ceil(self.width / self.stride))

    @cached_property
    def chunk_grid(self) -> Index:
        """Number of chunks downwards and across."""
        rows, cols = self.tile_grid
        return Index(math.ceil(rows / self.chunk_tiles), math.ceil(cols / self.chunk_tiles))

    @property
    def tile_count(self) -> int:
        """Number of tiles of the scene."""
        return self.tile_grid.row * self.tile_grid.col

    @property
    def redundancy(self) -> float:
        """Pixels that the network computes per pixel of the scene, if no window is skipped."""
        return self.tile_count * self.window**2 / (self.height * self.width)

    @property
    def scene_window(self) -> Window:
        """All pixels of the scene."""
        return Window(0, 0, self.height, self.width)

    def window_of(self, tile: Index) -> Window:
        """Return the pixels that a tile reads; they may overhang the scene."""
        return Window(tile.row * self.stride - self.halo, tile.col * self.stride - self.halo, self.window, self.window)

    def support_of(self, tile: Index) -> Window:
        """Return the pixels that a tile votes on; they may overhang the scene."""
        return Window(tile.row * self.stride, tile.col * self.stride, self.support, self.support)

    def chunks(self) -> Iterator[Index]:
        """Yield all chunks, row by row."""
        rows, cols = self.chunk_grid
        return (Index(row, col) for row in range(rows) for col in range(cols))

    def tiles_of(self, chunk: Index) -> Iterator[Index]:
        """Yield the tiles of a chunk, row by row."""
        n, (rows, cols) = self.chunk_tiles, self.tile_grid
        for row in range(chunk.row * n, min((chunk.row + 1) * n, rows)):
            for col in range(chunk.col * n, min((chunk.col + 1) * n, cols)):
                yield Index(row, col)

    def write_window_of(self, chunk: Index) -> Window:
        """Return the pixels of the scene that a chunk writes: its strides, cut off at the edge of the scene."""
        return Window(
            chunk.row * self.chunk_size, chunk.col * self.chunk_size, self.chunk_size, self.chunk_size
        ).intersection(self.scene_window)

    def vote_window_of(self, chunk: Index) -> Window:
        """Return the pixels of the scene that a chunk's tiles vote on.

        These are the pixels that the chunk writes and ``overlap`` more to the right and below.
        """
        own = self.write_window_of(chunk)
        return Window(own.row, own.col, own.height + self.overlap, own.width + self.overlap).intersection(
            self.scene_window
        )

    def read_window_of(self, chunk: Index) -> Window:
        """Return the pixels that all tiles of a chunk read together; they may overhang the scene."""
        n, (rows, cols) = self.chunk_tiles, self.tile_grid
        last = Index(min((chunk.row + 1) * n, rows) - 1, min((chunk.col + 1) * n, cols) - 1)
        return self.read_window_between(Index(chunk.row * n, chunk.col * n), last)

    def read_window_between(self, first: Index, last: Index) -> Window:
        """Return the pixels that the tiles from one to another read together; they may overhang the scene."""
        start, stop = self.window_of(first), self.window_of(last)
        return Window(start.row, start.col, stop.stop_row - start.row, stop.stop_col - start.col)

    def voters_on(self, window: Window) -> list[Index]:
        """Return the tiles that vote on a pixel of a window inside the scene, row by row."""
        rows, cols = (
            range(max(0, (start - self.overlap) // self.stride), -(-stop // self.stride))
            for start, stop in ((window.row, window.stop_row), (window.col, window.stop_col))
        )
        tiles = (Index(row, col) for row in rows for col in cols)
        return [tile for tile in tiles if self.support_of(tile).intersection(window).pixel_count]

    def list_read_ranges(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and the columns [start, stop) of the scene that the chunks read, each of shape (n, 2).

        Each pair of rows with each pair of columns is what one chunk reads, with what is mirrored beyond the scene.
        """
        downwards = (self.read_window_of(Index(row, 0)) for row in range(self.chunk_grid.row))
        across = (self.read_window_of(Index(0, col)) for col in range(self.chunk_grid.col))
        rows = [locate_mirrored(window.row, window.stop_row, self.height) for window in downwards]
        return np.array(rows), np.array([locate_mirrored(window.col, window.stop_col, self.width) for window in across])

    def voters_of(self, chunk: Index) -> tuple[Index, ...]:
        """Return the neighbours whose tiles vote on pixels of a chunk: above left, above, left.

        Empty without overlap.
        """
        return self._neighbours(chunk, -1)

    def receivers_of(self, chunk: Index) -> tuple[Index, ...]:
        """Return the neighbours on whose pixels the tiles of a chunk vote: right, below, below right.

        Empty without overlap.
        """
        return self._neighbours(chunk, 1)

    def _neighbours(self, chunk: Index, step: int) -> tuple[Index, ...]:
        if not self.overlap:
            return ()
        rows, cols = self.chunk_grid
        vertical = Index(chunk.row + step, chunk.col)
        horizontal = Index(chunk.row, chunk.col + step)
        diagonal = Index(chunk.row + step, chunk.col + step)
        around = sorted((vertical, horizontal, diagonal))
        return tuple(c for c in around if 0 <= c.row < rows and 0 <= c.col < cols)


def _round_up(length: int, divisor: int) -> int:
    """Return the smallest multiple of ``divisor`` that is at least ``length``."""
    return math.ceil(length / divisor) * divisor
