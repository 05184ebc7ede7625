"""Where pixels of a map lie in a scene of another CRS: the same for a pixel whatever window of the map is asked for.

PROJ transforms nodes of a lattice that is fixed to the map's pixels, and places between them are interpolated. Where
that is not exact enough, blocks of the lattice are cut into quarters. GDAL's warper is not used: its lattice depends on
the window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.grid import SceneLocator
from seamline.pipeline.geometry.map_grid import MapGrid
from seamline.pipeline.geometry.window import Blocks, Window

POSITION_PARTS = 64
"""Parts of a scene's pixel in which positions are given."""
NOWHERE = int(np.iinfo(np.int32).min)
"""Position of a pixel that lies outside of a scene."""
_BLOCK, _SMALLEST = 64, 8
"""Pixels along the edge of the largest and the smallest blocks that are interpolated."""
_ERROR = 0.01
"""Scene pixels by which interpolation may miss a position."""
_CHECKED = np.array([[0, 0, 4, 4, 0, 2, 2, 2, 4, 1, 1, 3, 3], [0, 4, 0, 4, 2, 0, 2, 4, 2, 1, 3, 1, 3]]) / 4
"""Rows and columns of places in a block of size 1: corners, middles of edges, centre, and centres of its quarters. At
these a block is seen to bend whose halves bend in opposite directions."""
_SNAP = 1e-6
"""Parts. A position this close to the middle between two parts is rounded up."""


def locate_pixels(grid: MapGrid, window: Window, scene: GeoBox) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return where the centres of a map's pixels lie in a scene, to a hundredth of a pixel and half a part.

    Args:
        grid: The grid of the map.
        window: Pixels of the map.
        scene: The grid of the scene, which has a CRS.

    Returns:
        Rows and columns, each (height, width), in parts of the scene's pixels from its upper left corner: the centre of
        the first pixel is at 32. ``NOWHERE``, in both, outside of the scene and where the map is not on Earth.

    Raises:
        InputError: PROJ cannot transform between the CRS, or the scene is too large.
    """
    if max(scene.shape) >= 2**31 // POSITION_PARTS:
        most = 2**31 // POSITION_PARTS - 1
        raise InputError("size of a scene", got=scene.shape, expected=f"at most {most} pixels a side", fix="cut it")
    in_lattice = window.shift(grid.top, grid.left)
    locator = SceneLocator.of(grid.crs, grid.resolution, scene)
    if locator.link.transformer is None:
        row = np.arange(in_lattice.row, in_lattice.stop_row, dtype=np.float64)[:, None] + 0.5
        col = np.arange(in_lattice.col, in_lattice.stop_col, dtype=np.float64) + 0.5
        positions = locator.locate(*np.broadcast_arrays(row, col))
    else:
        positions = _interpolate(locator, in_lattice)
    with np.errstate(invalid="ignore"):
        parts = np.floor(positions * POSITION_PARTS + (0.5 + _SNAP))
        size = POSITION_PARTS * np.array(scene.shape)[:, None, None]
        inside = ((parts >= 0) & (parts < size)).all(axis=0)
    rows, cols = np.where(inside, parts, NOWHERE).astype(np.int32)
    return rows, cols


def _interpolate(locator: SceneLocator, window: Window) -> NDArray[np.float64]:
    """Return rows and columns in pixels of a scene, (2, height, width), of the centres of a window's pixels.

    Args:
        locator: Where places of the map are in the scene.
        window: Pixels of the map's lattice.
    """
    row, col = window.row // _BLOCK * _BLOCK, window.col // _BLOCK * _BLOCK
    rows, cols = np.arange(row, window.stop_row, _BLOCK), np.arange(col, window.stop_col, _BLOCK)
    positions = np.empty((2, len(rows) * _BLOCK, len(cols) * _BLOCK))
    top, left = np.meshgrid(rows, cols, indexing="ij")
    blocks = Blocks(top.ravel(), left.ravel(), _BLOCK)
    while True:
        corners, error = _measure(locator, blocks)
        is_exact = error <= _ERROR
        exact, blocks = blocks.select(is_exact), blocks.select(~is_exact)
        _fill(positions, exact.shift(-row, -col), _interpolate_blocks(corners[:, is_exact], exact.size))
        if blocks.size == _SMALLEST or not len(blocks.row):
            break
        blocks = blocks.divide()
        blocks = blocks.select(blocks.meet(window))
    _fill(
        positions,
        blocks.shift(-row, -col),
        locator.locate(*blocks.place(np.linspace(0.5, blocks.size - 0.5, blocks.size))),
    )
    whole = Window(row, col, *positions.shape[1:])
    return positions[:, *window.relative_to(whole).to_slices()]


def _measure(locator: SceneLocator, blocks: Blocks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of blocks in a scene, and by how much interpolation between them misses other places.

    Returns:
        Corners (2, n, 2, 2), and the largest error in pixels of the scene (n,), not finite if a place is nowhere.
    """
    down, right = _CHECKED
    places = locator.locate(blocks.row[:, None] + blocks.size * down, blocks.col[:, None] + blocks.size * right)
    corners = places[..., :4].reshape(2, -1, 2, 2)
    with np.errstate(invalid="ignore"):
        edges = corners[..., 0, :, None] + down * (corners[..., 1, :, None] - corners[..., 0, :, None])
        flat = edges[..., 0, :] + right * (edges[..., 1, :] - edges[..., 0, :])
        return corners, np.abs(places - flat).max(axis=(0, 2))


def _interpolate_blocks(corners: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the positions of the centres of all pixels of blocks, (2, n, size, size), from their corners."""
    share = (np.arange(size) + 0.5) / size
    edges = corners[..., 0, :, None] + share * (corners[..., 1, :, None] - corners[..., 0, :, None])
    positions: NDArray[np.float64] = (edges[..., 1, :] - edges[..., 0, :])[..., None] * share
    positions += edges[..., 0, :, None]
    return positions


def _fill(positions: NDArray[np.float64], blocks: Blocks, values: NDArray[np.float64]) -> None:
    """Write values (2, n, size, size) of blocks to where the blocks lie."""
    at = np.arange(blocks.size)
    positions[:, blocks.row[:, None, None] + at[:, None], blocks.col[:, None, None] + at] = values
