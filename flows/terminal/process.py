"""The process of a command: how signals end it, and how it begins soon. Imports nothing that takes long by itself."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import warnings
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import NoReturn

_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
"""Signals that end a command in order, and what its last line calls them."""

_FULL_COLLECTION_RATIO = 20
"""How many times fewer full collections of garbage there are while scenes are segmented."""

_PAUSE = 0.1
"""Seconds after which a signal that was lost is sent again."""

_received: list[signal.Signals] = []
_codes: list[int] = []
_is_claimed = False


def find_command() -> str:
    """Return what to type in this shell and folder to call this installation's command: ``seamline``, or its path."""
    script = Path(sys.executable).with_name("seamline")
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m seamline"
    found = shutil.which("seamline")
    if found is not None and Path(found).samefile(script):
        return "seamline"
    return shlex.quote(str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script))


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


def claim_process() -> None:
    """Note that this process runs one command and nothing else."""
    global _is_claimed
    _is_claimed = True


def begin_soon() -> None:
    """Spare the process of a command what takes a fifth of a short run and serves nobody in it.

    Full collections of garbage go through all that imports have made, which stays anyway. They come twenty times less
    often; young garbage is collected as ever, and Dask collects all where memory gets scarce.

    rasterio imports boto3 and pyarrow pandas where they are installed, for callers who use them. This process then has
    a rasterio and a pyarrow without them, so the command must use neither. Other processes stay as they are.
    """
    if not _is_claimed:
        return
    youngest, young, old = gc.get_threshold()
    gc.set_threshold(youngest, young, _FULL_COLLECTION_RATIO * old)
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        import pyarrow as pa
        import rasterio  # noqa: F401

        pa.array([0])  # looks for pandas, once
    finally:
        sys.meta_path.remove(absent)


class _Absent(MetaPathFinder):
    """Lets imports of boto3 and pandas fail as if they were not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse both packages; leave others to those that come next."""
        if name in ("boto3", "pandas"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


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
