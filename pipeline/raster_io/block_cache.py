"""Blocks of files that several windows of a run touch: decoded once in a process, kept until all have read them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import OpenRaster, read_pixels

REQUEST_BYTES = 16 * 2**20
"""Bytes of pixels that are asked of GDAL at once, beside the array that they are put into."""

_LEAST_EDGE, _LEAST_VIRTUAL_EDGE = 16, 512
"""Least edge in pixels of what is kept as one: strips of one row are joined. The blocks of a VRT are not those of its
sources; these have mostly an edge of 512, or a part of it."""

_MOST_SHARE = 4
"""Blocks larger than this part of the cache are not kept in it."""

_Place = tuple[int, int]
"""Row and column of a block in its file, in blocks."""


@dataclass(eq=False)
class _Block:
    """A block that is decoded, or is being decoded.

    Attributes:
        path: The file.
        key: What tells the block from others: file with its version, bands, place.
        size: Bytes of its pixels.
        readers: Windows of the run that are still to read it.
        users: Requests that need it now.
        decoded: Set once the pixels are there, or once it is known that they cannot be read.
        pixels: Shape (bands, height, width); None before, and if they cannot be read.
    """

    path: str
    key: tuple[object, ...]
    size: int
    readers: int
    users: int = 1
    decoded: threading.Event = field(default_factory=threading.Event)
    pixels: NDArray[Any] | None = None


class BlockCache:
    """The decoded blocks of one run in one process, shared by its threads.

    A block that only one window of the run touches is not kept. One that several touch is decoded for the first, while
    others that need it wait; it is dropped when as many windows have read it as touch it. Some of them may be read by
    other processes: where there is no room, the block that was used least recently is dropped. Of one window no more
    blocks are kept than there is room for, so that the next window finds some of them.

    Attributes:
        rows: Rows [start, stop) of the scene that the run reads, one pair for each row of windows, shape (n, 2).
        cols: Columns that it reads, in the same way. Each pair of rows with each pair of columns is a window.
        decoding_threads: Threads of GDAL that decode the blocks of one request.
        size: Bytes of the pixels in the cache, with those that are being decoded.
    """

    def __init__(
        self, rows: NDArray[np.intp], cols: NDArray[np.intp], most_bytes: int, decoding_threads: int = 1
    ) -> None:
        """Make an empty cache.

        Args:
            rows: Rows that the run reads.
            cols: Columns that it reads.
            most_bytes: Bytes of pixels that are kept at most.
            decoding_threads: Threads of GDAL for one request.
        """
        self.rows, self.cols, self.decoding_threads = rows, cols, decoding_threads
        self.size = 0
        self._most_bytes = most_bytes
        self._blocks: OrderedDict[tuple[object, ...], _Block] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self,
        file: OpenRaster,
        bands: list[int],
        window: Window,
        rows: NDArray[np.intp],
        cols: NDArray[np.intp],
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Read a window of some bands, as ``read_pixels`` does.

        Args:
            file: The open raster.
            bands: Bands, counted from 1.
            window: Pixels within the file.
            rows: ``self.rows`` in pixels of the file.
            cols: ``self.cols`` in pixels of the file.
            out: Takes the pixels if it has their shape and type.

        Returns:
            Pixels of shape (bands, height, width): ``out`` or an array of the caller's own.

        Raises:
            RasterioIOError: GDAL cannot read a block that the window touches.
        """
        dtype = np.result_type(*(file.dtypes[index - 1] for index in bands))
        pixel_size = len(bands) * dtype.itemsize
        shape = _choose_block_shape(file, bands, self._most_bytes // (_MOST_SHARE * pixel_size))
        if shape is None:
            return read_pixels(file, bands, window)
        blocks = _BlocksOfWindow(window, shape, Window(0, 0, *file.grid.shape))
        wanted = (len(bands), *window.shape)
        pixels = out if out is not None and (out.shape, out.dtype) == (wanted, dtype) else np.empty(wanted, dtype)
        found, claimed = self._look_up(file, tuple(bands), blocks, blocks.count_readers(rows, cols), pixel_size)
        try:
            most = max(1, REQUEST_BYTES // (pixel_size * shape[0] * shape[1]))
            for group in _group(blocks.mask_without(found), most):
                places = group.shift(blocks.all.row, blocks.all.col)
                area = blocks.locate(places)
                part = read_pixels(file, bands, area)
                _copy(part, area, pixels, window)
                for place in (place for place in blocks.list_places(places) if place in claimed):
                    own = blocks.locate(Window(*place, 1, 1)).relative_to(area)
                    claimed[place].pixels = part[:, *own.to_slices()].copy()
                    claimed[place].decoded.set()
            for place, block in found.items():  # only now, so that nobody waits for one that waits
                area = blocks.locate(Window(*place, 1, 1))
                block.decoded.wait()
                _copy(read_pixels(file, bands, area) if block.pixels is None else block.pixels, area, pixels, window)
            return pixels
        finally:
            self._release(found, claimed)

    def forget(self, path: str) -> None:
        """Drop the blocks of a file that cannot be read, or is another one by now."""
        with self._lock:
            for block in [block for block in self._blocks.values() if block.path == path]:
                self._drop(block)

    def _look_up(
        self,
        file: OpenRaster,
        bands: tuple[int, ...],
        blocks: _BlocksOfWindow,
        readers: NDArray[np.intp],
        pixel_size: int,
    ) -> tuple[dict[_Place, _Block], dict[_Place, _Block]]:
        """Return the blocks of a window that are there or on the way, and those that the caller must put there."""
        found: dict[_Place, _Block] = {}
        claimed: dict[_Place, _Block] = {}
        places = list(blocks.list_places(blocks.all))
        with self._lock:
            for place in places:
                if (block := self._blocks.get((file.key, bands, place))) is not None:
                    block.users += 1
                    self._blocks.move_to_end(block.key)
                    found[place] = block
            for place in places:
                count = int(readers[place[0] - blocks.all.row, place[1] - blocks.all.col])
                if place in found or count < 2:
                    continue
                size = pixel_size * blocks.locate(Window(*place, 1, 1)).pixel_count
                if not self._make_room(size):
                    break
                block = _Block(file.path, (file.key, bands, place), size, count)
                claimed[place] = self._blocks[block.key] = block
                self.size += size
        return found, claimed

    def _make_room(self, size: int) -> bool:
        """Drop blocks that nobody needs now until ``size`` bytes are free; return whether they are."""
        while self.size + size > self._most_bytes:
            unused = next((block for block in self._blocks.values() if not block.users), None)
            if unused is None:
                return False
            self._drop(unused)
        return True

    def _release(self, found: dict[_Place, _Block], claimed: dict[_Place, _Block]) -> None:
        """Note that a window was read, or could not be; drop the blocks that no window needs any more."""
        with self._lock:
            for block in (*found.values(), *claimed.values()):
                block.users -= 1
                block.readers -= 1
                if block.pixels is None or block.readers <= 0:
                    self._drop(block)
        for block in claimed.values():
            block.decoded.set()

    def _drop(self, block: _Block) -> None:
        """Take a block out of the cache, if it is there; those who use it have it still."""
        if self._blocks.get(block.key) is block:
            del self._blocks[block.key]
            self.size -= block.size


@dataclass(frozen=True)
class _BlocksOfWindow:
    """The blocks of a file that a window touches.

    Attributes:
        window: Pixels within the file.
        shape: (height, width) of a block.
        file: All pixels of the file.
    """

    window: Window
    shape: tuple[int, int]
    file: Window

    @property
    def all(self) -> Window:
        """The blocks, counted in blocks from the first of the file."""
        (height, width), window = self.shape, self.window
        row, col = window.row // height, window.col // width
        return Window(row, col, -(-window.stop_row // height) - row, -(-window.stop_col // width) - col)

    @staticmethod
    def list_places(blocks: Window) -> Iterator[_Place]:
        """Yield the places of a rectangle of blocks, row by row."""
        return product(range(blocks.row, blocks.stop_row), range(blocks.col, blocks.stop_col))

    def locate(self, blocks: Window) -> Window:
        """Return the pixels of the file that lie in a rectangle of blocks."""
        height, width = self.shape
        return Window(
            blocks.row * height, blocks.col * width, blocks.height * height, blocks.width * width
        ).intersection(self.file)

    def count_readers(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return how many windows of a run touch each block, of the shape of ``all``.

        Args:
            rows: Rows [start, stop) of the windows in pixels of the file, shape (n, 2).
            cols: Columns of the windows, in the same way.
        """

        def count(first: int, number: int, edge: int, ranges: NDArray[np.intp]) -> NDArray[np.intp]:
            starts = (first + np.arange(number)[:, None]) * edge
            touches = (ranges[:, 0] < starts + edge) & (ranges[:, 1] > starts)
            return np.asarray(touches.sum(axis=1))

        height, width = self.shape
        down = count(self.all.row, self.all.height, height, rows)
        return np.multiply.outer(down, count(self.all.col, self.all.width, width, cols))

    def mask_without(self, found: dict[_Place, _Block]) -> NDArray[np.bool_]:
        """Return which blocks are not in ``found``, of the shape of ``all``."""
        mask = np.ones(self.all.shape, dtype=bool)
        for row, col in found:
            mask[row - self.all.row, col - self.all.col] = False
        return mask


def _choose_block_shape(file: OpenRaster, bands: list[int], most_pixels: int) -> tuple[int, int] | None:
    """Return the (height, width) of what is kept as one: whole blocks of all bands; None if that is too much."""
    shapes = {file.block_shapes[index - 1] for index in bands}
    if len(shapes) > 1:
        return None
    [(height, width)] = shapes
    least = _LEAST_VIRTUAL_EDGE if file.is_virtual else _LEAST_EDGE
    height, width = (edge * -(-least // edge) for edge in (height, width))
    rows, cols = file.grid.shape
    return (height, width) if min(height, rows) * min(width, cols) <= most_pixels else None


def _group(mask: NDArray[np.bool_], most: int) -> Iterator[Window]:
    """Yield rectangles that cover the True elements of a mask, each of them once.

    Args:
        mask: Shape (rows, columns).
        most: Elements of a rectangle at most; at least 1.
    """
    row = 0
    while row < len(mask):
        stop = row + 1
        while stop < len(mask) and np.array_equal(mask[stop], mask[row]):
            stop += 1
        edges = np.flatnonzero(np.diff(mask[row].astype(np.int8), prepend=0, append=0))
        for first, last in edges.reshape(-1, 2).tolist():
            for col in range(first, last, most):
                width = min(most, last - col)
                height = most // width
                for top in range(row, stop, height):
                    yield Window(top, col, min(height, stop - top), width)
        row = stop


def _copy(source: NDArray[Any], area: Window, target: NDArray[Any], window: Window) -> None:
    """Copy the pixels of ``area`` (bands, height, width) that lie in ``window`` to the array of that window."""
    common = area.intersection(window)
    target[:, *common.relative_to(window).to_slices()] = source[:, *common.relative_to(area).to_slices()]
