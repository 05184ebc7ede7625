"""Work on many things in a few threads of this process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_MOST_THREADS = 4
"""Threads that work at a time, each of which may hold as much memory as a task of a worker."""


def map_in_threads(function: Callable[[S], T], things: Iterable[S], /) -> Iterator[T]:
    """Yield ``function(thing)`` for each thing in their order, as ``map`` does; several calls are made at a time."""
    left, waiting = iter(things), deque[Future[T]]()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                waiting.extend(pool.submit(function, thing) for thing in islice(left, 2 * threads - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
