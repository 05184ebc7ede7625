"""Voronoi mosaics that are pure functions of a seed and a pixel's position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.synthetic.noise import Bits, Field, hash_keys, uniform


@dataclass(frozen=True)
class VoronoiCells:
    """For each pixel (height, width) the nearest of scattered sites, and where in its cell the pixel lies.

    Attributes:
        key: Random bits of each site, shape (sites,).
        index: The nearest site.
        second: The second nearest site.
        down: Pixels below the nearest site.
        right: Pixels right of the nearest site.
        border: Pixels, approximately, to the border with the cell of the second nearest site.
    """

    key: Bits
    index: NDArray[np.intp]
    second: NDArray[np.intp]
    down: Field
    right: Field
    border: Field


def scatter_sites(rows: Field, cols: Field, spacing: float, *keys: int) -> tuple[Bits, Field, Field]:
    """Place one site at random in each square of a grid that covers all positions.

    Args:
        rows: Row positions in pixels, any shape.
        cols: Column positions in pixels, the same shape.
        spacing: Edge of the squares in pixels.
        *keys: Seed and further numbers that tell these sites from others.

    Returns:
        Random bits, row and column of each site, shape (sites,).
    """
    low = [int(np.floor(axis.min() / spacing)) - 2 for axis in (rows, cols)]
    high = [int(np.floor(axis.max() / spacing)) + 3 for axis in (rows, cols)]
    i, j = (axis.ravel() for axis in np.mgrid[low[0] : high[0], low[1] : high[1]])
    key = hash_keys(*keys, i, j)
    row, col = ((n + 0.1 + 0.8 * uniform(key, lane)) * spacing for lane, n in enumerate((i, j)))
    return key, row.astype(np.float32), col.astype(np.float32)


def distance_bounds(rows: Field, cols: Field, site_rows: Field, site_cols: Field) -> tuple[Field, Field]:
    """Return for each site bounds on its distance to any of the positions.

    Args:
        rows: Row positions in pixels, any shape.
        cols: Column positions in pixels, the same shape.
        site_rows: Rows of the sites, shape (sites,).
        site_cols: Columns of the sites, shape (sites,).

    Returns:
        Lower and upper bounds in pixels, shape (sites,).
    """
    spans = [(site - axis.min(), site - axis.max()) for site, axis in ((site_rows, rows), (site_cols, cols))]
    least = np.hypot(*(np.maximum(0, np.maximum(-low, high)) for low, high in spans))
    return least, np.hypot(*(np.maximum(abs(low), abs(high)) for low, high in spans))


def voronoi_cells(rows: Field, cols: Field, spacing: float, *keys: int) -> VoronoiCells:
    """Return the Voronoi cells of ``scatter_sites`` at positions that may be warped.

    Args:
        rows: Row positions in pixels, shape (height, width).
        cols: Column positions in pixels, shape (height, width).
        spacing: Pixels between neighbouring sites.
        *keys: Seed and further numbers that tell these sites from others.

    Raises:
        ValueError: The cells are so small that more than 256 sites are near the positions.
    """
    key, site_rows, site_cols = scatter_sites(rows, cols, spacing, *keys)
    closest, farthest = distance_bounds(rows, cols, site_rows, site_cols)
    # Sites that cannot be nearest or second nearest to any of the positions are left out.
    near = np.flatnonzero(closest <= np.partition(farthest, 1)[1])
    if len(near) > 256:
        raise ValueError(f"cells of {spacing} pixels are too small for {rows.shape[0]}×{rows.shape[1]} pixels")
    # Positive floats sort like their bits. The lowest eight bits of the squared distance are replaced by the position
    # of the site in ``near``, so that minimum and maximum keep distance and site together.
    first = np.full(rows.shape, np.iinfo(np.int32).max, dtype=np.int32)
    second = first
    for place, site in enumerate(near):
        down, right = rows - site_rows[site], cols - site_cols[site]
        packed = (down * down + right * right).view(np.int32) & np.int32(~255) | np.int32(place)
        second = np.minimum(second, np.maximum(first, packed))
        first = np.minimum(first, packed)
    index, following = near[first & 255], near[second & 255]
    border = (np.sqrt(second.view(np.float32)) - np.sqrt(first.view(np.float32))) * np.float32(0.5)
    return VoronoiCells(key, index, following, rows - site_rows[index], cols - site_cols[index], border)
