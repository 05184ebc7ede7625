"""Publish a finished scene from its working folder to object storage, by one final pointer.

::

    <prefix>/<scene>/<version>/…   the scene's files, as they lie in a folder; never changed
    <prefix>/<scene>/item.json     the pointer: the item, whose assets lead to the files of one version
    <prefix>/catalog.json          links to all items
    <prefix>/collection.json       what the items have in common
    <prefix>/items.parquet         all items as a table

An object cannot be renamed, and several objects do not appear at once. So the files of a version are put first, below a
name that nobody knows yet. The item is put last, in place of the one that was known at the start: a reader of the item
reads all of one version. The version before stays for those who still have its item. Other versions are left by killed
uploads, or older; the next upload removes them.

It must not remove what another upload is about to publish. So the name of a version is a digest of its content and of
the pointer that it is to replace: once another upload has replaced that pointer, no upload publishes this version.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa

from seamline.pipeline.common.errors import RunError
from seamline.pipeline.common.layout import CATALOG, COLLECTION, ITEM, ITEMS
from seamline.pipeline.geometry.tiling import MapChunks
from seamline.pipeline.products.run_record import read_record
from seamline.pipeline.publishing.file_upload import put_files
from seamline.pipeline.publishing.uploaded import UploadedScene
from seamline.pipeline.stac import waiting
from seamline.pipeline.stac.catalog import build_catalog, build_collection, encode_json, parse_links
from seamline.pipeline.stac.items import (
    ItemDict,
    build_item_table,
    encode_table,
    list_folders,
    parse_item,
    read_items,
    read_table,
    rebase_hrefs,
    replace_rows,
)
from seamline.pipeline.storage.object_store import ObjectFolder, StoredObject

_TRIES = 20
"""Attempts to replace an object that others replace, too; each failed attempt is a success of another upload."""
_VERSION_LENGTH = 16
"""Hexadecimal digits of the digest that names a version."""


def upload(
    folder: Path,
    catalogue: ObjectFolder,
    progress: Callable[[float], None] = lambda share: None,
    map_groups: MapChunks | None = None,
) -> UploadedScene:
    """Publish a finished scene.

    A killed upload goes on where it stopped. Where others publish the same scene, the last one stands.

    Args:
        folder: the scene's folder, which is named by its id.
        catalogue: object storage of the catalogue.
        progress: is called with the share of bytes that are there.
        map_groups: applies a function to groups of files on workers that see the folder; None: all of it is done here.

    Returns:
        The scene as it is published.

    Raises:
        InputError: access is denied, or there is no such bucket.
        RunError: the server does not answer, or others replace the scene again and again.
    """
    scene, place = folder.name, catalogue.subfolder(folder.name)
    content = (folder / ITEM).read_bytes()
    local = parse_item(content, str(folder / ITEM))
    for _ in range(_TRIES):
        known = place.get(ITEM)
        base = "" if known is None else known.version
        version = hashlib.sha256(content + base.encode()).hexdigest()[:_VERSION_LENGTH]
        put_files(folder, place, version, progress, map_groups)
        kept = (version, _version_in_pointer(known), "")
        stale = [key for key in place.list_sizes() if _version_in_key(key) not in kept]
        pointer = encode_json(_lead_to(version, local))
        if waiting.may_wait(catalogue):  # a kill right after the swap must not keep it from being listed
            waiting.note_waiting(catalogue, scene)
        if place.compare_and_swap(ITEM, pointer, None if known is None else known.version):
            break
        wait_randomly()
    else:
        raise RunError(f"scene {scene}: others publish it to {catalogue} again and again; run the same command again")
    list_in_catalog(catalogue, scene)
    place.delete(stale)
    item = parse_item(pointer, place.to_url(ITEM))
    return UploadedScene(scene, item, read_record(folder), version)


def _lead_to(version: str, item: ItemDict) -> ItemDict:
    """Return the pointer to a version: an item whose hrefs lead there, but for those to the catalogue."""
    rebased = rebase_hrefs(item, version)
    links = [
        old if old["href"].startswith("../") else new for old, new in zip(item["links"], rebased["links"], strict=True)
    ]
    return {**item, "assets": rebased["assets"], "links": links}


def _version_in_key(key: str) -> str:
    """Return the folder that a key lies in; ``""`` for the pointer."""
    return key.partition("/")[0] if "/" in key else ""


def _version_in_pointer(pointer: StoredObject | None) -> str:
    """Return the version that a pointer leads to; ``""`` without a pointer, or if it is damaged."""
    try:
        item = json.loads(pointer.data if pointer else b"{}")
        return _version_in_key(str(item["assets"]["run"]["href"]).removeprefix("./"))
    except (ValueError, LookupError, TypeError):
        return ""


def list_in_catalog(catalogue: ObjectFolder, scene: str) -> None:
    """List a scene whose item was put in ``catalog.json`` and ``items.parquet``.

    In a large catalogue it may wait until more are (``stac/waiting.py``). Then only the items that wait are read.

    Raises:
        RunError: others replace them again and again.
    """
    if not waiting.may_wait(catalogue):
        renew_catalog(catalogue)
        return
    waiting.note_waiting(catalogue, scene)
    if waiting.must_renew(catalogue):
        renew_catalog(catalogue, only_waiting=True)


def list_waiting_objects(catalogue: ObjectFolder) -> None:
    """Renew catalogue and table if scenes wait for that.

    Raises:
        RunError: others replace them again and again.
    """
    if waiting.list_notes(catalogue):
        renew_catalog(catalogue, only_waiting=True)


def renew_catalog(catalogue: ObjectFolder, *, only_waiting: bool = False) -> int:
    """Write catalogue, collection and table of every ``<scene>/item.json`` there is; return how many there are.

    Each replaces the object that was there before the items were read, otherwise the items are read again. So the last
    writer has read the items of all writers before it.

    Args:
        catalogue: object storage of the catalogue.
        only_waiting: read the items of scenes that wait, and take those of others from the table, if that is possible.

    Raises:
        RunError: others replace them again and again.
    """
    # The table last: what it has, the catalogue has too, also while others renew them.
    notes, left = waiting.list_notes(catalogue), [CATALOG, COLLECTION, ITEMS]
    for _ in range(_TRIES):
        known = {name: catalogue.get_version(name) for name in left}
        scenes, table = _replace_waiting(catalogue, notes) if only_waiting else ([], None)
        if table is None:
            items = read_items(catalogue, catalogue.list_folders())
            scenes, rows = list(items), {scene: item for scene, item in items.items() if item}
            table = build_item_table(rows) if rows else None
        if not scenes:
            return 0
        documents = {
            CATALOG: encode_json(build_catalog(scenes)),
            COLLECTION: encode_json(build_collection(table)),
        }
        if table is not None:
            documents[ITEMS] = encode_table(table)
        left = [
            name
            for name in left
            if name in documents and not catalogue.compare_and_swap(name, documents[name], known[name])
        ]
        if not left:
            waiting.remove_notes(catalogue, notes)
            return len(scenes)
        wait_randomly()
    contested = " and ".join(left)
    raise RunError(f"{catalogue}: others replace {contested} again and again; run the same command again")


def _replace_waiting(catalogue: ObjectFolder, notes: list[str]) -> tuple[list[str], pa.Table | None]:
    """Return all scenes in order, and the table of their items; no table if it must be made of all items."""
    wait = waiting.list_scenes(notes)
    catalog, items_table = catalogue.get(CATALOG), catalogue.get(ITEMS)
    if catalog is None or items_table is None:
        return [], None
    try:
        linked, table = parse_links(catalog.data), read_table(BytesIO(items_table.data))
        rows_there = set(list_folders(table))
    except (ValueError, LookupError, TypeError, AttributeError):
        return [], None
    items = read_items(catalogue, wait)
    rows = {scene: item for scene, item in items.items() if item}
    scenes = sorted((linked | rows_there) - wait | items.keys())
    return scenes, replace_rows(table, rows_there - wait, rows)


def wait_randomly() -> None:
    """Let other writers finish; the random time keeps two of them from meeting again."""
    time.sleep(random.uniform(0.05, 0.5))
