"""Many small scenes through ``segment-collection``: their pace, memory, what a flow run costs, a fleet that loses half.

python benchmarks/collection.py [--scenes 200] [--size 512] [--folder DIR]

Prefect's server, Dask's scheduler and its workers are processes of their own, as on a cluster. Prints beside the scenes
a minute what the formula of deploy/RUNBOOK.md makes of the figures in ``run.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed import Client
from rich.console import Console
from rich.table import Table

from seamline.flows.up.supervisor import Service, Supervisor
from seamline.pipeline.synthetic.simulate import Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation

MODEL, WORKERS = "land-water-cloud", 2
FLOW = """
import json, os, sys, psutil
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.collection.scene_sources import Glob
from seamline.flows.segment_collection import segment_collection
pattern, out, address, at_once = sys.argv[1:]
own = psutil.Process()
print("begin", own.memory_info().rss, flush=True)
options = SegmentOptions(cluster=address)
state = segment_collection(Glob(pattern=pattern), "land-water-cloud", out, options, int(at_once), return_state=True)
print("end", own.memory_info().rss, state.name, flush=True)
"""


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[str, dict[str, str], list[int]]]:
    """A scheduler's address, the environment with Prefect's, and the process ids of scheduler and workers."""
    python, prefect, dask = sys.executable, free_port(), free_port()
    address = f"tcp://127.0.0.1:{dask}"
    environment = {
        "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_LOGGING_LEVEL": "WARNING",
        "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    worker = (python, "-m", "dask", "worker", address, "--nthreads", "3", "--no-dashboard", "--no-nanny")
    dashboard = f"127.0.0.1:{free_port()}"
    services = [
        Service("prefect", (python, "-m", "prefect", "server", "start", "--port", str(prefect)), environment,
                f"http://127.0.0.1:{prefect}/api/health"),
        Service("scheduler", (python, "-m", "dask", "scheduler", "--port", str(dask), "--dashboard-address", dashboard),
                environment, f"http://{dashboard}/health"),
        *(Service(f"worker-{number}", worker, {**environment, "OMP_NUM_THREADS": "1"}) for number in range(WORKERS)),
    ]  # fmt: skip
    supervisor = Supervisor(services, folder / "logs", print)
    try:
        supervisor.start()
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=120)
        yield address, {**os.environ, **environment}, [running.process.pid for running in supervisor._running[1:]]
    finally:
        supervisor.stop()


def begin(pattern: str, out: Path, address: str, environment: dict[str, str], at_once: int) -> subprocess.Popen[str]:
    """A flow run in a process of its own."""
    command = [sys.executable, "-c", FLOW, pattern, str(out), address, str(at_once)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finished(out: Path) -> int:
    """Scenes that are published."""
    return len(list(out.glob("*/item.json")))


def memory(pid: int) -> float:
    """MiB of a process and all below it."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20


def through(folder: Path, scenes: int, fleet: tuple[str, dict[str, str], list[int]]) -> list[tuple[str, str]]:
    """All scenes at once: their pace and what it takes."""
    address, environment, (scheduler, *_) = fleet
    before, started = memory(scheduler), time.monotonic()
    process = begin(f"{folder}/in/*.tif", folder / "out", address, environment, 2)
    text, _ = process.communicate()
    seconds, after = time.monotonic() - started, memory(scheduler)
    own = [int(size) / 2**20 for size in re.findall(r"(?:begin|end) (\d+)", text)]
    records = [json.loads(path.read_text()) for path in folder.glob("out/*/run.json")]
    network = statistics.median(record["pixels_inferred"] / record["seconds"]["infer"] for record in records)
    pixels = statistics.median(record["pixels_inferred"] for record in records)
    beside = statistics.median(record["seconds"]["total"] - record["seconds"]["run"] for record in records)
    formula = 60 / (pixels / (WORKERS * network) + beside / 2)
    return [
        ("scenes published", f"{finished(folder / 'out')} of {scenes} ({text.split()[-1]})"),
        ("scenes a minute", f"{60 * scenes / seconds:.1f}"),
        ("by the formula", f"{formula:.1f}"),
        ("one worker's network, Mpx/s", f"{network / 1e6:.2f}"),
        ("seconds of a scene beside the network", f"{beside:.2f}"),
        ("seconds of a scene that run.json does not know", f"{2 * (seconds / scenes - 60 / formula):.2f}"),
        ("scheduler, MiB at the start and the end", f"{before:.0f}, {after:.0f}"),
        ("flow's process, MiB at the start and the end", f"{own[0]:.0f}, {own[-1]:.0f}"),
    ]


def overhead(folder: Path, fleet: tuple[str, dict[str, str], list[int]]) -> list[tuple[str, str]]:
    """One scene by command and by flow run, in turns; each twice."""
    address, environment, _ = fleet
    scene = next(iter(sorted((folder / "in").glob("*.tif"))))
    times: dict[str, list[float]] = {"command": [], "flow run": []}
    for turn in range(2):
        started = time.monotonic()
        words = ["segment", scene, "--model", MODEL, "--out", folder / f"bare{turn}", "--cluster", address]
        subprocess.run([sys.executable, "-m", "seamline", *map(str, words)], check=True, capture_output=True)
        times["command"].append(time.monotonic() - started)
        started = time.monotonic()
        begin(str(scene), folder / f"flow{turn}", address, environment, 1).communicate()
        times["flow run"].append(time.monotonic() - started)
    return [(f"one scene by {name}, s", ", ".join(f"{value:.1f}" for value in found)) for name, found in times.items()]


def halved(folder: Path, scenes: int, fleet: tuple[str, dict[str, str], list[int]]) -> list[tuple[str, str]]:
    """Half of the workers killed when half of the scenes are done."""
    address, environment, (_, *workers) = fleet
    out, started = folder / "halved", time.monotonic()
    process = begin(f"{folder}/in/*.tif", out, address, environment, 2)
    while finished(out) < scenes // 2 and process.poll() is None:
        time.sleep(0.2)
    half = time.monotonic() - started
    for pid in workers[::2]:
        os.kill(pid, signal.SIGKILL)
    text, _ = process.communicate()
    rest = time.monotonic() - started - half
    return [
        ("one worker of two killed halfway: published", f"{finished(out)} of {scenes} ({text.split()[-1]})"),
        ("seconds of the first half, of the second", f"{half:.0f}, {rest:.0f}"),
    ]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    for number in range(arguments.scenes):
        path = folder / "in" / f"scene-{number:03}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_simulation(Simulation(arguments.size, arguments.size, seed=number), path)
        path.with_name(f"{path.stem}_truth.tif").unlink()
    table = Table("", "")
    for measure in (overhead, lambda *given: through(given[0], arguments.scenes, given[1]),
                    lambda *given: halved(given[0], arguments.scenes, given[1])):  # fmt: skip
        with fleet(folder) as there:
            for row in measure(folder, there):
                table.add_row(*row)
                print(*row, sep=": ", flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
