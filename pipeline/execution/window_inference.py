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
from seamline.pipeline.execution.chunk_inference import OnDevice
from seamline.pipeline.execution.predictor import Predictor
from seamline.pipeline.geometry.taper import DeviceTapers
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.votes import FULL_VOTE, Array, argmax_classes, weighted_scores
from seamline.pipeline.geometry.window import Window, find_mirrored, mirror_pixels


@dataclass(frozen=True)
class InferredWindow:
    """What the network says of a window.

    Attributes:
        labels: class of each pixel, 255 where there is no data, shape (height, width).
        probabilities: of each class, NaN where there is no data, float32 of shape (classes, height, width).
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def find_source_window(tiling: Tiling, window: Window) -> Window:
    """Return the pixels inside the scene that the tiles which vote on a window read, mirrored ones included."""
    return find_mirrored(_find_read_window(tiling, window), tiling.scene_window.shape)


def infer_window(
    tiling: Tiling,
    window: Window,
    numbers: NDArray[Any],
    has_data: NDArray[np.bool_],
    predictor: Predictor,
    on_device: OnDevice,
    classes: int,
) -> InferredWindow:
    """Infer the labels and probabilities of a window.

    Args:
        tiling: tiling of the whole image.
        window: pixels inside the image.
        numbers: digital numbers of ``find_source_window(tiling, window)``, (bands, height, width).
        has_data: where they are valid, (height, width).
        predictor: the network.
        on_device: runs a callable on the inference thread.
        classes: number of the network's classes.

    Returns:
        Labels and probabilities. Those of a pixel do not depend on the window.
    """
    around, inside = _find_read_window(tiling, window), find_source_window(tiling, window)
    pixels, valid = (mirror_pixels(part, inside, around, tiling.scene_window.shape) for part in (numbers, has_data))
    labelled = has_data[window.relative_to(inside).to_slices()]

    def votes_on_data(tile: Index) -> bool:
        return bool(labelled[tiling.support_of(tile).intersection(window).relative_to(window).to_slices()].any())

    tiles = list(filter(votes_on_data, tiling.voters_on(window)))
    if not tiles:
        missing = np.full((classes, *window.shape), np.nan, np.float32)
        return InferredWindow(np.full(window.shape, NODATA, np.uint8), missing)
    places = [tiling.window_of(tile).relative_to(around).to_slices() for tile in tiles]
    blend = _sum_votes if tiling.overlap else _put_together
    with predictor.load(pixels, valid, valid, 8 * classes * window.pixel_count) as block:
        found = on_device(
            lambda: predictor.fetch(block, blend(tiling, window, tiles, predictor.infer(block, places), predictor))
        ).result()
    labels, probabilities = found["labels"], found["probabilities"]
    return InferredWindow(np.where(labelled, labels, NODATA), np.where(labelled, probabilities, np.float32(np.nan)))


def _find_read_window(tiling: Tiling, window: Window) -> Window:
    """Return the pixels that the tiles which vote on a window read; they may overhang the scene."""
    tiles = tiling.voters_on(window)
    return tiling.read_window_between(tiles[0], tiles[-1])


def _put_together(
    tiling: Tiling, window: Window, tiles: list[Index], predictions: Iterator[Array], predictor: Predictor
) -> dict[str, Array]:
    """Return labels and probabilities of a window in which no two tiles vote on one pixel, on the device."""
    labels: Array = None
    probabilities: Array = None
    for tile, scores in zip(tiles, predictions, strict=True):
        ours, theirs = _share(tiling, window, tile)
        shares = predictor.probabilities(scores)[(..., *theirs)]  # those of a part may be rounded in another way
        if labels is None:  # the first tile shows on which device they live
            xp = array_namespace(shares)
            labels = xp.zeros(window.shape, dtype=xp.uint8, device=shares.device)
            probabilities = xp.zeros((shares.shape[0], *window.shape), dtype=xp.float32, device=shares.device)
        labels[ours] = argmax_classes(scores[(..., *theirs)])
        probabilities[(..., *ours)] = shares
    return {"labels": labels, "probabilities": probabilities}


def _sum_votes(
    tiling: Tiling, window: Window, tiles: list[Index], predictions: Iterator[Array], predictor: Predictor
) -> dict[str, Array]:
    """Return labels and probabilities of a window of the votes of overlapping tiles, on the device."""
    summed: Array = None
    tapers = DeviceTapers(tiling, predictor.upload)
    for tile, scores in zip(tiles, predictions, strict=True):
        ours, theirs = _share(tiling, window, tile)
        down, across = tapers.of(tile, tiling.support_of(tile))
        cast = weighted_scores(predictor.probabilities(scores)[(..., *theirs)], down[theirs[0]], across[theirs[1]])
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
