"""Where the files of a scene may lie, if its source was written by somebody who may not read all that this process can.

A path says little: a link, or a file that was swapped since, leads elsewhere. So a file is opened first and then asked
where it lies, and whoever reads it gets the open descriptor in place of the path.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from seamline.pipeline.common.errors import InputError

_PLAIN_AUTHORITY = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?")
"""Host and port, without what programs read in different ways, such as names of users and backslashes."""
DESCRIPTOR = re.compile(r"/proc/self/fd[/.]*/\d+")
"""Path of an open file, which says nothing to those who read a message."""
_counter = count()
_ARCHIVE_PREFIX = re.compile(r"/vsi(zip|tar)/(?=/)")


class OpenFile:
    """A regular file, held open.

    Attributes:
        path: Opens this very file in this process, whatever lies at its old path by now. Nothing lies beside it.
    """

    def __init__(self, path: str) -> None:
        # O_PATH opens nothing but the name: neither pipe nor device notices.
        self._descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        # Numbers of descriptors come again, but GDAL remembers what is in the archive at a path: no path comes again.
        own = "".join("/." if bit == "1" else "/" for bit in f"{next(_counter):b}")
        self.path = f"/proc/self/fd{own}/{self._descriptor}"

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def is_regular(self) -> bool:
        """Return whether it is a file, and no folder, pipe, socket or device."""
        return stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def resolve(self) -> str:
        """Return the path where the file lies now, without links."""
        return os.readlink(self.path)  # noqa: PTH115 - what the kernel says, unchanged


@dataclass(frozen=True)
class Confinement:
    """What may be read. Small and picklable: it travels with the scene to the workers.

    Attributes:
        roots: Absolute paths of folders.
        hosts: Names of web hosts, or addresses of servers and buckets such as ``s3://bucket``.
    """

    roots: tuple[str, ...]
    hosts: tuple[str, ...] = ()

    def check_address(self, address: str) -> None:
        """Refuse the address of a file that lies elsewhere; nothing is opened, so what lies there may change.

        Raises:
            InputError: It is neither a file below a root nor an address on a host, or it is of a form that only GDAL
                knows.
        """
        path = _ARCHIVE_PREFIX.sub("", address)
        if "://" in address:
            is_allowed = self._is_allowed_url(address)
        else:
            is_allowed = path.startswith("/") and not path.startswith("/vsi") and self._contains(os.path.realpath(path))
        if not is_allowed:
            raise self._refuse(address)

    def open_file(self, path: str) -> OpenFile:
        """Open a file and check that it lies below a root.

        Raises:
            InputError: It lies elsewhere, or is no regular file.
            OSError: There is none.
        """
        file = OpenFile(path)
        if not self._contains(file.resolve()) or not file.is_regular():
            raise self._refuse(path)
        return file

    def _contains(self, real_path: str) -> bool:
        return any(PurePath(real_path).is_relative_to(os.path.realpath(root)) for root in self.roots)

    def _refuse(self, address: str) -> InputError:
        is_path = address.startswith("/") and not address.startswith("/vsi")
        return InputError(
            f"{Path(address).name} lies outside of the folders and hosts that may be read",
            got=(os.path.realpath(address) if is_path else address)[:200],
            expected=", ".join((*self.roots, *self.hosts)),
            fix="drop the file itself into the inbox, or allow its folder, host or bucket",
        )

    def _is_allowed_url(self, address: str) -> bool:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https", "s3") or not _PLAIN_AUTHORITY.fullmatch(parts.netloc):
            return False
        if {".", ".."} & set(unquote(parts.path).split("/")):  # a way out of a bucket
            return False
        names = {f"{parts.scheme}://{parts.netloc}"} | ({parts.hostname} if parts.scheme != "s3" else set())
        return not names.isdisjoint(self.hosts)


_current: ContextVar[Confinement | None] = ContextVar("confinement", default=None)


@contextmanager
def confine(confinement: Confinement | None) -> Iterator[None]:
    """Context in which sources are read under a confinement by this thread; under none with None."""
    token = _current.set(confinement)
    try:
        yield
    finally:
        _current.reset(token)


def get_confinement() -> Confinement | None:
    """Return the confinement under which this thread reads sources."""
    return _current.get()


def check_confined(address: str) -> None:
    """Refuse an address that the confinement of this thread does not allow.

    Raises:
        InputError: It is not allowed.
    """
    if (confinement := _current.get()) is not None:
        confinement.check_address(address)


@contextmanager
def open_confined(path: str) -> Iterator[str]:
    """Yield the path by which to open a file: under a confinement that of a descriptor, otherwise ``path`` itself.

    Raises:
        InputError: The file lies outside.
        OSError: There is none.
    """
    if (confinement := _current.get()) is None:
        yield path
    else:
        file = confinement.open_file(path)  # stays open as long as somebody refers to it
        yield file.path
