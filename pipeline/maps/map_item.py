"""The STAC item of a period of a map, in the folder of the map and in the catalogue of its scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pystac
from odc.geo.geobox import GeoBox

from seamline.pipeline.common.classes import LabelClass
from seamline.pipeline.mosaic.map_record import MapScene
from seamline.pipeline.products.run_record import ClassArea
from seamline.pipeline.results.map_copies import MAP_PROPERTY, PERIOD_PROPERTY, relate_path
from seamline.pipeline.stac.earth import Outline
from seamline.pipeline.stac.scene_item import Provenance, build_scene_item
from seamline.pipeline.storage.digests import FileInfo
from seamline.pipeline.storage.object_store import is_object_url

_SCENES = "seamline:scenes"
"""Property of the item of a period: the number of its scenes."""


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
        MAP_PROPERTY: map_name,
        PERIOD_PROPERTY: period,
        _SCENES: len(scenes),
    }
    item.links = [link for link in item.links if link.target != provenance.source]
    item.add_links([_link_scene(scene) for scene in scenes])
    return item


def _link_scene(scene: MapScene) -> pystac.Link:
    return pystac.Link("derived_from", scene.href, pystac.MediaType.GEOJSON, f"scene {scene.id}")


def relate_scene(href: str, folder: Path | None) -> str:
    """Return the address of a scene's item as the item of a period in ``folder`` links it; None: in object storage."""
    return href if folder is None or is_object_url(href) else relate_path(href, folder)
