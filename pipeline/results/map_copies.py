"""Items of maps in the catalogue of their scenes: copies whose files lie in the folder of the map."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac

from seamline.pipeline.common.layout import CATALOG, ITEM
from seamline.pipeline.stac.items import ItemDict, rebase_hrefs

MAP_PROPERTY, PERIOD_PROPERTY = "seamline:map", "seamline:period"
"""Properties of the item of a period of a map: names of the map and of the period."""
_CANONICAL = "canonical"
"""Relation of the link from the copy of an item to the item beside the files."""


def _move_item(item: ItemDict, old: Path, new: Path) -> ItemDict:
    """Return an item as it stands in another folder: its relative hrefs lead to the same files.

    Args:
        item: the item.
        old: absolute path of the folder that its hrefs are relative to.
        new: absolute path of the folder that they are to be relative to.
    """

    def move(entry: ItemDict) -> ItemDict:
        href = entry["href"]
        if posixpath.isabs(href) or urlsplit(href).scheme:
            return entry
        return {**entry, "href": relate_path(os.path.normpath(old / href), new)}

    assets = {key: move(asset) for key, asset in item["assets"].items()}
    return {**item, "links": [move(link) for link in item["links"]], "assets": assets}


def copy_item(item: ItemDict, folder: Path, catalogue: Path) -> ItemDict:
    """Return the item of a period as it stands in the catalogue of the scenes.

    Args:
        item: the item in the folder of the map.
        folder: absolute path of the period's folder.
        catalogue: absolute path of the catalogue of the scenes.

    Returns:
        The item, whose root and collection are those of the scenes, with a link to the item in the folder of the map.
    """
    place = catalogue / folder.name
    moved = _move_item(item, folder, place)
    links = [
        old if old["rel"] in ("root", "parent", "collection") else new
        for old, new in zip(item["links"], moved["links"], strict=True)
    ]
    canonical = {"rel": _CANONICAL, "href": relate_path(str(folder / ITEM), place), "type": pystac.MediaType.GEOJSON}
    return {**moved, "links": [*links, canonical]}


def copy_stored_item(item: ItemDict, url: str) -> ItemDict:
    """Return the item of a period as it stands in the catalogue of the scenes in object storage.

    Args:
        item: the item in the folder of the map.
        url: ``s3://`` address of the period's folder, to which its hrefs then lead.

    Returns:
        The item, whose root and collection are those of the scenes, with a link to the item in the folder of the map.
    """
    moved = rebase_hrefs(item, url)
    links = [
        old if old["rel"] in ("root", "parent", "collection") else new
        for old, new in zip(item["links"], moved["links"], strict=True)
    ]
    canonical = {"rel": _CANONICAL, "href": f"{url}/{ITEM}", "type": pystac.MediaType.GEOJSON}
    return {**moved, "links": [*links, canonical]}


def find_original_url(item: Mapping[str, Any]) -> str | None:
    """Return the ``s3://`` address of the folder of the original of an item in object storage; None if it is no copy.

    Raises:
        LookupError, TypeError, AttributeError: the item is damaged.
    """
    hrefs = [link["href"] for link in item["links"] if link["rel"] == _CANONICAL]
    return posixpath.dirname(hrefs[0]) if hrefs else None


def find_original(item: Mapping[str, Any], folder: Path) -> Path | None:
    """Return the folder of the original of an item in ``folder``, which has the files; None if it is no copy.

    Raises:
        LookupError, TypeError, AttributeError: the item is damaged.
    """
    hrefs = [link["href"] for link in item["links"] if link["rel"] == _CANONICAL]
    return Path(os.path.normpath(folder / hrefs[0])).parent if hrefs else None


def list_scene_catalogues(item: Mapping[str, Any], folder: Path) -> list[Path]:
    """Return the catalogues on disk of the scenes that a period was made of, as far as they are there.

    Args:
        item: the item of the period.
        folder: absolute path of its folder, which relative links start from.

    Raises:
        LookupError, TypeError, AttributeError: the item is damaged.
    """
    hrefs = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    items = {Path(os.path.normpath(folder / href)) for href in hrefs if not urlsplit(href).scheme}
    catalogues = {path.parent.parent for path in items if path.is_file()}
    return sorted(path for path in catalogues if (path / CATALOG).is_file())


def relate_path(path: str, folder: Path) -> str:
    """Return a path relative to a folder, as STAC writes it."""
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"
