"""How much context around a window the labels of a scene need: the effective radius of a network.

The receptive radius bounds how far a window's surroundings can change its output. Labels mostly change much less far
in; and for an unbounded network nothing but this measurement tells how wide a halo must be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seamline.model.engines.agreement import argmax_labels
from seamline.model.engines.candidates import choose_plain_settings
from seamline.model.engines.runtime import Runtime
from seamline.model.spec.config import EngineRequest, Radiometry
from seamline.model.spec.measurement import Sample
from seamline.model.spec.spec import ModelSpec

_PredictLabels = Callable[[int, int, int], NDArray[np.uint8]]
"""Top, left and edge of a window in the sample, in pixels, to its labels without the network's lost border."""


@dataclass(frozen=True)
class ContextMeter:
    """Measures on a sample of a scene which labels of a window more context would change. Picklable, for a worker.

    Labels are those of the plain network in float32, so that nothing but the context makes a difference.

    Attributes:
        spec: what the model is.
        folder: the model's folder.
        radiometry: meaning of the sample's digital numbers.
        request: device and engine that the user fixes; the rest of it is ignored.
        threads: threads of the network; 0 leaves them to the engine.
    """

    spec: ModelSpec
    folder: Path
    radiometry: Radiometry
    request: EngineRequest
    threads: int

    def __call__(self, sample: Sample, edge: int, margins: Sequence[int]) -> dict[int, float]:
        """Measure the share of labels that more context changes, among those at least a margin inside of the window.

        The window is the middle of the sample, with equally wide context on every side: a multiple of the network's
        divisor. It is compared with a prediction of the whole sample. If the network takes windows of one size only, it
        is compared with four windows in the sample's corners, on the pixels where these see more than the middle one.

        Args:
            sample: digital numbers (bands, N, N) and valid (N, N).
            edge: of the window, in pixels.
            margins: distances from the window's edge in pixels, each at least the border that the network loses.

        Returns:
            The share (0 to 1) for each margin, without those inside of which the sample has no data.

        Raises:
            ModelError: the network cannot run here.
        """
        lost = self.spec.network.least_halo
        predict = self._load_predictor(sample, lost)
        context = (len(sample[1]) - edge) // 2
        middle = predict(context, context, edge)
        if getattr(self.spec.network, "window", None) is not None:
            wide, sees_more = _predict_from_corners(predict, edge, context, lost)
        else:
            inside = slice(context, context + edge - 2 * lost)  # the whole sample's labels lack the lost border, too
            wide = predict(0, 0, len(sample[1]))[inside, inside]
            sees_more = np.ones_like(wide, np.bool_)
        inside = slice(context + lost, context + edge - lost)
        return _compute_changed_shares((middle != wide) & sees_more, sample[1][inside, inside], margins, lost)

    def _load_predictor(self, sample: Sample, lost: int) -> _PredictLabels:
        """Load the network and return a function that labels windows of the sample."""
        request = EngineRequest(self.request.device, engine=self.request.engine)
        settings = choose_plain_settings(self.spec.network, request, self.threads)
        runtime = Runtime(self.spec, self.folder, settings, self.radiometry, lost)
        pixels, valid = sample

        def predict(top: int, left: int, edge: int) -> NDArray[np.uint8]:
            window = (..., slice(top, top + edge), slice(left, left + edge))
            batches = [np.ascontiguousarray(pixels[window])], [np.ascontiguousarray(valid[window])]
            return argmax_labels(next(runtime.predict(*batches)))

        return predict


def _compute_changed_shares(
    changed: NDArray[np.bool_], valid: NDArray[np.bool_], margins: Sequence[int], lost: int
) -> dict[int, float]:
    """Return for each margin the share of changed pixels among the valid ones inside of it.

    Both arrays are windows without ``lost`` pixels on every side; margins are counted from the window's own edge.
    """
    extent = len(changed)
    shares = {}
    for margin in margins:
        inside = slice(margin - lost, extent + lost - margin)
        counted = valid[inside, inside]
        if counted.any():
            shares[margin] = float(changed[inside, inside][counted].mean())
    return shares


def _predict_from_corners(
    predict: _PredictLabels, edge: int, context: int, lost: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Label the middle window by four windows that lie ``context`` pixels up or down and left or right of it.

    Returns:
        For each pixel of the middle window, without the lost border, the label of that of the four windows in which
        it is farthest from the edge, and whether it is farther from the edge there than in the middle window.
    """
    positions = np.arange(lost, edge - lost)  # along one axis of the middle window
    # Distance of each position from the edge of a window before the middle one, and of a window behind it.
    distances = [np.minimum(positions + shift, edge - 1 - positions - shift) for shift in (context, -context)]
    choice = np.argmax(distances, axis=0)  # along one axis: 0 the window before, 1 the one behind
    labels = np.empty((len(positions),) * 2, np.uint8)
    for down in (0, 1):
        for right in (0, 1):
            rows, cols = np.flatnonzero(choice == down), np.flatnonzero(choice == right)
            view = predict(2 * context * down, 2 * context * right, edge)
            shift = (context * (1 - 2 * down), context * (1 - 2 * right))
            labels[np.ix_(rows, cols)] = view[np.ix_(rows + shift[0], cols + shift[1])]
    distance = np.max(distances, axis=0)
    middle_distance = np.minimum(positions, edge - 1 - positions)
    return labels, np.minimum.outer(distance, distance) > np.minimum.outer(middle_distance, middle_distance)
