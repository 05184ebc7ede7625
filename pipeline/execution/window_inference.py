"""Infer the labels of any window of an image that is in memory, independently of all other windows.

A run infers chunks: each tile once, with votes that are exchanged through files. Here nothing is exchanged. Every tile
that votes on the window is inferred, also where it votes on other windows too, so that windows can be computed lazily,
in any order, by anybody. Tiles lie where those of a run with the same tiling lie, and votes are integers: so a pixel
has the same label in every window, and the same as in a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.execution.predictor import Predictor
from seamline.pipeline.geometry.taper import make_taper
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.votes import FULL_VOTE, Array, argmax_classes, weighted_scores
from seamline.pipeline.geometry.window import Window, mirror_indices


@dataclass(frozen=True)
class InferredWindow:
    """What the network says of a window.

    Attributes:
        labels: class of each pixel, 255 where there is no data, shape (height, width).
        probabilities: of each class, NaN where there is no data, float32 of shape (classes, height, width).
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def _list_voters(tiling: Tiling, window: Window) -> list[Index]:
    """Return the tiles that vote on a pixel of a window inside the scene, row by row."""
    rows, cols = (
        range(max(0, (start - tiling.overlap) // tiling.stride), -(-stop // tiling.stride))
        for start, stop in ((window.row, window.stop_row), (window.col, window.stop_col))
    )
    tiles = (Index(row, col) for row in rows for col in cols)
    return [tile for tile in tiles if tiling.support_of(tile).intersection(window).pixel_count]


def find_source_window(tiling: Tiling, window: Window) -> Window:
    """Return the pixels inside the scene that the tiles which vote on a window read, mirrored ones included."""
    rows, cols = _list_sources(tiling, _join_windows(tiling, _list_voters(tiling, window)))
    top, left = int(rows.min()), int(cols.min())
    return Window(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)


def infer_window(
    tiling: Tiling,
    window: Window,
    numbers: NDArray[Any],
    has_data: NDArray[np.bool_],
    predictor: Predictor,
    classes: int,
) -> InferredWindow:
    """Infer the labels and probabilities of a window.

    Args:
        tiling: tiling of the whole image.
        window: pixels inside the image.
        numbers: digital numbers of ``find_source_window(tiling, window)``, (bands, height, width).
        has_data: where they are valid, (height, width).
        predictor: the network.
        classes: number of its classes.

    Returns:
        Labels and probabilities. Those of a pixel do not depend on the window.
    """
    tiles = _list_voters(tiling, window)
    inside = find_source_window(tiling, window)
    around = _join_windows(tiling, tiles)
    rows, cols = _list_sources(tiling, around)
    rows, cols = rows - inside.row, cols - inside.col
    pixels = numbers.take(rows, axis=1).take(cols, axis=2)
    valid = has_data.take(rows, axis=0).take(cols, axis=1)
    labelled = has_data[window.relative_to(inside).to_slices()]

    tiles = [tile for tile in tiles if _votes_on_data(tiling, tile, window, labelled)]
    if not tiles:
        return InferredWindow(
            np.full(window.shape, NODATA, np.uint8), np.full((classes, *window.shape), np.nan, np.float32)
        )
    places = [tiling.window_of(tile).relative_to(around).to_slices() for tile in tiles]
    with predictor.load(pixels, valid, valid, 8 * classes * window.pixel_count) as block:
        blend = _sum_votes if tiling.overlap else _put_together
        found = predictor.fetch(block, blend(tiling, window, tiles, predictor.infer(block, places), predictor)).result()
    labels, probabilities = found["labels"], found["probabilities"]
    return InferredWindow(np.where(labelled, labels, NODATA), np.where(labelled, probabilities, np.float32(np.nan)))


def _put_together(
    tiling: Tiling, window: Window, tiles: list[Index], predictions: Iterator[Array], predictor: Predictor
) -> dict[str, Array]:
    """Return labels and probabilities of a window in which no two tiles vote on one pixel, on the device."""
    labels: Array = None
    probabilities: Array = None
    for tile, scores in zip(tiles, predictions, strict=True):
        ours, theirs = _share(tiling, window, tile)
        here = scores[(..., *theirs)]
        shares = predictor.probabilities(here)
        if labels is None:  # the first tile shows on which device they live
            xp = array_namespace(shares)
            labels = xp.zeros(window.shape, dtype=xp.uint8, device=shares.device)
            probabilities = xp.zeros((shares.shape[0], *window.shape), dtype=xp.float32, device=shares.device)
        labels[ours] = argmax_classes(here)
        probabilities[(..., *ours)] = shares
    return {"labels": labels, "probabilities": probabilities}


def _sum_votes(
    tiling: Tiling, window: Window, tiles: list[Index], predictions: Iterator[Array], predictor: Predictor
) -> dict[str, Array]:
    """Return labels and probabilities of a window of the votes of overlapping tiles, on the device."""
    summed: Array = None
    for tile, scores in zip(tiles, predictions, strict=True):
        ours, theirs = _share(tiling, window, tile)
        down, across = (
            predictor.upload(np.ascontiguousarray(taper[part]))
            for taper, part in zip(_make_tapers(tiling, tile), theirs, strict=True)
        )
        cast = weighted_scores(predictor.probabilities(scores)[(..., *theirs)], down, across)
        if summed is None:  # the first tile shows on which device the sums live
            xp = array_namespace(cast)
            summed = xp.zeros((cast.shape[0], *window.shape), dtype=xp.int32, device=cast.device)
        summed[(..., *ours)] += cast
    xp = array_namespace(summed)
    return {"labels": argmax_classes(summed), "probabilities": xp.astype(summed, xp.float32) / FULL_VOTE}


def _share(tiling: Tiling, window: Window, tile: Index) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where in a window, and where in its support, a tile votes on pixels of the window."""
    support = tiling.support_of(tile)
    shared = support.intersection(window)
    return shared.relative_to(window).to_slices(), shared.relative_to(support).to_slices()


def _join_windows(tiling: Tiling, tiles: list[Index]) -> Window:
    first, last = tiling.window_of(tiles[0]), tiling.window_of(tiles[-1])
    return Window(first.row, first.col, last.stop_row - first.row, last.stop_col - first.col)


def _list_sources(tiling: Tiling, window: Window) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the scene that a window shows, mirrored where it overhangs."""
    return (
        mirror_indices(window.row, window.stop_row, tiling.height),
        mirror_indices(window.col, window.stop_col, tiling.width),
    )


def _votes_on_data(tiling: Tiling, tile: Index, window: Window, labelled: NDArray[np.bool_]) -> bool:
    shared = tiling.support_of(tile).intersection(window)
    return bool(labelled[shared.relative_to(window).to_slices()].any())


def _make_tapers(tiling: Tiling, tile: Index) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, cols = tiling.tile_grid
    down = make_taper(tiling.support, tiling.overlap, tile.row > 0, tile.row < rows - 1)
    return down, make_taper(tiling.support, tiling.overlap, tile.col > 0, tile.col < cols - 1)
