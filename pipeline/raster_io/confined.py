"""Rasters that strangers wrote: opened by drivers that read one file, without what lies beside or is named in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rasterio.errors import RasterioIOError
from rasterio.io import DatasetReader

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.confinement import Confinement, OpenFile

_DRIVERS = ["GTiff", "JP2OpenJPEG"]
"""GDAL's drivers that take all pixels from the file itself."""
_UNKNOWN_FORMAT = "not recognized as being in a supported file format"
_OVERVIEWS, _OVERVIEW_FILE = "OVERVIEWS", "OVERVIEW_FILE"
"""GDAL's entry in the metadata of a raster that takes overviews from another file."""

CONFINED_SETTINGS: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": False}
"""GDAL's settings under a confinement: no side-cars."""
OFFLINE_SETTINGS: dict[str, Any] = {"CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none"}
"""GDAL's settings for a file on disk under a confinement: no server is asked."""


class _HeldReader(DatasetReader):  # type: ignore[misc]
    """A dataset that keeps its file open, which GDAL may open again while it reads."""

    file: OpenFile | None


def open_confined_dataset(path: str, local: Path | None, confinement: Confinement) -> DatasetReader:
    """Open a raster under a confinement. Call this and use the dataset with ``CONFINED_SETTINGS``.

    Args:
        path: The raster, on disk, in an archive on disk, or remote.
        local: The file on disk that ``path`` lies in; None if there is none.
        confinement: What may be read.

    Raises:
        InputError: It lies outside, is of a format that may name other files, or names one.
        RasterioIOError: GDAL cannot open it.
    """
    confinement.check_address(path)
    file = None
    if "://" in path:
        name = path.replace("s3://", "/vsis3/", 1) if path.startswith("s3://") else f"/vsicurl/{path}"
    elif local is None:
        raise _format_error(path) if Path(path).is_dir() else RasterioIOError("no such file")
    else:
        file = confinement.open_file(str(local))
        name = _name_for_gdal(path, str(local), file.path)
    try:
        dataset = _HeldReader(name, driver=_DRIVERS)
    except RasterioIOError as error:
        if _UNKNOWN_FORMAT in str(error):
            raise _format_error(path) from error
        raise
    dataset.file = file
    named = {key.upper(): value for key, value in dataset.tags(ns=_OVERVIEWS).items()}
    if _OVERVIEW_FILE in named:
        raise InputError(
            f"{path} takes its overviews from another file",
            got=named[_OVERVIEW_FILE][:200],
            expected="overviews of its own, or none",
            fix="remove the entry with `gdal_translate`",
        )
    return dataset


def _name_for_gdal(path: str, local: str, descriptor: str) -> str:
    """Return GDAL's name of a raster in an open file, which is the raster itself or an archive."""
    if path == local:
        return descriptor
    prefix, _, member = path.partition(f"{local}/")
    if local.lower().endswith(("gz", "tgz")):
        descriptor = f"/vsigzip/{descriptor}"
    return f"{prefix}{{{descriptor}}}/{member}"


def _format_error(path: str) -> InputError:
    return InputError(
        f"cannot open {path}",
        got="a VRT" if path.lower().endswith(".vrt") else "neither GeoTIFF nor JPEG 2000",
        expected="GeoTIFF or JPEG 2000; in an inbox no format is read that may name other files",
        fix="if it is a raster, convert it with `gdal_translate -of COG`, or list it in a manifest of your own",
    )
