"""Compute layers from probabilities or from summed votes, on numpy arrays and on tensors of a device alike.

``disagreement`` is the root of the variance of the probabilities p_wc of the windows w that vote on a pixel. It is
weighted by their tapers t_w and summed over the classes c: √(Σ_w t_w Σ_c p_wc² − Σ_c p̄_c²). It is 0 where one window
votes alone, and for a network whose receptive radius the halo covers. It is 0.71 where two windows of equal weight are
certain of different classes.

The sums of squares are votes of a channel of their own (``taper.weighted_squares``). They are integers. So layers, like
labels, do not depend on chunks, workers or order.
"""

from __future__ import annotations

from collections.abc import Sequence

from array_api_compat import array_namespace

from seamline.pipeline.geometry.votes import FULL_VOTE, Array
from seamline.pipeline.products.layers import CONFIDENCE, DISAGREEMENT, LAYER_SCALE, PROBABILITIES

_ROWS_AT_ONCE = 256
"""Rows of votes that are in memory in double precision at a time."""


def compute_layers(names: Sequence[str], probabilities: Array, disagreement: Array | None = None) -> dict[str, Array]:
    """Compute layers from the probabilities of the classes.

    Args:
        names: which layers, keys of ``LAYERS``.
        probabilities: (classes, height, width) in [0, 1].
        disagreement: (height, width). ``None``: 0 everywhere, since one window votes alone.

    Returns:
        Layers by name, uint8, (classes, height, width) or (height, width).
    """
    xp = array_namespace(probabilities)
    if disagreement is None:
        disagreement = xp.zeros_like(probabilities[0])
    values = {PROBABILITIES: probabilities, DISAGREEMENT: disagreement}
    if CONFIDENCE in names:
        values[CONFIDENCE] = _compute_margin(probabilities)
    return {name: _quantize(values[name]) for name in names}


def compute_layers_from_votes(names: Sequence[str], summed: Array, classes: int) -> dict[str, Array]:
    """Compute layers from the summed votes of all windows.

    Args:
        names: which layers, keys of ``LAYERS``.
        summed: votes (channels, height, width) int32. The first ``classes`` channels are those of the classes. If
            ``disagreement`` is one of the names, one more has the squares.
        classes: number of classes.

    Returns:
        Layers by name, uint8, (classes, height, width) or (height, width).
    """
    if not names:
        return {}
    xp = array_namespace(summed)
    parts = []
    for row in range(0, summed.shape[1], _ROWS_AT_ONCE):
        shares = xp.astype(summed[:, row : row + _ROWS_AT_ONCE], xp.float64) / FULL_VOTE
        disagreement = None
        if DISAGREEMENT in names:
            disagreement = _compute_disagreement(shares[:classes], shares[classes])
        parts.append(compute_layers(names, shares[:classes], disagreement))
    return {name: xp.concat([part[name] for part in parts], axis=-2) for name in names}


def _compute_margin(probabilities: Array) -> Array:
    """Return the highest minus the second highest probability.

    Goes class by class, since libraries reduce an axis other than the last one slowly (see ``taper.argmax_classes``).
    """
    xp = array_namespace(probabilities)
    best, second = probabilities[0], xp.zeros_like(probabilities[0])
    for other in probabilities[1:]:
        second = xp.maximum(second, xp.minimum(best, other))
        best = xp.maximum(best, other)
    return best - second


def _compute_disagreement(means: Array, squares: Array) -> Array:
    """Return the root of the variance (height, width) from weighted means and the class mean of weighted squares."""
    xp = array_namespace(means)
    classes = means.shape[0]
    variance = classes * squares - xp.sum(means * means, axis=0)
    return xp.sqrt(xp.maximum(variance, xp.zeros_like(variance)))


def _quantize(values: Array) -> Array:
    xp = array_namespace(values)
    levels = xp.round(values * (1 / LAYER_SCALE))
    return xp.astype(xp.clip(levels, 0, 1 / LAYER_SCALE), xp.uint8)
