"""Memory that a forward frees stays with the worker, in every kind of worker process."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client, get_worker

from seamline.flows.settings.model_folder import Model, RuntimeLoader
from seamline.model.spec.config import EngineSettings, Radiometry
from seamline.pipeline.cluster.connect import connect
from seamline.pipeline.execution.chunk_context import Reading
from seamline.pipeline.execution.predictor import PredictorPlugin
from seamline.pipeline.geometry.tiling import Tiling
from tests.support.processes import run_scheduler_and_worker

PROJECT = Path(__file__).parents[3]
WINDOW = 1056
"""Edge of a window whose activations do not fit into a heap of 64 MiB."""


CONTEXT: Any = SimpleNamespace(reading=Reading(), tiling=Tiling(64, 64, 64, 0, 0, 1, 16))
"""The run that the plugin holds, which these tests do not work on."""


def count_page_faults(plugin_name: str) -> list[int]:
    """Page faults of a worker's process in each of five forwards of a large window, as a run makes them."""
    plugin = get_worker().plugins[plugin_name]
    pixels = np.random.default_rng(0).integers(1, 3000, (6, WINDOW, WINDOW)).astype(np.uint16)
    valid = np.ones((WINDOW, WINDOW), np.bool_)

    def forward() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        next(plugin.predictor.predict([pixels], [valid]))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    return [plugin.run_on_device(forward) for _ in range(5)]


def find_faults(client: Client, model: Model) -> list[int]:
    settings = EngineSettings(precision="fp32", channels_last=True, threads=1)
    radiometry = Radiometry((1e-4,) * 6, (0.0,) * 6, (None,) * 6)
    plugin = PredictorPlugin(RuntimeLoader(model.folder, model.digest, settings, radiometry, 96), CONTEXT, client.id)
    client.register_plugin(plugin)
    return client.submit(count_page_faults, plugin.name).result()


def assert_memory_is_kept(faults: list[int]) -> None:
    """Forwards take pages until they fit into what is there. Without the setting each takes all of them anew."""
    pages = WINDOW**2 * 16 * 4 // resource.getpagesize()  # of one activation of the first level
    assert faults[0] > pages
    assert min(faults[2:]) < pages / 10, faults


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_local_workers_keep_freed_memory(embedded_model: Model) -> None:
    with connect("local", 1) as client:
        assert client.submit(os.environ.get, "MALLOC_ARENA_MAX").result() == "1"
        environment = client.submit(lambda: Path("/proc/self/environ").read_bytes().split(b"\0")).result()
        assert {b"MALLOC_ARENA_MAX=1", b"OMP_WAIT_POLICY=PASSIVE"} <= set(environment)  # from the process's start
        assert_memory_is_kept(find_faults(client, embedded_model))


@pytest.fixture
def foreign_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a scheduler whose only worker was started by hand, without our environment."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "OMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)  # of this module
    with run_scheduler_and_worker(tmp_path) as (address, _, _), Client(address, set_as_default=False) as client:
        yield client


def make_arenas(count: int) -> None:
    """Let so many threads take memory at the same time; glibc makes an arena for each, up to a limit."""
    together = threading.Barrier(count)

    def take(_: int) -> None:
        together.wait()
        bytearray(10_000)
        together.wait()

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(take, range(count)))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize("arenas", [0, 8 * psutil.cpu_count() + 8])
def test_foreign_workers_keep_freed_memory(foreign_worker: Client, embedded_model: Model, arenas: int) -> None:
    """Also where other threads have made all the arenas that there may be."""
    if arenas:
        foreign_worker.submit(partial(make_arenas, arenas)).result()
    assert_memory_is_kept(find_faults(foreign_worker, embedded_model))
