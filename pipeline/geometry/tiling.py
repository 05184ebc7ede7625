"""Where tiles lie, what they read, what they vote on, and which chunk owns them. Pure geometry.

One axis, window W = stride s + 2·halo h + overlap v::

                     ◄─────────────── window W ───────────────►
      tile i         ├─ h ─┤◄────────── support ──────────►├─ h ─┤
                           │◄───── stride s ─────►│◄─ v ─►│
      scene  ──────────────┼──────────────────────┼───────┼──────────
                          i·s                  (i+1)·s  (i+1)·s + v
      tile i+1                              ├─ h ─┤◄────────── support …

Tile i votes on [i·s, (i+1)·s + v). The last v pixels it shares with tile i+1: there its taper falls as the
neighbour's rises. Votes therefore reach only to the right and downwards, a chunk waits only for what lies above and
to the left of it, and no two chunks wait for each other.

Window i starts at i·s − h. The scene that is mirrored by the halo starts at −h too, so with s a multiple of the
divisor every window lies on the same pooling lattice as one forward of the whole mirrored scene would: the oracle
of every test. Nothing is shifted back at the far edges; there a window overhangs, and is mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window

T = TypeVar("T")

STORE_CHUNK_RANGE = 256, 1024
"""Edges of a Zarr chunk that GIS tools read well; more files below, more pixels than they need above."""


class Index(NamedTuple):
    """Row and column of a tile or of a chunk in its lattice."""

    row: int
    col: int


class MapChunks(Protocol):
    """Apply a function to chunks and yield the results in the order of the chunks, as the builtin ``map`` does."""

    def __call__(self, function: Callable[[Index], T], chunks: Iterable[Index], /) -> Iterator[T]:
        """Yield ``function(chunk)`` for each chunk; later chunks may already be worked on."""


@dataclass(frozen=True)
class Tiling:
    """A scene of ``height`` × ``width`` pixels cut into tiles of one ``window`` and chunks of n × n strides.

    All lengths are in pixels, ``chunk_tiles`` is the n. Raises ``InputError`` for a geometry in which tiling
    could be seen or in which there is nothing left to vote on.
    """

    height: int
    width: int
    window: int
    halo: int
    overlap: int
    chunk_tiles: int
    divisor: int

    def __post_init__(self) -> None:
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
            raise InputError(
                "plan",
                got=f"halo {self.halo} and overlap {self.overlap} in a window of {self.window}",
                expected="2·halo + overlap smaller than the window",
                fix=f"take --window {_round_up(2 * self.halo + 2 * self.overlap + 1, self.divisor)} or more, "
                "or a smaller --halo",
            )
        for name in ("window", "halo", "stride"):
            if getattr(self, name) % self.divisor:
                raise InputError(
                    f"plan off the lattice: {name}",
                    got=getattr(self, name),
                    expected=f"a multiple of the network's divisor {self.divisor} (stride = window − 2·halo − overlap)",
                    fix=f"take --window {_round_up(self.window, self.divisor)} --halo {_round_up(self.halo, self.divisor)} "
                    f"--overlap {_round_up(self.overlap, self.divisor)}",
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
        """Distance between neighbouring tiles."""
        return self.window - 2 * self.halo - self.overlap

    @property
    def support(self) -> int:
        """Edge of the square a tile votes on."""
        return self.stride + self.overlap

    @property
    def chunk_size(self) -> int:
        """Edge of a chunk that no scene edge cuts off."""
        return self.chunk_tiles * self.stride

    @property
    def store_chunk_size(self) -> int:
        """Edge of the Zarr chunks, a divisor of a chunk's edge, so that no Zarr chunk has two writers.

        The largest up to ``STORE_CHUNK[1]``; where that is below ``STORE_CHUNK[0]``, the next larger one.
        """
        divisors = [n for n in range(1, self.chunk_size + 1) if self.chunk_size % n == 0]
        small, large = STORE_CHUNK_RANGE
        best = max(n for n in divisors if n <= large)
        return best if best >= min(small, self.chunk_size) else min(n for n in divisors if n > large)

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
        """Number of windows that cover the scene once."""
        return self.tile_grid.row * self.tile_grid.col

    @property
    def redundancy(self) -> float:
        """Network input pixels per scene pixel, when no window is skipped."""
        return self.tile_count * self.window**2 / (self.height * self.width)

    @property
    def scene_window(self) -> Window:
        """All pixels of the scene."""
        return Window(0, 0, self.height, self.width)

    def window_of(self, tile: Index) -> Window:
        """What a tile reads; may overhang the scene."""
        return Window(tile.row * self.stride - self.halo, tile.col * self.stride - self.halo, self.window, self.window)

    def support_of(self, tile: Index) -> Window:
        """What a tile votes on; may overhang the scene."""
        return Window(tile.row * self.stride, tile.col * self.stride, self.support, self.support)

    def chunks(self) -> Iterator[Index]:
        """All chunks, row by row."""
        rows, cols = self.chunk_grid
        return (Index(row, col) for row in range(rows) for col in range(cols))

    def tiles_of(self, chunk: Index) -> Iterator[Index]:
        """The tiles that a chunk infers, row by row."""
        n, (rows, cols) = self.chunk_tiles, self.tile_grid
        for row in range(chunk.row * n, min((chunk.row + 1) * n, rows)):
            for col in range(chunk.col * n, min((chunk.col + 1) * n, cols)):
                yield Index(row, col)

    def write_window_of(self, chunk: Index) -> Window:
        """The scene's pixels that a chunk writes: its n × n strides, cut off at the scene's edge."""
        return Window(
            chunk.row * self.chunk_size, chunk.col * self.chunk_size, self.chunk_size, self.chunk_size
        ).intersection(self.scene_window)

    def vote_window_of(self, chunk: Index) -> Window:
        """The scene's pixels that a chunk's tiles vote on: its own and ``overlap`` more to the right and below."""
        own = self.write_window_of(chunk)
        return Window(own.row, own.col, own.height + self.overlap, own.width + self.overlap).intersection(
            self.scene_window
        )

    def read_window_of(self, chunk: Index) -> Window:
        """What a chunk's tiles read, together; may overhang the scene."""
        tiles = list(self.tiles_of(chunk))
        first, last = self.window_of(tiles[0]), self.window_of(tiles[-1])
        return Window(first.row, first.col, last.stop_row - first.row, last.stop_col - first.col)

    def voters_of(self, chunk: Index) -> tuple[Index, ...]:
        """The neighbours whose tiles vote on this chunk's pixels: above left, above, left. None without overlap."""
        return self._neighbours(chunk, -1)

    def receivers_of(self, chunk: Index) -> tuple[Index, ...]:
        """The neighbours on whose pixels this chunk's tiles vote: right, below, below right. None without overlap."""
        return self._neighbours(chunk, 1)

    def _neighbours(self, chunk: Index, step: int) -> tuple[Index, ...]:
        if not self.overlap:
            return ()
        rows, cols = self.chunk_grid
        around = sorted(
            (
                Index(chunk.row + step, chunk.col),
                Index(chunk.row, chunk.col + step),
                Index(chunk.row + step, chunk.col + step),
            )
        )
        return tuple(c for c in around if 0 <= c.row < rows and 0 <= c.col < cols)


def _round_up(length: int, divisor: int) -> int:
    return math.ceil(length / divisor) * divisor
