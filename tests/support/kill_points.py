"""Kill a process at one of the operations by which it changes files or objects."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import obstore

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate"}
"""Audit events of CPython that change files, beside opening one for writing."""

PRELOADED = ["torch", "seamline.flows.segment_collection"]


def choose_points(points: int, sample: int) -> Iterable[int]:
    """A few of so many points; all if ``SEAMLINE_KILL_POINTS=all``, all from one on if it is a number."""
    wanted = os.environ.get("SEAMLINE_KILL_POINTS")
    if wanted is None:
        return random.sample(range(points), sample)
    return range(0 if wanted == "all" else int(wanted), points)


def count_changes(work: Callable[..., Any], *arguments: Any, below: Path | None) -> int:
    """Return how many operations ``work`` changes files with below a folder, in a process of its own.

    With ``below=None`` the requests are counted that change object storage.
    """
    receiver, sender = _context().Pipe(duplex=False)
    process = _context().Process(target=_count, args=(sender, below, work, arguments))
    process.start()
    process.join()
    assert process.exitcode == 0
    return int(receiver.recv())


def kill_at_change(number: int, work: Callable[..., Any], *arguments: Any, below: Path | None) -> bool:
    """Kill a process right before it makes the n-th of these changes, counted from 0.

    Returns:
        Whether it came so far.
    """
    process = _context().Process(target=_work_until, args=(number, below, work, arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kill_after_call(where: str, work: Callable[..., Any], *arguments: Any) -> None:
    """Kill a process that does some work in the moment after its first call of a function.

    Args:
        where: the module and the name of the function in it, with a colon between them.
        work: what the process does.
        *arguments: of ``work``.
    """
    process = _context().Process(target=_work_until_call, args=(where, work, arguments))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _context() -> Any:
    """Return the way to fork processes from one that has imported what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _count(sender: Any, below: Path | None, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    seen: list[str] = []
    _watch(below, seen.append)
    work(*arguments)
    sender.send(len(seen))


def _work_until(number: int, below: Path | None, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    numbers = count()

    def die_there(event: str) -> None:
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(below, die_there)
    work(*arguments)


def _work_until_call(where: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    module, _, names = where.partition(":")
    *path, name = names.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    function = getattr(owner, name)

    def call_and_die(*values: Any, **more: Any) -> None:
        function(*values, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, call_and_die)
    work(*arguments)


def _watch(below: Path | None, note: Callable[[str], None]) -> None:
    if below is None:
        _watch_requests(note)
    else:
        _watch_changes(below, note)


def _watch_requests(note: Callable[[str], None]) -> None:
    """Call ``note`` before each request that changes an object, by any thread of this process."""

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **more: Any) -> Any:
            note(function.__name__)
            return function(*values, **more)

        return call

    for name in ("put", "copy", "delete"):
        setattr(obstore, name, noted(getattr(obstore, name)))


def _watch_changes(below: Path, note: Callable[[str], None]) -> None:
    """Call ``note`` before each change of a file below a folder, by any thread of this process."""
    fsync = os.fsync

    def synced(file: int) -> None:
        note("os.fsync")
        fsync(file)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event in _CHANGES) and _name_file(arguments[0]).startswith(str(below)):
            note(event)

    os.fsync = synced
    sys.addaudithook(heard)


def _name_file(file: Any) -> str:
    """Return the path of a file that is named by its path or by an open descriptor."""
    return str(Path(f"/proc/self/fd/{file}").readlink()) if isinstance(file, int) else os.fsdecode(file)
