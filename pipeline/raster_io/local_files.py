"""Names of rasters as GDAL writes them, and the local files that they lie in."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from seamline.pipeline.storage.atomic import refuse_special_file

_FILE_URL = re.compile(r"file:/", re.IGNORECASE)
_SUBDATASET = re.compile(r"^[A-Za-z][A-Za-z0-9_]+:(?!//)")
_SUBDATASET_PART = re.compile(r'(?<=:)("?)([^":][^":]*)\1(?=:|$)')
_INNER_NAMES = (
    re.compile(r"/vsi(?:zip|tar|gzip|7z|rar|sparse|cached)/\{(?P<inner>.*)\}[^}]*", re.DOTALL),
    re.compile(r"/vsi(?:zip|tar|gzip|7z|rar|sparse|cached)/(?P<inner>.*)", re.DOTALL),
    re.compile(r"/vsi(?:subfile/|crypt/.*file=|cached\?.*file=)(?:\d+(?:_-?\d+)?,)?(?P<inner>[^&]*).*", re.DOTALL),
    re.compile(r"(?:vrt|file)://(?P<inner>[^?]*).*", re.DOTALL),
    re.compile(r"(?:zip|tar|gzip)(?:\+file)?://(?P<inner>[^!]*).*", re.DOTALL),
)
"""Names that hold the name of a file, in which the other one lies."""
_METADATA_SUFFIXES = (".txt", ".xml", ".imd", ".rpb", ".rpc", ".pvl", ".pix", ".att", ".eph", ".hdr")
"""Files of satellite products that GDAL looks for beside their rasters by other names than these rasters have."""
_XML_HEAD, _MOST_XML = 256, 16 * 2**20
"""Bytes of a file in which it may say that it is in another encoding, and bytes that are looked at."""


def parse_file_url(text: str) -> str | None:
    """Return the path in a URL of a local file, with one slash, two or three (RFC 8089); None for anything else.

    Raises:
        ValueError: It begins as one and is none.
    """
    return unquote(urlsplit(text).path) if _FILE_URL.match(text) else None


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
    for found in _SUBDATASET_PART.finditer(text):
        if exists(found[2]):
            return text[: found.start(2)], found[2], text[found.end(2) :]
    return None


def _find_local_path(name: str) -> Path | None:
    """Return what is on disk, and no folder, that a raster lies in; it may be a pipe."""
    if name.lstrip().startswith("<") or os.path.isdir(name):  # noqa: PTH112 - a VRT as text; Path raises for others
        return None
    if not os.path.exists(name):  # noqa: PTH110
        for pattern in _INNER_NAMES:
            if (found := pattern.fullmatch(name)) is not None:
                return _find_local_path(found["inner"])
        if _SUBDATASET.match(name):
            parts = (_find_local_path(found[2]) for found in _SUBDATASET_PART.finditer(name))
            return next((part for part in parts if part is not None), None)
    plain = PurePosixPath(name)
    nearest = next((path for path in (plain, *plain.parents) if os.path.exists(path)), None)  # noqa: PTH110
    return None if nearest is None or os.path.isdir(nearest) else Path(nearest)  # noqa: PTH112


def find_local_file(path: str) -> Path | None:
    """Return the file on disk that ``path`` lies in, such as the archive for ``/vsizip/…``; None if there is none."""
    found = _find_local_path(path)
    return found if found is not None and os.path.isfile(found) else None  # noqa: PTH113


def unify_name(name: str) -> str:
    """Return one name for all names of a file or folder on disk, without links; other names as they are."""
    return os.path.realpath(name) if os.path.exists(name) else name  # noqa: PTH110 - Path raises for long names


def refuse_special_source(path: str) -> None:
    """Refuse a raster that lies in a pipe, socket or device, or has one beside it that GDAL would open.

    Args:
        path: The raster, under whatever name GDAL has for it.

    Raises:
        InputError: It does.
    """
    local = _find_local_path(path)
    refuse_special_file(local or path)
    if local is None:
        return
    with suppress(OSError):
        state = local.parent.stat()
        for name in _list_unusual(str(local.parent), (state.st_dev, state.st_ino, state.st_mtime_ns)):
            if _may_be_opened_beside(local, name):
                refuse_special_file(local.parent / name)


@lru_cache(maxsize=64)
def _list_unusual(folder: str, state: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names in a folder that have to be looked at whenever they matter.

    Those are links, whose targets may change, pipes and the like, and names that are no text.

    Args:
        folder: The folder, which is not scanned again for each raster in it.
        state: What changes when something comes into the folder or leaves it.
    """
    with os.scandir(folder) as entries:
        return tuple(entry.name for entry in entries if _is_unusual(entry))


def _is_unusual(entry: os.DirEntry[str]) -> bool:
    is_usual = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
    return not (is_usual and entry.name.isprintable())  # bytes that Python could not decode are not


def forget_folders() -> None:
    """Forget what lies in the folders that were scanned."""
    _list_unusual.cache_clear()


def _may_be_opened_beside(raster: Path, name: str) -> bool:
    """Return whether GDAL opens a file of this name in the folder of a raster for its metadata, masks or overviews."""
    return name.startswith(f"{raster.stem}.") or name.lower().endswith(_METADATA_SUFFIXES)


def is_broken_text(path: str) -> bool:
    """Return whether a file begins as XML in UTF-8 and isn't: rasterio fails where GDAL quotes its bytes."""
    with suppress(OSError, ValueError), Path(path).open("rb") as file:
        head = file.read(_XML_HEAD)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"encoding=" not in head:
            try:
                (head + file.read(_MOST_XML)).decode()
            except UnicodeDecodeError:
                return True
    return False
