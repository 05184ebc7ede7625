"""STAC items (1.0 and 1.1) as sources: the bands that the metadata of an item describe."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pystac

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.sensors import find_other_sensor, parse_wavelength, recognize_sensors
from seamline.pipeline.common.time_span import TimeSpan, to_utc
from seamline.pipeline.raster_io.local_files import parse_file_url
from seamline.pipeline.scenes.band_matching import BandCandidate
from seamline.pipeline.scenes.products import parse_baseline
from seamline.pipeline.storage.confinement import check_confined
from seamline.pipeline.storage.json_documents import read_document

_PICTURE_ROLES = {"thumbnail", "overview", "visual"}
_MEDIA_TYPES = {"image/tiff", "image/vnd.stac.geotiff", "image/jp2"}
_SUFFIXES = {".tif", ".tiff", ".jp2", ".vrt"}
_FIELDS_OF_A_BAND = ("eo:common_name", "common_name", "raster:scale", "raster:offset", "nodata", "data_type")
_INHERITED_FIELDS = ("raster:scale", "raster:offset", "raster:nodata", "nodata")
"""Properties of an item, since STAC 1.1, that hold for all its bands that say nothing else."""
_LONGEST_NAME = 255
"""Bytes of the name of a file, on all usual file systems."""
_PRODUCT_FIELDS = (
    "title",
    "s2:product_uri",
    "s2:granule_id",
    "s2:tile_id",
    "platform",
    "constellation",
    "mission",
    "s2:datatake_id",
)
"""Properties that may hold the name of a product or a satellite."""
_SENTINEL_2, _INSTRUMENT = "Sentinel-2", "msi"
_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied")
# pystac's errors have no common base, and it fails with Python's own errors on documents of another structure.
_PARSE_ERRORS = (
    *(pystac.STACError, pystac.STACTypeError),
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError),
)


@dataclass(frozen=True)
class SourceItem:
    """What an item says about the scene.

    Attributes:
        id: Id of the item.
        acquired: When the scene was taken, if known.
        bands: Bands that the item describes.
        rasters: Key and address of each raster file.
        names: Texts that may hold the name of the product, its collection or satellite.
        baseline: Processing baseline of Sentinel-2, such as 5.09, if the item tells.
        is_offset_applied: Whether the offset of Sentinel-2 is in the numbers already, if the item tells.
        scale: Scale of bands that the item does not describe, or None.
        offset: Offset of these, or None.
        nodata: Nodata value of these, or None.
    """

    id: str
    acquired: TimeSpan | None
    bands: tuple[BandCandidate, ...]
    rasters: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    baseline: float | None
    is_offset_applied: bool | None
    scale: float | None
    offset: float | None
    nodata: float | None


def read_source_item(href: str) -> SourceItem:
    """Read a STAC item at a path, an http(s) URL or an ``s3://`` address; no raster is opened.

    Raises:
        InputError: It is no item, or has no rasters.
        RunError: The server does not answer.
    """
    try:
        document = read_document(href)
    except InputError as error:
        raise _not_an_item_error(href, error.got) from error
    return parse_source_item(document, href)


def parse_source_item(document: Any, href: str) -> SourceItem:
    """Return the item in a JSON document.

    Args:
        document: The parsed JSON.
        href: Address of the document, which the hrefs in it may be relative to.

    Raises:
        InputError: It is no item, or has no rasters.
    """
    try:
        return _parse_document(document, href)
    except _PARSE_ERRORS as error:
        raise _not_an_item_error(href, " ".join(f"{type(error).__name__}: {error}".split())) from error


def _parse_document(document: Any, href: str) -> SourceItem:
    # pystac would copy a whole catalogue or collection of items only to say that it is no item.
    if not isinstance(document, dict) or document.get("type") != "Feature":
        found = document.get("type") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"a document of type {found!r}")
    # pystac.read_dict would fetch the collection of an item of an old version, wherever its link leads.
    item = pystac.Item.from_dict(document, href=href)
    if not isinstance(item.id, str):
        raise TypeError(f"id {item.id!r}, which is no text")
    assets = {key: asset for key, asset in item.assets.items() if _is_raster(asset)}
    if not assets:
        raise InputError(
            f"{href} has no rasters",
            got=", ".join(item.assets) or "no assets",
            expected="assets with band files",
            fix="name another item, or the rasters themselves",
        )
    try:
        inherited = {name: item.properties[name] for name in _INHERITED_FIELDS if name in item.properties}
        scale, offset, nodata = _read_calibration(inherited, {})
        bands = tuple(band for key, asset in assets.items() for band in _iter_bands(key, asset, href, inherited))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"bands of {href}",
            got=error,
            expected="objects with names and numbers, as STAC describes bands",
            fix="correct the item, or name the rasters themselves",
        ) from error
    applied = [str(item.properties[name]).casefold() == "true" for name in _OFFSET_APPLIED if name in item.properties]
    names = _list_product_names(item)
    return SourceItem(
        id=item.id,
        acquired=_parse_times(item),
        bands=bands,
        rasters=tuple((key, _resolve_href(asset, href)) for key, asset in assets.items()),
        names=names,
        baseline=_read_baseline(item, names),
        is_offset_applied=any(applied) if applied else None,
        scale=scale,
        offset=offset,
        nodata=nodata,
    )


def _not_an_item_error(href: str, got: object) -> InputError:
    fix = "name the JSON of one item, or the rasters themselves"
    return InputError(f"cannot read {href}", got=got, expected="a STAC item", fix=fix)


def _is_raster(asset: pystac.Asset) -> bool:
    if _PICTURE_ROLES.intersection(asset.roles or ()):
        return False
    media_type = (asset.media_type or "").split(";")[0].strip().lower()
    return media_type in _MEDIA_TYPES or any(
        PurePosixPath(path).suffix.lower() in _SUFFIXES for path in (asset.href, urlsplit(asset.href).path)
    )


def _list_product_names(item: pystac.Item) -> tuple[str, ...]:
    """Return what an item says of its product in texts."""
    values = [item.id, item.collection_id, *(item.properties.get(name) for name in _PRODUCT_FIELDS)]
    if str(item.properties.get("landsat:correction", "")).upper().startswith("L2"):
        values.append(f"landsat c{item.properties.get('landsat:collection_number')} l2")
    names = tuple(value for value in values if isinstance(value, str))
    if recognize_sensors(" ".join(names)) or find_other_sensor(" ".join(names)):
        return names
    # Other instruments are called so, too, and catalogues copy fields.
    instruments = re.findall(r"\w+", str(item.properties.get("instruments", "")).casefold())
    has_fields = any(name.startswith("s2:") for name in item.properties)
    return (*names, _SENTINEL_2) if has_fields or _INSTRUMENT in instruments else names


def _read_baseline(item: pystac.Item, names: Sequence[str]) -> float | None:
    """Return the processing baseline of Sentinel-2; other products have versions that mean something else."""
    value = item.properties.get("s2:processing_baseline") or item.properties.get("sentinel:processing_baseline")
    if value is None and _SENTINEL_2 in recognize_sensors(" ".join(names)):
        value = item.properties.get("processing:version")
    return parse_baseline(value)


def _iter_bands(key: str, asset: pystac.Asset, item_href: str, inherited: dict[str, Any]) -> Iterator[BandCandidate]:
    descriptions = _merge_band_descriptions(asset.extra_fields)
    for index, band in enumerate(descriptions, start=1):
        fields = {**asset.extra_fields, **band}
        labels = (
            _first_value(fields, "eo:common_name", "common_name"),
            fields.get("name"),
            fields.get("description"),
        )
        scale, offset, nodata = _read_calibration(fields, inherited)
        yield BandCandidate(
            path=_resolve_href(asset, item_href),
            index=index,
            labels=tuple(str(label) for label in labels if label) or (key,),
            stem=key,
            is_only_band=len(descriptions) == 1,
            is_described=True,
            pixel_size=_to_float(_first_value(fields, "raster:spatial_resolution", "spatial_resolution", "gsd")),
            wavelength=parse_wavelength(_first_value(fields, "eo:center_wavelength", "center_wavelength")),
            data_type=str(_first_value(fields, "data_type") or "") or None,
            scale=scale,
            offset=offset,
            nodata=nodata,
        )


def _read_calibration(fields: dict[str, Any], inherited: dict[str, Any]) -> tuple[float | None, ...]:
    """Return scale, offset and nodata value of a band, each None if neither its own nor inherited fields have it."""
    names = ("raster:scale", "scale"), ("raster:offset", "offset"), ("nodata", "raster:nodata")
    values = ((_first_value(fields, *same), _first_value(inherited, *same)) for same in names)
    return tuple(_to_float(common if own is None else own) for own, common in values)


def _merge_band_descriptions(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bands of STAC 1.1, or those of the raster and eo extensions of STAC 1.0, merged by position."""
    lists = [fields.get(name) or [] for name in ("bands", "raster:bands", "eo:bands")]
    # STAC 1.1 lets an asset with one band describe it without a list.
    count = max(1 if any(fields.get(name) is not None for name in _FIELDS_OF_A_BAND) else 0, *map(len, lists))
    merged: list[dict[str, Any]] = [{} for _ in range(count)]
    for bands in lists:
        for merged_band, band in zip(merged, bands, strict=False):
            merged_band.update(band)
    return merged


def _first_value(fields: dict[str, Any], *names: str) -> Any:
    """Return the first of the named fields that has a value; None if none has."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _resolve_href(asset: pystac.Asset, item_href: str) -> str:
    """Return the address of an asset's file: what is on this disk comes first, be it under an alternate address.

    Args:
        asset: An asset of an item.
        item_href: Where the item was read.
    """
    alternates = asset.extra_fields.get("alternate")
    others = alternates.values() if isinstance(alternates, dict) else ()
    hrefs = [asset.href, *(other["href"] for other in others if isinstance(other, dict) and "href" in other)]
    found = next((path for href in hrefs if (path := _find_file(str(href), item_href)) is not None), None)
    href = asset.href if parse_file_url(asset.href) else asset.get_absolute_href() or asset.href
    address = found or parse_file_url(href) or href
    check_confined(address)
    return address


def _find_file(href: str, item_href: str) -> str | None:
    """Return the path of a local file that an address means, as it is or percent-encoded; None if there is none.

    Raises:
        ValueError: No file can have this name.
    """
    if (path := parse_file_url(href)) is not None:
        paths = [path]
    elif "://" in href or href.startswith("/vsi") or ("://" in item_href and not posixpath.isabs(href)):
        return None
    else:
        folder = posixpath.dirname(item_href)
        paths = [posixpath.normpath(posixpath.join(folder, text)) for text in (href, unquote(href))]
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in paths[-1].split("/")):
        raise ValueError(f"an asset called {paths[-1].rpartition('/')[2][:80]}…, as no file can be")
    with suppress(ValueError, OSError):  # a name that no file can have
        return next((path for path in paths if Path(path).is_file()), None)
    return None


def _to_float(value: Any) -> float | None:
    if isinstance(value, bool):
        raise TypeError(f"{value}, which is no number")
    return None if value is None else float(value)  # JSON has NaN and infinity only as strings


def _parse_times(item: pystac.Item) -> TimeSpan | None:
    first, last = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    start = item.datetime or first
    try:
        return None if start is None else TimeSpan(to_utc(start), to_utc(item.datetime or last or start))
    except ValueError:
        return None  # near the first or the last year of the calendar, or the end before the start
