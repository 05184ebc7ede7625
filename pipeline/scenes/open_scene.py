"""Opening a scene: what the user named (files, a folder, a STAC item) becomes a checked ``SceneArgument``."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from seamline.pipeline.common.errors import InputError, redact_address
from seamline.pipeline.common.layout import CATALOG, ITEMS
from seamline.pipeline.raster_io.gdal import gdal_environment, is_remote
from seamline.pipeline.raster_io.content import get_object_version
from seamline.pipeline.scenes.acquisition import read_acquisition_time
from seamline.pipeline.scenes.aoi import read_aoi
from seamline.pipeline.scenes.band_files import (
    check_georeference,
    choose_nodata,
    choose_scales,
    find_common_dtype,
    find_common_grid,
    inspect_band,
    open_source_raster,
)
from seamline.pipeline.scenes.band_matching import BandCandidate, BandNeed, match_bands
from seamline.pipeline.scenes.scene import Band, Scene
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.json_documents import is_url
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url

SourceKind = Literal["folder", "archive", "item", "raster"]

_MAX_ID_LENGTH = 200
"""Of the 255 bytes that a file's name may have; parts have longer names than what they become."""
_RESERVED_NAMES = {CATALOG, ITEMS}
"""Names beside the scenes' folders."""
_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
_API_ITEM_PATH = re.compile(r"/collections/[^/]+/items/[^/]+/?$")
_NEUTRAL_COLOURS = {ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette}


@dataclass(frozen=True)
class SceneOptions:
    """What the user says of a scene, over what its files say.

    ``bands`` in the model's order: numbers from 1, descriptions, file names or asset keys. ``nodata="none"``:
    no value means that data is missing. ``aoi``: a GeoJSON file with polygons.
    """

    bands: tuple[str, ...] = ()
    scale: float | None = None
    offset: float | None = None
    nodata: float | Literal["none"] | None = None
    aoi: Path | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and (self.scale == 0 or not isfinite(self.scale)):
            raise InputError("--scale gives no values", got=self.scale, expected="a number but 0", fix="correct it")
        if self.offset is not None and not isfinite(self.offset):
            raise InputError("--offset gives no values", got=self.offset, expected="a number", fix="correct it")


@dataclass(frozen=True)
class _Source:
    """What the user named: its name and address, the bands in it, what a catalogue says."""

    name: str
    href: str
    bands: list[BandCandidate]
    datetime: datetime | None = None
    warnings: tuple[str, ...] = ()


def open_scene(
    source: str | Path,
    needs: Sequence[BandNeed],
    options: SceneOptions,
    *,
    assumed_nodata: float | None = None,
    reflectance: bool = True,
    georeferenced: bool = True,
) -> Scene:
    """Find the bands that a model needs in a source, check them, and describe them as one scene.

    ``source``: a raster (path, http(s) URL, ``s3://``, ``/vsi…``, ``.zip``), a folder of band files (``s3://…/``,
    too), or a STAC item (path, http(s) URL or ``s3://`` of its JSON, or its URL in a STAC API). ``assumed_nodata``: the
    value of missing pixels in files that declare none. ``reflectance``: whether integers without a scale stand for
    reflectances. ``georeferenced``: whether a file without a place on Earth is refused.
    Bands of different pixel size share the grid of the finest. What was assumed is in the scene's warnings.
    Raises ``InputError`` for whatever would stop the inference or spoil its result.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # an InputError of its own
        found = _read_source(source)
        chosen, matching = match_bands(needs, found.bands, options.bands, found.name)
        versions = {path: get_object_version(path) for path in {band.path for band in chosen}}
        files = [inspect_band(band) for band in chosen]
        for file in files if georeferenced else ():
            check_georeference(file)
        grid = find_common_grid(files)
        nodata, missing = choose_nodata(files, options.nodata, assumed_nodata)
        scales, scaling = choose_scales(files, nodata, options.scale, options.offset, reflectance=reflectance)
        bands = tuple(
            Band(need.name, band.path, band.index, *scale, value, versions[band.path])
            for need, band, scale, value in zip(needs, chosen, scales, nodata, strict=True)
        )
        return Scene(
            id=make_scene_id(found.name),
            grid=grid,
            bands=bands,
            dtype=find_common_dtype(files),
            datetime=found.datetime or read_acquisition_time(chosen[0].path),
            aoi=None if options.aoi is None else read_aoi(options.aoi, grid),
            warnings=(*found.warnings, *matching, *missing, *scaling),
            source=redact_address(found.href),
        )


def make_scene_id(name: str) -> str:
    """The id of the scene that a file, a folder or an item of this name holds: safe as the name of a folder."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-") or "scene"
    if safe in _RESERVED_NAMES:
        return f"{safe}-scene"
    if len(safe) > _MAX_ID_LENGTH:
        return f"{safe[:_MAX_ID_LENGTH]}-{hashlib.sha256(safe.encode()).hexdigest()[:12]}"
    return safe


def detect_source_kind(href: str) -> SourceKind:
    """What lies at an ``normalize_address``, by its name. An item of a STAC API is told by its path."""
    local = Path(href)
    if local.is_dir() or (is_object_url(href) and href.endswith("/")):
        return "folder"
    if local.suffix.lower() == ".zip" and local.is_file():
        return "archive"
    path = urlsplit(href).path
    if PurePosixPath(path).suffix.lower() in {".json", ".geojson"}:
        return "item"
    named = is_url(href) and not _is_raster(path) and _API_ITEM_PATH.search(path) is not None
    return "item" if named else "raster"


def _read_source(source: str | Path) -> _Source:
    href = normalize_address(source)
    kind = detect_source_kind(href)
    if kind == "folder":
        rasters = _list_object_rasters(ObjectFolder.from_url(href)) if is_object_url(href) else list_rasters(Path(href))
        return _Source(Path(href).name, href, _list_bands(rasters))
    if kind == "archive":
        return _Source(Path(href).stem, href, _list_bands(_list_zipped_rasters(href)))
    if kind == "item":
        item = read_source_item(href)
        bands = list(item.bands) or _list_bands(item.rasters)
        return _Source(item.id, href, bands, item.datetime, item.warnings)
    return _Source(file_stem(href), href, _list_bands([href]))


def normalize_address(source: str | Path) -> str:
    """What rasterio opens; local paths are absolute, so that they mean the same to every worker."""
    text = str(source)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    return text if "://" in text or text.startswith("/vsi") else str(make_absolute(text))


def list_rasters(folder: Path) -> list[str]:
    """The rasters that make up the scene of a folder. Raises ``InputError`` where there are none."""
    for pattern in ("*", "GRANULE/*/IMG_DATA/**/*.jp2"):  # the second is that of a Sentinel-2 .SAFE folder
        if files := [str(path) for path in sorted(folder.glob(pattern)) if _is_raster(path.name)]:
            return files
    raise _no_rasters_error(str(folder))


def _list_object_rasters(folder: ObjectFolder) -> list[str]:
    """The rasters directly in a folder of objects."""
    names = [key for key in folder.list_sizes() if "/" not in key and _is_raster(key)]
    if not names:
        raise _no_rasters_error(folder.to_url() + "/")
    return [folder.to_url(name) for name in names]


def _list_zipped_rasters(archive: str) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in sorted(file.namelist()) if _is_raster(name)]
    except zipfile.BadZipFile as error:
        raise InputError(f"cannot open {archive}", got=error, expected="a ZIP file", fix="fetch it again") from error
    if not names:
        raise _no_rasters_error(archive)
    return [f"/vsizip/{archive}/{name}" for name in names]


def _is_raster(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _no_rasters_error(place: str) -> InputError:
    return InputError(
        f"no rasters in {place}", got="none", expected=", ".join(_SUFFIXES), fix="name the files themselves"
    )


def file_stem(path: str) -> str:
    """The name of a file without its folder and ending."""
    return PurePosixPath(urlsplit(path).path if is_remote(path) else path).stem


def _list_bands(paths: Sequence[str]) -> list[BandCandidate]:
    return [band for path in paths for band in _iter_file_bands(path, one_of_many=len(paths) > 1)]


def _iter_file_bands(path: str, *, one_of_many: bool) -> Iterator[BandCandidate]:
    with gdal_environment(path):
        file = open_source_raster(path)
        dataset = file.dataset
        images = [index for index in dataset.indexes if index != file.alpha]
        for index in images:
            alone = len(images) == 1
            description = (dataset.descriptions[index - 1] or "").strip()
            colour = dataset.colorinterp[index - 1]
            # A colour picture beside the bands is none of them.
            coloured = colour not in _NEUTRAL_COLOURS and (alone or not one_of_many)
            yield BandCandidate(
                path=path,
                index=index,
                labels=(description,) if description else (colour.name,) if coloured else (),
                stem=file_stem(path),
                is_only_band=alone,
                is_described=bool(description),
                pixel_size=abs(dataset.transform.determinant) ** 0.5,
                wavelength=_parse_wavelength(dataset.tags(index, ns="IMAGERY")),
            )


def _parse_wavelength(tags: Mapping[str, str]) -> float | None:
    try:
        return float(tags.get("CENTRAL_WAVELENGTH_UM", ""))
    except ValueError:
        return None  # a tag may hold anything
