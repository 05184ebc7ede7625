"""Processes that try mutations one after another, watched by one that ends those that hang."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from seamline.flows.terminal.process import silence_libraries
from tests.fuzz import corpus
from tests.fuzz.kinds import KINDS
from tests.fuzz.surveillance import OpenedFiles, serve_as_proxy
from tests.fuzz.trials import Outcome, Place, try_mutation

_MOST_SECONDS = 20
"""Processor time of a mutation."""
_MOST_WAITING = 120
"""Seconds on the clock, of which others may take a part."""
_ADDRESS_SPACE = 4 * 2**30
"""Bytes beyond those of a fresh worker."""
_PR_SET_PDEATHSIG = 1
_MUTATIONS_PER_WORKER = 400


@contextmanager
def make_place(root: Path, kinds: Sequence[str]) -> Iterator[Place]:
    """Write the undamaged files, and start the server that stands for every other one.

    Both happen in processes of their own, so that this one, from which the workers are forked, has no threads.
    """
    place = Place(root, "")
    (root / "work").mkdir(parents=True, exist_ok=True)
    _run_apart(lambda: _write_seeds(place, kinds))
    server = serve_as_proxy(root / "work", place.requests)
    child = _fork(server.serve_forever)
    address = f"http://127.0.0.1:{server.server_port}"
    server.socket.close()
    access = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "x"}
    os.environ.update(access | dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address))
    os.environ.update({"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"})
    try:
        yield Place(root, address)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _write_seeds(place: Place, kinds: Sequence[str]) -> None:
    for name in kinds:
        KINDS[name].write(place.seeds / name)
    for folder in place.outside:
        corpus.write_outside(folder)


def try_mutations(mutations: Sequence[tuple[str, int]], place: Place) -> Iterator[Outcome]:
    """Yield how each mutation ended, in their order; what ends a worker ends no other mutation."""
    left = list(mutations)
    while left:
        batch = left[:_MUTATIONS_PER_WORKER]
        done = 0
        for outcome in _watch_worker(batch, place):
            done += 1
            yield outcome
        left = left[done:]


def _watch_worker(batch: Sequence[tuple[str, int]], place: Place) -> Iterator[Outcome]:
    """Yield the outcomes of a worker until it is done, dies or hangs; the last one says which."""
    reading, writing = os.pipe()
    child = _fork(lambda: _work(batch, place, writing))
    os.close(writing)
    process, pending = psutil.Process(child), list(batch)
    with os.fdopen(reading, "rb", buffering=0) as answers:
        started, used = time.monotonic(), _read_seconds(process)
        rest = b""
        while pending:
            if not select.select([answers], [], [], 0.5)[0]:
                spent, waited = _read_seconds(process) - used, time.monotonic() - started
                if spent > _MOST_SECONDS or waited > _MOST_WAITING:
                    _end(child)
                    said = f"{spent:.0f} s of processor time, {waited:.0f} s in all"
                    yield Outcome(*pending[0], said, "hang", spent)
                    return
                continue
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                said, failure = json.loads(line)
                now = _read_seconds(process)
                yield Outcome(*pending.pop(0), said, failure, now - used)
                started, used = time.monotonic(), now
    _, status = os.waitpid(child, 0)
    if pending:
        code = os.waitstatus_to_exitcode(status)
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        yield Outcome(*pending[0], reason, "crash")


def _work(batch: Sequence[tuple[str, int]], place: Place, writing: int) -> None:
    silence_libraries()
    gc.freeze()  # what is imported is never garbage, and looking through it takes long
    size = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    opened = OpenedFiles(*place.outside)
    for kind, number in batch:
        answer = try_mutation(kind, number, place, opened)
        os.write(writing, json.dumps(answer).encode() + b"\n")


def _read_seconds(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _fork(act) -> int:
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # whatever ends the parent ends its children
    try:
        act()
        os._exit(0)
    except Exception:  # noqa: BLE001 - a child must not return into what its parent was doing
        traceback.print_exc()
    finally:
        os._exit(1)


def _run_apart(act) -> None:
    _, status = os.waitpid(_fork(act), 0)
    if status:
        raise RuntimeError("the undamaged files could not be written")


def _end(child: int) -> None:
    with suppress(psutil.Error):
        for process in psutil.Process(child).children(recursive=True):
            process.kill()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
