"""Calls that may never come back, made where they hold nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def call_in_background(call: Callable[..., T], *arguments: object) -> Future[T]:
    """Call a function in a thread of its own, which ends with the process if the call does not.

    A thread pool would be waited for when the process ends.

    Args:
        call: The function.
        *arguments: Its arguments.

    Returns:
        What it returns or raises.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call(*arguments))
        except Exception as error:  # noqa: BLE001 - it belongs to who waits for the answer
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer
