"""The items of a map in the catalogue of its scenes, where both lie in object storage (on disk: ``map_folder.py``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from seamline.pipeline.common.errors import InputError, RunError
from seamline.pipeline.common.layout import CATALOG, ITEM, MAP_RECORD
from seamline.pipeline.maps.map_folder import is_own, name_period, refuse_map_name
from seamline.pipeline.maps.map_storage import MapPointer
from seamline.pipeline.publishing.upload import list_in_catalog, renew_catalog, wait_randomly
from seamline.pipeline.publishing.uploaded import read_listing
from seamline.pipeline.results.map_copies import copy_stored_item, find_original_url
from seamline.pipeline.stac.catalog import encode_json
from seamline.pipeline.stac.items import ItemDict, parse_item
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently

_TRIES = 20
"""Attempts to replace an item that others replace, too."""


def refuse_other_objects(objects: ObjectFolder) -> None:
    """Refuse a place in object storage that cannot become that of a map: no name, or something else lies there.

    Raises:
        InputError: it is so, or the place cannot be reached.
    """
    name = objects.prefix.rpartition("/")[2]
    refuse_map_name(str(objects), name)
    if objects.get_version(MAP_RECORD) is not None:
        return
    if objects.get_version(CATALOG) is not None or not all(is_own(name, folder) for folder in objects.list_folders()):
        raise InputError(
            f"--out {objects}",
            got="a place with other objects, which is no map",
            expected="a map, or a place with nothing in it",
            fix=f"give a place of its own, such as {objects.to_url('map')}; if it is a map whose {MAP_RECORD} was lost,"
            " remove what is left of it",
        )


def refuse_taken_keys(catalogue: ObjectFolder, objects: ObjectFolder, periods: Iterable[str]) -> None:
    """Refuse a map whose items would take the places of others in the catalogue of the scenes.

    Args:
        catalogue: the catalogue of the scenes.
        objects: folder of the map.
        periods: names of its periods.

    Raises:
        InputError: a scene, or a period of another map, has the id of an item.
    """
    name = objects.prefix.rpartition("/")[2]
    names = [name_period(name, period) for period in periods]
    for period_id, original in map_concurrently(lambda key: (key, _find_original(catalogue, key)), names):
        if original not in (None, objects.to_url(period_id)):
            raise InputError(
                f"map {name}",
                got=f"a result {period_id} in {catalogue}, which is not of this map",
                expected="a name that no scene and no other map has",
                fix="give another --out",
            )


def list_in_stored_catalogue(catalogue: ObjectFolder, objects: ObjectFolder) -> None:
    """Write the items of a map to the catalogue of its scenes, and remove those of periods that are gone.

    Args:
        catalogue: the catalogue of the scenes.
        objects: folder of the map, which is published.

    Raises:
        RunError: others replace them again and again.
    """
    pointer = MapPointer.read(objects)
    periods = () if pointer is None else pointer.versions
    listing = read_listing(catalogue)
    for period_id in sorted(periods):
        item = _copy(catalogue, objects, period_id)
        if item and not listing.lists_item(period_id, item):  # also after a kill between the two
            list_in_catalog(catalogue, period_id)
    gone = [name for name in _list_own(catalogue, objects) if name not in periods]
    catalogue.delete(f"{name}/{ITEM}" for name in gone)
    name = objects.prefix.rpartition("/")[2]
    listed = [key for key in listing.checksums if is_own(name, key) and key not in periods]
    if gone or any(catalogue.get_version(f"{key}/{ITEM}") is None for key in listed):
        renew_catalog(catalogue)


def _copy(catalogue: ObjectFolder, objects: ObjectFolder, period_id: str) -> ItemDict | None:
    """Write the item of a period as it is, unless its copy changes meanwhile, and return it; None without one."""
    for _ in range(_TRIES):
        there, item = catalogue.get(f"{period_id}/{ITEM}"), objects.get(f"{period_id}/{ITEM}")
        if item is None:
            return None
        copy = copy_stored_item(parse_item(item.data, period_id), objects.to_url(period_id))
        content, version = encode_json(copy), None if there is None else there.version
        if there is not None and there.data == content:
            return copy
        if catalogue.compare_and_swap(f"{period_id}/{ITEM}", content, version):
            return copy
        wait_randomly()
    raise RunError(f"{catalogue}: others replace {period_id} again and again; run the same command again")


def _list_own(catalogue: ObjectFolder, objects: ObjectFolder) -> Iterator[str]:
    """Yield the ids of the items of a map in the catalogue of the scenes."""
    name = objects.prefix.rpartition("/")[2]
    for period_id in catalogue.list_folders():
        if is_own(name, period_id) and _find_original(catalogue, period_id) == objects.to_url(period_id):
            yield period_id


def _find_original(catalogue: ObjectFolder, period_id: str) -> str | None:
    """Return where the files of an item lie: those of a scene beside it; None if there is no item."""
    found = catalogue.get(f"{period_id}/{ITEM}")
    if found is None:
        return None
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        original = find_original_url(parse_item(found.data, period_id))
        if original is not None:
            return original
    return catalogue.to_url(period_id)
