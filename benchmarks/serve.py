"""How long `seamline serve` takes for a tile: p50 and p95 at 1 and 16 parallel clients, over random tiles of a folder.

python benchmarks/serve.py RESULTS [--tiles 400] [--layer segmentation] [--size 20000]

With --size a simulated result of so many pixels a side, as in outputs.py, is published in RESULTS first.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import morecantile
import numpy as np
import urllib3
from affine import Affine
from odc.geo.geobox import GeoBox
from outputs import CHUNK, CLASSES, simulated
from rich.console import Console
from rich.table import Table

from seamline.pipeline.common.layout import COG, RECORD
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.cog import describe_labels, write_cog
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, open_labels, write_labels
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.class_areas import compute_class_areas
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

ZOOMS = 5
"""Zoom levels of a scene that are asked for: the deepest and those above it."""


def publish(folder: Path, size: int) -> None:
    """A simulated result of ``size``² pixels: COG, record and item."""
    store = folder / "labels.zarr"
    folder.mkdir(parents=True)
    grid = GeoBox((size, size), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")
    tiling = Tiling(size, size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
    create_store(store, grid, CLASSES, ZarrLayout(1024), title="simulated")
    for chunk in tiling.chunks():
        write_labels(store, tiling.write_window_of(chunk), simulated(tiling, chunk))
    labels = open_labels(store)
    write_cog(labels, grid, describe_labels(CLASSES), folder / COG, folder / "scratch", {})
    table = compute_class_areas(labels, grid, CLASSES)
    shutil.rmtree(store)
    rows = [{"value": row.value, "name": row.name} for row in table]
    record = {"scene": folder.name, "scene_digest": "", "model_digest": "", "classes": rows}
    (folder / RECORD).write_text(json.dumps(record))
    now, model = datetime.now(UTC), ModelReference("none", "00" * 32, "model.json")
    provenance = Provenance("simulated", model, now, now, {}, "simulated")
    write_item(build_scene_item(folder, folder.name, grid, CLASSES, table, provenance), folder)
    update_catalog(folder.parent)


@contextmanager
def server(folder: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "seamline", "serve", folder, "--port", "0"]
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
    """Milliseconds of each request that is answered with a tile, and seconds of all."""

    def one(address: str) -> float | None:
        started = time.perf_counter()
        status = http.request("GET", address).status
        assert status in (200, 204), (status, address)  # 204: in the box around the scene, but beside it
        return (time.perf_counter() - started) * 1e3 if status == 200 else None

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = [milliseconds for milliseconds in pool.map(one, addresses) if milliseconds is not None]
    return taken, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--layer", default="segmentation")
    parser.add_argument("--size", type=int, help="publish a simulated result first")
    given = parser.parse_args()
    if given.size and not (folder := Path(given.results) / f"simulated-{given.size}").exists():
        publish(folder, given.size)
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
