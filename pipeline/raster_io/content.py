"""The content of a raster: the files it consists of, their versions, samples of its pixels and its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.file_stamp import FileStamp
from seamline.pipeline.raster_io.gdal import (
    clear_gdal_error,
    describe_error,
    find_local_file,
    gdal_environment,
    open_cached_raster,
    read_pixels,
)
from seamline.pipeline.raster_io.sampling import spread_blocks
from seamline.pipeline.storage.confinement import get_confinement, open_confined
from seamline.pipeline.storage.object_store import is_object_url, split_object_url

_SAMPLED_BLOCKS = 8
"""Blocks of a sample; each is a request or two if the file is remote."""
_MAX_HASHED_WHOLE = 2 * 2**30
"""Bytes. Larger files are sampled instead of being hashed whole."""


def get_object_version(path: str) -> str | None:
    """Return the ETag of the object at ``path``.

    Returns:
        None for a path outside of object storage, and for a VRT, whose pixels come from other objects.

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


def sample_pixels(path: str, index: int, blocks: int = _SAMPLED_BLOCKS) -> NDArray[Any]:
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
        height, width = file.grid.shape
        for block in spread_blocks((height, width), file.block_shapes[index - 1], blocks):
            try:
                parts.append(read_pixels(file, [index], block).ravel())
            except RasterioIOError as error:  # reported with its place when the scene is read
                failures.append(error)
    if not parts:
        raise failures[0]
    return np.concatenate(parts)


def hash_content(path: str, indexes: Sequence[int], version: str | None = None) -> str:
    """Return a digest of the pixels of a raster, which does not depend on its name and place.

    Files of up to 2 GiB, including those that a VRT names, are hashed whole. Of larger files size, time of last change
    and sampled blocks are hashed; of other remote files and of members of archives, profile and sampled blocks.

    Args:
        path: The raster.
        indexes: Bands that are sampled where a file is not hashed whole, counted from 1.
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
        local = find_local_file(part)
        if part != path and (etag := get_object_version(part)) is not None:
            digest.update(f"object {etag}".encode())
        elif local is None or local.stat().st_size > _MAX_HASHED_WHOLE:
            is_sampled = True
            size = local and (local.stat().st_size, local.stat().st_mtime_ns)
            digest.update(repr(size).encode())
        else:
            is_sampled |= part.startswith("/vsi")
            with open_confined(str(local)) as name, Path(name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    if is_sampled:
        with gdal_environment(path):
            file = open_cached_raster(path)
            profile = tuple(file.grid.shape), file.dtypes, file.grid.transform[:6], str(file.grid.crs)
        digest.update(repr(profile).encode())
        for index in indexes:
            digest.update(sample_pixels(path, index).tobytes())
    return digest.hexdigest()


def list_source_files(path: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """Return the files that the pixels of a raster come from, with ``path`` itself; the sources of a VRT are included.

    Args:
        path: The raster.
        seen: VRTs that name this one, directly or not.

    Raises:
        RasterioIOError: GDAL cannot open the raster.
        InputError: A source of a VRT is missing, or a VRT is a source of itself.
    """
    with gdal_environment(path):
        # Viewers write statistics and overviews beside a raster, which do not change its pixels.
        dataset = open_cached_raster(path).dataset
        if get_confinement() is not None:  # it is read alone
            return [path]
        others = [f for f in sorted(dataset.files) if not f.endswith((".aux.xml", ".ovr"))]
        clear_gdal_error()  # of overviews that are damaged
        if dataset.driver == "Zarr":  # GDAL names the metadata alone
            return [str(file) for part in others for file in sorted(Path(part).parent.rglob("*")) if file.is_file()]
    if not path.lower().endswith(".vrt"):
        return others
    if path in seen:
        raise InputError(
            f"{path} is a source of itself", got="a circle", expected="rasters as sources", fix="correct it"
        )
    parts = [path]
    for other in others:
        if other == path:
            continue
        try:
            parts += list_source_files(other, seen | {path})
        except RasterioIOError as error:
            if find_local_file(other) is None:
                raise InputError(
                    f"{path} names a source that cannot be read",
                    got=f"{other}: {describe_error(error)}",
                    expected="rasters as sources",
                    fix="correct the VRT, or fetch its sources",
                ) from error
            parts.append(other)  # numbers without a header, which only the VRT describes
    return parts
