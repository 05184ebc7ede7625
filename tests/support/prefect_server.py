"""Prefect servers of the tests' own. Their database is created once, which takes eight seconds."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

_DATABASE = "prefect.db"
"""Name of the database in the folder that ``PREFECT_HOME`` names."""


def copy_empty_database(template: Path, home: Path, name: str = _DATABASE) -> None:
    """Give a Prefect server that has not started yet an empty database.

    A server without one creates it by all of Prefect's migrations. Here the first caller does that.

    Args:
        template: Folder of the empty database, which processes may share.
        home: Folder of the server, its ``PREFECT_HOME``.
        name: File name that the server expects.
    """
    template.mkdir(parents=True, exist_ok=True)
    with (template / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (template / _DATABASE).exists():
            _create_database(template / "new")
            (template / "new" / _DATABASE).rename(template / _DATABASE)
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(template / _DATABASE, home / name)


@contextmanager
def use_prefect_server(template: Path, home: Path) -> Iterator[None]:
    """Run flows of this process against a server of its own, as ``prefect_test_harness`` does, on a copied database."""
    from prefect.testing import utilities

    copy_empty_database(template, home, name="prefect-test.db")
    with (
        mock.patch.object(utilities, "mkdtemp", lambda: str(home)),
        utilities.prefect_test_harness(server_startup_timeout=180),
    ):
        yield


def _create_database(home: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(command, env=variables | {"PREFECT_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL)
    assert not (home / f"{_DATABASE}-wal").exists()
