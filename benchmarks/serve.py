"""How long `seamline serve` takes for a tile: p50 and p95 at 1 and 16 parallel clients, over random tiles of a folder.

python benchmarks/serve.py RESULTS [--tiles 400] [--layer segmentation]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import morecantile
import numpy as np
import urllib3
from rich.console import Console
from rich.table import Table

ZOOMS = 5
"""Zoom levels of a scene that are asked for: the deepest and those above it."""


@contextmanager
def server(folder: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", "serve", folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        finally:
            process.terminate()


def tiles_of(http: urllib3.PoolManager, url: str, layer: str, count: int, seed: int) -> list[str]:
    """Addresses of random tiles: any scene, any of its zoom levels, anywhere in it."""
    found = http.request("GET", f"{url}scenes").json()["scenes"]
    scenes = [scene for scene in found if layer in scene.get("layers", [])]
    web, chance = morecantile.tms.get("WebMercatorQuad"), random.Random(seed)
    described = {
        scene["id"]: http.request(
            "GET", f"{url}scenes/{scene['id']}/layers/{layer}/WebMercatorQuad/tilejson.json"
        ).json()
        for scene in scenes
    }
    addresses = []
    for _ in range(count):
        told = chance.choice(list(described.values()))
        west, south, east, north = told["bounds"]
        zoom = chance.randint(max(0, told["maxzoom"] - ZOOMS + 1), told["maxzoom"])
        tile = web.tile(chance.uniform(west, east), chance.uniform(south, north), zoom)
        address = told["tiles"][0]
        for name, value in zip("xyz", tile, strict=True):
            address = address.replace(f"{{{name}}}", str(value))
        addresses.append(address)
    return addresses


def measured(http: urllib3.PoolManager, addresses: list[str], clients: int) -> tuple[list[float], float]:
    """Milliseconds of each request, and seconds of all."""

    def one(address: str) -> float:
        started = time.perf_counter()
        status = http.request("GET", address).status
        assert status == 200, (status, address)
        return (time.perf_counter() - started) * 1e3

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = list(pool.map(one, addresses))
    return taken, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--layer", default="segmentation")
    given = parser.parse_args()
    http = urllib3.PoolManager(maxsize=16)
    table = Table("clients", "tiles", "p50 ms", "p95 ms", "tiles/s", title=f"{given.layer}, 512² pixels a tile")
    with server(given.results) as url:
        measured(http, tiles_of(http, url, given.layer, 20, seed=1), 1)  # what is imported and opened once
        for clients in (1, 16):
            taken, seconds = measured(http, tiles_of(http, url, given.layer, given.tiles, seed=2), clients)
            p50, p95 = np.percentile(taken, [50, 95])
            table.add_row(str(clients), str(len(taken)), f"{p50:.1f}", f"{p95:.1f}", f"{len(taken) / seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
