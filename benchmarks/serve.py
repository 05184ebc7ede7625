"""How long ``seamline serve`` takes for a tile: p50 and p95 with 1 and 16 clients, over random tiles of a folder.

    python benchmarks/serve.py RESULTS [--tiles 400] [--layer segmentation] [--size 20000]

With ``--size`` a simulated result of so many pixels a side, as in outputs.py, is published in RESULTS first.
"""

from __future__ import annotations

import argparse
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
from outputs import CHUNK, CLASSES, simulate_labels
from rich.console import Console
from rich.table import Table
from run_records import make_up_record

from seamline.pipeline.common.layout import COG
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.geometry.pixel_area import measure_pixel_areas
from seamline.pipeline.geometry.tiling import Tiling
from seamline.pipeline.products.cog import describe_labels, write_cog
from seamline.pipeline.products.overviews import write_overviews
from seamline.pipeline.products.run_record import write_record
from seamline.pipeline.products.zarr_store import ZarrLayout, create_store, write_labels
from seamline.pipeline.stac.catalog import update_catalog, write_item
from seamline.pipeline.stac.class_areas import compute_class_areas, count_labels
from seamline.pipeline.stac.scene_item import ModelReference, Provenance, build_scene_item

ZOOMS = 5
"""Number of zoom levels that tiles are drawn from: a scene's deepest level and those above it."""


def publish_simulated(folder: Path, size: int) -> None:
    """Publish a simulated result of ``size``² pixels: COG, record and item."""
    store = folder / "labels.zarr"
    folder.mkdir(parents=True)
    grid = GeoBox((size, size), Affine(10, 0, 5e5, 0, -10, 6e6), "EPSG:32632")
    tiling = Tiling(size, size, window=CHUNK, halo=0, overlap=0, chunk_tiles=1, divisor=1)
    create_store(store, grid, CLASSES, ZarrLayout(1024), title="simulated")
    for chunk in tiling.chunks():
        write_labels(store, tiling.write_window_of(chunk), simulate_labels(tiling, chunk))
    areas = measure_pixel_areas(grid)
    counts, _ = write_overviews(
        store,
        grid,
        CLASSES,
        folder / "scratch",
        summarize=lambda window, labels: count_labels(labels, areas and areas.for_window(window)),
    )
    write_cog(store, grid, describe_labels(CLASSES), folder / COG, folder / "scratch", {})
    table = compute_class_areas(counts, CLASSES)
    shutil.rmtree(store)
    write_record(folder, make_up_record(folder.name, (size, size), table))
    now, model = datetime.now(UTC), ModelReference("none", "00" * 32, Path("model.json"))
    provenance = Provenance("simulated", model, TimeSpan.at(now), now, {}, "simulated")
    write_item(build_scene_item(folder, folder.name, grid, CLASSES, table, provenance), folder)
    update_catalog(folder.parent)


@contextmanager
def run_server(folder: str) -> Iterator[str]:
    """Run a server in a separate process and yield its address."""
    command = [sys.executable, "-m", "seamline", "serve", folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        finally:
            process.terminate()


def draw_tiles(http: urllib3.PoolManager, url: str, layer: str, count: int, seed: int) -> list[str]:
    """Draw random tiles: of any scene, at one of its deepest zoom levels, anywhere in its bounds.

    Args:
        http: the client.
        url: address of the server.
        layer: layer of the scenes.
        count: number of tiles.
        seed: of the draw.

    Returns:
        Addresses of the tiles.
    """
    listed = http.request("GET", f"{url}scenes").json()["scenes"]
    scenes = [scene for scene in listed if layer in scene.get("layers", [])]
    web, random_source = morecantile.tms.get("WebMercatorQuad"), random.Random(seed)
    documents = {
        scene["id"]: http.request(
            "GET", f"{url}scenes/{scene['id']}/layers/{layer}/WebMercatorQuad/tilejson.json"
        ).json()
        for scene in scenes
    }
    addresses = []
    for _ in range(count):
        document = random_source.choice(list(documents.values()))
        west, south, east, north = document["bounds"]
        zoom = random_source.randint(max(0, document["maxzoom"] - ZOOMS + 1), document["maxzoom"])
        tile = web.tile(random_source.uniform(west, east), random_source.uniform(south, north), zoom)
        address = document["tiles"][0]
        for name, value in zip("xyz", tile, strict=True):
            address = address.replace(f"{{{name}}}", str(value))
        addresses.append(address)
    return addresses


def measure_requests(http: urllib3.PoolManager, addresses: list[str], clients: int) -> tuple[list[float], float]:
    """Request tiles with several clients at once.

    Args:
        http: the connections.
        addresses: of the tiles.
        clients: number of threads.

    Returns:
        Milliseconds of each request that is answered with a tile, and seconds of all requests together.
    """

    def request(address: str) -> float | None:
        started = time.perf_counter()
        status = http.request("GET", address).status
        assert status in (200, 204), (status, address)  # 204: within the scene's bounds, but outside of its pixels
        return (time.perf_counter() - started) * 1e3 if status == 200 else None

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = [milliseconds for milliseconds in pool.map(request, addresses) if milliseconds is not None]
    return taken, time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--layer", default="segmentation")
    parser.add_argument("--size", type=int, help="publish a simulated result first")
    arguments = parser.parse_args()
    if arguments.size and not (folder := Path(arguments.results) / f"simulated-{arguments.size}").exists():
        publish_simulated(folder, arguments.size)
    http = urllib3.PoolManager(maxsize=16)
    table = Table("clients", "tiles", "p50 ms", "p95 ms", "tiles/s", title=f"{arguments.layer}, 512² pixels a tile")
    with run_server(arguments.results) as url:
        measure_requests(http, draw_tiles(http, url, arguments.layer, 20, seed=1), 1)  # warms up imports and open files
        for clients in (1, 16):
            taken, seconds = measure_requests(
                http, draw_tiles(http, url, arguments.layer, arguments.tiles, seed=2), clients
            )
            p50, p95 = np.percentile(taken, [50, 95])
            table.add_row(str(clients), str(len(taken)), f"{p50:.1f}", f"{p95:.1f}", f"{len(taken) / seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
