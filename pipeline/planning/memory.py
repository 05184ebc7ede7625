"""Project what a worker needs of memory, and refuse a tiling that needs more than there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.raster_io.block_cache import REQUEST_BYTES

_MEMORY_HEADROOM = 1.3
"""Factor on the projected memory, since the C library keeps freed memory in pieces (``keep_freed_memory`` of
``pipeline.cluster.inference_thread``)."""

_RASTER_CACHE = 64 * 2**20
"""Bytes of decoded blocks that GDAL caches."""

_MOST_BLOCK_CACHE = 384 * 2**20
"""Bytes of decoded blocks that wait for other chunks at most. With six bands of 16 bits that are the blocks of up to
1024² pixels along the lower edges of six chunks of 2048², or all strips that a row of them reads in 10,980 columns."""

_LEAST_BLOCK_CACHE = 16 * 2**20
"""Bytes below which hardly any block could wait."""


class Costs(Protocol):
    """What was measured of a network on a worker. Windows are given by their edge in pixels."""

    @property
    def process_bytes(self) -> int:
        """Bytes of the process with the network loaded."""
        ...

    def forward_bytes(self, window: int) -> int:
        """Return the bytes that the forward of a batch of windows adds to the process."""
        ...

    def fits(self, window: int) -> bool:
        """Return whether a batch of windows fits into the memory of the device; true without one."""
        ...

    def seconds_for(self, window: int) -> float:
        """Return the seconds for one window."""
        ...


@dataclass(frozen=True)
class Raster:
    """The size of a scene and of what is made of it.

    Attributes:
        height: rows of the scene.
        width: columns of the scene.
        bands: bands that the network reads.
        itemsize: bytes of a digital number.
        classes: classes of the network.
        layers: bands of the layers that are written beside the labels.
    """

    height: int
    width: int
    bands: int
    itemsize: int
    classes: int
    layers: int = 0


def project_memory(
    raster: Raster, tiling: Tiling, costs: Costs, block_cache: int = 0, chunks_at_once: int = CHUNKS_AT_ONCE
) -> int:
    """Return the bytes that one worker process needs at most.

    They hold the network, the largest forward and the chunks that a process works on at once.

    Args:
        raster: the scene and what is made of it.
        tiling: the tiling of the run.
        costs: what was measured of the network.
        block_cache: bytes of decoded blocks that wait for other chunks.
        chunks_at_once: chunks that the process holds at once.

    Returns:
        Bytes, with headroom.
    """
    read_edge = min(tiling.chunk_tiles, max(tiling.tile_grid)) * tiling.stride + tiling.overlap + 2 * tiling.halo
    pixels = min(tiling.chunk_size, raster.height) * min(tiling.chunk_size, raster.width)
    block = read_edge**2 * (raster.bands * raster.itemsize + 1)
    labels = pixels * (3 + 2 * raster.layers)
    vote_channels = raster.classes + 1  # one more for the squares, from which the disagreement is computed
    votes = 2 * 4 * vote_channels * pixels if tiling.overlap else 0
    # Beside its pixels, arrays of their size while they are read: masks of all bands, or a band that is interpolated.
    # On its way to a device it exists once, and once in pinned memory, which torch rounds up to a power of two.
    chunk = 3 * block + labels + votes
    # Weighing the votes of one tile takes its probabilities, their products and the rounded products as float64.
    weighing = 3 * 8 * raster.classes * tiling.support**2 if tiling.overlap or raster.layers else 0
    network = costs.forward_bytes(tiling.window) + weighing
    caches = _RASTER_CACHE + (block_cache + chunks_at_once * REQUEST_BYTES if block_cache else 0)
    return int(_MEMORY_HEADROOM * (costs.process_bytes + network + chunks_at_once * chunk + caches))


def choose_block_cache(
    raster: Raster, tiling: Tiling, costs: Costs, memory: int, chunks_at_once: int = CHUNKS_AT_ONCE
) -> int:
    """Return the bytes of decoded blocks that may wait for other chunks: 0 where there is one chunk, or no room.

    Args:
        raster: the scene and what is made of it.
        tiling: the tiling of the run.
        costs: what was measured of the network.
        memory: bytes that a worker may take.
        chunks_at_once: chunks that a process holds at once.
    """
    if tiling.chunk_grid == (1, 1):
        return 0
    spare = memory - project_memory(raster, tiling, costs, chunks_at_once=chunks_at_once)
    room = int(spare / _MEMORY_HEADROOM) - chunks_at_once * REQUEST_BYTES
    most = min(room, _MOST_BLOCK_CACHE, raster.height * raster.width * raster.bands * raster.itemsize)
    return most if most >= _LEAST_BLOCK_CACHE else 0


def check_memory(raster: Raster, tiling: Tiling, costs: Costs, memory: int) -> None:
    """Refuse a tiling that needs more memory than a worker has.

    Args:
        raster: the scene and what is made of it.
        tiling: the tiling of the run.
        costs: what was measured of the network.
        memory: bytes that a worker may take.

    Raises:
        InputError: the tiling needs more.
    """
    needed = project_memory(raster, tiling, costs)
    if needed > memory:
        tiles = f"windows of {tiling.window} in chunks of {tiling.chunk_tiles}² tiles"
        raise InputError(
            "memory of a worker",
            got=f"{memory / 2**30:.1f} GiB",
            expected=f"{needed / 2**30:.1f} GiB for {tiles}",
            fix="take a smaller --window or --chunk-tiles, or fewer --workers",
        )
