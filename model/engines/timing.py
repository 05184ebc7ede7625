"""Timing of functions in turns, so that other work on the machine disturbs all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

_TIME_BUDGET = 5.0
"""Seconds of a measurement after which no further round is made."""


def time_in_turns(
    functions: Sequence[Callable[[], object]], hopeless_ratio: float = math.inf, rounds: int = 3
) -> list[float]:
    """Call each function in turns and return the least seconds of each.

    The least time counts, since every disturbance makes a measurement longer. After ``_TIME_BUDGET`` seconds no
    further round is made: disturbances are short beside functions that are so slow.

    Args:
        functions: what to time; each must have been called once before, to be warmed up.
        hopeless_ratio: functions that took this many times the least time of all are not called again.
        rounds: the most rounds.

    Returns:
        Seconds, one value for each function.
    """
    least = np.full(len(functions), np.inf)
    first_start = time.perf_counter()
    for _ in range(rounds):
        for position in np.flatnonzero(~np.isfinite(least) | (least <= hopeless_ratio * least.min())).tolist():
            start = time.perf_counter()
            functions[position]()
            least[position] = min(least[position], time.perf_counter() - start)
        if time.perf_counter() - first_start > _TIME_BUDGET:
            break
    return least.tolist()
