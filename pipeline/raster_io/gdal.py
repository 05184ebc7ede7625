"""Raster files: GDAL's settings, open handles, grids, samples and digests."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.session import Session
from rasterio.windows import Window as RasterioWindow

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.storage.object_store import current_access, is_object_url, split_object_url

_LOCAL_ENV: dict[str, Any] = {"GDAL_CACHEMAX": 64 * 2**20}  # GDAL's default is 5 % of the memory, per process
_REMOTE_ENV: dict[str, Any] = {
    **_LOCAL_ENV,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of buckets, no requests for side-cars
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    "GDAL_HTTP_MULTIPLEX": True,
    "GDAL_HTTP_VERSION": "2",
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "VSI_CACHE": True,
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",  # beyond an open file: another one may take the place of an object
}
_REMOTE = re.compile(r"^(?!(file|zip|tar|gzip):)[\w+]+://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)")
_MAX_OPEN_FILES = 16
_SAMPLE_EDGE = 512
_SAMPLED_BLOCKS = 8  # each is a request or two when the file is remote
_MAX_HASHED_WHOLE = 2 * 2**30


def is_remote(path: str) -> bool:
    """Whether GDAL fetches the file over the network."""
    return _REMOTE.search(path) is not None


class _S3Session(Session):  # type: ignore[misc]
    """Of object storage, as GDAL takes them; rasterio's own sessions would need boto3."""

    @classmethod
    def hascreds(cls, config: dict[str, Any]) -> bool:
        return True  # none of the environment's

    @property
    def credentials(self) -> dict[str, str]:
        return self.get_credential_options()

    def get_credential_options(self) -> dict[str, str]:
        return current_access().to_gdal_options()


def gdal_environment(path: str, version: str | None = None) -> rasterio.Env:
    """GDAL's settings for reading ``path``; a context manager.

    ``version``: an object of another ETag is not read (S3 answers that the precondition failed).
    """
    condition = {} if version is None else {"GDAL_HTTP_HEADERS": f"If-Match: {version}"}
    return rasterio.Env(session=_S3Session(), **(_REMOTE_ENV if is_remote(path) else _LOCAL_ENV), **condition)


def get_object_version(path: str) -> str | None:
    """The ETag of the object that ``path`` is; ``None`` for anything else, and for a VRT, which names other objects.

    Raises ``InputError`` if there is none, or no access to it, and ``RunError`` if the server does not answer.
    """
    url = re.sub(r"^/vsis3/", "s3://", path)
    if not is_object_url(url) or url.lower().endswith(".vrt"):
        return None
    folder, key = split_object_url(url)
    version = folder.get_version(key)
    if version is None:
        raise InputError("no such object", got=url, expected="a raster, a folder of band files (…/) or a STAC item",
                         fix="check the address; it may have been removed since it was found")  # fmt: skip
    return version


def describe_change(path: str, version: str | None) -> str | None:
    """What became of an object since it had this ``version``, in words; ``None`` if nothing did."""
    if version is None:
        return None
    try:
        same = get_object_version(path) == version
    except InputError as error:
        return str(error)
    return None if same else f"{path} is another object than when the run began: run the same command again"


def find_local_file(path: str) -> Path | None:
    """The file on disk that ``path`` lies in (the archive for ``/vsizip/…``), None where there is none."""
    plain = PurePosixPath(re.sub(r"^/vsi(zip|tar|gzip|7z|rar)/", "", path))
    return next((Path(p) for p in (plain, *plain.parents) if Path(p).is_file()), None)


@dataclass(frozen=True)
class OpenRaster:
    """An open dataset of one thread and what is often asked of it.

    ``alpha`` is the 1-based index of the alpha band; ``masked``: a mask or an alpha band, not a nodata value,
    says which pixels are valid; ``dtypes`` and ``block_shapes`` (height, width) of each band.
    """

    path: str
    dataset: Any
    grid: GeoBox
    alpha: int | None
    masked: bool
    dtypes: tuple[str, ...]
    block_shapes: tuple[tuple[int, int], ...]


class _HandleCache(threading.local):
    """Open rasters of one thread, least recently used first: GDAL's must not be shared between threads."""

    def __init__(self) -> None:
        self.rasters: OrderedDict[tuple[object, ...], OpenRaster] = OrderedDict()

    def get(self, path: str, version: str | None) -> OpenRaster:
        file = find_local_file(path)
        # The process is part of the key: a forked child shares the file offsets of its parent's handles.
        key = os.getpid(), path, version or (file and file.stat().st_mtime_ns)
        if key not in self.rasters:
            self.rasters[key] = _open_dataset(path)
        self.rasters.move_to_end(key)
        while len(self.rasters) > _MAX_OPEN_FILES:
            self.rasters.popitem(last=False)[1].dataset.close()
        return self.rasters[key]


_handles = _HandleCache()


def _open_dataset(path: str) -> OpenRaster:
    # As /vsis3/ GDAL finds the credentials itself; for s3:// rasterio would need boto3.
    dataset = rasterio.open(re.sub(r"^s3://", "/vsis3/", path))
    kinds = dataset.colorinterp
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    per_dataset = any(MaskFlags.per_dataset in flags for flags in dataset.mask_flag_enums)
    return OpenRaster(
        path=path,
        dataset=dataset,
        grid=GeoBox.from_rio(dataset),
        alpha=alpha,
        # GDAL takes an alpha band for a mask only beside one or three others; a nodata value goes before it.
        masked=per_dataset or (alpha is not None and dataset.nodata is None),
        dtypes=dataset.dtypes,
        block_shapes=tuple(dataset.block_shapes),
    )


def open_cached_raster(path: str, version: str | None = None) -> OpenRaster:
    """This thread's open raster of ``path``, not to be closed; call and use it inside ``environment(path, version)``.

    Raises rasterio's ``RasterioIOError`` when GDAL cannot open the file.
    """
    return _handles.get(path, version)


def read_pixels(file: OpenRaster, indexes: list[int], window: Window) -> NDArray[Any]:
    """(bands, height, width) of a window within the file. Raises rasterio's ``RasterioIOError``."""
    return _read_or_clear_error(file, file.dataset.read, indexes, window)


def read_mask(file: OpenRaster, window: Window) -> NDArray[Any]:
    """(height, width): GDAL's mask of the first band, 0 = no data. Raises rasterio's ``RasterioIOError``."""
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
    """What GDAL said first, in one line: the root of an error's causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def clear_gdal_error() -> None:
    """Clear GDAL's last error: it stays behind, and rasterio would raise it in the next innocent call."""
    with suppress(CPLE_BaseError):
        CRS.from_epsg(4326)


def check_blocks_written(path: Path) -> None:
    """Raise ``OSError`` for a tiled GeoTIFF of pixel-interleaved bands that lacks a block on the disk.

    GDAL does not report what it could not write while it closed the file.
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


def sample_pixels(path: str, index: int) -> NDArray[Any]:
    """Pixels of a few blocks spread over one band, as one axis; unreadable blocks are left out."""
    parts: list[NDArray[Any]] = []
    with gdal_environment(path):
        file = open_cached_raster(path)
        everything = Window(0, 0, *file.grid.shape)
        height, width = (min(edge, _SAMPLE_EDGE) for edge in file.block_shapes[index - 1])
        rows, cols = -(-everything.height // height), -(-everything.width // width)
        for number in np.unique(np.linspace(0, rows * cols - 1, _SAMPLED_BLOCKS).astype(int)):
            row, col = divmod(int(number), cols)
            block = Window(row * height, col * width, height, width).intersection(everything)
            with suppress(RasterioIOError):  # reading the scene reports it, with its place
                parts.append(read_pixels(file, [index], block).ravel())
    return np.concatenate(parts) if parts else np.empty(0)


def hash_content(path: str, indexes: Sequence[int], version: str | None = None) -> str:
    """SHA-256 (hex) of what a raster holds, whatever it is called.

    Files of up to 2 GiB, also those that a VRT names, are hashed whole; larger ones by size, time of last
    change and sampled blocks; objects by ``version``, their ETag; other remote files and members of archives by
    profile and sampled blocks.
    """
    digest = hashlib.sha256()
    if version is not None:
        digest.update(f"object {version}".encode())
        return digest.hexdigest()
    sampled = False
    for part in list_source_files(path):
        local = find_local_file(part)
        if part != path and (etag := get_object_version(part)) is not None:
            digest.update(f"object {etag}".encode())
        elif local is None or local.stat().st_size > _MAX_HASHED_WHOLE:
            sampled = True
            size = local and (local.stat().st_size, local.stat().st_mtime_ns)
            digest.update(repr(size).encode())
        else:
            sampled |= part.startswith("/vsi")
            with local.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    if sampled:
        with gdal_environment(path):
            file = open_cached_raster(path)
            profile = tuple(file.grid.shape), file.dtypes, file.grid.transform[:6], str(file.grid.crs)
        digest.update(repr(profile).encode())
        for index in indexes:
            digest.update(sample_pixels(path, index).tobytes())
    return digest.hexdigest()


def list_source_files(path: str) -> list[str]:
    """``path`` and the files that its pixels come from. Raises rasterio's ``RasterioIOError``."""
    with gdal_environment(path):
        # Statistics and overviews come and go with the viewers that are used; they change no pixel.
        others = [f for f in sorted(open_cached_raster(path).dataset.files) if not f.endswith((".aux.xml", ".ovr"))]
    if not path.lower().endswith(".vrt"):
        return others
    return [path, *(part for other in others if other != path for part in list_source_files(other))]
