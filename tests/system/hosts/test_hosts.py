"""A cluster of several hosts: network namespaces with addresses of their own, TLS between them, and links that fail.

All of them see one file system. Skips where the kernel does not let us make network namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment
from seamline.flows.settings.model_folder import Model
from seamline.flows.settings.options import SegmentOptions
from seamline.pipeline.results.verify import verify
from tests.support.command_line import to_words
from tests.support.processes import wait_until
from tests.support.run_folders import list_inferred_chunks, read_rasters
from tests.support.small_rasters import BAND_NAMES, make_noise, write_geotiff

CERTIFICATES = Path(__file__).parents[3] / "deploy" / "certificates"
ADDRESSES = {"scheduler": "10.0.0.1", "steady": "10.0.0.2", "lost": "10.0.0.3", "client": "10.0.0.4"}
SCHEDULER = f"tls://{ADDRESSES['scheduler']}:8786"
SECONDS = {"TCP": "12s", "CONNECT": "5s"}
"""Until a silent connection is dead, the least that Dask takes, and until a client no longer knocks."""
PATIENCE = 240
TORCH = {"precision": "fp32", "device": "cpu", "engine": "torch"}
PLAN = {"window": 192, "halo": 48, "overlap": 32, "chunk_tiles": 1}
WINDOWS = 8 * 8  # of a scene of 512² in strides of 64


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Hosts:
    """Namespaces of these names, each with one link to a switch that is a namespace, too; nothing else is touched."""

    prefix: str
    environment: dict[str, str]
    logs: Path

    @contextmanager
    def cut_off(self, host: str) -> Iterator[None]:
        """Meanwhile the host's cable is out of the switch: packets vanish, nobody is told."""
        cable = "-n", f"{self.prefix}switch", "link", "set", host
        ip(*cable, "down")
        try:
            yield
        finally:
            ip(*cable, "up")

    @contextmanager
    def running(self, host: str, *command: object) -> Iterator[subprocess.Popen[bytes]]:
        """A process on a host, in a group of its own that is killed at the end; it writes to ``logs/host``."""
        with (self.logs / host).open("wb") as log:
            process = self._started(host, log, *map(str, command))
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):  # it ended, and with it its group
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _started(self, host: str, log: IO[bytes], *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.prefix + host, sys.executable, "-m", *command],
            start_new_session=True,
            env=self.environment,
            stdout=log,
            stderr=log,
        )

    def said(self, host: str) -> str:
        return (self.logs / host).read_text()


@contextmanager
def namespaces(prefix: str) -> Iterator[None]:
    """A switch and hosts around it, gone at the end."""
    made: list[str] = []
    switch = f"{prefix}switch"
    try:
        for name in (switch, *(prefix + host for host in ADDRESSES)):
            ip("netns", "add", name)
            made.append(name)
        ip("-n", switch, "link", "add", "bridge", "up", "type", "bridge")
        for host, address in ADDRESSES.items():
            ip("-n", switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", prefix + host)
            ip("-n", switch, "link", "set", host, "master", "bridge", "up")
            ip("-n", prefix + host, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", prefix + host, "link", "set", "eth0", "up")
            ip("-n", prefix + host, "link", "set", "lo", "up")
        yield
    finally:
        for name in made:
            ip("netns", "delete", name)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A scheduler and two workers on three hosts, and a fourth for the client."""
    if shutil.which("ip") is None:
        pytest.skip("no ip; .ci/readers installs it")
    folder = tmp_path_factory.mktemp("hosts")
    subprocess.run([CERTIFICATES, folder / "tls", *ADDRESSES.values()], check=True, capture_output=True)
    settings = dict(line.split("=", 1) for line in (folder / "tls" / "dask.env").read_text().splitlines())
    settings |= {f"DASK_DISTRIBUTED__COMM__TIMEOUTS__{name}": value for name, value in SECONDS.items()}
    made = Hosts(f"seamline-{os.getpid()}-", {**os.environ, **settings, "OMP_NUM_THREADS": "1"}, folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(namespaces(made.prefix))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        options = "--protocol", "tls", "--no-dashboard", "--host"
        stack.enter_context(made.running("scheduler", "dask", "scheduler", *options, ADDRESSES["scheduler"]))
        stack.enter_context(worker(made, "steady"))
        yield made


def worker(hosts: Hosts, host: str) -> object:
    options = "--nthreads", "3", "--no-dashboard", "--host", ADDRESSES[host]
    return hosts.running(host, "dask", "worker", SCHEDULER, *options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_geotiff(
        tmp_path_factory.mktemp("scene") / "scene.tif", make_noise(6, 512, 512), names=BAND_NAMES, nodata=0
    )


@pytest.fixture(scope="module")
def whole(
    source: Path, small_model: Model, cluster: Callable[[int], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one machine writes."""
    options = SegmentOptions(**PLAN, **TORCH, cluster=cluster(2))
    out = tmp_path_factory.mktemp("whole")
    return read_rasters(segment(source, small_model.folder, out, options, RunObserver()).folder)


def command(source: Path, model: Model, out: Path) -> list[object]:
    options = {"model": model.folder, "out": out, **PLAN, **TORCH, "cluster": SCHEDULER}
    return ["seamline", "segment", source, *to_words(options)]


def windows(out: Path) -> int:
    return int(json.loads((out / "scene" / "run.json").read_text())["windows"])


def test_a_host_that_is_cut_off_changes_nothing_not_even_when_it_wakes_up_afterwards(
    hosts: Hosts, source: Path, small_model: Model, whole: dict[str, bytes], tmp_path: Path
) -> None:
    before = hosts.said("scheduler").count("Register worker")
    with worker(hosts, "lost") as lost:
        wait_until(lambda: hosts.said("scheduler").count("Register worker") > before, "a second worker")
        with hosts.running("client", *command(source, small_model, tmp_path)) as client:
            wait_until(lambda: len(list_inferred_chunks(tmp_path)) >= 8, "chunks")
            with hosts.cut_off("lost"):
                os.killpg(lost.pid, signal.SIGSTOP)  # with chunks in hand
                assert client.wait(PATIENCE) == 0, hosts.said("client")
        assert windows(tmp_path) == WINDOWS
        assert read_rasters(tmp_path / "scene") == whole
        os.killpg(lost.pid, signal.SIGCONT)
        wait_until(lambda: lost.poll() is not None, "the end of a worker that nobody knows any more")
    # Whether it went on with its chunks or noticed first that nobody knows it is a matter of milliseconds. That a late
    # write changes nothing is shown by test_a_worker_that_the_cluster_lost_… in integration/execution/test_resume.py.
    assert read_rasters(tmp_path / "scene") == whole
    assert not list(verify(tmp_path))
    # A worker that was stopped while it wrote may leave files in the run directory, which the next run clears away.
    with hosts.running("client", *command(source, small_model, tmp_path)) as client:
        assert client.wait(PATIENCE) == 0, hosts.said("client")
    assert not (tmp_path / "scene" / ".run").exists()


@pytest.mark.parametrize("chunks", [0, 8])
def test_a_client_that_is_cut_off_ends_with_one_line_and_goes_on_later(
    hosts: Hosts, source: Path, small_model: Model, whole: dict[str, bytes], chunks: int, tmp_path: Path
) -> None:
    segmenting = command(source, small_model, tmp_path)
    if not chunks:  # cut off while it plans
        hosts = replace(hosts, environment={**hosts.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    with hosts.running("client", *segmenting) as client:
        wait_until(
            lambda: len(list_inferred_chunks(tmp_path)) >= chunks if chunks else "checking on" in hosts.said("client"),
            "work",
            pause=0.02,
        )
        with hosts.cut_off("client"):
            assert client.wait(PATIENCE) == 1
    assert chunks or not list_inferred_chunks(tmp_path)
    *before, last = hosts.said("client").splitlines()
    assert last.startswith("seamline: scene scene: the cluster is gone (") and "run the same command again" in last
    assert all(line.startswith(("warning: ", "checking ")) for line in before)
    if chunks:
        done = len(list_inferred_chunks(tmp_path))
        with hosts.running("client", *segmenting) as client:
            assert client.wait(PATIENCE) == 0, hosts.said("client")
        assert windows(tmp_path) == WINDOWS - done < WINDOWS
        assert read_rasters(tmp_path / "scene") == whole
