"""STAC items as sources: the bands that the metadata of an item names, in STAC 1.0 and 1.1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pystac

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.band_matching import BandCandidate
from seamline.pipeline.storage.json_documents import read_document

_PICTURE_ROLES = {"thumbnail", "overview", "visual"}
_MEDIA_TYPES = {"image/tiff", "image/vnd.stac.geotiff", "image/jp2"}
_SUFFIXES = {".tif", ".tiff", ".jp2", ".vrt"}
# pystac's own errors have no base in common, and it trusts the structure of what it parses.
_PARSE_ERRORS = (pystac.STACError, pystac.STACTypeError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class SourceItem:
    """What an item says: its ``bands`` as far as it describes any, and ``rasters``, all its raster files."""

    id: str
    datetime: datetime | None
    bands: tuple[BandCandidate, ...]
    rasters: tuple[str, ...]
    warnings: tuple[str, ...]


def read_source_item(href: str) -> SourceItem:
    """Read a STAC item (path, http(s) URL or ``s3://`` of its JSON); no raster is opened.

    Raises ``InputError`` when it is no item or has no rasters, ``RunError`` when a server does not answer.
    """
    try:
        document = read_document(href)
    except InputError as error:
        raise _not_an_item_error(href, error.got) from error
    return parse_source_item(document, href)


def parse_source_item(document: Any, href: str) -> SourceItem:
    """The item in a JSON document that lies at ``href``, to which its hrefs may be relative.

    Raises ``InputError`` when it is no item or has no rasters.
    """
    try:
        return _parse_document(document, href)
    except _PARSE_ERRORS as error:
        raise _not_an_item_error(href, " ".join(f"{type(error).__name__}: {error}".split())) from error


def _parse_document(document: Any, href: str) -> SourceItem:
    item = pystac.read_dict(document, href=href)
    if not isinstance(item, pystac.Item):
        raise pystac.STACTypeError(document, pystac.Item)
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
    # Earth Search states −0.1 also where it has applied it to the pixels (Element84/earth-search#9).
    applied = any(item.properties.get(f"{who}:boa_offset_applied") for who in ("earthsearch", "sentinel"))
    try:
        bands = tuple(band for key, asset in assets.items() for band in _iter_bands(key, asset, without_offset=applied))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"bands of {href}",
            got=error,
            expected="objects with names and numbers, as STAC describes bands",
            fix="correct the item, or name the rasters themselves",
        ) from error
    warning = "the item says that its offset is already applied to the pixels: the offset is taken as 0"
    return SourceItem(
        id=item.id,
        datetime=_to_utc(item.datetime or item.common_metadata.start_datetime),
        bands=bands,
        rasters=tuple(_asset_href(asset) for asset in assets.values()),
        warnings=(warning,) if applied else (),
    )


def _not_an_item_error(href: str, got: object) -> InputError:
    fix = "name the JSON of one item, or the rasters themselves"
    return InputError(f"cannot read {href}", got=got, expected="a STAC item", fix=fix)


def _is_raster(asset: pystac.Asset) -> bool:
    if _PICTURE_ROLES.intersection(asset.roles or ()):
        return False
    media_type = (asset.media_type or "").split(";")[0].strip().lower()
    return media_type in _MEDIA_TYPES or PurePosixPath(urlsplit(asset.href).path).suffix.lower() in _SUFFIXES


def _iter_bands(key: str, asset: pystac.Asset, *, without_offset: bool) -> Iterator[BandCandidate]:
    described = _merge_band_descriptions(asset.extra_fields)
    for index, band in enumerate(described, start=1):
        fields = {**asset.extra_fields, **band}
        labels = (
            _first_value(fields, "eo:common_name", "common_name"),
            fields.get("name"),
            fields.get("description"),
        )
        scale, offset = (_to_float(_first_value(fields, f"raster:{name}", name)) for name in ("scale", "offset"))
        yield BandCandidate(
            path=_asset_href(asset),
            index=index,
            labels=tuple(str(label) for label in labels if label) or (key,),
            stem=key,
            is_only_band=len(described) == 1,
            is_described=True,
            pixel_size=_to_float(_first_value(fields, "raster:spatial_resolution", "spatial_resolution", "gsd")),
            wavelength=_to_float(_first_value(fields, "eo:center_wavelength", "center_wavelength")),
            scale=scale,
            offset=0.0 if without_offset else offset,
            nodata=_to_float(_first_value(fields, "nodata", "raster:nodata")),
        )


def _merge_band_descriptions(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The bands of STAC 1.1, or what the raster and eo extensions of 1.0 say of them side by side."""
    lists = [fields.get(name) or [] for name in ("bands", "raster:bands", "eo:bands")]
    merged: list[dict[str, Any]] = [{} for _ in range(max(map(len, lists)))]
    for bands in lists:
        for into, band in zip(merged, bands, strict=False):
            into.update(band)
    return merged


def _first_value(fields: dict[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _asset_href(asset: pystac.Asset) -> str:
    href = asset.get_absolute_href() or asset.href
    return unquote(urlsplit(href).path) if href.startswith("file://") else href


def _to_float(value: Any) -> float | None:
    return None if value is None else float(value)  # NaN and infinity are strings in JSON


def _to_utc(when: datetime | None) -> datetime | None:
    if when is None:
        return None
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
