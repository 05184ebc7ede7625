"""A small picture of a scene, read without reading the whole of a large one, and written as a COG."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from seamline.pipeline.raster_io.gdal import gdal_environment, open_cached_raster
from seamline.pipeline.raster_io.nodata import has_number
from seamline.pipeline.scenes.scene import Band, Scene
from seamline.pipeline.storage.atomic import atomic_write
from seamline.pipeline.storage.confinement import confine

_BLOCK = 512
"""Edge of a TIFF block of a picture in pixels."""
_MAX_FULL_READ_PIXELS = 50_000_000
"""Pixels of the largest file that is read in full if it has no overviews."""


def read_thumbnail(
    scene: Scene, bands: Sequence[Band], size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Read bands of a scene at a low resolution, from the files' overviews.

    Args:
        scene: the scene.
        bands: bands of the scene.
        size: largest number of pixels a side.

    Returns:
        Values (bands, height, width), and where any band has data (height, width). None for a large file without
        overviews, since all of it would be read.
    """
    height, width = scene.grid.shape
    step = max(1, math.ceil(max(height, width) / size))
    shape = math.ceil(height / step), math.ceil(width / step)
    pixels = np.empty((len(bands), *shape), np.float32)
    valid = np.zeros(shape, np.bool_)
    for values, band in zip(pixels, bands, strict=True):
        with confine(scene.confinement), gdal_environment(band.path, band.version):
            dataset = open_cached_raster(band.path, band.version, band.stamps).dataset
            if height * width > _MAX_FULL_READ_PIXELS and not dataset.overviews(band.index):
                return None
            values[:] = dataset.read(band.index, out_shape=shape)
            valid |= (dataset.read_masks(band.index, out_shape=shape) > 0) & has_number(values, band.nodata)
        values *= band.scale
        values += band.offset
    return pixels, valid


def write_scene_picture(rgb: NDArray[np.uint8], shown: NDArray[np.bool_], grid: GeoBox, step: int, path: Path) -> None:
    """Write a picture of every ``step``-th pixel of a scene to a COG: red, green and blue as JPEG, and a mask.

    Each pixel of the picture is centred on the pixel of the scene that it shows. So it reaches over the edge of the
    scene by less than half of itself.

    Args:
        rgb: (height, width, 3).
        shown: (height, width), whether there is anything to show.
        grid: grid of the scene.
        step: distance in pixels of the scene between the pixels of the picture.
        path: the COG, which appears whole or not at all.
    """
    height, width, _ = rgb.shape
    shift = (1 - step) / 2
    profile = {
        "width": width,
        "height": height,
        "count": 4,
        "dtype": "uint8",
        "transform": grid.transform @ Affine.translation(shift, shift) @ Affine.scale(step),
        "crs": None if grid.crs is None else grid.crs.to_wkt(),
    }
    with warnings.catch_warnings(), MemoryFile() as memory:
        # Scenes without georeference, such as micrographs, are valid input.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="GTiff", photometric="RGB", alpha="YES", **profile) as file:
            file.write(np.moveaxis(np.dstack([rgb, shown.astype(np.uint8) * 255]), 2, 0))
        with memory.open() as file, atomic_write(path) as part:
            rasterio.shutil.copy(
                file,
                part,
                driver="COG",
                COMPRESS="JPEG",
                QUALITY=90,
                BLOCKSIZE=_BLOCK,
                OVERVIEWS=_choose_overview_option(height, width),
            )


def _choose_overview_option(height: int, width: int) -> Literal["AUTO", "NONE"]:
    """Return the value of GDAL's COG option ``OVERVIEWS`` for a picture of this size in pixels.

    It is ``NONE`` for a picture so narrow that its short side cannot be halved for every overview. GDAL would keep that
    side at one pixel, and readers take such an overview for a damaged one.
    """
    levels = math.ceil(math.log2(max(1, max(height, width) / _BLOCK)))
    return "AUTO" if min(height, width) >= 2**levels else "NONE"
