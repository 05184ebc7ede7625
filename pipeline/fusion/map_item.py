"""The STAC item of a period of a map, in the folder of the map and in the catalogue of its scenes."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.common.layout import ITEM
from seamline.pipeline.mosaic.map_record import MapScene
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.stac.earth import Outline
from seamline.pipeline.stac.items import ItemDict
from seamline.pipeline.stac.scene_item import Provenance, build_scene_item
from seamline.pipeline.storage.digests import FileInfo
from seamline.pipeline.storage.object_store import is_object_url

MAP, PERIOD, SCENES = "seamline:map", "seamline:period", "seamline:scenes"
"""Properties of the item of a period: name of the map, name of the period, number of its scenes."""
CANONICAL = "canonical"
"""Relation of the link from the copy of an item, in the catalogue of the scenes, to the item beside the files."""


def build_map_item(
    folder: Path,
    item_id: str,
    map_name: str,
    period: str,
    scenes: Sequence[MapScene],
    grid: GeoBox,
    classes: Sequence[LabelClass],
    class_areas: Sequence[ClassArea],
    provenance: Provenance,
    labelled_area: Outline | None,
    known: Mapping[str, FileInfo],
) -> pystac.Item:
    """Return the item of a period of a map: that of a scene, derived from the items of all scenes.

    Args:
        folder: the folder with the period's files.
        item_id: id of the item.
        map_name: name of the map.
        period: name of the period.
        scenes: the scenes that the period was made of.
        grid: grid of the map.
        classes: classes of the labels.
        class_areas: how much of the map each class covers.
        provenance: how the map came about; its time is that of the period.
        labelled_area: where the grid has labels, in pixels (column, row). ``None``: everywhere.
        known: what is known of some files by their names, as ``build_scene_item`` takes it.

    Returns:
        The item; its hrefs are relative to ``folder``.
    """
    item = build_scene_item(folder, item_id, grid, classes, class_areas, provenance, labelled_area, known=known)
    item.properties |= {
        "title": f"Map {map_name}, {period}",
        MAP: map_name,
        PERIOD: period,
        SCENES: len(scenes),
    }
    item.links = [link for link in item.links if link.href != provenance.source]
    item.add_links([_link_scene(scene) for scene in scenes])
    return item


def _link_scene(scene: MapScene) -> pystac.Link:
    return pystac.Link("derived_from", scene.href, pystac.MediaType.GEOJSON, f"scene {scene.id}")


def move_item(item: ItemDict, old: Path, new: Path) -> ItemDict:
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
        return {**entry, "href": _relate(os.path.normpath(old / href), new)}

    assets = {key: move(asset) for key, asset in item["assets"].items()}
    return {**item, "links": [move(link) for link in item["links"]], "assets": assets}


def list_in_scenes_catalogue(item: ItemDict, folder: Path, catalogue: Path) -> ItemDict:
    """Return the item of a period as it stands in the catalogue of the scenes.

    Args:
        item: the item in the folder of the map.
        folder: absolute path of the period's folder.
        catalogue: absolute path of the catalogue of the scenes.

    Returns:
        The item, whose root and collection are those of the scenes, with a link to the item in the folder of the map.
    """
    place = catalogue / folder.name
    moved = move_item(item, folder, place)
    links = [
        old if old["rel"] in ("root", "parent", "collection") else new
        for old, new in zip(item["links"], moved["links"], strict=True)
    ]
    canonical = {"rel": CANONICAL, "href": _relate(str(folder / ITEM), place), "type": pystac.MediaType.GEOJSON}
    return {**moved, "links": [*links, canonical]}


def relate_scene(href: str, folder: Path) -> str:
    """Return the address of a scene's item as the item of a period in ``folder`` links it."""
    return href if is_object_url(href) else _relate(href, folder)


def _relate(path: str, folder: Path) -> str:
    """Return a path relative to a folder, as STAC writes it."""
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"


def read_map_name(properties: Mapping[str, Any]) -> str | None:
    """Return the name of the map that an item is a period of; None for the item of a scene."""
    name = properties.get(MAP)
    return None if name is None else str(name)
