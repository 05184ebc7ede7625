"""Writing a simulated scene and its truth as GeoTIFFs."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterWindow

from seamline.pipeline.common.classes import NODATA
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import clear_gdal_error, describe_error
from seamline.pipeline.raster_io.raw_sizes import check_blocks_written
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.synthetic.region import Region
from seamline.pipeline.synthetic.simulate import BANDS, CLASSES, SCALE, VERSION, SimulatedBlock

_BYTES_PER_PIXEL = 7.5
"""Measured size of both files together."""
_BLOCK_SIZE = 512


class SimulatedScene(Protocol):
    """A scene that can be rendered window by window; ``Simulation`` is one."""

    @property
    def seed(self) -> int:
        """Seed of the scene."""
        ...

    @property
    def grid(self) -> GeoBox:
        """Grid of the scene."""
        ...

    @property
    def acquired(self) -> str:
        """When the scene was taken, ISO 8601 with a time zone."""
        ...

    def render_block(self, window: Window) -> SimulatedBlock:
        """Return digital numbers (6, height, width) and truth labels (height, width) of a window."""
        ...


def write_simulation(simulation: SimulatedScene, path: Path, progress: Callable[[float], None] | None = None) -> Path:
    """Write a simulated scene as a GeoTIFF and its truth beside it as ``<stem>_truth.tif``.

    The files appear under their names when both are complete. Memory does not depend on the size of the scene, and the
    files do not depend on the number of cores.

    Args:
        simulation: The scene.
        path: File of the scene.
        progress: Called after each block with the share that is done, 0 to 1.

    Returns:
        Path of the truth.

    Raises:
        InputError: The files cannot be written.
    """
    try:
        return _write_files(simulation, path, progress)
    except OSError as error:
        clear_gdal_error()
        raise InputError(
            f"--out {path}",
            got=f"{error.strerror} ({error.filename})" if error.filename else error.strerror or describe_error(error),
            expected="a file that can be written, and room for it",
            fix="choose another place, or free some space",
        ) from error


def write_region(region: Region, folder: Path) -> list[Path]:
    """Write all scenes of a region, the truth of each, and that of the ground without clouds as ``truth.tif``.

    Args:
        region: The region.
        folder: Gets ``<scene>.tif`` and ``<scene>_truth.tif`` of each scene, and ``truth.tif`` on the region's grid.

    Returns:
        Paths of the scenes, in the order of ``region.scenes``.

    Raises:
        InputError: The files cannot be written.
    """
    paths = [folder / f"{scene.id}.tif" for scene in region.scenes]
    for scene, path in zip(region.scenes, paths, strict=True):
        write_simulation(scene, path)
    _write_truth(region.render_truth(region.grid), region.grid, folder / "truth.tif")
    return paths


def _write_truth(labels: NDArray[np.uint8], grid: GeoBox, path: Path) -> None:
    with atomic_write(path) as part:
        profile = {"crs": str(grid.crs), "transform": grid.affine, "dtype": "uint8", "nodata": NODATA, "count": 1}
        with rasterio.open(part, "w", "GTiff", grid.width, grid.height, compress="ZSTD", **profile) as truth:
            _describe_truth(truth)
            truth.write(labels, 1)


def _describe_truth(truth: rasterio.io.DatasetWriter) -> None:
    truth.set_band_description(1, ", ".join(f"{label.value} {label.name}" for label in CLASSES))
    truth.write_colormap(1, {label.value: (*label.color, 255) for label in CLASSES} | {NODATA: (0, 0, 0, 0)})


def _prepare_folder(simulation: SimulatedScene, path: Path) -> None:
    """Create the folder of a file and check that the simulation fits on its disk."""
    height, width = simulation.grid.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = height * width * _BYTES_PER_PIXEL, shutil.disk_usage(path.parent).free
    if free < needed:
        raise InputError(
            f"disk of --out {path}",
            got=f"{free / 2**20:.1f} MiB free",
            expected=f"{needed / 2**20:.1f} MiB for a scene of {height}×{width}",
            fix="free some space or choose another disk",
        )


def _write_files(simulation: SimulatedScene, path: Path, progress: Callable[[float], None] | None) -> Path:
    truth_path = path.parent / f"{path.stem}_truth.tif"
    for target in (path, truth_path):
        if target.is_dir():
            raise InputError("--out", got=f"{target}, a folder", expected="the name of a file", fix="name the GeoTIFF")
    _prepare_folder(simulation, path)
    total = simulation.grid.height * simulation.grid.width
    # The truth is renamed first, so that no scene appears without its truth.
    with atomic_write(path) as part, atomic_write(truth_path) as truth_part:
        with (
            _create_raster(part, simulation, count=len(BANDS), dtype="uint16", nodata=0) as scene,
            _create_raster(truth_part, simulation, count=1, dtype="uint8", nodata=NODATA) as truth,
        ):
            scene.descriptions = BANDS
            # Viewers then show true colours by default.
            scene.colorinterp = [ColorInterp[name] for name in BANDS[:3]] + [ColorInterp.undefined] * 3
            scene.scales, scene.offsets = [SCALE] * len(BANDS), [0.0] * len(BANDS)
            _describe_truth(truth)
            done = 0
            for window, (numbers, labels) in _render_blocks(simulation):
                raster_window = RasterWindow(window.col, window.row, window.width, window.height)
                scene.write(numbers, window=raster_window)
                truth.write(labels, 1, window=raster_window)
                done += window.pixel_count
                if progress is not None:
                    progress(done / total)
        check_blocks_written(part)
        check_blocks_written(truth_part)
    return truth_path


def _create_raster(
    path: Path, simulation: SimulatedScene, *, count: int, dtype: str, nodata: int
) -> rasterio.io.DatasetWriter:
    grid = simulation.grid
    raster = rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=grid.height,
        width=grid.width,
        count=count,
        dtype=dtype,
        nodata=nodata,
        crs=str(grid.crs),
        transform=grid.affine,
        tiled=True,
        blockxsize=_BLOCK_SIZE,
        blockysize=_BLOCK_SIZE,
        interleave="pixel",
        compress="ZSTD",
        zstd_level=1,
        predictor=2,
        bigtiff="IF_SAFER",
        # No num_threads: GDAL's threads do not report what they could not write.
    )
    raster.update_tags(
        SIMULATED="YES",
        SIMULATION_SEED=simulation.seed,
        SIMULATION_VERSION=VERSION,
        ACQUISITION_DATETIME=simulation.acquired,
        TIFFTAG_DATETIME=simulation.acquired[:19].replace("-", ":").replace("T", " "),
        TIFFTAG_IMAGEDESCRIPTION="Simulated satellite scene; not an observation of the Earth",
    )
    return raster


def _render_blocks(simulation: SimulatedScene) -> Iterator[tuple[Window, SimulatedBlock]]:
    """Yield all blocks in the order of the file; threads render a few ahead, because numpy releases the GIL."""
    height, width = simulation.grid.shape
    whole = Window(0, 0, height, width)
    windows = (
        Window(row, col, _BLOCK_SIZE, _BLOCK_SIZE).intersection(whole)
        for row in range(0, height, _BLOCK_SIZE)
        for col in range(0, width, _BLOCK_SIZE)
    )
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Window, Future[SimulatedBlock]]] = deque()
        while True:
            for window in islice(windows, 2 * workers - len(ahead)):
                ahead.append((window, pool.submit(simulation.render_block, window)))
            if not ahead:
                return
            window, block = ahead.popleft()
            yield window, block.result()
