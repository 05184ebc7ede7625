"""Files that appear under their name only when they are complete, folders that change places, and checks of both."""

from __future__ import annotations

import codecs
import ctypes
import glob
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, BinaryIO

from seamline.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NPZ_LOCK = RLock()
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SECONDS_PER_DAY = 24 * 60 * 60


def make_absolute(path: str | Path) -> Path:
    """Return a path that means the same in every working folder.

    ``~`` and ``~NAME`` are replaced by the user's home, unless there is no such user.
    """
    with suppress(RuntimeError):  # no such user: opening the path as it is will fail with a clear error
        return Path(path).expanduser().absolute()
    return Path(path).absolute()


@contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Atomic write: yield a temporary path beside ``path``, fsync it, and rename it to ``path`` on success.

    On an error the temporary file is removed and ``path`` stays untouched. A killed process leaves its temporary file.

    Args:
        path: File to write or replace.
        shared: Whether several processes may write ``path`` at once. Each then has a temporary file of its own name;
            otherwise the next writer overwrites what a killed one left.

    Raises:
        InputError: There is a folder of this name, or a device, pipe or socket, which a file must not replace.
    """
    refuse_special_file(path)
    if path.is_dir():
        raise InputError(f"{path}", got="a folder", expected="the name of a file", fix="remove it, or choose another")
    own = f".{uuid.uuid4().hex}" if shared else ""
    part = path.with_name(f".{path.name}{own}.part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open an ``.npz`` file and yield its arrays; only one thread of the process reads at a time.

    numpy parses headers as Python literals, and CPython 3.11 counts the depth of its parser for all threads together:
    two at once rarely fail with "AST constructor recursion depth mismatch".
    """
    import numpy as np  # takes a while, and the command line imports this module whatever it does

    with _NPZ_LOCK, np.load(path) as arrays:
        yield arrays


def remove_stale_parts(path: Path) -> None:
    """Remove temporary files of an existing ``path`` that are a day older than it: their writers were killed.

    Both times come from the clock of the file system, which may differ from that of this machine.
    """
    oldest = path.stat().st_mtime - _SECONDS_PER_DAY
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            if part.stat().st_mtime < oldest:
                part.unlink()


def check_writable(folder: Path, what: str) -> Path:
    """Check that files can be written to a folder, which need not exist yet; nothing is left behind.

    Args:
        folder: The folder.
        what: What the folder is for the user, at the beginning of the message.

    Returns:
        The folder itself or the nearest one above it that exists.

    Raises:
        InputError: No files can be written there.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if _is_present(path))
        with tempfile.TemporaryFile(dir=existing):
            return existing
    except OSError as error:
        raise InputError(
            what, got=error.strerror or error, expected="a folder that can be written to", fix="choose another"
        ) from error


def refuse_special_file(path: str | Path) -> None:
    """Refuse a pipe, socket or device: opening one could wait for ever. What is not there is passed over.

    A name that is no text to Python is refused, too: GDAL takes names in UTF-8 only, and JSON holds no others.

    Raises:
        InputError: It is one, or has such a name.
    """
    _refuse_undecoded_name(str(path))
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise InputError(
            f"{path}", got="a pipe, socket or device", expected="a file or a folder", fix="copy its content to a file"
        )


def _refuse_undecoded_name(name: str) -> None:
    """Refuse a name with bytes that Python could not decode and keeps as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        is_utf8 = codecs.lookup(encoding).name == "utf-8"
        shown = name.encode("utf-8", "replace").decode()
        raise InputError(
            "a file or folder whose name cannot be read",
            got=f"{shown}, with the encoding {encoding} of this environment",
            expected="a name in UTF-8" if is_utf8 else "UTF-8, since the name has other letters than ASCII's",
            fix="rename it" if is_utf8 else "set PYTHONUTF8=1, or a locale such as LC_ALL=C.UTF-8",
        ) from error


def _is_present(path: Path) -> bool:
    """Return whether a path exists, even as a link that leads nowhere.

    Raises:
        OSError: The path is below a file, or may not be looked at.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(files: Iterable[Path]) -> None:
    """Wait until the files that exist, and their names in the two folders above, are on the disk."""
    existing = [file for file in files if file.exists()]
    for path in (*existing, *{folder for file in existing for folder in (file.parent, file.parent.parent)}):
        sync(path)


def append_bytes(source: Path, start: int, size: int, target: BinaryIO) -> None:
    """Append bytes of a file to another one; the kernel copies them.

    Args:
        source: the file that has them.
        start: the first byte.
        size: how many.
        target: the file that gets them; nothing of it waits to be written.

    Raises:
        OSError: ``source`` is shorter, or the disk is full.
    """
    with source.open("rb") as file:
        while size:
            copied = os.sendfile(target.fileno(), file.fileno(), start, size)
            if not copied:
                raise OSError(f"{source} is shorter than it was written")
            start, size = start + copied, size - copied


def link_or_copy(source: str | Path, target: str | Path) -> str:
    """Give a file a second name, or copy it where the file system has no links; return the name."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return str(target)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def exchange_folders(first: Path, second: Path, between: Path) -> None:
    """Exchange two folders of one file system, in one step where the system can do that.

    NFS and some others cannot. There ``second`` is renamed to ``between``, ``first`` to ``second``, and ``between`` to
    ``first``.

    Args:
        first: A folder.
        second: Another folder, on the same file system.
        between: A name that nothing has.

    Raises:
        OSError: The folders cannot be renamed.
    """
    if _exchange_at_once(first, second):
        return
    second.rename(between)
    first.rename(second)
    between.rename(first)


def _exchange_at_once(first: Path, second: Path) -> bool:
    """Exchange two names by Linux's ``renameat2`` and return whether that worked."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(first), os.fsencode(second)
    return rename is not None and rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
