"""The signals that end a command. Imports nothing that takes long, since they may come at any moment."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import NoReturn

_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
"""Signals that end a command in order, and what its last line calls them."""

_PAUSE = 0.1
"""Seconds after which a signal that was lost is sent again."""

_received: list[signal.Signals] = []
_codes: list[int] = []


def handle_signals() -> None:
    """Let signals that end a command raise ``KeyboardInterrupt``, so that it cleans up and says one line.

    A signal that is ignored, as by ``nohup``, stays so.
    """
    sys.unraisablehook = _signal_again
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def silence_libraries() -> None:
    """Hide Python's warnings, which libraries mean for developers; ``-W`` and ``PYTHONWARNINGS`` show them."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def was_stopped() -> bool:
    """Return whether a signal has come that ends the command."""
    return bool(_received)


def report_stop() -> int:
    """Say which signal ended the command, and return its exit code."""
    number = _received[-1] if _received else signal.SIGINT
    print(f"seamline: {_SIGNALS[number]}; give the same command again", file=sys.stderr)
    return 128 + number


def exit_with(code: int) -> NoReturn:
    """Exit with a code, whatever signals came."""
    _codes.append(code)
    sys.exit(code)


def leave_at_once() -> None:
    """End the process with the code that was given to ``exit_with``; to be called last at exit.

    Python itself would spend a second on taking torch apart, and would end with SIGINT where an extension module that
    was being imported has noted an interrupt.
    """
    if _codes:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # it may be closed, or none
                stream.flush()
        os._exit(_codes[-1])


def _stop(number: int, frame: object) -> None:
    _received.append(signal.Signals(number))
    logging.disable()  # Dask and tornado log while they are closed
    raise KeyboardInterrupt


def _signal_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal again that came while a library called back, as GDAL does to log: the interrupt is lost there."""
    if lost.exc_type is KeyboardInterrupt and _received:
        threading.Timer(_PAUSE, os.kill, (os.getpid(), _received[-1])).start()
    else:
        sys.__unraisablehook__(lost)
