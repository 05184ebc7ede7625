"""The source of a scene: what the user named (files, a folder, a STAC item), and the bands in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from rasterio.enums import ColorInterp

from seamline.pipeline.raster_io.gdal import gdal_environment, read_tags
from seamline.pipeline.scenes.band_files import open_source_raster
from seamline.pipeline.scenes.band_matching import BandCandidate, may_be_sentinel_2
from seamline.pipeline.scenes.products import ProductEvidence, is_numbered_as_sentinel_2
from seamline.pipeline.scenes.source_files import (
    detect_source_kind,
    list_rasters,
    make_file_stem,
    name_source,
    normalize_address,
)
from seamline.pipeline.scenes.stac_item import read_source_item

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


def read_source(source: str | Path) -> Source:
    """Find the bands in a raster, a folder, an archive or a STAC item.

    Raises:
        InputError: There is nothing there that could be a scene.
        RunError: A server does not answer.
    """
    href = normalize_address(source)
    if detect_source_kind(href) == "item":
        item = read_source_item(href)
        bands = list(item.bands) or [
            replace(band, scale=item.scale, offset=item.offset, nodata=item.nodata)
            for key, path in item.rasters
            for band in _list_asset_bands(key, path)
        ]
        numbered = may_be_sentinel_2(bands), is_numbered_as_sentinel_2(bands)
        product = ProductEvidence(item.names, item.baseline, item.is_offset_applied, *numbered)
        return Source(item.id, href, bands, product, item.datetime)
    rasters, name = list_rasters(href), name_source(href)
    # A product's folder, or the archive of it, may have another name than the product.
    products = {part for raster in rasters for part in PurePosixPath(raster).parts if part.endswith(".SAFE")}
    bands = _list_bands(rasters)
    product = ProductEvidence(
        (name, *sorted(products)),
        may_be_sentinel_2=may_be_sentinel_2(bands),
        is_numbered_as_sentinel_2=is_numbered_as_sentinel_2(bands),
    )
    return Source(name, href, bands, product)


def _list_bands(paths: Sequence[str]) -> list[BandCandidate]:
    return [band for path in paths for band in _iter_file_bands(path, one_of_many=len(paths) > 1)]


def _list_asset_bands(key: str, path: str) -> list[BandCandidate]:
    """Return the bands of an asset that the item doesn't describe: what the files leave open, the key tells."""
    return [
        band if band.labels or not band.is_only_band else replace(band, labels=(key,), stem=key, is_described=True)
        for band in _iter_file_bands(path, one_of_many=True)
    ]


def _iter_file_bands(path: str, *, one_of_many: bool) -> Iterator[BandCandidate]:
    """Yield the bands of a file, its alpha band last; ``one_of_many`` if the source has other files."""
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
                wavelength=_parse_wavelength(read_tags(file, index, "IMAGERY")),
            )
        if file.alpha is not None:
            label = dataset.descriptions[file.alpha - 1] or "alpha"
            yield BandCandidate(path, file.alpha, (label,), make_file_stem(path), False, False, is_alpha=True)


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
