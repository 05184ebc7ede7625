"""A store of labels as a Cloud-Optimised GeoTIFF: colour table, nodata, overviews by mode."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.common.classes import NODATA, LabelClass
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.products.layers import LAYER_SCALE, Layer
from seamline.pipeline.products.zarr_store import LABELS_ARRAY, open_store_raster, write_store_raster
from seamline.pipeline.raster_io.gdal import check_blocks_written
from seamline.pipeline.storage.atomic import atomic_write

_BLOCK = 512
_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class RasterContent:
    """What the bands of a raster mean: their names, how overviews are made of them, value = digital number × scale."""

    bands: tuple[str, ...]
    overviews: Literal["MODE", "AVERAGE"]
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)


def describe_labels(classes: Sequence[LabelClass]) -> RasterContent:
    """Of the labels: a colour table, and ``CLASS_<value>`` with the name of each class."""
    colors = {label.value: (*label.color, 255) for label in classes} | {NODATA: (0, 0, 0, 0)}
    return RasterContent(
        (LABELS_ARRAY,), "MODE", colors, tags={f"CLASS_{label.value}": label.name for label in classes}
    )


def describe_layer(layer: Layer, classes: Sequence[LabelClass]) -> RasterContent:
    """Of a layer: a band for each class, or one."""
    bands = tuple(label.name for label in classes) if layer.per_class else (layer.name,)
    return RasterContent(bands, "AVERAGE", scale=LAYER_SCALE, tags={"TITLE": layer.title})


def write_cog(
    array: zarr.Array[Any], grid: GeoBox, content: RasterContent, path: Path, scratch: Path, tags: Mapping[str, str]
) -> None:
    """Write ``array`` (y, x) or (band, y, x) uint8 on ``grid`` to the COG ``path``; it appears whole or not at all.

    The pixels pass through a tiled GeoTIFF in the folder ``scratch`` (about the size of the result), since a
    COG cannot be written in order. At most one band of rows, one Zarr chunk high, is in memory at a time. Raises
    ``OSError`` or one of GDAL's errors when the disk is full.
    ``tags`` are added to the file's own metadata beside those of ``content``.
    """
    if tuple(array.shape[-2:]) != tuple(grid.shape):
        raise ValueError(f"an array of shape {array.shape} is not on a grid of shape {tuple(grid.shape)}")
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="cog-", dir=scratch) as folder,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_NUM_THREADS="ALL_CPUS"),
    ):
        # A scene without a place, such as a micrograph, is none the worse for it.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        staged = Path(folder) / "staged.tif"
        _write_staged_geotiff(array, grid, content, staged, tags)
        check_blocks_written(staged)
        with atomic_write(path) as part:
            rasterio.shutil.copy(
                staged,
                part,
                driver="COG",
                COMPRESS="LZW",  # of what every reader knows, the one that is fast: labels are long runs
                PREDICTOR="NO" if content.colors else "YES",
                BLOCKSIZE=_BLOCK,
                OVERVIEWS=choose_overview_option(*grid.shape),
                OVERVIEW_RESAMPLING=content.overviews,
                NUM_THREADS="ALL_CPUS",
                BIGTIFF="IF_SAFER",
                STATISTICS="YES",  # or GIS tools write them to a side-car beside the file
            )
            check_blocks_written(part)


def choose_overview_option(height: int, width: int) -> Literal["AUTO", "NONE"]:
    """GDAL's option for overviews: none of a raster so narrow that one of them could not be halved on its short side.

    GDAL would keep that side at one pixel, and readers take such an overview for damage.
    """
    levels = math.ceil(math.log2(max(1, max(height, width) / _BLOCK)))
    return "AUTO" if min(height, width) >= 2**levels else "NONE"


def copy_cog_to_store(path: Path, store: Path, name: str) -> None:
    """Write the COG ``path`` into an empty array of a store of the same grid, a row of Zarr chunks at a time."""
    array = open_store_raster(store, name)
    with rasterio.open(path) as cog:
        for band in iter_row_windows(array):
            window = RasterioWindow(band.col, band.row, band.width, band.height)
            write_store_raster(store, name, band, cog.read(window=window).reshape(*array.shape[:-2], *band.shape))


def iter_row_windows(array: zarr.Array[Any], multiple: int = 1) -> Iterator[Window]:
    """Full-width windows from top to bottom, as high as a Zarr chunk or shard, rounded up to ``multiple`` rows."""
    height, width = array.shape[-2:]
    step = -(-(array.shards or array.chunks)[-2] // multiple) * multiple
    for row in range(0, height, step):
        yield Window(row, 0, min(step, height - row), width)


def _write_staged_geotiff(
    array: zarr.Array[Any], grid: GeoBox, content: RasterContent, path: Path, tags: Mapping[str, str]
) -> None:
    height, width = grid.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=len(content.bands),
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
        interleave="band",
        photometric="minisblack" if content.colors is None else "palette",
    ) as staged:
        if content.colors is not None:
            staged.write_colormap(1, content.colors)
        else:  # or four classes would be red, green, blue and alpha
            staged.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(content.bands) - 1)]
        staged.scales = (content.scale,) * len(content.bands)
        staged.update_tags(**content.tags, **tags, AREA_OR_POINT="Area")
        for number, name in enumerate(content.bands, 1):
            staged.set_band_description(number, name)
            for band in iter_row_windows(array, _BLOCK):
                place = band.to_slices() if array.ndim == 2 else (number - 1, *band.to_slices())
                window = RasterioWindow(band.col, band.row, band.width, band.height)
                staged.write(np.asarray(array[place]), number, window=window)


def read_thinned_labels(path: Path, step: int) -> NDArray[np.uint8]:
    """Labels (y, x) of a COG at about every ``step``-th pixel, from its overviews."""
    with rasterio.open(path) as file:
        shape = math.ceil(file.height / step), math.ceil(file.width / step)
        return np.asarray(file.read(1, out_shape=shape), dtype=np.uint8)
