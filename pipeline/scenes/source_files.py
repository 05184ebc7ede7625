"""The rasters of a source: a file, its subdatasets, or what lies in a folder, in an archive or below a prefix."""

from __future__ import annotations

import os
import re
import shlex
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import CATALOG, ITEM, ITEMS, MODEL, RECORD
from seamline.pipeline.raster_io.gdal import (
    describe_error,
    gdal_environment,
    is_remote,
    open_cached_raster,
    read_tags,
)
from seamline.pipeline.raster_io.local_files import parse_file_url, split_subdataset
from seamline.pipeline.scenes.band_files import open_any_raster
from seamline.pipeline.storage.atomic import make_absolute, refuse_special_file
from seamline.pipeline.storage.confinement import check_confined, open_confined
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url
from seamline.pipeline.storage.web_requests import is_url

SourceKind = Literal["folder", "archive", "item", "raster"]

_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
_ARCHIVES = {".zip": "/vsizip/", ".tar": "/vsitar/", ".tgz": "/vsitar/", ".tar.gz": "/vsitar/"}
_API_ITEM_PATH = re.compile(r"/collections/[^/]+/items/[^/]+/?$")
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zmetadata")

_SENTINEL2_RASTERS = (
    "GRANULE/*/IMG_DATA/**/*.jp2",
    "*/IMG_DATA/**/*.jp2",
    "IMG_DATA/**/*.jp2",
    "R[126]0m/*.jp2",
    "*.SAFE/GRANULE/*/IMG_DATA/**/*.jp2",
)
"""Where the bands of Sentinel-2 lie: from the .SAFE folder, GRANULE, a granule, IMG_DATA, and the folder above."""

_SENTINEL2_BAND = re.compile(r"(^|/)IMG_DATA/(R[126]0m/)?[^/]+\.jp2$")
_EOPF_BANDS = "/measurements/reflectance/"
"""Group of a Sentinel-2 product in the EOPF format that holds the bands, beside masks and angles."""
_TEXT_KIND = "(8-bit character)"
"""What GDAL says of the type of texts."""


def detect_source_kind(href: str) -> SourceKind:
    """Return what lies at an address, by its name and by what is on the disk.

    Raises:
        InputError: It is a pipe, socket or device, or no address.
    """
    refuse_special_file(href)
    local = Path(href)
    # Functions of os.path are false for names that no file can have; methods of Path raise.
    if (os.path.isdir(local) and not _is_zarr(local)) or (is_object_url(href) and href.endswith("/")):  # noqa: PTH112
        return "folder"
    if local.name.lower().endswith(tuple(_ARCHIVES)) and os.path.isfile(local):  # noqa: PTH113
        return "archive"
    path = _get_path(href)
    if PurePosixPath(path).suffix.lower() in {".json", ".geojson"}:
        return "item"
    is_api_item = is_url(href) and not _is_raster(path) and _API_ITEM_PATH.search(path) is not None
    return "item" if is_api_item else "raster"


def normalize_address(source: str | Path) -> str:
    """Return the address that rasterio opens.

    Local paths become absolute, so that they mean the same to every worker; also those in GDAL's names of subdatasets.

    Raises:
        InputError: It looks like an address and is none, or no file can have this name.
    """
    text = str(source)
    if "\0" in text:
        raise InputError("no address", got=repr(text), expected="a URL or a path, without zero bytes", fix="correct it")
    try:
        text = text if (local := parse_file_url(text)) is None else local
    except ValueError as error:
        raise _no_address_error(text, error) from error
    if (parts := split_subdataset(text)) is not None:
        before, path, after = parts
        return f"{before}{make_absolute(path)}{after}"
    return text if "://" in text or text.startswith(("/vsi", "<VRTDataset")) else str(make_absolute(text))


def _get_path(text: str) -> str:
    """Return the path in an address; a path is left whole.

    Raises:
        InputError: It looks like an address and is none.
    """
    if "://" not in text:
        return text
    try:
        return urlsplit(text).path
    except ValueError as error:
        raise _no_address_error(text, error) from error


def _no_address_error(text: str, error: ValueError) -> InputError:
    return InputError("no address", got=text, expected=f"a URL or a path ({error})", fix="correct it")


def list_rasters(href: str) -> list[str]:
    """Return the rasters that make up the scene at an address, which is not that of an item.

    Raises:
        InputError: There are none, or those of several products.
    """
    check_confined(href)
    kind = detect_source_kind(href)
    if kind == "folder":
        return _list_object_rasters(ObjectFolder.from_url(href)) if is_object_url(href) else _list_files(Path(href))
    if kind == "archive":
        return _list_archived_rasters(href)
    subdatasets = _list_subdatasets(href)
    return [name for name in subdatasets if _EOPF_BANDS in name] or subdatasets or [href]


def _list_subdatasets(path: str) -> list[str]:
    """Return GDAL's names of the rasters in a file or a Zarr folder that has no bands of its own.

    Subdatasets with one row or column, such as coordinates, are none. Nor are texts and other tables beside rasters:
    they have no place on Earth, and another shape than what has one.

    Raises:
        InputError: The path is no raster, or GDAL can read none of its subdatasets.
    """
    rasters: list[str] = []
    grids: list[GeoBox] = []
    failures: list[str] = []
    with gdal_environment(path):
        file = open_any_raster(path)
        kinds = read_tags(file, domain="SUBDATASETS")
        for number, name in enumerate([] if file.dataset.count else file.dataset.subdatasets, start=1):
            # In HDF5, GDAL calls bytes with a sign so, too.
            if name.casefold().startswith("netcdf:") and _TEXT_KIND in kinds.get(f"SUBDATASET_{number}_DESC", ""):
                continue
            try:
                grid = open_cached_raster(name).grid
            except RasterioIOError as error:
                failures.append(f"{name}: {describe_error(error)}")
                continue
            if min(grid.shape) > 1:
                rasters.append(name)
                grids.append(grid)
    if failures and not rasters:
        raise InputError(
            f"cannot open the subdatasets of {path}",
            got=failures[0],
            expected="rasters that this version of GDAL reads",
            fix="convert it to GeoTIFF",
        )
    shapes = {tuple(grid.shape) for grid in grids if _is_placed(grid)}
    return [name for name, grid in zip(rasters, grids, strict=True) if not shapes or tuple(grid.shape) in shapes]


def _is_placed(grid: GeoBox) -> bool:
    return grid.crs is not None or not grid.transform.is_identity


def name_source(href: str) -> str:
    """Return the name of the scene at an address, which is not that of an item.

    That of a subdataset has the name of the file or product that it is in.
    """
    if (parts := split_subdataset(href)) is not None:
        before, path, after = parts
        product = next((part for part in reversed(PurePosixPath(path).parts) if part.endswith(".SAFE")), None)
        number = re.search(r":(\d+):", before)  # of a page of a TIFF
        names = (product or make_file_stem(path), number and number[1], after.strip(':/"'))
        return "-".join(name for name in names if name)
    if detect_source_kind(href) != "folder":
        return make_file_stem(href)
    return next((part for part in reversed(PurePosixPath(href).parts) if part.endswith(".SAFE")), Path(href).name)


def make_file_stem(path: str) -> str:
    """Return the name of a file, a URL or a subdataset without folder and ending."""
    if (parts := split_subdataset(path)) is not None and parts[2]:
        return re.split(r"[:/]", parts[2].strip('":/'))[-1]
    name = PurePosixPath(re.split(r"[?#]", path)[0] if is_remote(path) else path).name
    return re.sub(r"\.tar\.gz$|\.[^.]*$", "", name) or name


def _refuse_results(folder: Path) -> None:
    """Refuse the folder of a scene's results, or of a catalogue without rasters of its own."""
    is_scene = all((folder / name).is_file() for name in (RECORD, ITEM, MODEL))
    is_catalog = all((folder / name).is_file() for name in (CATALOG, ITEMS)) and not any(
        _is_raster(path.name) for path in folder.iterdir()
    )
    if is_scene or is_catalog:
        raise InputError(
            f"no scene in {folder}",
            got="results of Seamline",
            expected="a scene that is not segmented yet",
            fix="name the scene's own file; `seamline serve` shows results",
        )


def _list_files(folder: Path) -> list[str]:
    """Return the rasters in a folder, or those of the product of Sentinel-2 that it belongs to or holds."""
    _refuse_results(folder)
    if files := _drop_foreign(path.name for path in folder.iterdir()):
        return [str(folder / name) for name in files]
    for pattern in _SENTINEL2_RASTERS:
        if names := _drop_foreign(path.relative_to(folder).as_posix() for path in folder.glob(pattern)):
            return [str(folder / name) for name in _require_one_product(names, str(folder))]
    if below := [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _holds_rasters(path)]:
        raise InputError(
            f"no rasters in {folder}",
            got=f"rasters in folders of it, such as {below[0]}",
            expected="the files of one scene",
            fix=name_as_scenes(str(folder)),
        )
    raise _no_rasters_error(str(folder))


def _holds_rasters(folder: Path) -> bool:
    """Return whether rasters lie directly in a folder; one that cannot be read holds none."""
    try:
        return any(_is_raster(path.name) for path in folder.iterdir())
    except OSError:
        return False


def _list_object_rasters(folder: ObjectFolder) -> list[str]:
    """Return the rasters directly in a folder of objects."""
    names = _drop_foreign(key for key in folder.list_sizes() if "/" not in key)
    if not names:
        raise _no_rasters_error(folder.to_url() + "/")
    return [folder.to_url(name) for name in names]


def list_members(archive: str) -> list[str]:
    """Return the names of what is in a ZIP or TAR file; raises whatever the libraries raise."""
    return list(_find_members(archive))


def _find_members(archive: str) -> dict[str, bool]:
    """Return the names of what is in a ZIP or TAR file, and whether GDAL knows it by this name.

    The PAX format of TAR, Python's own, holds long names and those with other letters than ASCII's apart, where GDAL
    does not look.
    """
    with open_confined(archive) as path:
        if archive.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                return dict.fromkeys(zipped.namelist(), True)
        with tarfile.open(path) as tar:
            return {member.name: "path" not in member.pax_headers for member in tar.getmembers()}


def _list_archived_rasters(archive: str) -> list[str]:
    """Return the rasters in a ZIP or TAR file, as GDAL addresses them."""
    prefix = next(prefix for suffix, prefix in _ARCHIVES.items() if archive.lower().endswith(suffix))
    try:
        members = _find_members(archive)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        kind = "ZIP" if prefix == "/vsizip/" else "TAR"
        raise InputError(
            f"cannot open {archive}",
            got=" ".join(str(error).split()),
            expected=f"a {kind} file",
            fix="fetch it again",
        ) from error
    names = _drop_foreign(members)
    names = [name for name in names if _SENTINEL2_BAND.search(name)] or names
    if not names:
        raise _no_rasters_error(archive)
    _require_one_product(names, archive)
    if unknown := [name for name in names if not members[name]]:
        raise InputError(
            f"GDAL cannot read {len(unknown)} files of {archive}",
            got=f"the PAX format for a name such as {unknown[0]}",
            expected="short names of ASCII letters, or the GNU format of TAR",
            fix="unpack it and name the folder",
        )
    return [f"{prefix}{archive}/{name.removeprefix('./')}" for name in names]


def _drop_foreign(names: Iterable[str]) -> list[str]:
    """Return the names of rasters in order, without what macOS leaves beside files and masks of Sentinel-2."""
    rasters = [
        name
        for name in sorted(names)
        if _is_raster(name) and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    ]
    return [name for name in rasters if not PurePosixPath(name).name.startswith("MSK_")] or rasters


def _require_one_product(names: list[str], place: str) -> list[str]:
    """Return the names if they lie in one .SAFE folder or in none."""
    products = {part for name in names for part in PurePosixPath(name).parts if part.endswith(".SAFE")}
    if len(products) > 1:
        raise InputError(
            f"{place} holds {len(products)} products",
            got=", ".join(sorted(products)[:3]),
            expected="one",
            fix="name one of them",
        )
    return names


def _is_raster(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _ZARR_METADATA)


def _no_rasters_error(place: str) -> InputError:
    return InputError(
        f"no rasters in {place}", got="none", expected=", ".join(_SUFFIXES), fix="name the files themselves"
    )


def name_as_scenes(folder: str, rasters: Iterable[str] = ()) -> str:
    """Return what names each raster in a folder as a scene of its own on the command line; without any each folder."""
    endings = sorted({PurePosixPath(raster).suffix for raster in rasters}) or ["/"]
    patterns = (f"{shlex.quote(folder.rstrip('/'))}/*{ending}" for ending in endings)
    return f"if each is a scene of its own, name all of them: seamline segment {' '.join(patterns)}"
