"""What a run can say beside the labels: how probable, how sure, and where tiling mattered.

Every layer is uint8, value × ``LAYER_SCALE``, ``NODATA`` where there is no label.

- ``probabilities``, one for each class.
- ``confidence``: the margin between the two most probable classes.
- ``disagreement``: how far the windows that vote on a pixel were apart, before they were blended: the root of the
  variance of their probabilities, weighted by their tapers and summed over the classes,
  √(Σ_w t_w Σ_c p_wc² − Σ_c p̄_c²). 0 where one window votes alone, and for a network that its halo covers; 0.71 where
  two windows of equal weight are certain of different classes.

The sums of squares are votes of a channel of their own (``blend.weighted_squares``): integers, so that layers, as labels, do not
depend on chunks, workers or order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from seamline.pipeline.geometry.votes import FULL_VOTE, Array

LAYER_SCALE = 0.004
"""Of a layer's digital numbers: 250 is 1."""

_ROWS_AT_ONCE = 256
"""Rows that are worked on at once, in double precision."""


@dataclass(frozen=True)
class Layer:
    """A raster beside the labels; ``per_class``: (classes, height, width) instead of (height, width).

    ``colormap`` is the one of matplotlib's that shows it, from 0 to ``brightest`` and what lies above.
    """

    name: str
    title: str
    colormap: str
    per_class: bool = False
    brightest: float = 1.0

    def shape(self, classes: int, height: int, width: int) -> tuple[int, ...]:
        """Of the layer's array."""
        return (classes, height, width) if self.per_class else (height, width)


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("probabilities", "probability of each class", "viridis", per_class=True),
        Layer("confidence", "margin between the two most probable classes", "viridis"),
        # Two windows that are certain of different classes have 0.71.
        Layer("disagreement", "how far overlapping windows differed before they were blended", "magma", brightest=0.25),
    )
}
CONFIDENCE, DISAGREEMENT = "confidence", "disagreement"


def compute_layers(names: Sequence[str], probabilities: Array, disagreement: Array | None = None) -> dict[str, Array]:
    """The layers of that name, uint8, of probabilities (classes, height, width) in [0, 1].

    ``disagreement`` (height, width) is 0 where it is ``None``: one window alone.
    """
    xp = array_namespace(probabilities)
    if disagreement is None:
        disagreement = xp.zeros_like(probabilities[0])
    values = {"probabilities": probabilities, DISAGREEMENT: disagreement}
    if CONFIDENCE in names:
        values[CONFIDENCE] = _compute_margin(probabilities)
    return {name: _quantize(values[name]) for name in names}


def compute_layers_from_votes(names: Sequence[str], summed: Array, classes: int) -> dict[str, Array]:
    """The layers of that name, uint8, of summed votes (``classes`` or one more, height, width) int32.

    The last channel has the squares, if ``disagreement`` is one of the names.
    """
    if not names:
        return {}
    xp = array_namespace(summed)
    parts = []
    for row in range(0, summed.shape[1], _ROWS_AT_ONCE):
        shares = xp.astype(summed[:, row : row + _ROWS_AT_ONCE], xp.float64) / FULL_VOTE
        apart = _compute_disagreement(shares[:classes], shares[classes]) if DISAGREEMENT in names else None
        parts.append(compute_layers(names, shares[:classes], apart))
    return {name: xp.concat([part[name] for part in parts], axis=-2) for name in names}


def _compute_margin(probabilities: Array) -> Array:
    """The highest minus the second highest, class by class, as ``blend.argmax_classes`` does."""
    xp = array_namespace(probabilities)
    best, second = probabilities[0], xp.zeros_like(probabilities[0])
    for other in probabilities[1:]:
        second = xp.maximum(second, xp.minimum(best, other))
        best = xp.maximum(best, other)
    return best - second


def _compute_disagreement(means: Array, squares: Array) -> Array:
    xp = array_namespace(means)
    classes = means.shape[0]
    variance = classes * squares - xp.sum(means * means, axis=0)
    return xp.sqrt(xp.maximum(variance, xp.zeros_like(variance)))


def _quantize(values: Array) -> Array:
    xp = array_namespace(values)
    levels = xp.round(values * (1 / LAYER_SCALE))
    return xp.astype(xp.clip(levels, 0, 1 / LAYER_SCALE), xp.uint8)
