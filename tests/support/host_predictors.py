"""Predictors without a network: what they say of a window is written in Python."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HostBlock:
    """A block that lies in the memory of the process."""

    pixels: NDArray
    valid: NDArray[np.bool_]
    label_mask: NDArray[np.bool_]

    def __enter__(self) -> HostBlock:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@dataclass(frozen=True)
class HostArrays:
    """Arrays that are there."""

    arrays: dict[Hashable, NDArray]

    def result(self) -> dict[Hashable, NDArray]:
        return self.arrays


class HostPredictor:
    """A predictor in numpy; who inherits it says what the scores (classes, S, S) of a window are."""

    device_memory = 0

    def score(self, pixels: NDArray, valid: NDArray[np.bool_]) -> NDArray:
        raise NotImplementedError

    def load(self, pixels: NDArray, valid: NDArray, label_mask: NDArray, result_bytes: int) -> HostBlock:
        return HostBlock(pixels, valid, label_mask)

    def infer(self, block: HostBlock, places: Sequence[tuple[slice, slice]]) -> Iterator[NDArray]:
        for place in places:
            yield self.score(block.pixels[:, *place], block.valid[place])

    def probabilities(self, scores: NDArray) -> NDArray:
        return scores

    def upload(self, array: NDArray) -> NDArray:
        return array

    def fetch(self, block: HostBlock, arrays: Mapping[Hashable, NDArray]) -> HostArrays:
        return HostArrays(dict(arrays))
