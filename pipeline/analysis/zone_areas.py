"""Areas of classes in zones, summed over the pixels of rasters on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.analysis.coverage import BandCoverage, ZoneEdges
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.pixel_area import PixelAreas
from seamline.pipeline.geometry.window import Window

_BLOCK, _MANY_RASTERS = 1024, 64
"""Edge of a block of pixels that is in memory at a time; it is half of it for more than so many rasters."""


class LabelReader(Protocol):
    """A raster of labels."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Return the labels (height, width) of a window."""


def sum_zone_areas(
    rasters: Sequence[LabelReader],
    areas: PixelAreas,
    zones: Mapping[int, ZoneEdges],
    values: Sequence[int],
    block: int = 0,
) -> dict[int, NDArray[np.float64]]:
    """Sum the areas that labels cover in zones; of a pixel that a zone covers in part, that part.

    Memory depends on the number of rasters, not on their size. The sums do not depend on the blocks, but for the
    rounding of double precision.

    Args:
        rasters: Rasters of one grid.
        areas: Areas of the pixels of that grid.
        zones: Edges of zones in pixels of the grid.
        values: Labels whose areas are wanted.
        block: Edge of the blocks that are read, in pixels. 0: as memory allows.

    Returns:
        Areas in m² (rasters, values) of each zone.
    """
    edge = block or (_BLOCK if len(rasters) <= _MANY_RASTERS else _BLOCK // 2)
    sums = {zone: np.zeros((len(rasters), len(values))) for zone in zones}
    for window, coverages in _iterate_blocks(areas.shape, zones, edge):
        labels = [raster.read(window) for raster in rasters]
        pixels = areas.for_window(window)[0 : window.height]
        for zone, part, coverage in coverages:
            rows, cols = part.relative_to(window).to_slices()
            covered = (coverage * pixels[rows, cols]).ravel()
            for number, raster in enumerate(labels):
                found = np.bincount(raster[rows, cols].ravel(), covered, NODATA + 1)
                sums[zone][number] += found[list(values)]
    return sums


_Coverage = tuple[int, Window, NDArray[np.float64]]
"""A zone, a window, and the covered shares of its pixels (height, width)."""


def _iterate_blocks(
    shape: tuple[int, int], zones: Mapping[int, ZoneEdges], edge: int
) -> Iterator[tuple[Window, Iterator[_Coverage]]]:
    """Yield windows that hold the zones' pixels in a block, and which those are. All of these must be read."""
    height, width = shape
    spans = {number: zone.rows for number, zone in zones.items()}
    for top in range(0, height, edge):
        rows = top, min(top + edge, height)
        bands = {
            number: BandCoverage(zones[number], rows, width)
            for number, (low, high) in spans.items()
            if low < rows[1] and high > rows[0]
        }
        for left in range(0, width, edge):
            cols = left, min(left + edge, width)
            parts = {number: part for number, band in bands.items() if (part := _find_window(band, cols)).pixel_count}
            if parts:
                yield _join_windows(list(parts.values())), _read_coverages(bands, parts, cols)


def _find_window(band: BandCoverage, cols: tuple[int, int]) -> Window:
    """Return the pixels around a zone in a block."""
    first, stop = max(cols[0], band.first_col), min(cols[1], band.stop_col)
    return Window(band.first_row, first, band.stop_row - band.first_row, max(0, stop - first))


def _join_windows(parts: Sequence[Window]) -> Window:
    row, col = min(part.row for part in parts), min(part.col for part in parts)
    return Window(row, col, max(part.stop_row for part in parts) - row, max(part.stop_col for part in parts) - col)


def _read_coverages(
    bands: Mapping[int, BandCoverage], parts: Mapping[int, Window], cols: tuple[int, int]
) -> Iterator[_Coverage]:
    for number, part in parts.items():
        coverage = bands[number].read(*cols)
        if coverage is not None:
            yield number, part, coverage
