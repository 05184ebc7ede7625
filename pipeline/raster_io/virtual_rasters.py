"""What a virtual raster (VRT) is made of, whatever its name is and wherever its XML stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from seamline.pipeline.raster_io.raw_sizes import count_bytes

_DRIVER = "VRT"
DEEPEST_VRT = 32
"""How many VRTs may be sources of each other in a row."""


@dataclass(frozen=True)
class VirtualRaster:
    """What a VRT is made of.

    Attributes:
        sources: Names of its sources as GDAL opens them, in order.
        numbers: Those of them that are numbers without a header, and the bytes that it reads of each.
        is_derived: Whether GDAL computes a band, by a pixel function.
    """

    sources: tuple[str, ...]
    numbers: dict[str, int]
    is_derived: bool


def is_virtual(dataset: Any) -> bool:
    """Return whether an open dataset of rasterio is a VRT."""
    return bool(dataset.driver == _DRIVER)


def read_virtual_raster(path: str, dataset: Any) -> VirtualRaster:
    """Describe an open VRT.

    Args:
        path: What was opened: a file of any name, ``vrt://…``, or the XML itself.
        dataset: The open rasterio dataset.

    Raises:
        ValueError: GDAL's text of it is no XML.
    """
    root = _parse_text(dataset)
    folder = os.path.dirname(path)  # noqa: PTH120 - not always a path
    # GDAL lists all sources but those of a mask, and the VRT in any case.
    masks = [_resolve(element, folder) for mask in root.iter("MaskBand") for element in mask.iter("SourceFilename")]
    own = {path, f"{path}.aux.xml", f"{path}.ovr"}
    itself = [path for element in root.iter("SourceFilename") if _resolve(element, folder) == path]
    sources = dict.fromkeys([name for name in sorted(dataset.files) if name not in own] + masks + itself)
    numbers: dict[str, int] = {}
    for name, size in _iter_numbers(root, folder, dataset):
        numbers[name] = max(size, numbers.get(name, 0))
    is_derived = any(band.get("subClass") == "VRTDerivedRasterBand" for band in root.iter("VRTRasterBand"))
    return VirtualRaster(tuple(sources), numbers, is_derived)


def list_band_sources(path: str, dataset: Any) -> dict[int, tuple[str, int]]:
    """Return the raster that each band of an open VRT shows: as it is, the first of its tiles, warped or sharpened.

    Args:
        path: What was opened.
        dataset: The open rasterio dataset.

    Returns:
        Name of the raster as GDAL opens it and index of the band in it, by the index in the VRT, counted from 1. Bands
        that GDAL computes by pixel functions are not among them.

    Raises:
        ValueError: GDAL's text of it is no XML.
    """
    root, folder = _parse_text(dataset), os.path.dirname(path)  # noqa: PTH120 - not always a path
    places: list[tuple[str | None, ElementTree.Element | None, str | None]] = []
    for warp in root.findall("GDALWarpOptions"):
        name = warp.find("SourceDataset")
        places += [(band.get("dst"), name, band.get("src")) for band in warp.iter("BandMapping")]
    for band in root.iter("SpectralBand"):
        places.append((band.get("dstBand"), band.find("SourceFilename"), band.findtext("SourceBand", "1")))
    for band in root.findall("VRTRasterBand"):
        if band.get("subClass") not in {"VRTDerivedRasterBand", "VRTRawRasterBand"}:
            sources = [source for source in band if source.find("SourceFilename") is not None]
            places += [(band.get("band"), s.find("SourceFilename"), s.findtext("SourceBand", "1")) for s in sources]
    found: dict[int, tuple[str, int]] = {}
    for own, name, index in places:
        if name is not None and (own or "").isdecimal() and (index or "").isdecimal():
            found.setdefault(int(own or 0), (_resolve(name, folder), int(index or 0)))
    return found


def _parse_text(dataset: Any) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(dataset.tags(ns="xml:VRT").get("xml:VRT", "<VRTDataset/>"))
    except ElementTree.ParseError as error:
        raise ValueError(f"a VRT whose text is no XML: {error}") from error


def _resolve(element: ElementTree.Element, folder: str) -> str:
    name = (element.text or "").strip()
    is_relative = "1" in (element.get("relativeToVRT"), element.get("relativetoVRT"))
    return os.path.join(folder, name) if is_relative else name  # noqa: PTH118 - not always a path


def _iter_numbers(root: ElementTree.Element, folder: str, dataset: Any) -> Iterator[tuple[str, int]]:
    """Yield the name of the file of each band of numbers without a header, and the bytes that it must have."""
    for band in root.iter("VRTRasterBand"):
        element = band.find("SourceFilename")
        if band.get("subClass") != "VRTRawRasterBand" or element is None:
            continue
        item = count_bytes(dataset.dtypes[int(band.get("band", "1")) - 1])
        pixel = int(band.findtext("PixelOffset") or item)
        line = int(band.findtext("LineOffset") or pixel * dataset.width)
        last = max(0, (dataset.height - 1) * line) + max(0, (dataset.width - 1) * pixel)
        yield _resolve(element, folder), int(band.findtext("ImageOffset") or 0) + last + item
