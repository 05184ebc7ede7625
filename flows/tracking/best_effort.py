"""Show something in Prefect if its server answers. A run neither fails nor waits long if it cannot be shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger, LoggerAdapter
from typing import Any, TypeVar

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

T = TypeVar("T")

_RETRIES = 2
"""How often a request is sent again, within six seconds. By default Prefect tries for more than a minute."""
_PAUSE_SECONDS = 120.0
"""How long nothing is shown after a failure."""

_paused_until = 0.0


def show(log: Logger | LoggerAdapter[Any], what: str, work: Callable[[], T]) -> T | None:
    """Call a function that shows something in Prefect.

    Args:
        log: where a failure is logged; the run's own log, whose lines Prefect's server may not get either.
        what: what is shown, for the log.
        work: the function.

    Returns:
        What the function returns; None if the server does not answer, or has not shortly before.
    """
    global _paused_until
    if time.monotonic() < _paused_until:
        return None
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: _RETRIES}):
            return work()
    except (OSError, httpx.HTTPError, PrefectException) as error:
        _paused_until = time.monotonic() + _PAUSE_SECONDS
        log.warning("%s is not shown in Prefect: %s", what, str(error) or type(error).__name__)
        return None
