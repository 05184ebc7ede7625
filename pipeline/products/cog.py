"""Cloud-Optimised GeoTIFFs: written from an array of a Zarr store, and read back into one."""

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
from seamline.pipeline.raster_io.raw_sizes import check_blocks_written
from seamline.pipeline.storage.atomic import atomic_write

_BLOCK = 512
"""Edge of a TIFF block in pixels."""
_CACHE_BYTES = 64 << 20
"""Size of GDAL's block cache while a COG is written."""


@dataclass(frozen=True)
class RasterContent:
    """What the bands of a COG mean, as far as the file says so.

    Attributes:
        bands: name of each band.
        overviews: GDAL's resampling method for the overviews.
        colors: colour table, digital number to (red, green, blue, alpha), 0 to 255. ``None``: no colour table.
        scale: value = digital number × scale.
        tags: metadata of the file.
    """

    bands: tuple[str, ...]
    overviews: Literal["MODE", "AVERAGE"]
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)


def describe_labels(classes: Sequence[LabelClass]) -> RasterContent:
    """Return the content of a COG of labels: a colour table, and a tag ``CLASS_<value>`` with each class's name."""
    colors = {label.value: (*label.color, 255) for label in classes} | {NODATA: (0, 0, 0, 0)}
    tags = {f"CLASS_{label.value}": label.name for label in classes}
    return RasterContent((LABELS_ARRAY,), "MODE", colors, tags=tags)


def describe_layer(layer: Layer, classes: Sequence[LabelClass]) -> RasterContent:
    """Return the content of a COG of a layer: one band, or one for each class."""
    bands = tuple(label.name for label in classes) if layer.per_class else (layer.name,)
    return RasterContent(bands, "AVERAGE", scale=LAYER_SCALE, tags={"TITLE": layer.title})


def write_cog(
    array: zarr.Array[Any], grid: GeoBox, content: RasterContent, path: Path, scratch: Path, tags: Mapping[str, str]
) -> None:
    """Write an array of a Zarr store to a COG, which appears whole or not at all.

    A COG cannot be written in order. So the pixels pass through a tiled GeoTIFF of about the size of the result. At
    most one band of rows, one Zarr chunk high, is in memory at a time.

    Args:
        array: (y, x) or (band, y, x), uint8.
        grid: grid of the array.
        content: what the bands mean.
        path: the COG; it is replaced if it exists.
        scratch: folder for the temporary GeoTIFF; it is created if it is missing.
        tags: metadata that the file gets in addition to those of ``content``.

    Raises:
        ValueError: the array does not have the shape of the grid.
        OSError: the disk is full. Errors of GDAL (``RasterioError``, ``CPLE_BaseError``) may say the same.
    """
    if tuple(array.shape[-2:]) != tuple(grid.shape):
        raise ValueError(f"an array of shape {array.shape} is not on a grid of shape {tuple(grid.shape)}")
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="cog-", dir=scratch) as folder,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_NUM_THREADS="ALL_CPUS"),
    ):
        # Scenes without georeference, such as micrographs, are valid input.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        staged = Path(folder) / "staged.tif"
        _write_staged_geotiff(array, grid, content, staged, tags)
        check_blocks_written(staged)
        with atomic_write(path) as part:
            rasterio.shutil.copy(
                staged,
                part,
                driver="COG",
                # Every reader knows LZW. It is fast, and it compresses the long runs of labels well.
                COMPRESS="LZW",
                PREDICTOR="NO" if content.colors else "YES",
                BLOCKSIZE=_BLOCK,
                OVERVIEWS=choose_overview_option(*grid.shape),
                OVERVIEW_RESAMPLING=content.overviews,
                NUM_THREADS="ALL_CPUS",
                BIGTIFF="IF_SAFER",
                # Without statistics in the file GIS tools write a side-car with them beside it.
                STATISTICS="YES",
            )
            check_blocks_written(part)


def choose_overview_option(height: int, width: int) -> Literal["AUTO", "NONE"]:
    """Return the value of GDAL's COG option ``OVERVIEWS`` for a raster of this size in pixels.

    It is ``NONE`` for a raster so narrow that its short side cannot be halved for every overview. GDAL would keep that
    side at one pixel, and readers take such an overview for a damaged one.
    """
    levels = math.ceil(math.log2(max(1, max(height, width) / _BLOCK)))
    return "AUTO" if min(height, width) >= 2**levels else "NONE"


def copy_cog_to_store(path: Path, store: Path, name: str) -> None:
    """Copy a COG into an empty array of a Zarr store on the same grid, one row of Zarr chunks at a time.

    Args:
        path: the COG.
        store: the Zarr store.
        name: name of the array, (y, x) or (class, y, x).
    """
    array = open_store_raster(store, name)
    with rasterio.open(path) as cog:
        for window in iter_row_windows(array):
            values = cog.read(window=_to_rasterio_window(window))
            write_store_raster(store, name, window, values.reshape(*array.shape[:-2], *window.shape))


def iter_row_windows(array: zarr.Array[Any], multiple: int = 1) -> Iterator[Window]:
    """Yield windows of the full width from top to bottom, each one Zarr chunk or shard high.

    Args:
        array: (…, y, x).
        multiple: the height of the windows is rounded up to a multiple of this number of rows.

    Yields:
        Windows that cover the array without overlap. The last one ends with the array.
    """
    height, width = array.shape[-2:]
    step = -(-(array.shards or array.chunks)[-2] // multiple) * multiple
    for row in range(0, height, step):
        yield Window(row, 0, min(step, height - row), width)


def read_thinned_labels(path: Path, step: int) -> NDArray[np.uint8]:
    """Read the labels (y, x) of a COG at about every ``step``-th pixel, from its overviews."""
    with rasterio.open(path) as file:
        shape = math.ceil(file.height / step), math.ceil(file.width / step)
        return np.asarray(file.read(1, out_shape=shape), dtype=np.uint8)


def _write_staged_geotiff(
    array: zarr.Array[Any], grid: GeoBox, content: RasterContent, path: Path, tags: Mapping[str, str]
) -> None:
    """Write the tiled GeoTIFF from which GDAL makes the COG."""
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
        else:
            # Without an interpretation of its own a file of four classes would be red, green, blue and alpha.
            staged.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(content.bands) - 1)]
        staged.scales = (content.scale,) * len(content.bands)
        staged.update_tags(**content.tags, **tags, AREA_OR_POINT="Area")
        for number, name in enumerate(content.bands, 1):
            staged.set_band_description(number, name)
            for window in iter_row_windows(array, _BLOCK):
                pixels = window.to_slices()
                index = pixels if array.ndim == 2 else (number - 1, *pixels)
                staged.write(np.asarray(array[index]), number, window=_to_rasterio_window(window))


def _to_rasterio_window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)
