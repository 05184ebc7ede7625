"""How long a file waits: from its drop into the inbox of ``seamline up`` to its item in the catalogue's table.

python benchmarks/inbox.py [--scenes 6] [--size 1024] [--every 60] [--settle 10]

Files are dropped one by one, each at another moment between two looks into the inbox.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as parquet
from rich.console import Console
from rich.table import Table

from seamline.flows.up.stack import INBOX, RESULTS
from seamline.pipeline.common.layout import ITEMS
from seamline.pipeline.synthetic.simulate import Simulation
from seamline.pipeline.synthetic.simulation_files import write_simulation

PORTS = ("--prefect-port", "0", "--dask-port", "0", "--dashboard-port", "0", "--map-port", "0")


def seamline(*words: object) -> None:
    """A command of Seamline that must succeed."""
    subprocess.run([sys.executable, "-m", "seamline", *map(str, words)], check=True, capture_output=True)


def wait(folder: Path, scene: Path) -> float:
    """Seconds from the drop of a scene into the inbox to its item."""
    shutil.copy(scene, folder / INBOX)
    dropped, items = time.monotonic(), folder / RESULTS / ITEMS
    while not (items.exists() and scene.stem in parquet.read_table(items, columns=["id"])["id"].to_pylist()):
        time.sleep(0.1)
    return time.monotonic() - dropped


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--every", type=float, default=60)
    parser.add_argument("--settle", type=float, default=10)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    seamline("up", "--detach", "--folder", folder, "--every", arguments.every, "--settle", arguments.settle, *PORTS)
    waits: list[float] = []
    table = Table("scene", "seconds from inbox to item", "of these seconds in run.json")
    try:
        for number in range(arguments.scenes):
            scene = folder / f"scene-{number}.tif"
            write_simulation(Simulation(arguments.size, arguments.size, seed=number), scene)
            waits.append(wait(folder, scene))
            record = json.loads((folder / RESULTS / scene.stem / "run.json").read_text())
            row = (scene.stem, f"{waits[-1]:.1f}", f"{record['seconds']['total']:.1f}")
            table.add_row(*row)
            print(*row, sep=": ", flush=True)
            time.sleep(arguments.every * (0.17 + number * 0.61) % arguments.every)
    finally:
        seamline("down", "--folder", folder)
    Console().print(table)
    print(f"median {statistics.median(waits):.1f} s, most {max(waits):.1f} s")


if __name__ == "__main__":
    main()
