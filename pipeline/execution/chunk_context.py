"""What a worker must know of a run to work on any of its chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.cluster.machine import CORES
from seamline.pipeline.cluster.workers import CHUNKS_AT_ONCE, count_readers
from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.layers import DISAGREEMENT
from seamline.pipeline.raster_io.block_cache import BlockCache
from seamline.pipeline.scenes.scene import Scene

Rasters = dict[str, NDArray[np.uint8]]
"""Arrays of a chunk by the name of their array in the store: labels (height, width), and layers beside them."""

QUICKLOOK = 1000
"""Most pixels of the longer side of a quicklook."""


@dataclass(frozen=True)
class Reading:
    """What the processes of a run may hold, and take to read its scene.

    Attributes:
        block_cache: bytes of decoded blocks that wait in a process for other chunks.
        processes: worker processes on one host, at most.
        network_threads: cores that the network takes in each process; None for all that there are.
        chunks_at_once: chunks that a process holds at once, if its worker has as many threads.
    """

    block_cache: int = 0
    processes: int = 1
    network_threads: int | None = None
    chunks_at_once: int = CHUNKS_AT_ONCE

    def __post_init__(self) -> None:
        if self.chunks_at_once < 1:
            raise ValueError(f"chunks_at_once: got {self.chunks_at_once}, expected at least 1")

    def make_cache(self, tiling: Tiling) -> BlockCache:
        """Return an empty cache for the chunks of a run; called in the process that reads them.

        The chunks that are read at once share the cores beside the network; one is inferred and one written meanwhile.
        """
        free = 0 if self.network_threads is None else CORES // self.processes - self.network_threads
        readers = count_readers(self.chunks_at_once)
        return BlockCache(*tiling.list_read_ranges(), self.block_cache, max(1, free // readers))


@dataclass(frozen=True)
class ChunkContext:
    """Everything that is the same for all chunks of a run. Picklable; it travels to each worker once.

    Attributes:
        scene: the scene that is segmented.
        tiling: its windows, tiles and chunks.
        classes: number of classes that the network distinguishes.
        directory: run directory in which workers keep what they have done.
        on_bad_block: what to do with a block of the source that cannot be read.
        layers: names of the rasters that are kept beside the labels.
        reading: what a process may hold, and take for reading.
    """

    scene: Scene
    tiling: Tiling
    classes: int
    directory: RunDirectory
    on_bad_block: Literal["fail", "nodata"] = "fail"
    layers: tuple[str, ...] = ()
    reading: Reading = Reading()

    @property
    def vote_channels(self) -> int:
        """Channels of the votes: one for each class, and one for squares if overlapping windows are compared."""
        return self.classes + (DISAGREEMENT in self.layers)

    @property
    def quicklook_step(self) -> int:
        """Step in pixels: the quicklook holds every n-th row and column of the scene."""
        return math.ceil(max(self.tiling.height, self.tiling.width) / QUICKLOOK)
