"""The source of a scene: what the user named (files, a folder, a STAC item), and the bands in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rasterio.enums import ColorInterp

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.sensors import (
    find_wavelength,
    is_numbered_as_sentinel_2,
    may_be_sentinel_2,
    parse_wavelength,
    to_common_name,
)
from seamline.pipeline.common.time_span import TimeSpan
from seamline.pipeline.raster_io.gdal import OpenRaster, gdal_environment, read_tags
from seamline.pipeline.raster_io.local_files import unify_name
from seamline.pipeline.raster_io.virtual_rasters import DEEPEST_VRT, list_band_sources, read_virtual_raster
from seamline.pipeline.scenes.acquisition import FILE_TIME_TAG, TIME_TAGS
from seamline.pipeline.scenes.band_files import ENVI_SCALE_TAG, SCALE_TAGS, open_source_raster, parse_number
from seamline.pipeline.scenes.band_matching import BandCandidate
from seamline.pipeline.scenes.products import PRODUCT_TAGS, ProductEvidence
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
_RGB = {"red", "green", "blue"}
_PICTURE_NAME = re.compile(
    r"(?<![A-Z])(?:visual|TCI|true[-_ ]?colou?r|rendered|thumbnail|overview|preview|browse|quicklook)(?![A-Z])",
    re.IGNORECASE,
)
"""Names of files and assets that hold pictures."""
_POSITION = re.compile(r"(?:band|layer|channel)[ _-]?0*(\d+)", re.IGNORECASE)
_DATE = re.compile(r"\d{8}(?:T\d{6})?")
_BAND_DIMENSION = re.compile(r"band|wave|lambda|spectr|channel|variable|^[bc]$|^dim_\d$", re.IGNORECASE)
_WAVELENGTH_DIMENSION = re.compile(r"wave|lambda", re.IGNORECASE)
_LEAST_NANOMETRES = 300
"""Coordinates of bands from here on are wavelengths, and no numbers of bands."""
_WAVELENGTH_TAGS = ("wavelength", "central_wavelength", "center_wavelength")
_IMAGERY_WAVELENGTH_TAG = "CENTRAL_WAVELENGTH_UM"
_COORDINATES_TAG = "coordinates"
_DIMENSION_TAG = re.compile(r"NETCDF_(?:DIM_.+|VARNAME)|DIM_.+_(?:INDEX|VALUE|UNIT)", re.IGNORECASE)
_MEANINGFUL_TAGS = {
    *(name.casefold() for name in (*PRODUCT_TAGS, *SCALE_TAGS, ENVI_SCALE_TAG, *TIME_TAGS, FILE_TIME_TAG)),
    *(name + end for name in _WAVELENGTH_TAGS for end in ("", "_units", "_unit")),
    *(_IMAGERY_WAVELENGTH_TAG.casefold(), _COORDINATES_TAG),
}
_NEUTRAL_COLOURS = {ColorInterp.undefined, ColorInterp.gray, ColorInterp.palette}


@dataclass(frozen=True)
class Source:
    """What the user named and the bands in it.

    Attributes:
        name: Name of the file, folder or item.
        href: Address that rasterio or the reader of STAC items opens.
        bands: All bands of the source.
        acquired: When the scene was taken, if a catalogue tells.
        product: What names and the catalogue tell of the product.
    """

    name: str
    href: str
    bands: list[BandCandidate]
    product: ProductEvidence
    acquired: TimeSpan | None = None


def read_source(source: str | Path) -> Source:
    """Find the bands in a raster, a folder, an archive or a STAC item.

    Raises:
        InputError: There is nothing there that could be a scene.
        RunError: A server does not answer.
    """
    href = normalize_address(source)
    bands: list[BandCandidate] = []
    if detect_source_kind(href) == "item":
        item = read_source_item(href)
        bands += item.bands or [
            replace(band, scale=item.scale, offset=item.offset, nodata=item.nodata)
            for key, path in item.rasters
            for band in _list_asset_bands(key, path)
        ]
        bands = _mark_pictures(bands)
        product = _describe_product(bands, item.names, item.baseline, item.is_offset_applied)
        return Source(item.id, href, bands, product, item.acquired)
    rasters, name = list_rasters(href), name_source(href)
    # A product's folder, or the archive of it, may have another name than the product.
    inner: list[str] = []  # of VRTs
    for raster in rasters:
        bands += _list_file_bands(raster, one_of_many=len(rasters) > 1)
        inner += _list_inner_rasters(raster)
    products = {part for raster in (*rasters, *inner) for part in PurePosixPath(raster).parts if part.endswith(".SAFE")}
    names = dict.fromkeys([name, *sorted(products), *_name_product(inner)])
    bands = _mark_pictures(bands)
    return Source(name, href, bands, _describe_product(bands, tuple(names)))


def _describe_product(
    bands: Sequence[BandCandidate],
    names: tuple[str, ...],
    baseline: float | None = None,
    is_offset_applied: bool | None = None,
) -> ProductEvidence:
    numbers = {number for band in bands if (number := band.number)}
    own_names = (name for band in bands for name in band.all_names)
    return ProductEvidence(
        names,
        baseline,
        is_offset_applied,
        may_be_sentinel_2=may_be_sentinel_2(numbers),
        is_numbered_as_sentinel_2=is_numbered_as_sentinel_2(numbers, own_names),
    )


def tells_meaning(tag: str) -> bool:
    """Return whether a tag that is called so may tell a scale, a product, a time, or which bands a file has."""
    name = tag.rpartition("#")[2]
    return name.casefold() in _MEANINGFUL_TAGS or _DIMENSION_TAG.fullmatch(name) is not None


def _list_inner_rasters(path: str) -> tuple[str, ...]:
    """Return the names of the rasters that a VRT is made of; none for other rasters."""
    with gdal_environment(path):
        file = open_source_raster(path)
        return read_virtual_raster(path, file.dataset).sources if file.is_virtual else ()


def _name_product(rasters: Sequence[str]) -> list[str]:
    """Return the names of the rasters in a VRT if they may belong to one product: mosaics of several days do not."""
    names = [make_file_stem(raster) for raster in rasters]
    days = {found[0] for name in names if (found := _DATE.search(name))}
    return names if len(days) <= 1 else []


def _mark_pictures(bands: Sequence[BandCandidate]) -> list[BandCandidate]:
    """Return the bands, those of pictures in true colour marked if there are others.

    A picture has three bands. It is called so, has eight bits where others have more, or has the colours that other
    files hold one by one.
    """
    files: dict[str, list[BandCandidate]] = {}
    for band in bands:
        files.setdefault(band.path, []).extend([] if band.is_alpha else [band])
    has_more_bits = any(band.data_type not in {None, "uint8"} for band in bands)
    single = {to_common_name(name) for band in bands if band.is_only_band for name in band.names}
    pictures = {
        path
        for path, own in files.items()
        if len(own) == len(_RGB)
        and (
            any(map(_PICTURE_NAME.search, (own[0].stem, PurePosixPath(path).stem)))
            or (own[0].data_type == "uint8" and has_more_bits)
            or _RGB.issubset(single & {to_common_name(name) for band in own for name in band.labels})
        )
    }
    if pictures == set(files):
        return list(bands)
    return [replace(band, is_picture=band.path in pictures) for band in bands]


def _list_asset_bands(key: str, path: str) -> list[BandCandidate]:
    """Return the bands of an asset that the item doesn't describe: what the files leave open, the key tells."""
    return [
        band if band.labels or not band.is_only_band else replace(band, labels=(key,), stem=key, is_described=True)
        for band in _list_file_bands(path, one_of_many=True)
    ]


def _list_file_bands(
    path: str, *, one_of_many: bool, listed: dict[str, list[BandCandidate]] | None = None, depth: int = 0
) -> list[BandCandidate]:
    """Return the bands of a file, its alpha band last.

    Args:
        path: The file.
        one_of_many: Whether the source has other files.
        listed: Bands of the sources of the VRTs that this file is a source of, by their names.
        depth: How many VRTs these are, each in the next.
    """
    with gdal_environment(path):
        file = open_source_raster(path)
        bands = _list_own_bands(file, make_file_stem(path), one_of_many=one_of_many)
        sources = list_band_sources(path, file.dataset) if file.is_virtual else {}
    if depth >= DEEPEST_VRT:
        return bands  # such a VRT is refused by those who read it
    listed = {unify_name(path): []} if listed is None else listed
    for position, band in enumerate(bands):
        if band.index in sources and not (band.is_described or band.is_alpha):
            name, index = sources[band.index]
            bands[position] = _describe_by_source(band, _list_source_bands(name, listed, depth + 1), index)
    return bands


def _list_own_bands(file: OpenRaster, stem: str, *, one_of_many: bool) -> list[BandCandidate]:
    dataset = file.dataset
    images = [index for index in dataset.indexes if index != file.alpha]
    descriptions = {index: (dataset.descriptions[index - 1] or "").strip() for index in images}
    is_only_band = len(images) == 1
    # An RGB picture beside other files is a preview: its colours don't name bands.
    colours = _name_colours(dataset, images) if is_only_band or not one_of_many else {}
    # ENVI and others describe bands by their position, which is no band of a sensor.
    is_counted = not is_only_band and all(_is_position(text, index) for index, text in descriptions.items())
    tags = {index: read_tags(file, index) for index in (0, *images)}
    coordinates = _describe_by_coordinates(tags, images)
    bands = []
    for index, description in descriptions.items():
        names, coordinate = coordinates.get(index, ((), None))
        described = (description,) if description and not is_counted else names
        wavelength = coordinate or _read_wavelength(file, index, tags[index]) or find_wavelength(description)
        # The colours of a picture say what is shown, which is another band if it has a wavelength.
        colour = colours.get(index) if wavelength is None else None
        bands.append(
            BandCandidate(
                path=file.path,
                index=index,
                labels=described or tuple(text for text in (colour, description) if text),
                stem=stem,
                is_only_band=is_only_band,
                is_described=bool(described),
                pixel_size=abs(dataset.transform.determinant) ** 0.5,
                wavelength=wavelength,
                data_type=dataset.dtypes[index - 1],
            )
        )
    if file.alpha is not None:
        label = dataset.descriptions[file.alpha - 1] or "alpha"
        bands.append(BandCandidate(file.path, file.alpha, (label,), stem, False, False, is_alpha=True))
    return bands


def _list_source_bands(name: str, listed: dict[str, list[BandCandidate]], depth: int) -> list[BandCandidate]:
    """Return the bands of a source of a VRT, which is listed once; none of a VRT that is a source of itself."""
    key = unify_name(name)
    if key not in listed:
        listed[key] = []
        with suppress(InputError):  # what cannot be opened is told by those who read the VRT
            listed[key] = _list_file_bands(name, one_of_many=True, listed=listed, depth=depth)
    return listed[key]


def _describe_by_source(band: BandCandidate, sources: Sequence[BandCandidate], index: int) -> BandCandidate:
    """Return a band of a VRT with what the band that it shows says of it, if the VRT does not describe it.

    Args:
        band: The band of the VRT.
        sources: Bands of the raster that it shows.
        index: Which of these it is.
    """
    inner = next((inner for inner in sources if inner.index == index), None)
    if inner is None:
        return band
    names = (*(inner.labels if inner.is_described else ()), *((inner.stem,) if inner.is_only_band else ()))
    wavelength = band.wavelength or inner.wavelength
    return replace(band, labels=names or band.labels, is_described=bool(names), wavelength=wavelength)


def _describe_by_coordinates(
    tags: Mapping[int, Mapping[str, str]], images: Sequence[int]
) -> dict[int, tuple[tuple[str, ...], float | None]]:
    """Return names and wavelength of the bands of an array with more dimensions than rows and columns, by their index.

    Coordinates that only count the bands say nothing. Those that GDAL doesn't tell, such as texts in NetCDF, give names
    that match nothing: the order of the bands is not known then.

    Args:
        tags: Tags of the bands by their indexes; 0: those of the file.
        images: Indexes of the bands, without an alpha band.
    """
    found: dict[int, tuple[tuple[str, ...], float | None]] = {}
    for dimension, unit, values in _list_dimensions(tags, images):
        sizes = [parse_number(value) for value in values]
        numbers = [int(size) if size is not None and size.is_integer() else None for size in sizes]
        wavelengths = [parse_wavelength(value, unit) for value in values]
        are_bands = _BAND_DIMENSION.search(dimension) is not None
        if (len(set(values)) == 1 and values[0] is not None) or (
            are_bands and numbers in (list(range(1, len(images) + 1)), list(range(len(images))))
        ):
            continue
        are_wavelengths = None not in wavelengths and (
            _WAVELENGTH_DIMENSION.search(dimension)
            or (are_bands and (set(numbers) == {None} or min(size or 0 for size in sizes) >= _LEAST_NANOMETRES))
        )
        for index, value, number, wavelength in zip(images, values, numbers, wavelengths, strict=True):
            names, known = found.get(index, ((), None))
            if are_wavelengths:
                found[index] = names, wavelength
            elif are_bands and value is not None:
                found[index] = (*names, value if number is None else f"B{number}"), known
            else:
                found[index] = (*names, f"{dimension}[{index if value is None else value}]"), known
    # Names or wavelengths beside a dimension that only counts: GDAL doesn't read them.
    beside = {**tags[0], **tags.get(1, {})}.get(_COORDINATES_TAG, "")
    if not found and any(map(_BAND_DIMENSION.search, beside.split())):
        return {index: ((f"band[{index}]",), None) for index in images}
    return found


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


def _list_dimensions(
    tags: Mapping[int, Mapping[str, str]], images: Sequence[int]
) -> list[tuple[str, str, list[str | None]]]:
    """Return name, unit and coordinates of the dimensions that the bands of a NetCDF or Zarr array are slices of.

    A coordinate is None where GDAL doesn't tell it. Without coordinates the slices of Zarr arrays are counted.
    """
    dimensions = []
    for name in filter(None, tags[0].get("NETCDF_DIM_EXTRA", "").strip("{}").split(",")):
        is_known = f"NETCDF_DIM_{name}_VALUES" in tags[0]
        values = [tags[index].get(f"NETCDF_DIM_{name}") if is_known else None for index in images]
        dimensions.append((name, tags[0].get(f"{name}#units", ""), values))
    first = tags[images[0]] if images else {}
    for name in (found[1] for key in first if (found := re.fullmatch(r"DIM_(.+)_INDEX", key))):
        values = [tags[index].get(f"DIM_{name}_VALUE", tags[index].get(f"DIM_{name}_INDEX")) for index in images]
        dimensions.append((name, first.get(f"DIM_{name}_UNIT", ""), values))
    return dimensions


def _read_wavelength(file: OpenRaster, index: int, tags: Mapping[str, str]) -> float | None:
    """Return the wavelength of a band in µm that GDAL or its tags tell; None if there is none."""
    if found := parse_wavelength(read_tags(file, index, "IMAGERY").get(_IMAGERY_WAVELENGTH_TAG), "um"):
        return found
    named = {name.casefold(): value for name, value in tags.items()}
    for name in _WAVELENGTH_TAGS:
        if found := parse_wavelength(named.get(name), named.get(f"{name}_units") or named.get(f"{name}_unit") or ""):
            return found
    return None
