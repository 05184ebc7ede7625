"""Small regions out of a raster of labels, window by window: each becomes a part of a neighbour.

The rule, of which the tests hold a plain version on the whole raster: every region smaller than the minimum takes the
label of that neighbour, of those at least as large as the minimum, with which it shares the longest border (of equals
the larger one, then the smaller label); all at once, and again on the result, until nothing changes. A region that
has only small neighbours waits until one of them has joined a large one. What is left small has no large one within
reach, as an island of valid pixels in nodata. Nodata is no region and takes part in nothing.

A round is two passes over the windows. The first notes what one window cannot decide alone (``summarize_window``): of the
regions at its borders, and of what they touch. These notes of all windows are joined (``resolve_shared_regions``). The second gives
the pixels their labels (``sieve_window``). Areas are sums without rounding (``areas.py``), so that the result
does not depend on where the windows lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.pixel_area import AreaArray
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.storage.atomic import atomic_write, open_npz
from seamline.pipeline.vectors.polygonize import SIDES, number_pieces, sum_over_pieces


@dataclass(frozen=True)
class Contacts:
    """Which regions touch: ``read_label_pairs`` (n, 2) of their numbers and ``lengths`` (n,) of the borders, in pixels."""

    pairs: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def from_pairs(cls, pairs: NDArray[np.int64], lengths: NDArray[np.int64] | None = None) -> Contacts:
        """Each pair once, whichever comes first in it, with the sum of its lengths (1 each where there are none)."""
        base = int(pairs.max(initial=0)) + 1
        keys, where = np.unique(pairs.min(axis=1) * base + pairs.max(axis=1), return_inverse=True)
        summed = np.bincount(where.ravel(), lengths, len(keys))
        return cls(np.column_stack([keys // base, keys % base]), summed.astype(np.int64))


@dataclass(frozen=True)
class WindowSummary:
    """What other windows must know of one.

    ``labels`` and ``area`` are those of its noted regions: first those at its borders, by number, then larger ones
    inside that these touch. ``edges`` has, for each side, the place among them of every pixel, counted from 1.
    ``small`` is how many regions inside are smaller than the minimum.
    """

    window: Window
    labels: NDArray[np.uint8]
    area: NDArray[np.float64]
    contacts: Contacts
    edges: dict[str, NDArray[np.int64]]
    small: int

    def save(self, path: Path) -> None:
        """Write to ``path``, which appears whole or not at all."""
        with atomic_write(path, shared=True) as part, part.open("wb") as file:
            np.savez(
                file, labels=self.labels, area=self.area, pairs=self.contacts.pairs, lengths=self.contacts.lengths,
                small=self.small, window=[getattr(self.window, at.name) for at in fields(Window)],
                **self.edges,  # type: ignore[arg-type]
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> WindowSummary:
        """What ``save`` wrote."""
        with open_npz(path) as file:
            contacts = Contacts(file["pairs"], file["lengths"])
            edges = {side: file[side] for side in SIDES}
            window = Window(*file["window"].tolist())
            return cls(window, file["labels"], file["area"], contacts, edges, int(file["small"]))


@dataclass(frozen=True)
class WindowVerdict:
    """What becomes of the noted regions of a window: their whole ``area``, and the ``labels`` that they take."""

    labels: NDArray[np.uint8]
    area: NDArray[np.float64]


@dataclass(frozen=True)
class _Regions:
    """The regions of one window: number 1 is the first of ``labels`` and ``area``."""

    numbers: NDArray[np.int32]
    labels: NDArray[np.uint8]
    area: NDArray[np.float64]

    @classmethod
    def of(cls, labels: NDArray[np.uint8], pixel_area: AreaArray) -> _Regions:
        numbers, kinds = number_pieces(labels)
        count = int(np.count_nonzero(kinds != NODATA))
        numbers[numbers > count] = 0
        return cls(numbers, kinds[:count], sum_over_pieces(numbers, count, pixel_area)[1])

    @property
    def at_border(self) -> NDArray[np.int64]:
        """Which touch the border of the window, counted from 0."""
        found = np.unique(np.concatenate([self.numbers[at] for at in SIDES.values()]))
        return found[found > 0].astype(np.int64) - 1

    @property
    def contacts(self) -> Contacts:
        """Of the regions with each other, counted from 0."""
        n = self.numbers
        pairs = [
            np.column_stack([one[meet], other[meet]])
            for one, other in ((n[:, :-1], n[:, 1:]), (n[:-1], n[1:]))
            for meet in [(one != other) & (one > 0) & (other > 0)]
        ]
        return Contacts.from_pairs(np.concatenate(pairs).astype(np.int64) - 1)


def summarize_window(window: Window, labels: NDArray[np.uint8], pixel_area: AreaArray, minimum: float) -> WindowSummary:
    """What other windows must know of this one: ``labels`` (height, width), ``pixel_area`` (height, width)."""
    regions = _Regions.of(labels, pixel_area)
    border, contacts = regions.at_border, regions.contacts
    at_border = np.zeros(len(regions.labels), np.bool_)
    at_border[border] = True
    open_small = at_border & (regions.area < minimum)
    target = at_border | (regions.area >= minimum)
    one, other = contacts.pairs.T
    told = (open_small[one] & target[other]) | (open_small[other] & target[one])
    touched = np.unique(contacts.pairs[told])
    noted = np.concatenate([border, touched[~at_border[touched]]])
    place = np.zeros(len(regions.labels) + 1, np.int64)
    place[noted + 1] = np.arange(len(noted)) + 1
    return WindowSummary(
        window, regions.labels[noted], regions.area[noted],
        Contacts(place[contacts.pairs[told] + 1] - 1, contacts.lengths[told]),
        {side: place[regions.numbers[at]] for side, at in SIDES.items()},
        int(np.count_nonzero(~at_border & (regions.area < minimum))),
    )  # fmt: skip


def merge_small_regions(
    labels: NDArray[np.uint8], area: NDArray[np.float64], contacts: Contacts, minimum: float
) -> NDArray[np.uint8]:
    """The label (n,) that each region takes."""
    one = np.concatenate([contacts.pairs[:, 0], contacts.pairs[:, 1]])
    other = np.concatenate([contacts.pairs[:, 1], contacts.pairs[:, 0]])
    lengths = np.tile(contacts.lengths, 2)
    joins = (area[one] < minimum) & (area[other] >= minimum)
    one, other, lengths = one[joins], other[joins], lengths[joins]
    best = np.lexsort((labels[other], -area[other], -lengths, one))
    small, first = np.unique(one[best], return_index=True)
    taken = labels.copy()
    taken[small] = labels[other[best][first]]
    return taken


def resolve_shared_regions(
    summaries: Iterable[WindowSummary], width: int, minimum: float
) -> tuple[list[WindowVerdict], bool]:
    """What becomes of the regions that windows share, and whether anything is small at all.

    Args:
        summaries: of the windows of a scene of ``width`` columns, row by row, left to right.
        minimum: area below which a region is small.

    Returns:
        A verdict for each window, in the order of the summaries. All notes are held in memory: of each region at the
        border of a window some 50 bytes.
    """
    notes = _SummaryJoiner(width)
    for summary in summaries:
        notes.take(summary)
    return notes.verdicts(minimum)


@dataclass
class _SummaryJoiner:
    """The noted regions of all windows, numbered through."""

    width: int
    counts: list[int] = field(default_factory=list)
    labels: list[NDArray[np.uint8]] = field(default_factory=list)
    area: list[NDArray[np.float64]] = field(default_factory=list)
    pairs: list[NDArray[np.int64]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    same: list[NDArray[np.int64]] = field(default_factory=list)
    small: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        # Along a border: the number of each pixel's region, counted from 1 through all windows, and its label.
        self._above, self._left = np.zeros((2, self.width), np.int64), np.zeros((2, 0), np.int64)

    def take(self, summary: WindowSummary) -> None:
        before = self.count
        self.count += len(summary.labels)
        self.counts.append(len(summary.labels))
        self.labels.append(summary.labels)
        self.area.append(summary.area)
        self._add(summary.contacts.pairs + before, summary.contacts.lengths)
        self.small += summary.small
        names = np.append(0, np.arange(len(summary.labels)) + before + 1)
        labels = np.append(NODATA, summary.labels)
        edges = {side: np.stack([names[at], labels[at]]) for side, at in summary.edges.items()}
        cols = slice(summary.window.col, summary.window.stop_col)
        if summary.window.row:
            self._meet(self._above[:, cols], edges["top"])
        if summary.window.col:
            self._meet(self._left, edges["left"])
        self._above[:, cols], self._left = edges["bottom"], edges["right"]

    def _add(self, pairs: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self.pairs.append(pairs)
        self.lengths.append(lengths)

    def _meet(self, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        """Note what lies on both sides of a border."""
        both = (ours[0] > 0) & (theirs[0] > 0)
        pairs, alike = np.column_stack([ours[0], theirs[0]])[both] - 1, (ours[1] == theirs[1])[both]
        self.same.append(np.unique(pairs[alike], axis=0))
        touching = Contacts.from_pairs(pairs[~alike])
        self._add(touching.pairs, touching.lengths)

    def verdicts(self, minimum: float) -> tuple[list[WindowVerdict], bool]:
        labels, areas = np.concatenate(self.labels), np.concatenate(self.area)
        same = np.concatenate([*self.same, np.zeros((0, 2), np.int64)])
        graph = coo_array((np.ones(len(same), np.bool_), (same[:, 0], same[:, 1])), (len(labels), len(labels)))
        count, region = connected_components(graph, directed=False)
        area = np.bincount(region, areas, count).astype(np.float64)
        label = np.zeros(count, np.uint8)
        label[region] = labels
        contacts = Contacts.from_pairs(
            region[np.concatenate(self.pairs)].astype(np.int64), np.concatenate(self.lengths)
        )
        taken = merge_small_regions(label, area, contacts, minimum)
        ends = np.cumsum(self.counts)[:-1]
        found = [WindowVerdict(*both) for both in zip(
            np.split(taken[region], ends), np.split(area[region], ends), strict=True
        )]  # fmt: skip
        return found, self.small > 0 or bool((area < minimum).any())


def sieve_window(
    labels: NDArray[np.uint8], pixel_area: AreaArray, verdict: WindowVerdict, minimum: float
) -> NDArray[np.uint8]:
    """The labels of a window after a round; ``labels`` and ``pixel_area`` as ``summarize_window`` was given them."""
    regions = _Regions.of(labels, pixel_area)
    border = regions.at_border
    area = regions.area.copy()
    area[border] = verdict.area[: len(border)]
    taken = merge_small_regions(regions.labels, area, regions.contacts, minimum)
    taken[border] = verdict.labels[: len(border)]
    return np.append(NODATA, taken).astype(np.uint8)[regions.numbers]
