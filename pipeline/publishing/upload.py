"""From a finished scene in a working folder to object storage, by one final pointer.

::

    <prefix>/<scene>/<version>/…   the scene's files, as they lie in a folder; never changed
    <prefix>/<scene>/item.json     the pointer: the item, whose assets lead to the files of one version
    <prefix>/catalog.json          links to all items
    <prefix>/items.parquet         all items as a table

An object cannot be renamed, and of many none appears with the others. So the files of a version go first, below a name
that nobody knows yet, and the item is put last, in place of the one that was known at the start. Who reads the item
reads all of one version. The version before stays for those who have its item still; what lies below other versions is
of killed uploads, or older, and is removed by the next publishing.

That must not take away what another one is about to publish. So a version's name says what it holds and which pointer
it is to replace: when that was replaced by another, nobody will publish a version of this name any more.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from seamline.pipeline.common.errors import RunError
from seamline.pipeline.common.layout import CATALOG, ITEM, ITEMS, RECORD
from seamline.pipeline.stac.catalog import build_catalog, encode_json
from seamline.pipeline.stac.items import ItemDict, encode_item_table, parse_item, read_run_checksum, rebase_hrefs
from seamline.pipeline.storage.object_store import ObjectFolder, StoredObject, map_concurrently

_TRIES = 20
"""Of replacing an object that others replace, too: each try that fails is one of theirs that went well."""
_VERSION = 16
"""Digits of the digest that names a version."""


@dataclass(frozen=True)
class Published:
    """A scene that is published: its item and the record of its run, and in which ``version`` its files lie."""

    scene: str
    item: ItemDict
    record: dict[str, Any]
    version: str


def published(catalogue: ObjectFolder, scene: str) -> Published | None:
    """What is published of a scene; ``None`` if nothing is, or nothing that Seamline wrote."""
    folder = catalogue.subfolder(scene)
    found = folder.get(ITEM)
    if found is None:
        return None
    try:
        item = parse_item(found.data, folder.to_url(ITEM))
        place = str(item["assets"]["run"]["href"]).removeprefix("./")
        record = folder.get(place)
        if record is None:
            return None
        return Published(scene, item, json.loads(record.data), place.rpartition("/")[0])
    except (ValueError, LookupError, TypeError):
        return None


def is_listed(catalogue: ObjectFolder, found: Published) -> bool:
    """Whether catalogue and table speak of the scene as it is published."""
    table = catalogue.get(ITEMS)
    if table is None or catalogue.get_version(CATALOG) is None:
        return False
    try:
        return bool(read_run_checksum(BytesIO(table.data), found.scene) == found.item["assets"]["run"]["file:checksum"])
    except (ValueError, LookupError, TypeError):
        return False


def is_whole(catalogue: ObjectFolder, found: Published) -> bool:
    """Whether all files of the version are there, with the sizes that the item says."""
    sizes = catalogue.subfolder(found.scene).list_sizes(found.version)
    for asset in found.item["assets"].values():
        key, size = asset["href"].removeprefix("./"), asset["file:size"]
        if sizes.get(key, sum(bytes_ for name, bytes_ in sizes.items() if name.startswith(f"{key}/"))) != size:
            return False
    return True


def fetch(catalogue: ObjectFolder, found: Published, folder: Path) -> None:
    """Bring the files of a published scene back into a working folder; the record of the run last."""
    source = catalogue.subfolder(found.scene).subfolder(found.version)
    keys = [key for key in source.list_sizes() if key != RECORD]
    for _ in map_concurrently(lambda key: source.download(key, folder / key), keys):
        pass
    source.download(RECORD, folder / RECORD)


def upload(folder: Path, catalogue: ObjectFolder, progress: Callable[[float], None] = lambda share: None) -> Published:
    """Publish the finished scene in ``folder``, whose name is the scene's; ``progress`` is told the share of bytes.

    A killed upload goes on where it stopped. Where others publish the same scene, the last one stands.

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
        version = hashlib.sha256(content + base.encode()).hexdigest()[:_VERSION]
        _put_files(folder, place, version, progress)
        stale = [key for key in place.list_sizes() if _version_of(key) not in (version, _pointed(known), "")]
        pointer = encode_json({**local, "assets": rebase_hrefs(local, version)["assets"]})
        if place.compare_and_swap(ITEM, pointer, None if known is None else known.version):
            break
        _wait()
    else:
        raise RunError(f"scene {scene}: others publish it to {catalogue} again and again; run the same command again")
    renew_catalog(catalogue)
    place.delete(stale)
    item = parse_item(pointer, place.to_url(ITEM))
    return Published(scene, item, json.loads((folder / RECORD).read_text(encoding="utf-8")), version)


def _put_files(folder: Path, place: ObjectFolder, version: str, progress: Callable[[float], None]) -> None:
    """Put what is not there yet; an object of a version has its bytes or is not there."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts[:1])
    }
    there = place.list_sizes(version)
    left = [key for key, size in files.items() if there.get(f"{version}/{key}") != size]
    total, done = max(1, sum(files.values())), sum(files.values()) - sum(files[key] for key in left)

    def put(key: str) -> int:
        place.put(f"{version}/{key}", _versioned_item(folder) if key == ITEM else folder / key)
        return files[key]

    for size in map_concurrently(put, left):
        done += size
        progress(done / total)


def _versioned_item(folder: Path) -> bytes:
    """The item beside the files of a version, one folder deeper than the pointer."""
    item = json.loads((folder / ITEM).read_text(encoding="utf-8"))
    links = [
        link | {"href": f"../{link['href']}"} if link["rel"] in ("root", "parent") else link for link in item["links"]
    ]
    return encode_json({**item, "links": links})


def _version_of(key: str) -> str:
    """The folder that a key lies in; ``""`` for the pointer."""
    return key.partition("/")[0] if "/" in key else ""


def _pointed(pointer: StoredObject | None) -> str:
    """The version that a pointer leads to; ``""`` without one, or if it is none."""
    try:
        item = json.loads(pointer.data if pointer else b"{}")
        return _version_of(str(item["assets"]["run"]["href"]).removeprefix("./"))
    except (ValueError, LookupError, TypeError):
        return ""


def renew_catalog(catalogue: ObjectFolder) -> int:
    """Let ``catalog.json`` and ``items.parquet`` hold every ``<scene>/item.json`` there is; returns how many.

    Each replaces the object that was there before the items were read, otherwise all is read again. So whoever replaces
    one last has read the items of all who replaced it before.

    Raises:
        RunError: others replace them again and again.
    """
    left = {CATALOG, ITEMS}
    for _ in range(_TRIES):
        known = {name: catalogue.get_version(name) for name in left}
        items = _items(catalogue)
        if not items:
            return 0
        table = {scene: item for scene, item in items.items() if item}
        documents = {CATALOG: encode_json(build_catalog(items))}
        if table:
            documents[ITEMS] = encode_item_table(table)
        left = {
            name
            for name in left
            if name in documents and not catalogue.compare_and_swap(name, documents[name], known[name])
        }
        if not left:
            return len(items)
        _wait()
    raise RunError(f"{catalogue}: others replace {' and '.join(sorted(left))} again and again; "
                   "run the same command again")  # fmt: skip


def _items(catalogue: ObjectFolder) -> dict[str, ItemDict]:
    """All items by scene, in order; empty where one is damaged: that keeps no other out."""

    def read(scene: str) -> tuple[str, ItemDict | None]:
        found = catalogue.get(f"{scene}/{ITEM}")
        try:
            return scene, None if found is None else parse_item(found.data, scene)
        except ValueError:
            return scene, {}

    return {scene: item for scene, item in sorted(map_concurrently(read, catalogue.list_folders())) if item is not None}


def _wait() -> None:
    """Until others have done what they are at; not as long as they wait."""
    time.sleep(random.uniform(0.05, 0.5))
