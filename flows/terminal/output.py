"""Standard output and standard error that never break off what a command does."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from seamline.pipeline.common.errors import SeamlineError


class OutputError(SeamlineError):
    """Standard output takes no more: its disk is full, or its reader is gone."""


class _Output:
    """A text stream whose failures are errors of Seamline's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Notes(_Output):
    """A text stream that is nobody's result: what it does not take is lost."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OutputError:
            return len(text)

    def flush(self) -> None:
        with suppress(OutputError):
            super().flush()


def protect_output() -> None:
    """Make both streams take every character, and let failures to write be told in one line.

    What is written to a stream that the caller has closed is lost, as they want.
    """
    nothing = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    streams = [stream or nothing for stream in (sys.stdout, sys.stderr)]
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # terminals and logs that are not UTF-8
    sys.stdout, sys.stderr = _Output(streams[0]), _Notes(streams[1])


def close_output() -> None:
    """Write what standard output still holds; raises ``OutputError`` once, and then Python finds nothing to write."""
    try:
        sys.stdout.flush()
    except OutputError:
        sys.stdout = sys.__stdout__ = None  # type: ignore[misc]
        raise
