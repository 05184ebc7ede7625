"""Raster files through GDAL: its settings, open datasets, reading and errors."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.session import Session
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.alpha_band import find_alpha
from seamline.pipeline.raster_io.confined import CONFINED_SETTINGS, OFFLINE_SETTINGS, open_confined_dataset
from seamline.pipeline.raster_io.web_servers import check_server
from seamline.pipeline.storage.atomic import refuse_special_file
from seamline.pipeline.storage.confinement import DESCRIPTOR, check_confined, get_confinement
from seamline.pipeline.storage.s3_access import current_access

_LOCAL_ENV: dict[str, Any] = {"GDAL_CACHEMAX": 64 * 2**20}  # the default is 5 % of the memory in every process
_REMOTE_ENV: dict[str, Any] = {
    **_LOCAL_ENV,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of buckets, no requests for side-cars
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    "GDAL_HTTP_MULTIPLEX": True,
    "GDAL_HTTP_VERSION": "2",
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "VSI_CACHE": True,
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",  # forget an object when its file is closed: it may be replaced
}
_REMOTE = re.compile(r"^(?!(file|zip|tar|gzip):)[\w+]+://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)")
_SUBDATASET = re.compile(r"^[A-Za-z][A-Za-z0-9_]+:(?!//)")
_MAX_OPEN_FILES = 16
_XML_HEAD, _MOST_XML = 256, 16 * 2**20
"""Bytes of a file in which it may say that it is in another encoding, and bytes that are looked at."""
_LIBRARY_ERRORS = (ValueError, OSError, LookupError, TypeError, ArithmeticError, ProjError)
"""What the libraries beside GDAL raise for addresses that are none, messages that are no text, grids without a size."""


def is_remote(path: str) -> bool:
    """Return whether GDAL fetches the file over the network."""
    return _REMOTE.search(path) is not None


class _S3Session(Session):  # type: ignore[misc]
    """Passes the access of this process on to GDAL; the sessions of rasterio would need boto3."""

    @classmethod
    def hascreds(cls, config: dict[str, Any]) -> bool:
        return True  # so that rasterio does not look for credentials in the environment

    @property
    def credentials(self) -> dict[str, str]:
        return self.get_credential_options()

    def get_credential_options(self) -> dict[str, str]:
        return current_access().to_gdal_options()


def gdal_environment(path: str, version: str | None = None) -> rasterio.Env:
    """Return a context manager with the settings of GDAL for reading ``path``.

    Args:
        path: What will be opened.
        version: ETag of the object at ``path``. S3 refuses to read another version (status 412).
    """
    settings = dict(_REMOTE_ENV if is_remote(path) else _LOCAL_ENV)
    if version is not None:
        settings["GDAL_HTTP_HEADERS"] = f"If-Match: {version}"
    if get_confinement() is not None:
        settings |= CONFINED_SETTINGS if is_remote(path) else CONFINED_SETTINGS | OFFLINE_SETTINGS
    return rasterio.Env(session=_S3Session(), **settings)


def split_subdataset(text: str) -> tuple[str, str, str] | None:
    """Split GDAL's name of a subdataset, such as ``NETCDF:"scene.nc":blue``.

    Args:
        text: An address of a raster.

    Returns:
        What stands before the path of the file or folder, the path, and what follows; None if the text is no name of
        a subdataset of a local file.
    """
    exists = os.path.exists  # Path.exists raises for names that are longer than a file system allows
    if not _SUBDATASET.match(text) or exists(text):
        return None
    for found in re.finditer(r'(?<=:)("?)([^":][^":]*)\1(?=:|$)', text):
        if exists(found[2]):
            return text[: found.start(2)], found[2], text[found.end(2) :]
    return None


def find_local_file(path: str) -> Path | None:
    """Return the file on disk that ``path`` lies in, such as the archive for ``/vsizip/…``; None if there is none."""
    if (subdataset := split_subdataset(path)) is not None:
        path = subdataset[1]
    plain = PurePosixPath(re.sub(r"^/vsi(zip|tar|gzip|7z|rar)/", "", path))
    # os.path.isfile is false for names that no file can have; Path.is_file raises.
    return next((Path(p) for p in (plain, *plain.parents) if os.path.isfile(p)), None)  # noqa: PTH113


@dataclass(frozen=True)
class OpenRaster:
    """An open dataset that belongs to one thread.

    Attributes:
        path: What was opened.
        dataset: The open rasterio dataset.
        grid: Grid of the dataset.
        alpha: Index of the alpha band, counted from 1; None if there is none.
        masked: Whether a mask or an alpha band, and not a nodata value, says which pixels are valid.
        dtypes: Type of each band.
        block_shapes: (height, width) of the blocks of each band.
    """

    path: str
    dataset: Any
    grid: GeoBox
    alpha: int | None
    masked: bool
    dtypes: tuple[str, ...]
    block_shapes: tuple[tuple[int, int], ...]


class _HandleCache(threading.local):
    """Open rasters of one thread, least recently used first. Threads must not share datasets of GDAL."""

    def __init__(self) -> None:
        self.rasters: OrderedDict[tuple[object, ...], OpenRaster] = OrderedDict()

    def get(self, path: str, version: str | None) -> OpenRaster:
        file = find_local_file(path)
        # The process is part of the key: a forked child shares the file offsets of its parent's handles.
        key = os.getpid(), path, version or (file and file.stat().st_mtime_ns), get_confinement()
        if key not in self.rasters:
            self.rasters[key] = _open_dataset(path)
        self.rasters.move_to_end(key)
        while len(self.rasters) > _MAX_OPEN_FILES:
            self.rasters.popitem(last=False)[1].dataset.close()
        return self.rasters[key]


_handles = _HandleCache()


def _open_dataset(path: str) -> OpenRaster:
    """Open a raster with GDAL.

    Raises:
        RasterioIOError: GDAL cannot open it, or the path, a message of GDAL or a number in the file is such that
            rasterio or odc-geo fail with errors of their own.
        InputError: It is a pipe, socket or device, or the confinement of this thread does not allow it.
        RunError: Its web server does not answer.
    """
    refuse_special_file(path)
    check_confined(path)
    check_server(path)
    if get_confinement() is None and _is_broken_text(path):
        raise RasterioIOError("it is XML that is no UTF-8")
    try:
        return _open_with_gdal(path)
    except RasterioIOError:
        raise
    except (*_LIBRARY_ERRORS, RasterioError, CPLE_BaseError) as error:
        clear_gdal_error()
        raise RasterioIOError(f"{type(error).__name__}: {error}") from None


def _is_broken_text(path: str) -> bool:
    """Return whether a file begins as XML in UTF-8 and isn't: rasterio fails where GDAL quotes its bytes."""
    with suppress(OSError, ValueError), Path(path).open("rb") as file:
        head = file.read(_XML_HEAD)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"encoding=" not in head:
            try:
                (head + file.read(_MOST_XML)).decode()
            except UnicodeDecodeError:
                return True
    return False


def _open_with_gdal(path: str) -> OpenRaster:
    """Open a raster and read what is always asked of it; raises whatever the libraries raise."""
    # GDAL handles /vsis3/ itself; for s3:// rasterio would need boto3.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # those who need a georeference say so themselves
        if (confinement := get_confinement()) is None:
            dataset = rasterio.open(re.sub(r"^s3://", "/vsis3/", path))
        else:
            dataset = open_confined_dataset(path, find_local_file(path), confinement)
    alpha = find_alpha(dataset)
    # GDAL takes a band that is only tagged as alpha for a mask, too.
    per_dataset = any(MaskFlags.per_dataset in own for own in dataset.mask_flag_enums if MaskFlags.alpha not in own)
    clear_gdal_error()  # of a mask beside it that is damaged
    return OpenRaster(
        path=path,
        dataset=dataset,
        grid=GeoBox.from_rio(dataset),
        alpha=alpha,
        # GDAL uses an alpha band as mask only beside one or three other bands. A nodata value takes precedence.
        masked=per_dataset or (alpha is not None and dataset.nodata is None),
        dtypes=dataset.dtypes,
        block_shapes=tuple(dataset.block_shapes),
    )


def open_cached_raster(path: str, version: str | None = None) -> OpenRaster:
    """Return this thread's open raster of a path. The caller must not close it.

    Call this and use the raster inside ``gdal_environment(path, version)``.

    Raises:
        RasterioIOError: GDAL cannot open the file.
        InputError: It is a pipe, socket or device.
    """
    return _handles.get(path, version)


def read_pixels(file: OpenRaster, indexes: list[int], window: Window) -> NDArray[Any]:
    """Read a window of some bands.

    Args:
        file: The open raster.
        indexes: Bands, counted from 1.
        window: Pixels within the file.

    Returns:
        Pixels in the type of the file, shape (bands, height, width).

    Raises:
        RasterioIOError: GDAL cannot read the window.
    """
    return _read_or_clear_error(file, file.dataset.read, indexes, window)


def read_tags(file: OpenRaster, index: int = 0, domain: str | None = None) -> Mapping[str, str]:
    """Read what a file says about itself or about a band.

    Args:
        file: The open raster.
        index: The band, counted from 1; 0 for the file.
        domain: GDAL's name of a group of tags.

    Returns:
        Tags by their names; none if a file beside it, such as one of overviews, is damaged.
    """
    try:
        return dict(file.dataset.tags(index, ns=domain))
    except (CPLE_BaseError, UnicodeDecodeError):
        clear_gdal_error()
        return {}


def read_mask(file: OpenRaster, window: Window) -> NDArray[Any]:
    """Read GDAL's mask of the first band in a window.

    Returns:
        Mask of shape (height, width), 0 = no data.

    Raises:
        RasterioIOError: GDAL cannot read the window.
    """
    return _read_or_clear_error(file, file.dataset.read_masks, 1, window)


def _read_or_clear_error(
    file: OpenRaster, read: Callable[..., NDArray[Any]], indexes: Any, window: Window
) -> NDArray[Any]:
    try:
        return read(indexes, window=RasterioWindow(window.col, window.row, window.width, window.height))
    except RasterioIOError:
        clear_gdal_error()
        raise


def describe_error(error: BaseException) -> str:
    """Return the text of the innermost cause of an error in one line: GDAL's first message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(DESCRIPTOR.sub("the file", str(error)).split())


def clear_gdal_error() -> None:
    """Clear the last error of GDAL, which rasterio would otherwise raise in its next, unrelated call."""
    with suppress(CPLE_BaseError, CRSError):  # the latter where PROJ does not find its data
        CRS.from_epsg(4326)


def check_blocks_written(path: Path) -> None:
    """Check that all blocks of a tiled GeoTIFF with pixel-interleaved bands are on the disk.

    GDAL does not report what it could not write while it closed the file.

    Raises:
        OSError: A block is missing or lies beyond the end of the file.
    """
    size = path.stat().st_size
    with rasterio.open(path) as dataset:
        height, width = dataset.block_shapes[0]
        for row, col in product(range(-(-dataset.height // height)), range(-(-dataset.width // width))):
            start, length = (
                int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1) or 0)
                for what in ("OFFSET", "SIZE")
            )
            if not start or not length or start + length > size:
                raise OSError(f"the block in row {row} and column {col} was not written whole")
