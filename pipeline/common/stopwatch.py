"""Measuring how long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Adds up the wall seconds that are spent in named stages."""

    seconds: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def now() -> float:
        """Return seconds on a clock that never jumps; only differences mean anything."""
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that is spent inside the context to the stage ``name``."""
        started = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started
