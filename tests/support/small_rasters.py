"""Rasters that the tests write: small, georeferenced, and damaged on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from seamline.pipeline.common.classes import NODATA

BAND_NAMES = ("blue", "green", "red", "nir", "swir16", "swir22")
"""Of the scenes that the small model and the embedded one take."""
UTM = Affine(30, 0, 500_000, 0, -30, 6_000_000)


def write_geotiff(
    path: Path,
    pixels: NDArray[Any],
    *,
    transform: Affine = UTM,
    crs: str | None = "EPSG:32620",
    names: tuple[str, ...] = (),
    **profile: Any,
) -> Path:
    """Write (bands, height, width) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        transform=transform,
        crs=crs,
        **profile,
    ) as file:
        file.write(pixels)
        for index, name in enumerate(names, start=1):
            file.set_band_description(index, name)
    return path


def damage_block(path: Path, index: int, row: int, col: int) -> None:
    """Overwrite the bytes of one block of a compressed GeoTIFF."""
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=index))
        size = int(file.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=index))
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * size)


def make_noise(*shape: int, seed: int = 0, low: int = 1, high: int = 10_000, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def make_blobs(height: int, width: int, smooth: float, classes: int, seed: int) -> NDArray[np.uint8]:
    """Labels in regions of about ``smooth`` pixels, with holes of nodata."""
    rng = np.random.default_rng(seed)
    fields = rng.random((classes, height, width))
    if smooth:
        fields = ndimage.gaussian_filter(fields, (0, smooth, smooth))
    labels = fields.argmax(0).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.03] = NODATA
    return labels


def write_tiled(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    return write_geotiff(path, pixels, **{**tiles, **profile})
