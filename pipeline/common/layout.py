"""Names of the files that a run leaves, in the catalogue's folder and in each scene's folder below it."""

from __future__ import annotations

from pathlib import Path

CATALOG = "catalog.json"
"""STAC catalogue that links the items of all scenes; in the catalogue's folder."""
COLLECTION = "collection.json"
"""STAC collection of the items, for STAC APIs; in the catalogue's folder."""
ITEMS = "items.parquet"
"""All items as one GeoParquet table; in the catalogue's folder."""

MAP_RECORD = "map.json"
"""Record of a map; in the map's folder, which has periods where a catalogue has scenes."""
MAP_STORE = "map.zarr"
"""All periods of a map in one Zarr store; in the map's folder."""
MAP_REFERENCES = "map.zarr.json"
"""The same in object storage: references to the chunks of the periods, as kerchunk and fsspec have them."""
CHECKSUMS = "checksums.json"
"""Digests of the files of a version of a period in object storage, beside them."""

ITEM = "item.json"
"""STAC item of a scene; like all names below, in the scene's folder."""
RECORD = "run.json"
MODEL = "model.json"
"""Copy of the document of the model that segmented the scene."""
COG = "segmentation.tif"
ZARR = "segmentation.zarr"
OVERVIEW = "overview.tif"
PREVIEW = "preview.png"
REPORT = "report.html"
POLYGON_FILES = {
    "parquet": "polygons.parquet",
    "fgb": "polygons.fgb",
    "gpkg": "polygons.gpkg",
    "pmtiles": "polygons.pmtiles",
}
"""Files of polygons, by format."""
RUN_DIRECTORY = ".run"
"""Folder with the state of an unfinished run."""

ASIDE = ".seamline"
"""Folder of the catalogue's folder in which the versions of a scene's folder change places."""

WAITING = ".waiting"
"""Folder of the catalogue's folder with notes of scenes that catalogue and table are to be renewed for."""
RUNNING = ".running"
"""Folder of the catalogue's folder with an empty file for each scene that is worked on."""
STAMPS = ".items.stamps"
"""File of a large catalogue: of which files the rows of the table were made."""


def find_mistaken_folder(folder: Path) -> str:
    """Return what to do where one folder was named and another was meant, or "check the path".

    Args:
        folder: of one scene, of a catalogue, or any other.
    """
    if (folder / RECORD).is_file() and (folder / ITEM).is_file():
        return f"this is the folder of one scene: name the one that it lies in, {folder.parent}"
    scenes = sorted(path.parent.name for path in folder.glob(f"*/{RECORD}")) if (folder / CATALOG).is_file() else []
    if scenes:
        return f"this is a folder of scenes: name one of them, such as {folder / scenes[0]}"
    return "check the path"
