"""Timing of functions in turns, so that other work on the machine disturbs all of them alike, within a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

_TIME_BUDGET = 5.0
"""Seconds of a measurement after which no further round is made."""


class Budget:
    """Seconds that a measurement may take. It is asked before each step, with what the step is expected to take."""

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start the count.

        Args:
            seconds: how long the measurement may take from now on.
            clock: returns the time in seconds.
        """
        self.now = clock
        self._end = clock() + seconds

    def allows(self, seconds: float) -> bool:
        """Return whether a step of so many seconds ends in time."""
        return self.now() + seconds <= self._end


def time_in_turns(
    functions: Sequence[Callable[[], object]], budget: Budget, hopeless_ratio: float = math.inf, rounds: int = 3
) -> list[float]:
    """Call each function in turns and return the least seconds of each.

    The least time counts, since every disturbance makes a measurement longer. After ``_TIME_BUDGET`` seconds no
    further round is made: disturbances are short beside functions that are so slow.

    Args:
        functions: what to time; each must have been called once before, to be warmed up.
        budget: rounds after the first are made as far as it goes.
        hopeless_ratio: functions that took this many times the least time of all are not called again.
        rounds: the most rounds.

    Returns:
        Seconds, one value for each function.
    """
    least = np.full(len(functions), np.inf)
    first_start = budget.now()
    for done in range(rounds):
        hopeful = np.flatnonzero(~np.isfinite(least) | (least <= hopeless_ratio * least.min()))
        if done and (budget.now() - first_start > _TIME_BUDGET or not budget.allows(float(least[hopeful].sum()))):
            break
        for position in hopeful.tolist():
            start = budget.now()
            functions[position]()
            least[position] = min(least[position], budget.now() - start)
    return least.tolist()
