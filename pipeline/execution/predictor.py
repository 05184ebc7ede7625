"""What the pipeline needs of a network, and nothing of how it is made: two protocols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.geometry.taper import Array


class Predictor(Protocol):
    """A network that is loaded in this process and knows the halo that it throws away."""

    def predict(self, pixels: Sequence[NDArray[Any]], valid: Sequence[NDArray[np.bool_]]) -> Iterator[Array]:
        """Scores (classes, S, S) for each window, S = window − 2·halo, where they were computed.

        Scores order the classes of a pixel as their probabilities do; ``probabilities`` makes these of them.

        Args:
            pixels: of each window (bands, window, window), the scene's digital numbers.
            valid: of each window (window, window), True = data.
        """
        ...

    def probabilities(self, scores: Array) -> Array:
        """Probabilities (classes, S, S) in [0, 1] of the scores of one window, in the same place."""
        ...

    def to_host(self, array: Array) -> NDArray[Any]:
        """The same values as a numpy array."""
        ...

    @property
    def device_memory(self) -> int:
        """Bytes taken on a device of its own at most; 0 where the memory is the process's."""
        ...


class PredictorLoader(Protocol):
    """Loads a predictor on a worker. Picklable and small: paths and digests, never weights."""

    def __call__(self) -> Predictor:
        """Load it; called once in a process."""
        ...
