"""What a worker must know of a run to work on any of its chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.execution.run_directory import RunDirectory
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.layers import DISAGREEMENT
from seamline.pipeline.scenes.scene import Scene

Rasters = dict[str, NDArray[np.uint8]]
"""Arrays of a chunk by the name of their array in the store: labels (height, width), and layers beside them."""

QUICKLOOK = 1000
"""Most pixels of the longer side of a quicklook."""


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
    """

    scene: Scene
    tiling: Tiling
    classes: int
    directory: RunDirectory
    on_bad_block: Literal["fail", "nodata"] = "fail"
    layers: tuple[str, ...] = ()

    @property
    def vote_channels(self) -> int:
        """Channels of the votes: one for each class, and one for squares if overlapping windows are compared."""
        return self.classes + (DISAGREEMENT in self.layers)

    @property
    def quicklook_step(self) -> int:
        """Step in pixels: the quicklook holds every n-th row and column of the scene."""
        return math.ceil(max(self.tiling.height, self.tiling.width) / QUICKLOOK)
