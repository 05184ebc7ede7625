"""What a file made the process do that it may not: open files outside, ask servers, log, print."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

_IN_OPEN, _IN_NONBLOCK = 0x20, 0x800


class OpenedFiles:
    """The files of some folders that any library opens, as the kernel reports it (inotify)."""

    def __init__(self, *folders: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(_IN_NONBLOCK)
        for folder in folders:
            if libc.inotify_add_watch(self._handle, os.fsencode(folder), _IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def take(self) -> list[str]:
        """Return the names of files that were opened since the last call."""
        names: list[str] = []
        while True:
            try:
                events = os.read(self._handle, 65536)
            except BlockingIOError:
                return names
            while events:
                length = struct.unpack_from("iIII", events)[3]
                name = events[16 : 16 + length].rstrip(b"\0").decode(errors="replace")
                names += [name] if name else []
                events = events[16 + length :]


class _Handler(SimpleHTTPRequestHandler):
    """Serves files, and as a proxy answers that there is nothing; writes down what it was asked."""

    requests: ClassVar[Path]

    def do_CONNECT(self) -> None:
        self.send_error(404)

    def send_head(self) -> object:
        if not self.path.startswith("/"):
            self.send_error(404)
            return None
        return super().send_head()

    def parse_request(self) -> bool:
        with self.requests.open("a") as file:
            file.write(self.raw_requestline.decode("latin-1"))
        return super().parse_request()

    def log_message(self, *arguments: object) -> None:
        pass


def serve_as_proxy(folder: Path, requests: Path) -> ThreadingHTTPServer:
    """Return a server on a port of its own that serves a folder and notes each request in a file."""

    class Handler(_Handler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

    Handler.requests = requests
    requests.touch()
    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


class _TracebackHandler(logging.Handler):
    """Keeps errors that were logged with a traceback: somebody caught what nobody foresaw."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])


@contextmanager
def keep_logged_errors() -> Iterator[list[BaseException]]:
    handler, logger = _TracebackHandler(), logging.getLogger()
    logger.addHandler(handler)
    try:
        yield handler.errors
    finally:
        logger.removeHandler(handler)


@contextmanager
def keep_output(path: Path) -> Iterator[None]:
    """Write what this process prints, in whatever language, into a file."""
    saved = [os.dup(stream) for stream in (1, 2)]
    target = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        for stream in (1, 2):
            os.dup2(target, stream)
        yield
    finally:
        for stream, old in zip((1, 2), saved, strict=True):
            os.dup2(old, stream)
            os.close(old)
        os.close(target)
