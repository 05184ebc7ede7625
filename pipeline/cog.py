"""A store of labels as a Cloud-Optimised GeoTIFF: colour table, nodata, overviews by mode."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from pipeline.classes import NODATA, LabelClass
from pipeline.files import replacing
from pipeline.grid import GeoBox, Window
from pipeline.rasters import check_blocks
from pipeline.store import VARIABLE, open_labels, write_labels

__all__ = ["copy_labels", "row_bands", "thinned_labels", "write_cog"]

_BLOCK = 512
_CACHE_BYTES = 64 << 20


def write_cog(
    labels: zarr.Array[Any],
    grid: GeoBox,
    classes: Sequence[LabelClass],
    path: Path,
    scratch: Path,
    tags: Mapping[str, str],
) -> None:
    """Write ``labels`` (y, x) uint8 on ``grid`` to the COG ``path``; it appears whole or not at all.

    The labels pass through a tiled GeoTIFF in the folder ``scratch`` (about the size of the result), since a
    COG cannot be written in order. At most one band of rows, one Zarr chunk high, is in memory at a time. Raises
    ``OSError`` or one of GDAL's errors when the disk is full.
    ``tags`` are added to the file's own metadata beside ``CLASS_<value>`` with the name of each class.
    """
    if tuple(labels.shape) != tuple(grid.shape):
        raise ValueError(f"labels of shape {labels.shape} are not on a grid of shape {tuple(grid.shape)}")
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="cog-", dir=scratch) as folder,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_NUM_THREADS="ALL_CPUS"),
    ):
        # A scene without a place, such as a micrograph, is none the worse for it.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        staged = Path(folder) / "staged.tif"
        _stage(labels, grid, classes, staged, tags)
        check_blocks(staged)
        with replacing(path) as part:
            rasterio.shutil.copy(
                staged,
                part,
                driver="COG",
                COMPRESS="LZW",  # of what every reader knows, the one that is fast: labels are long runs
                BLOCKSIZE=_BLOCK,
                OVERVIEW_RESAMPLING="MODE",
                NUM_THREADS="ALL_CPUS",
                BIGTIFF="IF_SAFER",
                STATISTICS="YES",  # or GIS tools write them to a side-car beside the file
            )
            check_blocks(part)


def copy_labels(path: Path, store: Path) -> None:
    """Write the labels of the COG ``path`` into an empty store of the same grid, a row of Zarr chunks at a time."""
    with rasterio.open(path) as cog:
        for band in row_bands(open_labels(store)):
            write_labels(store, band, cog.read(1, window=RasterioWindow(band.col, band.row, band.width, band.height)))


def row_bands(labels: zarr.Array[Any], multiple: int = 1) -> Iterator[Window]:
    """Full-width windows from top to bottom, as high as a Zarr chunk, rounded up to ``multiple`` rows."""
    height, width = labels.shape
    step = -(-labels.chunks[0] // multiple) * multiple
    for row in range(0, height, step):
        yield Window(row, 0, min(step, height - row), width)


def _stage(
    labels: zarr.Array[Any],
    grid: GeoBox,
    classes: Sequence[LabelClass],
    path: Path,
    tags: Mapping[str, str],
) -> None:
    height, width = grid.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype="uint8",
        nodata=NODATA,
        crs=None if grid.crs is None else grid.crs.to_wkt(),
        transform=grid.transform,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        compress="zstd",
        zstd_level=1,
        bigtiff="if_safer",
    ) as staged:
        staged.write_colormap(1, {label.value: (*label.color, 255) for label in classes} | {NODATA: (0, 0, 0, 0)})
        staged.set_band_description(1, VARIABLE)
        names = {f"CLASS_{label.value}": label.name for label in classes}
        staged.update_tags(**names, **tags, AREA_OR_POINT="Area")
        for band in row_bands(labels, _BLOCK):
            pixels = labels[band.slices()]
            staged.write(pixels, 1, window=RasterioWindow(band.col, band.row, band.width, band.height))


def thinned_labels(path: Path, step: int) -> NDArray[np.uint8]:
    """Labels (y, x) of a COG at about every ``step``-th pixel, from its overviews."""
    with rasterio.open(path) as file:
        shape = math.ceil(file.height / step), math.ceil(file.width / step)
        return np.asarray(file.read(1, out_shape=shape), dtype=np.uint8)
