"""The source of a scene: what the user named (files, a folder, a STAC item), and the bands in it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from rasterio.enums import ColorInterp

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.raster_io.gdal import gdal_environment, is_remote
from seamline.pipeline.scenes.band_files import open_source_raster
from seamline.pipeline.scenes.band_matching import BandCandidate
from seamline.pipeline.scenes.products import ProductEvidence
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.json_documents import is_url
from seamline.pipeline.storage.object_store import ObjectFolder, is_object_url

SourceKind = Literal["folder", "archive", "item", "raster"]

_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
_API_ITEM_PATH = re.compile(r"/collections/[^/]+/items/[^/]+/?$")
_PICTURE_ORDER = ("red", "green", "blue", "nir")
"""Order of the bands of pictures, and of aerial images of eight bits."""
_POSITION = re.compile(r"(?:band|layer|channel)[ _-]?0*(\d+)", re.IGNORECASE)
_NEUTRAL_COLOURS = {ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette}


@dataclass(frozen=True)
class Source:
    """What the user named and the bands in it.

    Attributes:
        name: Name of the file, folder or item.
        href: Address that rasterio or the reader of STAC items opens.
        bands: All bands of the source.
        datetime: Time of acquisition in UTC, if a catalogue tells.
        product: What names and the catalogue tell of the product.
    """

    name: str
    href: str
    bands: list[BandCandidate]
    product: ProductEvidence
    datetime: datetime | None = None


def detect_source_kind(href: str) -> SourceKind:
    """Return what lies at an address, by its name and by what is on the disk."""
    local = Path(href)
    if local.is_dir() or (is_object_url(href) and href.endswith("/")):
        return "folder"
    if local.suffix.lower() == ".zip" and local.is_file():
        return "archive"
    path = urlsplit(href).path
    if PurePosixPath(path).suffix.lower() in {".json", ".geojson"}:
        return "item"
    is_api_item = is_url(href) and not _is_raster(path) and _API_ITEM_PATH.search(path) is not None
    return "item" if is_api_item else "raster"


def read_source(source: str | Path) -> Source:
    """Find the bands in a raster, a folder, an archive or a STAC item.

    Raises:
        InputError: There is nothing there that could be a scene.
        RunError: A server does not answer.
    """
    href = normalize_address(source)
    kind = detect_source_kind(href)
    if kind == "item":
        item = read_source_item(href)
        bands = list(item.bands) or [band for key, path in item.rasters for band in _list_asset_bands(key, path)]
        product = ProductEvidence((item.id,), item.baseline, item.is_offset_applied)
        return Source(item.id, href, bands, product, item.datetime)
    if kind == "folder":
        rasters = _list_object_rasters(ObjectFolder.from_url(href)) if is_object_url(href) else list_rasters(Path(href))
        name = Path(href).name
    elif kind == "archive":
        rasters, name = _list_zipped_rasters(href), Path(href).stem
    else:
        rasters, name = [href], make_file_stem(href)
    return Source(name, href, _list_bands(rasters), ProductEvidence((name,)))


def normalize_address(source: str | Path) -> str:
    """Return the address that rasterio opens.

    Local paths become absolute, so that they mean the same to every worker.
    """
    text = str(source)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    return text if "://" in text or text.startswith("/vsi") else str(make_absolute(text))


def list_rasters(folder: Path) -> list[str]:
    """Return the rasters that make up the scene in a folder.

    Raises:
        InputError: There are none.
    """
    for pattern in ("*", "GRANULE/*/IMG_DATA/**/*.jp2"):  # the second one for Sentinel-2's .SAFE folders
        if files := [str(path) for path in sorted(folder.glob(pattern)) if _is_raster(path.name)]:
            return files
    raise _no_rasters_error(str(folder))


def _list_object_rasters(folder: ObjectFolder) -> list[str]:
    """Return the rasters directly in a folder of objects."""
    names = [key for key in folder.list_sizes() if "/" not in key and _is_raster(key)]
    if not names:
        raise _no_rasters_error(folder.to_url() + "/")
    return [folder.to_url(name) for name in names]


def _list_zipped_rasters(archive: str) -> list[str]:
    """Return the rasters in a ZIP file, as GDAL addresses them."""
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


def make_file_stem(path: str) -> str:
    """Return the name of a file or URL without folder and ending."""
    return PurePosixPath(urlsplit(path).path if is_remote(path) else path).stem


def _list_bands(paths: Sequence[str]) -> list[BandCandidate]:
    return [band for path in paths for band in _iter_file_bands(path, one_of_many=len(paths) > 1)]


def _list_asset_bands(key: str, path: str) -> list[BandCandidate]:
    """Return the bands of an asset that the item doesn't describe: what the files leave open, the key tells."""
    return [
        band if band.labels or not band.is_only_band else replace(band, labels=(key,), stem=key, is_described=True)
        for band in _iter_file_bands(path, one_of_many=True)
    ]


def _iter_file_bands(path: str, *, one_of_many: bool) -> Iterator[BandCandidate]:
    """Yield the bands of a file without its alpha band; ``one_of_many`` if the source has other files."""
    with gdal_environment(path):
        file = open_source_raster(path)
        dataset = file.dataset
        images = [index for index in dataset.indexes if index != file.alpha]
        descriptions = {index: (dataset.descriptions[index - 1] or "").strip() for index in images}
        is_only_band = len(images) == 1
        # An RGB picture beside other files is a preview: its colours don't name bands.
        colours = _name_colours(dataset, images) if is_only_band or not one_of_many else {}
        # ENVI and others describe bands by their position, which is no band of a sensor.
        is_counted = not is_only_band and all(_is_position(text, index) for index, text in descriptions.items())
        for index, description in descriptions.items():
            is_described = bool(description) and not is_counted
            colour = colours.get(index)
            yield BandCandidate(
                path=path,
                index=index,
                labels=(description,) if is_described else tuple(text for text in (colour, description) if text),
                stem=make_file_stem(path),
                is_only_band=is_only_band,
                is_described=is_described,
                pixel_size=abs(dataset.transform.determinant) ** 0.5,
                wavelength=_parse_wavelength(dataset.tags(index, ns="IMAGERY")),
            )


def _name_colours(dataset: Any, images: Sequence[int]) -> dict[int, str]:
    """Return the colours of bands by what the file says of them, or else by the order that all pictures have."""
    kinds = {index: dataset.colorinterp[index - 1] for index in images}
    names = {index: kind.name for index, kind in kinds.items() if kind not in _NEUTRAL_COLOURS}
    is_picture = all(dataset.dtypes[index - 1] == "uint8" for index in images)
    starts_with_rgb = [names.get(index) for index in images[:3]] == ["red", "green", "blue"]
    has_usual_order = not names and (len(images) == 3 or (len(images) == 4 and is_picture))
    if len(images) > len(_PICTURE_ORDER) or not (starts_with_rgb or has_usual_order):
        return names
    # What follows on red, green and blue is near infrared, whatever it is tagged as: alpha bands are left out.
    return names | dict(zip(images, _PICTURE_ORDER, strict=False))


def _is_position(description: str, index: int) -> bool:
    found = _POSITION.fullmatch(description)
    return found is not None and int(found[1]) == index


def _parse_wavelength(tags: Mapping[str, str]) -> float | None:
    try:
        return float(tags.get("CENTRAL_WAVELENGTH_UM", ""))
    except ValueError:
        return None  # a tag may hold anything
