"""How much context around a tile the labels of a real scene need: the effective radius of a network.

The receptive radius says how far the world can reach into a window; how far it does, in labels, is mostly less, and
for an unbounded network it is all there is to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.model.engines.runtime import Runtime
from seamline.model.engines.tune import argmax_labels, choose_plain_settings
from seamline.model.spec.config import EngineRequest, Radiometry
from seamline.model.spec.measurement import Sample
from seamline.model.spec.spec import ModelSpec


@dataclass(frozen=True)
class ContextMeter:
    """Measures on a sample of a scene which labels of a window would change if it saw more; picklable, for a worker.

    The labels are those of the plain network in float32, so that what changes is the context alone.
    """

    spec: ModelSpec
    folder: Path
    radiometry: Radiometry
    wish: EngineRequest
    threads: int

    def __call__(self, sample: Sample, edge: int, margins: Sequence[int]) -> dict[int, float]:
        """For each margin the share of labels, that far and farther from a window's edge, that more context changes.

        The window lies in the middle of the sample, with the same width of it on every side: a multiple of the
        network's divisor. It is compared with the network's view of the whole sample; of a network that takes
        windows of one size, with those of four windows in the sample's corners, each where it sees more.

        Args:
            sample: digital numbers (bands, N, N) and valid (N, N).
            edge: of the window.
            margins: in pixels, from what the network's own border loses.

        Returns:
            Nothing for margins within which the sample has no data, and nothing at all where the narrowest has none.
        """
        lost = self.spec.network.least_halo
        wish = EngineRequest(self.wish.device, engine=self.wish.engine)
        runtime = Runtime(
            self.spec, self.folder, choose_plain_settings(self.spec.network, wish, self.threads), self.radiometry, lost
        )
        pixels, valid = sample
        around = (len(valid) - edge) // 2
        fixed = getattr(self.spec.network, "window", None) is not None

        def labels(top: int, left: int, size: int) -> NDArray[np.uint8]:
            """Of a window of the sample, without the border that the network loses."""
            part = (..., slice(top, top + size), slice(left, left + size))
            scores = next(runtime.predict([np.ascontiguousarray(pixels[part])], [np.ascontiguousarray(valid[part])]))
            return argmax_labels(scores)

        inside = slice(around + lost, around + edge - lost)
        own, more = labels(around, around, edge), np.ones((edge - 2 * lost,) * 2, np.bool_)
        if fixed:
            wide, more = _label_from_corners(labels, edge, around, lost)
        else:
            wide = labels(0, 0, len(valid))[around : around + edge - 2 * lost, around : around + edge - 2 * lost]
        changed, known = (own != wide) & more, valid[inside, inside]
        found = {}
        for margin in margins:
            within = slice(margin - lost, edge - lost - margin)
            there = known[within, within]
            if there.any():
                found[margin] = float(changed[within, within][there].mean())
        return found


def _label_from_corners(
    labels: Callable[[int, int, int], NDArray[np.uint8]], edge: int, around: int, lost: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Labels of the window in the middle as windows ``around`` pixels up or down and left or right of it see them.

    Of each pixel the one in which it is farthest from the edge; and whether it is farther there than in the middle.
    """
    places = np.arange(lost, edge - lost)  # in the window
    views = [np.minimum(places + shift, edge - 1 - places - shift) for shift in (around, -around)]
    nearer = np.argmax(views, axis=0)  # along an axis: 0 the window before, 1 the one behind
    seen, depth = np.empty((len(places),) * 2, np.uint8), np.max(views, axis=0)
    for down in (0, 1):
        for right in (0, 1):
            rows, cols = np.flatnonzero(nearer == down), np.flatnonzero(nearer == right)
            view = labels(2 * around * down, 2 * around * right, edge)
            shift = (around * (1 - 2 * down), around * (1 - 2 * right))
            seen[np.ix_(rows, cols)] = view[np.ix_(rows + shift[0], cols + shift[1])]
    own = np.minimum(places, edge - 1 - places)
    return seen, np.minimum.outer(depth, depth) > np.minimum.outer(own, own)
