"""Fuse the labels and probabilities of scenes to those of a map, in integers: neither order nor split matter.

A pixel of a scene votes for each class with ``probability × margin × taper``:

- probability: digital number of the layer ``probabilities``, 0 to 250. Without that layer the label has 250.
- margin: 1 + the highest − the second highest probability of all classes, so that a clear decision counts more.
- taper: 4 to 256, grows with the distance to the nearest pixel without data or beyond the scene's edge, and is full
  from ``TAPER_WIDTH`` pixels on, so that no edge of a scene can be seen in the map.

Pixels of unseen classes (clouds, shadows) vote for nothing, and nothing votes for an unseen class. A pixel of the map
is observed by a scene if the scene's nearest pixel votes. Then it gets the votes of the four nearest pixels, weighted
bilinearly in ``POSITION_PARTS``² parts. The class with the most votes wins; of equal ones the first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.votes import argmax_classes
from seamline.pipeline.geometry.warp import NOWHERE, POSITION_PARTS

TAPER_WIDTH = 64
"""Distance in pixels of a scene from which on its votes count fully."""
CERTAIN = 250
"""Digital number of the probability 1."""
UNKNOWN_DATE = 65535
"""``last_date`` of pixels whose observations have no date, and of those without observations."""
MOST_OBSERVATIONS = 65534
"""Scenes that may be fused at a pixel: ``observations`` has 16 bits, and 65535 stands for nodata."""

_FULL_TAPER = 256
_PIXELS_AT_ONCE = 2**15
"""Pixels of the map that get votes at a time: what they need stays in a core's cache."""
_PARTS_PER_PIXEL = _FULL_TAPER // TAPER_WIDTH
_TAPERS = np.array([isqrt(_PARTS_PER_PIXEL**2 * square) for square in range(TAPER_WIDTH**2 + 1)], np.uint16)
"""Taper by squared distance."""


@dataclass(frozen=True)
class ScenePixels:
    """A window of a scene's results.

    Attributes:
        labels: values of classes (height, width) uint8, or ``NODATA``.
        probabilities: digital numbers (classes, height, width) uint8. ``None``: labels decide alone.
        taper: (height, width) uint16, 0 to 256, as ``compute_taper`` returns it for the window.
        row: row of the scene that the first row is.
        col: column of the scene that the first column is.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.uint8] | None
    taper: NDArray[np.uint16]
    row: int
    col: int

    def __post_init__(self) -> None:
        layers = () if self.probabilities is None else self.probabilities
        for name, array in {"taper": self.taper, **{f"layer {k}": layer for k, layer in enumerate(layers)}}.items():
            if array.shape != self.labels.shape:
                raise ValueError(f"{name} of shape {array.shape} beside labels of {self.labels.shape}")


@dataclass(frozen=True)
class FusedChunk:
    """The layers of a part of a map.

    Attributes:
        labels: values of classes (height, width) uint8; ``NODATA`` where nothing was observed.
        probabilities: share of the votes (classes, height, width) uint8, 250 for all; ``NODATA`` as in the labels.
        observations: how many scenes observed the pixel, (height, width) uint16.
        agreement: share of the observations whose own label is the map's, (height, width) uint8, 250 for all;
            ``NODATA`` as in the labels.
        last_date: day of the last observation, days since 1970-01-01, (height, width) uint16, or ``UNKNOWN_DATE``.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.uint8]
    observations: NDArray[np.uint16]
    agreement: NDArray[np.uint8]
    last_date: NDArray[np.uint16]

    @property
    def layers(self) -> dict[str, NDArray[np.uint8] | NDArray[np.uint16]]:
        """All arrays beside the labels by the names of their layers."""
        names = ("probabilities", "observations", "agreement", "last_date")
        return {name: getattr(self, name) for name in names}

    def mask(self, inside: NDArray[np.bool_]) -> FusedChunk:
        """Return the same without what lies outside of an area; ``inside`` (height, width) is True in it."""
        outside = ~inside
        return FusedChunk(
            labels=np.where(outside, NODATA, self.labels).astype(np.uint8),
            probabilities=np.where(outside, NODATA, self.probabilities).astype(np.uint8),
            observations=np.where(outside, 0, self.observations).astype(np.uint16),
            agreement=np.where(outside, NODATA, self.agreement).astype(np.uint8),
            last_date=np.where(outside, UNKNOWN_DATE, self.last_date).astype(np.uint16),
        )


def compute_taper(valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return the taper of the pixels of a window: 4 times the distance to the nearest invalid one, at most 256.

    Args:
        valid: the window and ``TAPER_WIDTH`` pixels more on each side, (height + 128, width + 128), False for pixels
            beyond the scene's edge.

    Returns:
        (height, width) of the window, 0 for pixels that are not valid.
    """
    height, width = (size - 2 * TAPER_WIDTH for size in valid.shape)
    taper = np.full((height, width), _FULL_TAPER, np.uint16)
    if valid.all():
        return taper
    across = _measure_distance_in_rows(valid)
    near = np.flatnonzero((across < TAPER_WIDTH).any(0))
    if not near.size:
        return taper
    cols = slice(near[0], near[-1] + 1)
    across = across[:, cols]
    squares = across * across
    nearest = squares[TAPER_WIDTH : TAPER_WIDTH + height].copy()
    for away in range(1, TAPER_WIDTH):
        for shift in (-away, away):
            there = squares[TAPER_WIDTH + shift : TAPER_WIDTH + shift + height]
            np.minimum(nearest, there + np.uint16(away * away), out=nearest)
    taper[:, cols] = _TAPERS[nearest]
    return taper


def _measure_distance_in_rows(valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return the distance to the next invalid pixel of the same row, at most ``TAPER_WIDTH``, without the margins."""
    width = valid.shape[1]
    own = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(valid, np.int32(-width), own), axis=1)
    right = np.minimum.accumulate(np.where(valid, np.int32(2 * width), own)[:, ::-1], axis=1)[:, ::-1]
    inner = slice(TAPER_WIDTH, width - TAPER_WIDTH)
    distance = np.minimum(own[inner] - left[:, inner], right[:, inner] - own[inner])
    return np.minimum(distance, TAPER_WIDTH).astype(np.uint16)


_Corners = tuple[tuple[NDArray[np.intp], NDArray[np.int64]], ...]
"""The four pixels of a window that are nearest to some positions, as indices of the flat window, with their weights."""


class ChunkFusion:
    """Sums of the votes of scenes for a part of a map. The order in which they are added does not matter.

    Args:
        classes: the classes of all scenes, in the order of their probabilities.
        unseen: positions of the classes that nobody votes for.
        shape: (height, width) of the part of the map.
    """

    def __init__(self, classes: Sequence[LabelClass], unseen: Collection[int], shape: tuple[int, int]) -> None:
        count = len(classes)
        self._shape = shape
        self._values = np.array([label.value for label in classes], np.uint8)
        # The last place stands for labels that are none of the classes.
        self._is_seen = np.array([position not in unseen for position in range(count)] + [False])
        self._positions = np.full(256, count, np.uint8)
        self._positions[self._values] = np.arange(count)
        self._votes = np.zeros((count, shape[0] * shape[1]), np.int64)
        self._own_labels = np.zeros(self._votes.shape, np.uint16)
        self._last_day = np.full(shape[0] * shape[1], -1, np.int32)

    def add(self, pixels: ScenePixels, rows: NDArray[np.int32], cols: NDArray[np.int32], day: int | None) -> None:
        """Add what a window of a scene votes for.

        Args:
            pixels: the window. It holds the four nearest pixels of each position, as far as they are in the scene.
            rows: positions of the map's pixels in the scene (height, width), as ``locate_pixels`` returns them;
                ``NOWHERE`` for those that get no votes of this window.
            cols: the other coordinates of these positions.
            day: when the scene was taken, in days since 1970-01-01. ``None``: unknown.

        Raises:
            ValueError: the window has probabilities of other classes, or does not hold a position.
        """
        positions = self._positions[pixels.labels.ravel()]
        scores = _list_scores(pixels, positions, len(self._values))
        if len(scores) != len(self._values):
            raise ValueError(f"probabilities of {len(scores)} classes, expected {len(self._values)}")
        weights = _measure_margin(scores) * pixels.taper.ravel()
        weights[~self._is_seen[positions]] = 0
        located = np.flatnonzero(rows != NOWHERE)
        for start in range(0, located.size, _PIXELS_AT_ONCE):
            at = located[start : start + _PIXELS_AT_ONCE]
            down = rows.ravel()[at].astype(np.intp) - POSITION_PARTS * pixels.row
            across = cols.ravel()[at].astype(np.intp) - POSITION_PARTS * pixels.col
            own = _find_nearest(down, across, pixels.labels.shape)
            is_valid = weights[own] > 0
            if is_valid.any():
                corners = _weigh_corners(down[is_valid], across[is_valid], weights.reshape(pixels.labels.shape))
                self._add_votes(at[is_valid], positions[own[is_valid]], scores, corners, day)

    def _add_votes(
        self,
        at: NDArray[np.intp],
        own: NDArray[np.uint8],
        scores: Sequence[NDArray[np.uint8]],
        corners: _Corners,
        day: int | None,
    ) -> None:
        """Add the votes for some pixels of the map.

        Args:
            at: indices of the pixels in the flat part of the map.
            own: positions of the classes that the scene has there.
            scores: probabilities of all pixels of the scene's window, by class.
            corners: where the votes come from.
            day: when the scene was taken.
        """
        total = np.zeros(at.size, np.int64)
        for position in np.flatnonzero(self._is_seen).tolist():
            votes = sum(scores[position][place] * weight for place, weight in corners)
            self._votes[position, at] += votes
            total += votes
        at, own = at[total > 0], own[total > 0]  # all, unless a damaged scene has no probability for its own labels
        self._own_labels[own, at] += 1
        if day is not None:
            self._last_day[at] = np.maximum(self._last_day[at], day)

    def finish(self) -> FusedChunk:
        """Return the layers that follow from the votes so far."""
        observations = self._own_labels.sum(0, dtype=np.uint16)
        # Where there are votes, an unseen class has none and loses.
        winners = argmax_classes(self._votes).astype(np.intp)
        total = np.maximum(self._votes.sum(0), 1)
        agreeing = np.take_along_axis(self._own_labels, winners[None], 0)[0]
        layers = {
            "labels": self._values[winners],
            "probabilities": np.stack([_to_share(votes, total) for votes in self._votes]),
            "agreement": _to_share(agreeing.astype(np.int64), np.maximum(observations, 1).astype(np.int64)),
        }
        for layer in layers.values():
            layer[..., observations == 0] = NODATA
        layers |= {"observations": observations, "last_date": self._last_day.astype(np.uint16)}
        return FusedChunk(**{name: layer.reshape(*layer.shape[:-1], *self._shape) for name, layer in layers.items()})


def _list_scores(pixels: ScenePixels, positions: NDArray[np.uint8], classes: int) -> list[NDArray[np.uint8]]:
    """Return the probabilities of all pixels of a window by class; without a layer of them those of the labels."""
    if pixels.probabilities is not None:
        return [layer.ravel() for layer in pixels.probabilities]
    return [np.where(positions == position, np.uint8(CERTAIN), np.uint8(0)) for position in range(classes)]


def _measure_margin(scores: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Return 1 + the highest − the second highest score; the second of a single class is 0."""
    best, second = scores[0], np.zeros_like(scores[0])
    for score in scores[1:]:
        second = np.maximum(second, np.minimum(best, score))
        best = np.maximum(best, score)
    return (best - second).astype(np.int64) + 1


def _find_nearest(down: NDArray[np.intp], across: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the pixels of a window that positions lie in, as indices of the flat window.

    Args:
        down: positions from the window's upper edge, in parts of pixels.
        across: positions from the window's left edge.
        shape: (height, width) of the window.

    Raises:
        ValueError: a position lies outside of the window.
    """
    row, col = down // POSITION_PARTS, across // POSITION_PARTS
    if row.min() < 0 or col.min() < 0 or row.max() >= shape[0] or col.max() >= shape[1]:
        raise ValueError(f"positions outside of a window of {shape}")
    return row * shape[1] + col


def _weigh_corners(down: NDArray[np.intp], across: NDArray[np.intp], weights: NDArray[np.int64]) -> _Corners:
    """Return the four pixels nearest to each position with their weights × their bilinear parts.

    Args:
        down: positions from the window's upper edge, in parts of pixels.
        across: positions from the window's left edge.
        weights: of the pixels of the window, (height, width). It is 0 for pixels beyond the window.
    """
    height, width = weights.shape
    corners = [
        (row * width + col, row_part * col_part)
        for row, row_part in _split(down, height)
        for col, col_part in _split(across, width)
    ]
    return tuple((place, weights.ravel()[place] * part) for place, part in corners)


def _split(at: NDArray[np.intp], size: int) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]:
    """Return the two pixels of an axis whose centres a position lies between, and its parts of each.

    Args:
        at: positions in parts of pixels.
        size: pixels of the axis. One beyond it has no part, and the next one stands for it.
    """
    first, part = np.divmod(at - POSITION_PARTS // 2, POSITION_PARTS)
    ends = ((first, POSITION_PARTS - part), (first + 1, part))
    return tuple((np.clip(end, 0, size - 1), np.where((end >= 0) & (end < size), share, 0)) for end, share in ends)


def _to_share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return part / whole in units of 1/250, rounded half up."""
    return ((2 * CERTAIN * part + whole) // (2 * whole)).astype(np.uint8)
