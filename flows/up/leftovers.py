"""Find and end the processes of a ``seamline up`` whose supervisor was killed.

Run as ``python -m seamline.flows.up.leftovers FOLDER``, it is the guard of a stack: it waits until its standard input,
a pipe from the supervisor, is closed, and then ends what is left. Services and what they start are recognised by an
environment variable, which every child process inherits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

FOLDER_VARIABLE = "SEAMLINE_UP_FOLDER"
"""Environment variable of all services: the folder of their stack."""
_ROUNDS = 5
"""How often it is looked for processes: one that is ending may start another."""
_SECONDS_TO_END = 5
_SECONDS_OF_GUARD = 60
"""How long the guard may take to end what is left."""


def list_left(folder: Path) -> list[psutil.Process]:
    """Return the processes of this user that the services of a folder are, or that these have started."""
    mine = psutil.Process()
    own = {mine.pid, *(parent.pid for parent in mine.parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _belongs_to(process, folder)]


def end_left(folder: Path) -> int:
    """Terminate the processes of a folder's services, kill those that do not end, and return how many there were."""
    found: set[psutil.Process] = set()
    for _ in range(_ROUNDS):
        left = list_left(folder)
        if not left:
            break
        found.update(left)
        for process in left:
            with suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(left, _SECONDS_TO_END)[1]:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, _SECONDS_TO_END)
    return len(found)


def count_processes(number: int) -> str:
    """Return a number of processes with its noun."""
    return f"{number} process{'' if number == 1 else 'es'}"


@contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Run a process that ends the services of a folder as soon as this process ends, even if it is killed."""
    process = subprocess.Popen(
        (sys.executable, "-m", __name__, str(folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches only the supervisor
    )
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_OF_GUARD)


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(FOLDER_VARIABLE) == str(folder) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_left(Path(sys.argv[1]))
