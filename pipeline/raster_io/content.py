"""The content of a raster: the files it consists of, their versions, samples of its pixels and its digest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.background import call_in_background
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.geometry.sampling import spread_blocks
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.file_stamp import FileStamp
from seamline.pipeline.raster_io.gdal import (
    check_read,
    clear_gdal_error,
    describe_error,
    gdal_environment,
    is_remote,
    open_cached_raster,
    read_pixels,
)
from seamline.pipeline.raster_io.local_files import find_local_file, unify_name
from seamline.pipeline.raster_io.raw_sizes import check_headerless_size, check_raw_size
from seamline.pipeline.raster_io.virtual_rasters import DEEPEST_VRT, VirtualRaster, is_virtual, read_virtual_raster
from seamline.pipeline.storage.confinement import get_confinement, open_confined
from seamline.pipeline.storage.object_store import is_object_url, split_object_url

_SAMPLED_BLOCKS = 8
"""Blocks of a sample; each is a request or two if the file is remote."""
_PART_BYTES = 2 * 2**30
"""Bytes of a file that are hashed as one; several parts are hashed at once. Another number changes all digests."""
_BUFFER_BYTES = 2**20
"""Bytes that are read at a time."""
_readers = BoundedSemaphore(min(8, os.cpu_count() or 1))
"""How many parts of any files this process hashes at once."""


def get_object_version(path: str) -> str | None:
    """Return the ETag of the object at ``path``.

    Returns:
        None for a path outside of object storage, and for a VRT by its name, whose pixels come from other objects.

    Raises:
        InputError: There is no such object, or access to it is denied.
        RunError: The server does not answer.
    """
    url = re.sub(r"^/vsis3/", "s3://", path)
    if not is_object_url(url) or url.lower().endswith(".vrt"):
        return None
    folder, key = split_object_url(url)
    version = folder.get_version(key)
    if version is None:
        raise InputError(
            "no such object",
            got=url,
            expected="a raster, a folder of band files (…/) or a STAC item",
            fix="check the address; it may have been removed since it was found",
        )
    return version


def refuse_remote_mask(path: str) -> None:
    """Refuse a remote raster that has a mask in a file beside it: GDAL looks for none there.

    Raises:
        InputError: It has one.
    """
    if not is_remote(path):
        return
    address, mark, query = path.partition("?") if "://" in path else (path, "", "")
    mask = f"{address}.msk{mark}{query}"
    with gdal_environment(mask):
        try:
            open_cached_raster(mask)
        except RasterioIOError:  # as for most rasters
            clear_gdal_error()
            return
    raise InputError(
        f"the mask of {path} lies in a file beside it",
        got=mask,
        expected="a mask in the raster itself, as masks beside remote rasters are not read",
        fix="make one file of both with `gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES`, or fetch both",
    )


def stamp_files(path: str) -> tuple[FileStamp, ...]:
    """Return what tells later whether the local files of a raster are still the same; none for remote files.

    Raises:
        RasterioIOError: GDAL cannot open one of the files.
    """
    local = {str(file): None for part in list_source_files(path) if (file := find_local_file(part)) is not None}
    return tuple(FileStamp.read(file) for file in local)


def describe_change(path: str, version: str | None) -> str | None:
    """Return in words what happened to an object that had this ``version``; None if nothing did.

    ``version`` is None for paths outside of object storage, of which nothing is said.
    """
    if version is None:
        return None
    try:
        same = get_object_version(path) == version
    except InputError as error:
        return str(error)
    return None if same else f"{path} is another object than when the run began: run the same command again"


def _sample_pixels(path: str, index: int, blocks: int = _SAMPLED_BLOCKS) -> NDArray[Any]:
    """Read a few blocks that are spread over one band; blocks that cannot be read are left out if others can.

    Args:
        path: The raster.
        index: The band, counted from 1.
        blocks: How many blocks to read.

    Returns:
        Pixels of all blocks, shape (n,).

    Raises:
        RasterioIOError: No block can be read.
    """
    parts: list[NDArray[Any]] = []
    failures: list[RasterioIOError] = []
    with gdal_environment(path):
        file = open_cached_raster(path)
        file = replace(file, fails_silently=file.fails_silently or file.is_virtual)  # a source of it may
        height, width = file.grid.shape
        for block in spread_blocks((height, width), file.block_shapes[index - 1], blocks):
            try:
                parts.append(read_pixels(file, [index], block).ravel())
            except RasterioIOError as error:  # reported with its place when the scene is read
                failures.append(error)
    if not parts:
        raise failures[0]
    return np.concatenate(parts)


def check_sources(path: str) -> None:
    """Check that the files of a raster are there and whole, also those that GDAL would read as zeros without a message.

    Pictures and VRTs are read once for that.

    Raises:
        RasterioIOError: GDAL cannot open or read the raster.
        InputError: It is a pipe, socket or device, or a source of a VRT is missing, no raster or cut off.
    """
    list_source_files(path)
    with gdal_environment(path):
        file = open_cached_raster(path)
        if file.fails_silently or file.is_virtual:
            for index in range(1, len(file.dtypes) + 1):
                check_read(file, [index], Window(0, 0, *file.grid.shape))


def hash_content(path: str, indexes: Sequence[int], version: str | None = None) -> str:
    """Return a digest of the pixels of a raster, which does not depend on its name and place.

    Local files of any size, including those that a VRT names and archives, are hashed whole, in parts of 2 GiB; other
    remote files by profile and sampled blocks, which are hashed of members of archives, too.

    Args:
        path: The raster.
        indexes: Bands that are sampled of remote files and members of archives, counted from 1.
        version: ETag of the object at ``path``, which is hashed instead of any pixels.

    Returns:
        SHA-256 as hexadecimal digits.
    """
    digest = hashlib.sha256()
    if version is not None:
        digest.update(f"object {version}".encode())
        return digest.hexdigest()
    is_sampled = False
    for part in list_source_files(path):
        if part.lstrip().startswith("<") or part.startswith("vrt://"):
            digest.update(part.encode())
        local = find_local_file(part)
        if part != path and (etag := get_object_version(part)) is not None:
            digest.update(f"object {etag}".encode())
        elif local is None:
            is_sampled = True
            digest.update(repr(None).encode())
        else:
            is_sampled |= local != Path(part)
            with open_confined(str(local)) as name:
                digest.update(b"".join(_hash_parts(Path(name))))
    if is_sampled:
        with gdal_environment(path):
            file = open_cached_raster(path)
            profile = tuple(file.grid.shape), file.dtypes, file.grid.transform[:6], str(file.grid.crs)
        digest.update(repr(profile).encode())
        for index in indexes:
            digest.update(_sample_pixels(path, index).tobytes())
    return digest.hexdigest()


def _hash_parts(path: Path) -> list[bytes]:
    """Return the SHA-256 of each 2 GiB of a local file, in order; of an empty file that of no bytes."""
    starts = range(0, max(1, path.stat().st_size), _PART_BYTES)
    # In threads that nobody waits for at the end of the process: a part may lie on a slow disk.
    return [part.result() for part in [call_in_background(_hash_part, path, start) for start in starts]]


def _hash_part(path: Path, start: int) -> bytes:
    """Return the SHA-256 of 2 GiB of a file, or of what is there of them; other threads run meanwhile."""
    digest, buffer, left = hashlib.sha256(), memoryview(bytearray(_BUFFER_BYTES)), _PART_BYTES
    with _readers, path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(buffer[: min(left, _BUFFER_BYTES)])):
            digest.update(buffer[:count])
            left -= count
    return digest.digest()


def list_source_files(path: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """Return the files that the pixels of a raster come from, with ``path`` itself; the sources of a VRT are included.

    Each is opened, and the size of those without compression is checked.

    Args:
        path: The raster.
        seen: VRTs that name this one, directly or not, by the names of ``unify_name``.

    Raises:
        RasterioIOError: GDAL cannot open the raster.
        InputError: A source of a VRT is missing, no raster or cut off, or a VRT is a source of itself.
    """
    with gdal_environment(path):
        dataset = open_cached_raster(path).dataset
        if get_confinement() is not None:  # it is read alone
            return [path]
        if is_virtual(dataset):
            names = seen | {unify_name(path)}
            return [path, *_list_virtual_sources(path, read_virtual_raster(path, dataset), names)]
        # Viewers write statistics and overviews beside a raster, which do not change its pixels.
        files = [f for f in sorted(dataset.files) if not f.endswith((".aux.xml", ".ovr"))]
        clear_gdal_error()  # of overviews that are damaged
        if dataset.driver == "Zarr":  # GDAL names the metadata alone
            return [str(file) for part in files for file in sorted(Path(part).parent.rglob("*")) if file.is_file()]
        check_raw_size(path, dataset)
    return files


def _list_virtual_sources(path: str, virtual: VirtualRaster, seen: frozenset[str]) -> list[str]:
    parts: list[str] = []
    for source in virtual.sources:
        if unify_name(source) in seen:
            raise InputError(
                f"{source} is a source of itself",
                got="a circle",
                expected="rasters as sources",
                fix="name rasters as its sources",
            )
        if len(seen) > DEEPEST_VRT:
            raise InputError(
                f"{source} lies in too many VRTs",
                got=f"{len(seen)}, each in the next",
                expected=f"at most {DEEPEST_VRT}",
                fix="make one VRT of them",
            )
        if source in virtual.numbers:
            check_headerless_size(path, source, virtual.numbers[source])
            parts.append(source)
            continue
        try:
            parts += list_source_files(source, seen)
        except RasterioIOError as error:
            raise InputError(
                f"{path} names a source that cannot be read",
                got=f"{source}: {describe_error(error)}",
                expected="rasters as sources",
                fix="correct the VRT, or fetch its sources",
            ) from error
    return parts
