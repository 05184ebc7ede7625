"""What changed from one result to another: a raster of transitions, and how much of the ground each covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.analysis.lattice import Overlap, find_overlap
from seamline.pipeline.analysis.layer_reader import LayerReader
from seamline.pipeline.analysis.listing import NamedResult
from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.pixel_area import PixelAreas, measure_pixel_areas
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import LAYERS
from seamline.pipeline.products.zarr_store import LABELS_ARRAY

UNKNOWN = 2**16 - 1
"""Code of pixels that were not seen in one of the results, or whose agreement is too low."""
_AGREEMENT, _OBSERVATIONS = LAYERS["agreement"], LAYERS["observations"]
_BLOCK = 1024
_PALE = 0.7
"""Share of white in the colour of ground that has not changed."""


@dataclass(frozen=True)
class Transition:
    """Ground that went from one class to another, or stayed what it was.

    Attributes:
        before: Class in the first result.
        after: Class in the second result.
        value: Code in the raster of transitions.
        pixels: Number of pixels.
        area_m2: Area on the ellipsoid in m²; None if it is unknown.
        share: Share of the area, or else of the pixels, that both results have seen.
    """

    before: LabelClass
    after: LabelClass
    value: int
    pixels: int
    area_m2: float | None
    share: float

    @property
    def name(self) -> str:
        """Both classes as text."""
        return f"{self.before.name} → {self.after.name}"

    @property
    def color(self) -> tuple[int, int, int]:
        """The colour of the class that it became; paler where nothing has changed."""
        red, green, blue = self.after.color
        if self.before == self.after:
            red, green, blue = (round(255 * _PALE + part * (1 - _PALE)) for part in (red, green, blue))
        return red, green, blue


@dataclass(frozen=True)
class ResultPair:
    """Two results whose pixels can be compared.

    Attributes:
        before: The first result.
        after: The second result.
        min_agreement: Pixels are left out whose agreement is lower in either result; 0 leaves none out.
        overlap: Pixels that both have.
    """

    before: NamedResult
    after: NamedResult
    min_agreement: float
    overlap: Overlap

    @classmethod
    def of(cls, before: NamedResult, after: NamedResult, min_agreement: float) -> ResultPair:
        """Return two results as a pair, once it is checked that they can be compared.

        Args:
            before: The first result.
            after: The second result.
            min_agreement: The lowest agreement of pixels that are compared.

        Raises:
            InputError: They are one result, have no pixels or other classes in common, or lack the layer of agreement.
        """
        if before.published.folder == after.published.folder:
            raise InputError("change", got=f"{before.name} twice", expected="two results", fix="name two periods")
        if not 0 <= min_agreement <= 1:
            raise InputError("--min-agreement", got=min_agreement, expected="a share from 0 to 1", fix="correct it")
        classes = [
            ", ".join(f"{label.value} {label.name}" for label in result.published.classes) for result in (before, after)
        ]
        if classes[0] != classes[1]:
            what = f"classes of {before.name} and {after.name}"
            raise InputError(
                what, got=" and ".join(classes), expected="the same", fix="take results of one model's classes"
            )
        for result in (before, after) if min_agreement else ():
            names = (_AGREEMENT.name, _OBSERVATIONS.name)
            if missing := [name for name in names if name not in result.published.arrays]:
                raise InputError(
                    "--min-agreement",
                    got=f"no layer {missing[0]} of {result.name}",
                    expected="periods of maps, which have it",
                    fix="leave the option out",
                )
        return cls(before, after, min_agreement, find_overlap(before, after))

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes of both."""
        return self.before.published.classes

    @property
    def factor(self) -> int:
        """Code of a transition = factor × first label + second label: 100, or 256 where a label has three digits."""
        return 100 if max(label.value for label in self.classes) < 100 else 256

    def iterate_codes(self) -> Iterator[tuple[Window, NDArray[np.uint16]]]:
        """Yield windows of the overlap and the codes (height, width) of their pixels, block by block."""
        height, width = self.overlap.grid.shape
        for row in range(0, height, _BLOCK):
            for col in range(0, width, _BLOCK):
                window = Window(row, col, _BLOCK, _BLOCK).intersection(Window(0, 0, height, width))
                first = self._before.read(window.shift(self.overlap.before.row, self.overlap.before.col))
                second = self._after.read(window.shift(self.overlap.after.row, self.overlap.after.col))
                codes = first.astype(np.uint16) * self.factor + second
                codes[(first == NODATA) | (second == NODATA)] = UNKNOWN
                yield window, codes

    @cached_property
    def _before(self) -> _SureLabels:
        return _SureLabels(self.before, self.min_agreement)

    @cached_property
    def _after(self) -> _SureLabels:
        return _SureLabels(self.after, self.min_agreement)


class _SureLabels:
    """Labels of a result, ``NODATA`` where the agreement is too low or the label is of no class."""

    def __init__(self, result: NamedResult, min_agreement: float) -> None:
        self._labels = LayerReader(result.published, LABELS_ARRAY)
        self._agreement, self._observations = (
            LayerReader(result.published, layer.name) for layer in (_AGREEMENT, _OBSERVATIONS)
        )
        self._least = min_agreement
        self._table = np.full(NODATA + 1, NODATA, np.uint8)
        for label in result.published.classes:
            self._table[label.value] = label.value

    def read(self, window: Window) -> NDArray[np.uint8]:
        labels: NDArray[Any] = self._table[self._labels.read(window)]
        if self._least:
            agreement = self._agreement.read(window)
            shares = compute_agreed_shares(agreement, self._observations.read(window))
            labels[(agreement == _AGREEMENT.nodata) | (shares < self._least)] = NODATA
        return labels


def compute_agreed_shares(agreement: NDArray[np.uint8], observations: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the shares of observations whose label is that of the map, not rounded to parts of 250.

    How many observations that are follows from the rounded share and the number of all: exactly where these are fewer
    than 250, to a part in 500 of them where they are more.

    Args:
        agreement: digital numbers (height, width) of the layer of this name.
        observations: numbers (height, width) of observations.

    Returns:
        Shares (height, width) from 0 to 1; of no meaning where the agreement is nodata.
    """
    count = np.maximum(observations, 1).astype(np.int64)
    parts = round(1 / _AGREEMENT.scale)
    return np.asarray((2 * agreement.astype(np.int64) * count + parts) // (2 * parts) / count)


class TransitionCounter:
    """Counts the pixels of each transition and measures their area."""

    def __init__(self, pair: ResultPair) -> None:
        """Start with nothing.

        Args:
            pair: The results.
        """
        self._pair = pair
        self._areas: PixelAreas | None = measure_pixel_areas(pair.overlap.grid)
        self._pixels, self._area = np.zeros(UNKNOWN + 1, np.int64), np.zeros(UNKNOWN + 1)

    def add(self, window: Window, codes: NDArray[np.uint16]) -> None:
        """Count the codes (height, width) of a window of the overlap."""
        self._pixels += np.bincount(codes.ravel(), minlength=UNKNOWN + 1)
        if self._areas is not None:
            areas = self._areas.for_window(window)[0 : window.height]
            self._area += np.bincount(codes.ravel(), areas.ravel(), UNKNOWN + 1)

    def list_transitions(self) -> tuple[Transition, ...]:
        """Return the transitions that occur, those that stayed among them, by their codes."""
        weights = self._pixels if self._areas is None else self._area
        total = float(weights[:UNKNOWN].sum())
        found = []
        for before, after in _list_pairs(self._pair.classes):
            value = before.value * self._pair.factor + after.value
            if pixels := int(self._pixels[value]):
                area = None if self._areas is None else float(self._area[value])
                found.append(Transition(before, after, value, pixels, area, float(weights[value]) / total))
        return tuple(sorted(found, key=lambda transition: transition.value))


def _list_pairs(classes: Sequence[LabelClass]) -> list[tuple[LabelClass, LabelClass]]:
    return [(before, after) for before in classes for after in classes]
