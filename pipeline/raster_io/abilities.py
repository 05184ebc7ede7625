"""What this installation of GDAL can do: drivers, codecs of GeoTIFF, CRS, and a COG that is written and read back."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.env import GDALDataFinder
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.warp import transform

from seamline.pipeline.raster_io.gdal import clear_gdal_error, describe_error

WRITTEN_DRIVERS = ("GTiff", "COG", "MEM")
"""Drivers without which no result can be written."""

READ_DRIVERS = {
    "VRT": "virtual mosaics (.vrt)",
    "JP2OpenJPEG": "JPEG 2000, such as Sentinel-2 in .SAFE folders",
    "Zarr": "Zarr folders, such as Sentinel-2 in EOPF",
    "netCDF": "NetCDF files",
    "PNG": "PNG pictures",
    "JPEG": "JPEG pictures",
}
"""Driver → scenes that cannot be read without it."""

VECTOR_DRIVERS = {
    "FlatGeobuf": "polygons.fgb",
    "GPKG": "polygons.gpkg and areas in GeoPackage",
    "GeoJSON": "areas in GeoJSON",
}
"""Driver → files that cannot be written or read without it."""

_CODECS = {
    "DEFLATE": 1,
    "LZW": 1,
    "PACKBITS": 1,
    "ZSTD": 1,
    "LZMA": 1,
    "LERC": 1,
    "LERC_DEFLATE": 1,
    "LERC_ZSTD": 1,
    "JPEG": 3,
    "WEBP": 3,
    "JXL": 3,
}
"""Codec of GeoTIFF → bands of a raster that it compresses."""

WRITTEN_CODECS = ("LZW", "JPEG")
"""Codecs that results are written with: of labels, and of the picture of the scene."""

_PLACE, _CRS = (15.0, 45.0), "EPSG:32633"
_EASTING_NORTHING = (500_000.0, 4_982_950.4)
"""The place in ``_CRS``: on the central meridian of its zone, where the northing is 0.9996 times the meridian arc."""

# What a library raises that is damaged or lacks its data is not only what it documents.
_FAILURES = (RasterioError, CPLE_BaseError, ProjError, OSError, ValueError, RuntimeError)


def list_missing_drivers(names: Iterable[str]) -> list[str]:
    """Return those of some raster drivers that this GDAL lacks."""
    with rasterio.Env() as environment:
        present = environment.drivers()
    return [name for name in names if name not in present]


def list_missing_vector_drivers(names: Iterable[str]) -> list[str]:
    """Return those of some vector drivers that cannot both read and write here."""
    import pyogrio  # here, because it is an extra

    present: dict[str, str] = pyogrio.list_drivers()
    return [name for name in names if not {"r", "w"} <= set(present.get(name, ""))]


def split_codecs() -> tuple[list[str], list[str]]:
    """Return the codecs of GeoTIFF that work here, and those that do not; a small raster is compressed with each."""
    working = [codec for codec in _CODECS if _does_codec_work(codec)]
    return working, [codec for codec in _CODECS if codec not in working]


def _does_codec_work(codec: str) -> bool:
    pixels = np.full((_CODECS[codec], 16, 16), 7, np.uint8)
    try:
        with _quiet(), MemoryFile() as memory:
            with memory.open(driver="GTiff", compress=codec, interleave="pixel", **_describe(pixels)) as file:
                file.write(pixels)
            # GDAL writes without compression where it does not know the name.
            with memory.open() as file:
                is_compressed = "COMPRESSION" in file.tags(ns="IMAGE_STRUCTURE")
                return is_compressed and bool(np.allclose(file.read(), pixels, atol=2))
    except _FAILURES:
        clear_gdal_error()
        return False


def find_crs_problem() -> str:
    """Transform a place with GDAL and with PROJ, and return what is wrong; empty if both do it right."""
    try:
        with rasterio.Env():
            (east,), (north,) = transform("EPSG:4326", _CRS, [_PLACE[0]], [_PLACE[1]])
        computed = {"GDAL": (east, north), "PROJ": Transformer.from_crs(4326, _CRS, always_xy=True).transform(*_PLACE)}
    except _FAILURES as error:
        return f"EPSG:4326 → {_CRS}: {describe_error(error)}"
    for name, found in computed.items():
        if not np.allclose(found, _EASTING_NORTHING, atol=1, rtol=0):
            return f"EPSG:4326 → {_CRS}: {name} computes {found[0]:.1f}, {found[1]:.1f}"
    return ""


def find_cog_problem(folder: Path) -> str:
    """Write a small COG to a folder, read it back and return what is wrong; empty if nothing is."""
    pixels = np.arange(64 * 64, dtype=np.uint8).reshape(1, 64, 64)
    path = folder / "probe.tif"
    try:
        with _quiet(), MemoryFile() as memory:
            profile = {"crs": _CRS, "transform": Affine(10, 0, 5e5, 0, -10, 5e6), **_describe(pixels)}
            with memory.open(driver="GTiff", **profile) as file:
                file.write(pixels)
            with memory.open() as file:
                rasterio.shutil.copy(file, path, driver="COG", COMPRESS="LZW")
            with rasterio.open(path) as file:
                if file.crs is None or file.crs.to_epsg() != 32633:
                    return "a COG was read back without its CRS"
                return "" if np.array_equal(file.read(), pixels) else "a COG was read back with other pixels"
    except _FAILURES as error:
        clear_gdal_error()
        return f"a COG cannot be written: {describe_error(error)}"


def has_gdal_data() -> bool:
    """Return whether GDAL finds its files of data."""
    with rasterio.Env():
        return GDALDataFinder().find_file("gdalvrt.xsd") is not None


def _describe(pixels: NDArray[np.uint8]) -> dict[str, object]:
    """Return the profile of a raster of these pixels."""
    count, height, width = pixels.shape
    return {"count": count, "height": height, "width": width, "dtype": pixels.dtype}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what GDAL says about failures that are expected here, and about rasters without georeference, to itself."""
    log = logging.getLogger("rasterio")
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled
