"""Raster files through GDAL: its settings, open datasets, reading and errors."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
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
from seamline.pipeline.raster_io.file_stamp import FileStamp
from seamline.pipeline.raster_io.local_files import (
    find_local_file,
    forget_folders,
    is_broken_text,
    refuse_special_source,
)
from seamline.pipeline.raster_io.virtual_rasters import is_virtual, read_virtual_raster
from seamline.pipeline.storage.confinement import DESCRIPTOR, check_confined, get_confinement
from seamline.pipeline.storage.s3_access import current_access
from seamline.pipeline.storage.web_servers import check_server

_DESCRIPTOR_NAME = re.compile(r"^\d+: ?(?=\S)")
"""Begin of a message of GDAL's that names a file which was opened by its descriptor, as all in an inbox are."""

_LOCAL_ENV: dict[str, Any] = {
    "GDAL_CACHEMAX": 64 * 2**20,  # the default is 5 % of the memory in every process
    "GDAL_DISABLE_READDIR_ON_OPEN": False,  # masks and metadata beside a raster count, whatever the environment says
    "GDAL_PAM_ENABLED": True,
    "GTIFF_IGNORE_READ_ERRORS": False,
}
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
_MAX_OPEN_FILES = 16
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


def gdal_environment(path: str, version: str | None = None, threads: int | None = None) -> rasterio.Env:
    """Return a context manager with the settings of GDAL for reading ``path``.

    Args:
        path: What will be opened.
        version: ETag of the object at ``path``. S3 refuses to read another version (status 412).
        threads: Threads that decode the blocks of one request; None leaves them to GDAL.
    """
    settings = dict(_REMOTE_ENV if is_remote(path) else _LOCAL_ENV)
    if threads is not None:
        settings["GDAL_NUM_THREADS"] = str(threads)
    if version is not None:
        settings["GDAL_HTTP_HEADERS"] = f"If-Match: {version}"
    if get_confinement() is not None:
        settings |= CONFINED_SETTINGS if is_remote(path) else CONFINED_SETTINGS | OFFLINE_SETTINGS
    return rasterio.Env(session=_S3Session(), **settings)


@dataclass(frozen=True)
class OpenRaster:
    """An open dataset that belongs to one thread.

    Attributes:
        key: What the raster is kept under while it is open.
        path: What was opened.
        dataset: The open rasterio dataset.
        grid: Grid of the dataset.
        alpha: Index of the alpha band, counted from 1; None if there is none.
        masked: Whether a mask of the file, or of one of its bands, says which pixels are valid.
        has_band_masks: Whether a band has a mask of its own, as in VRTs.
        dtypes: Type of each band.
        block_shapes: (height, width) of the blocks of each band.
        is_virtual: Whether it is a VRT.
        fails_silently: Whether GDAL may fail to read it and say nothing.
    """

    key: tuple[object, ...]
    path: str
    dataset: Any
    grid: GeoBox
    alpha: int | None
    masked: bool
    has_band_masks: bool
    dtypes: tuple[str, ...]
    block_shapes: tuple[tuple[int, int], ...]
    is_virtual: bool
    fails_silently: bool


class _HandleCache(threading.local):
    """Open rasters of one thread, least recently used first. Threads must not share datasets of GDAL.

    Attributes:
        rasters: Open rasters by their keys.
        has_failed: Whether a VRT could not be read in this process. GDAL reports once in a thread that it cannot open a
            source, and then reads zeros from it, also through other VRTs and after they are opened again.
        failed_masks: What GDAL said in this process of masks of VRTs, by the keys of these.
    """

    has_failed: ClassVar[bool] = False
    failed_masks: ClassVar[dict[tuple[object, ...], str]] = {}

    def __init__(self) -> None:
        self.rasters: OrderedDict[tuple[object, ...], OpenRaster] = OrderedDict()

    def get(self, key: tuple[object, ...], path: str) -> OpenRaster:
        if key not in self.rasters:
            self.rasters[key] = _open_dataset(key, path)
        self.rasters.move_to_end(key)
        while len(self.rasters) > _MAX_OPEN_FILES:
            self.rasters.popitem(last=False)[1].dataset.close()
        return self.rasters[key]

    def discard(self, key: tuple[object, ...]) -> None:
        if (file := self.rasters.pop(key, None)) is not None:
            file.dataset.close()

    def clear(self) -> None:
        for key in list(self.rasters):
            self.discard(key)


_handles = _HandleCache()


def _open_dataset(key: tuple[object, ...], path: str) -> OpenRaster:
    """Open a raster with GDAL.

    Raises:
        RasterioIOError: GDAL cannot open it, or the path, a message of GDAL or a number in the file is such that
            rasterio or odc-geo fail with errors of their own.
        InputError: It is a pipe, socket or device, or the confinement of this thread does not allow it.
        RunError: Its web server does not answer.
    """
    check_confined(path)
    refuse_special_source(path)
    check_server(path)
    if get_confinement() is None and is_broken_text(path):
        raise RasterioIOError("it is XML that is no UTF-8")
    try:
        return _open_with_gdal(key, path)
    except RasterioIOError:
        raise
    except (*_LIBRARY_ERRORS, RasterioError, CPLE_BaseError) as error:
        clear_gdal_error()
        raise RasterioIOError(f"{type(error).__name__}: {error}") from None


def _open_with_gdal(key: tuple[object, ...], path: str) -> OpenRaster:
    """Open a raster and read what is always asked of it; raises whatever the libraries raise."""
    # GDAL handles /vsis3/ itself; for s3:// rasterio would need boto3.
    name = re.sub(r"^s3://", "/vsis3/", path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # those who need a georeference say so themselves
        if (confinement := get_confinement()) is None:
            dataset = rasterio.open(name)
        else:
            dataset = open_confined_dataset(path, find_local_file(path), confinement)
        virtual = read_virtual_raster(path, dataset) if is_virtual(dataset) else None
        for source in virtual.sources if virtual is not None else ():
            refuse_special_source(source)

    def sample(index: int, window: Window) -> NDArray[Any]:
        with _note_failure(is_virtual=virtual is not None):
            pixels: NDArray[Any] = dataset.read(index, window=_to_rasterio(window))
            return pixels

    alpha = find_alpha(dataset, sample)
    # GDAL takes a band that is only tagged as alpha for a mask, too.
    masks = [own for own in dataset.mask_flag_enums if MaskFlags.alpha not in own]
    clear_gdal_error()  # of a mask beside it that is damaged
    return OpenRaster(
        key=key,
        path=path,
        dataset=dataset,
        grid=GeoBox.from_rio(dataset),
        alpha=alpha,
        masked=any(not own or MaskFlags.per_dataset in own for own in masks),
        has_band_masks=not all(masks),
        dtypes=dataset.dtypes,
        block_shapes=tuple(dataset.block_shapes),
        is_virtual=virtual is not None,
        fails_silently=dataset.driver == "PNG" or (virtual is not None and virtual.is_derived),
    )


def open_cached_raster(path: str, version: str | None = None, stamps: Sequence[FileStamp] = ()) -> OpenRaster:
    """Return this thread's open raster of a path. The caller must not close it.

    Call this and use the raster inside ``gdal_environment(path, version)``.

    Args:
        path: The raster.
        version: ETag of the object at ``path``.
        stamps: What its local files are, if that is known. Otherwise only the file at ``path`` is looked at.

    Raises:
        RasterioIOError: GDAL cannot open the file.
        InputError: It is a pipe, socket or device.
    """
    state: object = version or tuple(stamps)
    if not state and (file := find_local_file(path)) is not None:
        state = FileStamp.read(file)
    # The process is part of the key: a forked child shares the file offsets of its parent's handles.
    return _handles.get((os.getpid(), path, state, get_confinement()), path)


def close_cached_rasters() -> None:
    """Close what this thread keeps open, so that files are read as they are now: also those in folders and VRTs."""
    _handles.clear()
    forget_folders()


def read_pixels(file: OpenRaster, indexes: list[int], window: Window) -> NDArray[Any]:
    """Read a window of some bands.

    Args:
        file: The open raster.
        indexes: Bands, counted from 1.
        window: Pixels within the file.

    Returns:
        Pixels in the type of the file, or one that holds those of all these bands, shape (bands, height, width).

    Raises:
        RasterioIOError: GDAL cannot read the window.
    """

    def read(dataset: Any, place: RasterioWindow) -> NDArray[Any]:
        types = [file.dtypes[index - 1] for index in indexes]
        if len(set(types)) == 1:
            pixels: NDArray[Any] = dataset.read(indexes, window=place)
        else:  # rasterio reads bands of one type at a time
            pixels = np.empty((len(indexes), *window.shape), np.result_type(*types))
            for dtype in set(types):
                positions = [position for position, own in enumerate(types) if own == dtype]
                pixels[positions] = dataset.read([indexes[position] for position in positions], window=place)
        # Twice the work, where it must be or after something went wrong.
        if file.fails_silently or (file.is_virtual and _HandleCache.has_failed):
            check_read(replace(file, dataset=dataset), indexes, window)
        return pixels

    return _read_or_reopen(file, read, window)


def check_read(file: OpenRaster, indexes: Sequence[int], window: Window) -> None:
    """Read a window by a function of GDAL that tells whether that worked, and forget the pixels.

    Pixel functions, sources that have failed before, and pictures that are read whole fail without a message. Then
    rasterio returns what happens to be in memory.

    Args:
        file: The open raster.
        indexes: Bands, counted from 1.
        window: Pixels within the file.

    Raises:
        RasterioIOError: GDAL cannot read the window.
    """
    for index in indexes:
        try:
            checksum = file.dataset.checksum(index, window=_to_rasterio(window))
        except RasterioIOError:
            checksum = -1
        if checksum < 0:
            raise RasterioIOError(
                f"band {index}: GDAL fails without a message, as for sources and pixel functions of VRTs"
            )


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


def read_masks(file: OpenRaster, indexes: Sequence[int], window: Window) -> NDArray[Any]:
    """Read GDAL's masks of some bands in a window.

    Args:
        file: The open raster.
        indexes: Bands, counted from 1.
        window: Pixels within the file.

    Returns:
        Masks of shape (bands, height, width), or (1, height, width) where all bands have one mask. 0 = no data.

    Raises:
        RasterioIOError: GDAL cannot read the window.
    """
    if (message := _HandleCache.failed_masks.get(file.key)) is not None:
        raise RasterioIOError(message)
    bands = list(indexes) if file.has_band_masks else [1]
    try:
        return _read_or_reopen(file, lambda dataset, place: dataset.read_masks(bands, window=place), window)
    except RasterioIOError as error:
        if file.is_virtual:
            _HandleCache.failed_masks[file.key] = describe_error(error)
        raise


def _read_or_reopen(
    file: OpenRaster, read: Callable[[Any, RasterioWindow], NDArray[Any]], window: Window
) -> NDArray[Any]:
    """Read a window; a raster that failed is closed, and opened again by whoever reads it next."""
    current = _handles.get(file.key, file.path)
    try:
        with _note_failure(is_virtual=file.is_virtual):
            return read(current.dataset, _to_rasterio(window))
    except RasterioIOError:
        _handles.discard(file.key)
        raise


@contextmanager
def _note_failure(*, is_virtual: bool) -> Iterator[None]:
    """Clear the error of a read that failed, and remember that of a VRT."""
    try:
        yield
    except RasterioIOError:
        clear_gdal_error()
        _HandleCache.has_failed |= is_virtual
        raise


def _to_rasterio(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


def describe_error(error: BaseException) -> str:
    """Return the text of the innermost cause of an error in one line: GDAL's first message."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(DESCRIPTOR.sub("the file", str(error)).split())
    return _DESCRIPTOR_NAME.sub("", text)


def clear_gdal_error() -> None:
    """Clear the last error of GDAL, which rasterio would otherwise raise in its next, unrelated call."""
    with suppress(CPLE_BaseError, CRSError):  # the latter where PROJ does not find its data
        CRS.from_epsg(4326)
