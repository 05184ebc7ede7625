"""What is dropped into an inbox is read under a confinement: who may write there may not read what this process can.

Each raster is read from one file alone, see ``pipeline/raster_io/confined.py``. What lies beside it and would change
what it means is refused here, so that nobody gets another result than without a confinement.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath
from xml.etree import ElementTree

from seamline.flows.collection.scene_sources import Inbox
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.scenes.source import tells_meaning
from seamline.pipeline.scenes.source_files import detect_source_kind, list_members, list_rasters
from seamline.pipeline.scenes.stac_item import read_source_item
from seamline.pipeline.storage.atomic import make_absolute
from seamline.pipeline.storage.confinement import Confinement, open_confined

_MASK, _METADATA = ".msk", ".aux.xml"
_LARGEST_METADATA = 2**20
"""Bytes. Statistics and histograms of ten bands have about 50 KiB."""
_MEANINGS = {"srs", "geotransform", "gcplist", "nodatavalue", "scale", "offset", "description", "colorinterp"}
"""Elements of GDAL's metadata beside a raster that decide where it lies and what its numbers are."""


def make_confinement(inbox: Inbox) -> Confinement:
    """Return what the scenes in an inbox may name: its folder and what its settings allow."""
    folders = [str(inbox.folder), *(place for place in inbox.allow if place.startswith(("/", "~")))]
    hosts = tuple(place.rstrip("/") for place in inbox.allow if place not in folders)
    return Confinement(tuple(str(make_absolute(folder)) for folder in folders), hosts)


def check_sidecars(source: str) -> None:
    """Refuse a source with files beside its rasters that change what they mean. Call it under the confinement.

    Raises:
        InputError: It has such files, or lies outside.
    """
    kind = detect_source_kind(source)
    if kind == "archive":
        rasters = {raster.partition(f"{source}/")[2] for raster in list_rasters(source)}
        _refuse_sidecars(source, rasters, (name.removeprefix("./") for name in list_members(source)), None)
        return
    rasters = {path for _, path in read_source_item(source).rasters} if kind == "item" else set(list_rasters(source))
    for folder in {PurePath(path).parent for path in rasters if "://" not in path}:
        names = [entry.name for entry in Path(folder).iterdir()] if Path(folder).is_dir() else []
        inside = {PurePath(path).name for path in rasters if PurePath(path).parent == folder}
        _refuse_sidecars(source, inside, names, folder)


def _refuse_sidecars(source: str, rasters: Iterable[str], names: Iterable[str], folder: PurePath | None) -> None:
    """Check the files beside rasters, whatever the case of their names; ``folder`` is None for those in an archive."""
    masks = {f"{raster}{_MASK}".casefold() for raster in rasters}
    metadata = {f"{raster}{_METADATA}".casefold() for raster in rasters}
    for name in names:
        is_metadata = name.casefold() in metadata
        if name.casefold() in masks or (is_metadata and (folder is None or _has_meaning(str(folder / name)))):
            raise InputError(
                f"{PurePath(source).name} has a file beside it that changes what it means",
                got=name,
                expected="rasters that hold mask, georeference and nodata value themselves",
                fix="make one file of both: `gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES`",
            )


def _has_meaning(path: str) -> bool:
    """Return whether GDAL's metadata beside a raster hold more than statistics, or cannot be read."""
    with open_confined(path) as name, Path(name).open("rb") as file:
        content = file.read(_LARGEST_METADATA + 1)
    try:
        elements = list(ElementTree.fromstring(content).iter())
    except (ElementTree.ParseError, ValueError):
        return True
    names = {element.tag.casefold() for element in elements}
    is_told = any(tells_meaning(element.get("key", "")) for element in elements)
    return len(content) > _LARGEST_METADATA or is_told or not names.isdisjoint(_MEANINGS)
