"""Merge small regions of a raster of labels into their neighbours, window by window.

The rule, of which the tests hold a plain version on the whole raster: every region smaller than the minimum takes the
label of a neighbour that is at least as large as the minimum. Of several it is the one with which the region shares the
longest border; of equal ones the larger one, then the one with the smaller label. This happens to all regions at once,
and again on the result, until nothing changes. A region that has only small neighbours is merged once one of them has
joined a large one. Regions stay small that have no large one within reach, such as an island of valid pixels in nodata.
Nodata is no region and takes part in nothing.

A round makes two passes over the windows. The first notes what one window cannot decide alone (``summarize_window``):
its regions at its borders, and those that they touch. The notes of all windows are joined
(``resolve_shared_regions``). The second pass gives the pixels their labels (``sieve_window``). Areas are sums without
rounding (``geometry/pixel_area.py``). So the result does not depend on where the windows lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.pixel_area import AreaArray
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.storage.atomic import atomic_write, open_npz
from seamline.pipeline.vectors.polygonize import SIDES, number_pieces, pack_window, sum_over_pieces, unpack_window


@dataclass(frozen=True)
class Contacts:
    """Which regions touch each other.

    Attributes:
        pairs: (n, 2) numbers of regions, each pair once.
        lengths: (n,) length of the border that a pair shares, in pixels.
    """

    pairs: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def from_pairs(cls, pairs: NDArray[np.int64], lengths: NDArray[np.int64] | None = None) -> Contacts:
        """Merge equal pairs and sum up their lengths.

        Args:
            pairs: (m, 2) numbers of regions, in any order, with repetitions.
            lengths: (m,) in pixels. ``None``: 1 for each pair.

        Returns:
            Each pair once, the smaller number first.
        """
        base = int(pairs.max(initial=0)) + 1
        keys, where = np.unique(pairs.min(axis=1) * base + pairs.max(axis=1), return_inverse=True)
        summed = np.bincount(where.ravel(), lengths, len(keys))
        return cls(np.column_stack([keys // base, keys % base]), summed.astype(np.int64))


@dataclass(frozen=True)
class WindowSummary:
    """What other windows must know of one: its shared regions.

    The shared regions of a window are those at its borders, in the order of their numbers, and after them the large
    ones inside that small regions at its borders touch.

    Attributes:
        window: the window in the scene.
        labels: label of each shared region.
        area: area of each shared region within the window.
        contacts: contacts of the shared regions, numbered from 0.
        edges: for each side the shared region of every pixel along it, numbered from 1; 0 for nodata.
        small: how many regions inside, which touch no border, are smaller than the minimum.
    """

    window: Window
    labels: NDArray[np.uint8]
    area: NDArray[np.float64]
    contacts: Contacts
    edges: dict[str, NDArray[np.int64]]
    small: int

    def save(self, path: Path) -> None:
        """Write the summary to an ``.npz`` file, which appears whole or not at all."""
        with atomic_write(path, shared=True) as part, part.open("wb") as file:
            np.savez(
                file,
                labels=self.labels,
                area=self.area,
                pairs=self.contacts.pairs,
                lengths=self.contacts.lengths,
                small=self.small,
                **pack_window(self.window, self.edges),
            )

    @classmethod
    def load(cls, path: Path) -> WindowSummary:
        """Read a summary from a file that ``save`` wrote."""
        with open_npz(path) as file:
            contacts = Contacts(file["pairs"], file["lengths"])
            window, edges = unpack_window(file)
            return cls(window, file["labels"], file["area"], contacts, edges, int(file["small"]))


@dataclass(frozen=True)
class WindowVerdict:
    """What one round decides about the shared regions of a window, in the order of its ``WindowSummary``.

    Attributes:
        labels: label that each region takes.
        area: area of the whole region, in all windows.
        numbers: number of the whole region; parts of it that touch only in other windows have the same.
    """

    labels: NDArray[np.uint8]
    area: NDArray[np.float64]
    numbers: NDArray[np.int32]


@dataclass(frozen=True)
class _WindowRegions:
    """The regions of one window, each cut at its borders.

    Attributes:
        numbers: (height, width) number of each pixel's region, from 1; 0 for nodata.
        labels: label of each region.
        area: area of each region within the window.
    """

    numbers: NDArray[np.int32]
    labels: NDArray[np.uint8]
    area: NDArray[np.float64]

    @classmethod
    def from_labels(cls, labels: NDArray[np.uint8], pixel_area: AreaArray) -> _WindowRegions:
        numbers, region_labels = number_pieces(labels)
        count = int(np.count_nonzero(region_labels != NODATA))
        numbers[numbers > count] = 0
        _, area, _ = sum_over_pieces(numbers, count, pixel_area)
        return cls(numbers, region_labels[:count], area)

    @property
    def at_border(self) -> NDArray[np.int64]:
        """Indices, from 0, of the regions that touch the border of the window."""
        numbers = np.unique(np.concatenate([self.numbers[side] for side in SIDES.values()]))
        return numbers[numbers > 0].astype(np.int64) - 1

    @property
    def contacts(self) -> Contacts:
        """Contacts between the regions, numbered from 0."""
        n = self.numbers
        pairs = []
        for one, other in ((n[:, :-1], n[:, 1:]), (n[:-1], n[1:])):
            touch = (one != other) & (one > 0) & (other > 0)
            pairs.append(np.column_stack([one[touch], other[touch]]))
        return Contacts.from_pairs(np.concatenate(pairs).astype(np.int64) - 1)


def summarize_window(window: Window, labels: NDArray[np.uint8], pixel_area: AreaArray, minimum: float) -> WindowSummary:
    """Summarize what other windows must know of one window.

    Args:
        window: the window in the scene.
        labels: (height, width).
        pixel_area: (height, width), the area of each pixel.
        minimum: area below which a region is small.

    Returns:
        The summary of the window.
    """
    regions = _WindowRegions.from_labels(labels, pixel_area)
    border, contacts = regions.at_border, regions.contacts
    at_border = np.zeros(len(regions.labels), np.bool_)
    at_border[border] = True
    small_at_border = at_border & (regions.area < minimum)
    # A region at the border may be large as a whole, however small its part in this window is.
    possible_target = at_border | (regions.area >= minimum)
    one, other = contacts.pairs.T
    needed = (small_at_border[one] & possible_target[other]) | (small_at_border[other] & possible_target[one])
    touched = np.unique(contacts.pairs[needed])
    shared = np.concatenate([border, touched[~at_border[touched]]])
    position = np.zeros(len(regions.labels) + 1, np.int64)
    position[shared + 1] = np.arange(len(shared)) + 1
    return WindowSummary(
        window,
        regions.labels[shared],
        regions.area[shared],
        Contacts(position[contacts.pairs[needed] + 1] - 1, contacts.lengths[needed]),
        {side: position[regions.numbers[index]] for side, index in SIDES.items()},
        int(np.count_nonzero(~at_border & (regions.area < minimum))),
    )


def _merge_small_regions(
    labels: NDArray[np.uint8], area: NDArray[np.float64], contacts: Contacts, minimum: float
) -> NDArray[np.uint8]:
    """Choose the label that each region takes in one round.

    Args:
        labels: label (n,) of each region.
        area: area (n,) of each region.
        contacts: contacts between the regions, numbered from 0.
        minimum: area below which a region is small.

    Returns:
        The label (n,) of each region after the round.
    """
    one = np.concatenate([contacts.pairs[:, 0], contacts.pairs[:, 1]])
    other = np.concatenate([contacts.pairs[:, 1], contacts.pairs[:, 0]])
    lengths = np.tile(contacts.lengths, 2)
    joins = (area[one] < minimum) & (area[other] >= minimum)
    one, other, lengths = one[joins], other[joins], lengths[joins]
    # By region, and of its neighbours the one to join first.
    order = np.lexsort((labels[other], -area[other], -lengths, one))
    small, first = np.unique(one[order], return_index=True)
    merged = labels.copy()
    merged[small] = labels[other[order][first]]
    return merged


def resolve_shared_regions(
    summaries: Iterable[WindowSummary], width: int, minimum: float
) -> tuple[list[WindowVerdict], bool]:
    """Decide about the regions that windows share.

    All summaries are held in memory: some 50 bytes for each region at the border of a window.

    Args:
        summaries: of the windows of a scene, row by row, from left to right.
        width: columns of the scene.
        minimum: area below which a region is small.

    Returns:
        A verdict for each window, in the order of the summaries, and whether any region of the scene is small.
    """
    joiner = _SummaryJoiner(width)
    for summary in summaries:
        joiner.add(summary)
    return joiner.resolve(minimum)


@dataclass
class _SummaryJoiner:
    """The shared regions of all windows of a scene, numbered from 0 in the order of the windows.

    Attributes:
        width: columns of the scene.
        counts: number of shared regions of each window.
        labels: their labels, by window.
        area: their areas within the window, by window.
        pairs: contacts within windows and across their borders.
        lengths: lengths of these contacts.
        same: pairs of regions of one label that touch across a border: parts of one region.
        small: how many regions inside windows are small.
        count: number of shared regions of all windows.
    """

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
        # First row: the number of each pixel's region along a border, from 1 through all windows. Second: its label.
        self._above, self._left = np.zeros((2, self.width), np.int64), np.zeros((2, 0), np.int64)

    def add(self, summary: WindowSummary) -> None:
        """Add a window and its contacts with the windows above and to the left."""
        before = self.count
        self.count += len(summary.labels)
        self.counts.append(len(summary.labels))
        self.labels.append(summary.labels)
        self.area.append(summary.area)
        self._add_contacts(summary.contacts.pairs + before, summary.contacts.lengths)
        self.small += summary.small
        numbers = np.append(0, np.arange(len(summary.labels)) + before + 1)
        labels = np.append(NODATA, summary.labels)
        edges = {side: np.stack([numbers[edge], labels[edge]]) for side, edge in summary.edges.items()}
        cols = slice(summary.window.col, summary.window.stop_col)
        if summary.window.row:
            self._add_border(self._above[:, cols], edges["top"])
        if summary.window.col:
            self._add_border(self._left, edges["left"])
        self._above[:, cols], self._left = edges["bottom"], edges["right"]

    def _add_contacts(self, pairs: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self.pairs.append(pairs)
        self.lengths.append(lengths)

    def _add_border(self, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        """Add what touches across a border, of which both sides are given as numbers and labels (2, n)."""
        both = (ours[0] > 0) & (theirs[0] > 0)
        pairs, alike = np.column_stack([ours[0], theirs[0]])[both] - 1, (ours[1] == theirs[1])[both]
        self.same.append(np.unique(pairs[alike], axis=0))
        touching = Contacts.from_pairs(pairs[~alike])
        self._add_contacts(touching.pairs, touching.lengths)

    def resolve(self, minimum: float) -> tuple[list[WindowVerdict], bool]:
        """Return a verdict for each window, and whether any region of the scene is small."""
        labels, areas = np.concatenate(self.labels), np.concatenate(self.area)
        same = np.concatenate([*self.same, np.zeros((0, 2), np.int64)])
        graph = coo_array((np.ones(len(same), np.bool_), (same[:, 0], same[:, 1])), (len(labels), len(labels)))
        count, region = connected_components(graph, directed=False)
        region_area = np.bincount(region, areas, count).astype(np.float64)
        region_label = np.zeros(count, np.uint8)
        region_label[region] = labels
        pairs = region[np.concatenate(self.pairs)].astype(np.int64)
        contacts = Contacts.from_pairs(pairs, np.concatenate(self.lengths))
        merged = _merge_small_regions(region_label, region_area, contacts, minimum)
        ends = np.cumsum(self.counts)[:-1]
        by_window = (np.split(values, ends) for values in (merged[region], region_area[region], region))
        verdicts = [WindowVerdict(*of_window) for of_window in zip(*by_window, strict=True)]
        return verdicts, self.small > 0 or bool((region_area < minimum).any())


def sieve_window(
    labels: NDArray[np.uint8], pixel_area: AreaArray, verdict: WindowVerdict, minimum: float
) -> NDArray[np.uint8]:
    """Return the labels of a window after a round.

    Args:
        labels: (height, width), as ``summarize_window`` had them.
        pixel_area: (height, width), the area of each pixel.
        verdict: what was decided about the regions that the window shares.
        minimum: area below which a region is small.

    Returns:
        New labels (height, width).
    """
    regions = _WindowRegions.from_labels(labels, pixel_area)
    border = regions.at_border
    area = regions.area.copy()
    area[border] = verdict.area[: len(border)]
    # Parts of one region that touch only in other windows share one border with a region inside.
    _, first, part_of = np.unique(verdict.numbers[: len(border)], return_index=True, return_inverse=True)
    whole = np.arange(len(area))
    whole[border] = border[first[part_of]]
    contacts = Contacts.from_pairs(whole[regions.contacts.pairs], regions.contacts.lengths)
    merged = _merge_small_regions(regions.labels, area, contacts, minimum)
    merged[border] = verdict.labels[: len(border)]
    return np.append(NODATA, merged).astype(np.uint8)[regions.numbers]
