"""Start worker processes without running the user's script in each of them.

``multiprocessing`` imports the file of ``__main__`` in a process that it spawns, for what was pickled by reference to
it. A script that calls a flow at its top level would call it again in each worker, where Python then refuses to start
processes. What runs on workers never refers to the script: Dask sends by value what is defined there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from typing import Any

_WORKER_PROCESS = "Dask Worker process"
"""How Dask's names of worker processes begin."""

_MAIN_MODULE = ("init_main_from_name", "init_main_from_path")
"""What tells a spawned process to import the main module."""

_describe_process = spawn.get_preparation_data
_clusters: set[object] = set()
"""A token for each local cluster that there is; its nannies may start a worker again at any time."""


@contextmanager
def spare_main_module() -> Iterator[None]:
    """Let no worker process import the main module, as long as the context lasts; also those that start anew."""
    token = object()
    _clusters.add(token)
    try:
        yield
    finally:
        _clusters.discard(token)


def _describe_without_main(name: str) -> dict[str, Any]:
    """Return what a spawned process is told, as ``multiprocessing`` asks for it; ``name`` is that of the process."""
    found = _describe_process(name)
    if _clusters and name.startswith(_WORKER_PROCESS):
        found = {key: value for key, value in found.items() if key not in _MAIN_MODULE}
    return found


spawn.get_preparation_data = _describe_without_main
