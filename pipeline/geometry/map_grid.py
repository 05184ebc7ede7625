"""The grid of a map of many scenes: whole multiples of its resolution, worked on in chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import odc.geo.crs
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.pipeline.geometry.tiling import Index
from seamline.pipeline.geometry.window import Window

CHUNK = 512
"""Edge of a chunk in pixels."""


@dataclass(frozen=True)
class MapGrid:
    """A rectangle of pixels of the lattice of a resolution.

    Attributes:
        crs: its CRS.
        resolution: edge of a pixel in units of the CRS.
        left: first column of the lattice: x = left · resolution.
        top: first row of the lattice: y = −top · resolution.
        width: number of columns.
        height: number of rows.
    """

    crs: odc.geo.crs.CRS
    resolution: float
    left: int
    top: int
    width: int
    height: int

    @property
    def geobox(self) -> GeoBox:
        """The grid as odc-geo has it."""
        step = self.resolution
        return GeoBox(
            (self.height, self.width), Affine(step, 0, self.left * step, 0, -step, -self.top * step), self.crs
        )

    @property
    def chunks(self) -> list[Index]:
        """All chunks, row by row."""
        rows, cols = math.ceil(self.height / CHUNK), math.ceil(self.width / CHUNK)
        return [Index(row, col) for row in range(rows) for col in range(cols)]

    def window_of(self, chunk: Index) -> Window:
        """Return the pixels of a chunk, counted from the first of the map."""
        row, col = chunk.row * CHUNK, chunk.col * CHUNK
        return Window(row, col, min(CHUNK, self.height - row), min(CHUNK, self.width - col))


def list_touched_chunks(grid: MapGrid, scene: GeoBox) -> list[Index]:
    """Return the chunks that hold the centre of a pixel inside a scene; may name a few more, never fewer."""
    left, bottom, right, top = scene.extent.to_crs(grid.crs, scene.resolution.x * 16).boundingbox.bbox
    box = Window(
        math.floor(-top / grid.resolution) - 1 - grid.top,
        math.floor(left / grid.resolution) - 1 - grid.left,
        math.ceil((top - bottom) / grid.resolution) + 3,
        math.ceil((right - left) / grid.resolution) + 3,
    )
    return [chunk for chunk in grid.chunks if grid.window_of(chunk).intersection(box).pixel_count]
