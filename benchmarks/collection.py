"""Many small scenes through ``segment-collection``: pace, memory, overhead of a flow run, and loss of half the workers.

    python benchmarks/collection.py [--scenes 200] [--size 512] [--folder DIR]

Prefect's server, Dask's scheduler and its workers are separate processes, as on a cluster. Beside the measured scenes a
minute it prints what the formula of deploy/RUNBOOK.md yields for the figures in ``run.json``.
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
from collections.abc import Callable, Iterator
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
import sys, psutil
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

Fleet = tuple[str, dict[str, str], list[int]]
"""Address of Dask's scheduler, environment with Prefect's address, process ids of the scheduler and the workers."""
Row = tuple[str, str]
"""What was measured, and its values."""


def find_free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def run_fleet(folder: Path) -> Iterator[Fleet]:
    """Run Prefect's server, Dask's scheduler and its workers, with logs in a folder.

    Yields:
        The scheduler's address, the environment that leads to Prefect's server, and the process ids of the scheduler
        and of the workers.
    """
    python, prefect, dask = sys.executable, find_free_port(), find_free_port()
    address = f"tcp://127.0.0.1:{dask}"
    environment = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    worker = (python, "-m", "dask", "worker", address, "--nthreads", "3", "--no-dashboard", "--no-nanny")
    dashboard = f"127.0.0.1:{find_free_port()}"
    server = (python, "-m", "prefect", "server", "start", "--port", str(prefect))
    scheduler = (python, "-m", "dask", "scheduler", "--port", str(dask), "--dashboard-address", dashboard)
    services = [
        Service("prefect", server, environment, f"http://127.0.0.1:{prefect}/api/health"),
        Service("scheduler", scheduler, environment, f"http://{dashboard}/health"),
        *(Service(f"worker-{number}", worker, {**environment, "OMP_NUM_THREADS": "1"}) for number in range(WORKERS)),
    ]
    supervisor = Supervisor(services, folder / "logs", print)
    try:
        supervisor.start()
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=120)
        yield address, {**os.environ, **environment}, [running.process.pid for running in supervisor._running[1:]]
    finally:
        supervisor.stop()


def start_flow_run(
    pattern: str, out: Path, address: str, environment: dict[str, str], at_once: int
) -> subprocess.Popen[str]:
    """Start a flow run in a separate process.

    Args:
        pattern: of the scenes' paths.
        out: folder of the results.
        address: of Dask's scheduler.
        environment: of the process.
        at_once: scenes that are segmented at the same time.

    Returns:
        The process; it prints its memory at the start and at the end, and the state of the flow run.
    """
    command = [sys.executable, "-c", FLOW, pattern, str(out), address, str(at_once)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def count_published(out: Path) -> int:
    """Return the number of scenes that are published in a folder."""
    return len(list(out.glob("*/item.json")))


def read_memory(pid: int) -> float:
    """Return the MiB of a process and all of its descendants."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20


def measure_database(environment: dict[str, str]) -> int:
    """Return the bytes of the database of Prefect's server."""
    return sum(file.stat().st_size for file in Path(environment["PREFECT_HOME"]).glob("prefect.db*"))


def measure_pace(folder: Path, scenes: int, fleet: Fleet) -> list[Row]:
    """Segment all scenes of a folder in one flow run and measure pace and memory.

    Args:
        folder: has the scenes in ``in`` and gets the results in ``out``.
        scenes: number of the scenes.
        fleet: what ``run_fleet`` yields.

    Returns:
        Rows of the table.
    """
    address, environment, (scheduler, *_) = fleet
    database, before, started = measure_database(environment), read_memory(scheduler), time.monotonic()
    process = start_flow_run(f"{folder}/in/*.tif", folder / "out", address, environment, 2)
    text, _ = process.communicate()
    seconds, after = time.monotonic() - started, read_memory(scheduler)
    own = [int(size) / 2**20 for size in re.findall(r"(?:begin|end) (\d+)", text)]
    records = [json.loads(path.read_text()) for path in folder.glob("out/*/run.json")]
    network = statistics.median(record["pixels_inferred"] / record["seconds"]["infer"] for record in records)
    pixels = statistics.median(record["pixels_inferred"] for record in records)
    beside = statistics.median(record["seconds"]["total"] - record["seconds"]["run"] for record in records)
    formula = 60 / (pixels / (WORKERS * network) + beside / 2)
    return [
        ("scenes published", f"{count_published(folder / 'out')} of {scenes} ({text.split()[-1]})"),
        ("scenes a minute", f"{60 * scenes / seconds:.1f}"),
        ("by the formula", f"{formula:.1f}"),
        ("one worker's network, Mpx/s", f"{network / 1e6:.2f}"),
        ("seconds of a scene beside the network", f"{beside:.2f}"),
        ("seconds of a scene that run.json does not know", f"{2 * (seconds / scenes - 60 / formula):.2f}"),
        ("scheduler, MiB at the start and the end", f"{before:.0f}, {after:.0f}"),
        ("Prefect's database, kB a scene", f"{(measure_database(environment) - database) / scenes / 1000:.0f}"),
        ("flow's process, MiB at the start and the end", f"{own[0]:.0f}, {own[-1]:.0f}"),
    ]


def measure_overhead(folder: Path, fleet: Fleet) -> list[Row]:
    """Time one scene by command and by flow run, in turns, each twice."""
    address, environment, _ = fleet
    scene = next(iter(sorted((folder / "in").glob("*.tif"))))
    times: dict[str, list[float]] = {"command": [], "flow run": []}
    for turn in range(2):
        started = time.monotonic()
        words = ["segment", scene, "--model", MODEL, "--out", folder / f"bare{turn}", "--cluster", address]
        subprocess.run([sys.executable, "-m", "seamline", *map(str, words)], check=True, capture_output=True)
        times["command"].append(time.monotonic() - started)
        started = time.monotonic()
        start_flow_run(str(scene), folder / f"flow{turn}", address, environment, 1).communicate()
        times["flow run"].append(time.monotonic() - started)
    return [
        (f"one scene by {name}, s", ", ".join(f"{value:.1f}" for value in values)) for name, values in times.items()
    ]


def measure_lost_workers(folder: Path, scenes: int, fleet: Fleet) -> list[Row]:
    """Kill half of the workers when half of the scenes are done, and time both halves.

    Args:
        folder: has the scenes in ``in`` and gets the results in ``halved``.
        scenes: number of the scenes.
        fleet: what ``run_fleet`` yields.

    Returns:
        Rows of the table.
    """
    address, environment, (_, *workers) = fleet
    out, started = folder / "halved", time.monotonic()
    process = start_flow_run(f"{folder}/in/*.tif", out, address, environment, 2)
    while count_published(out) < scenes // 2 and process.poll() is None:
        time.sleep(0.2)
    half = time.monotonic() - started
    for pid in workers[::2]:
        os.kill(pid, signal.SIGKILL)
    text, _ = process.communicate()
    rest = time.monotonic() - started - half
    return [
        ("one worker of two killed halfway: published", f"{count_published(out)} of {scenes} ({text.split()[-1]})"),
        ("seconds of the first half, of the second", f"{half:.0f}, {rest:.0f}"),
    ]


def main() -> None:
    """Write the scenes, measure, print a table."""
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
    measurements: tuple[Callable[[Fleet], list[Row]], ...] = (
        lambda fleet: measure_overhead(folder, fleet),
        lambda fleet: measure_pace(folder, arguments.scenes, fleet),
        lambda fleet: measure_lost_workers(folder, arguments.scenes, fleet),
    )
    for measure in measurements:  # each with a fleet of its own
        with run_fleet(folder) as fleet:
            for row in measure(fleet):
                table.add_row(*row)
                print(*row, sep=": ", flush=True)
    Console().print(table)


if __name__ == "__main__":
    main()
