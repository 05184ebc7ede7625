"""A small picture of a scene, without reading the whole of a large one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from seamline.pipeline.products.cog import choose_overview_option
from seamline.pipeline.raster_io.gdal import gdal_environment, open_cached_raster
from seamline.pipeline.scenes.scene import Band, Scene
from seamline.pipeline.storage.atomic import atomic_write

MAX_FULL_READ_PIXELS = 50_000_000
"""Pixels that are read in full where a file has no overviews."""


def read_thumbnail(
    scene: Scene, bands: Sequence[Band], size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Values of bands (n, height, width) thinned to at most ``size`` pixels a side, and where any has data.

    Uses the files' overviews; ``None`` for a large file that has none, since all of it would be read.
    """
    height, width = scene.grid.shape
    step = max(1, math.ceil(max(height, width) / size))
    shape = math.ceil(height / step), math.ceil(width / step)
    pixels = np.empty((len(bands), *shape), np.float32)
    valid = np.zeros(shape, np.bool_)
    for values, band in zip(pixels, bands, strict=True):
        with gdal_environment(band.path, band.version):
            dataset = open_cached_raster(band.path, band.version).dataset
            if height * width > MAX_FULL_READ_PIXELS and not dataset.overviews(band.index):
                return None
            values[:] = dataset.read(band.index, out_shape=shape)
            valid |= (dataset.read_masks(band.index, out_shape=shape) > 0) & (values != band.nodata)
        values *= band.scale
        values += band.offset
    return pixels, valid


def write_overview(rgb: NDArray[np.uint8], shown: NDArray[np.bool_], grid: GeoBox, step: int, path: Path) -> None:
    """Write a picture (h, w, 3) of every ``step``-th pixel of the scene on ``grid`` to the COG ``path``.

    Bands red, green and blue, as JPEG, and a mask: there is nothing where ``shown`` (h, w) is not. Each pixel lies
    around the one of the scene that it shows, so that it reaches over the scene's edge by less than half of itself.
    """
    height, width, _ = rgb.shape
    off_centre = (1 - step) / 2
    transform = grid.transform @ Affine.translation(off_centre, off_centre) @ Affine.scale(step)
    profile = {"width": width, "height": height, "count": 4, "dtype": "uint8", "transform": transform,
               "crs": None if grid.crs is None else grid.crs.to_wkt()}  # fmt: skip
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="GTiff", photometric="RGB", alpha="YES", **profile) as file:
            file.write(np.moveaxis(np.dstack([rgb, shown.astype(np.uint8) * 255]), 2, 0))
        with memory.open() as file, atomic_write(path) as part:
            rasterio.shutil.copy(file, part, driver="COG", COMPRESS="JPEG", QUALITY=90, BLOCKSIZE=512,
                                 OVERVIEWS=choose_overview_option(height, width))  # fmt: skip
