"""Put the files of a version of a scene to object storage: by workers, which see them, and by the client.

Workers take most of the bytes past the client's network and processor. They reach object storage by their own
credentials, which may not suffice, or may lead to another server. So the client looks what is there when they have
ended, and puts the rest itself. What another version has already, the server copies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from seamline.pipeline.common.errors import SeamlineError
from seamline.pipeline.common.layout import ITEM
from seamline.pipeline.geometry.tiling import Index, MapChunks
from seamline.pipeline.stac.catalog import encode_json
from seamline.pipeline.storage.atomic import remove
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently

log = logging.getLogger("seamline.run")

_LISTS = ".upload"
"""Folder of the lists of files that workers put, beside these."""
_GROUP_FILES, _GROUP_BYTES = 64, 2**25
"""Files, and bytes of all of them but the last, that a task of a worker puts at most."""


def put_files(
    folder: Path,
    place: ObjectFolder,
    version: str,
    progress: Callable[[float], None],
    map_groups: MapChunks | None = None,
    copies: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Put the files that are not there yet. An object of a version is whole or absent, so its size tells.

    Args:
        folder: the scene's folder.
        place: where the scene lies in object storage.
        version: name of the folder of the version.
        progress: is called with the share of bytes that are there.
        map_groups: does the work on groups of files on workers; None: the client does all of it.
        copies: keys below ``place`` of objects that have the content of files, by the keys of the files. The server
            copies them, and no byte travels; where one is gone, the file is put.

    Raises:
        InputError: access is denied.
        RunError: the server does not answer.
    """
    sizes = list_file_sizes(folder)
    left = _list_missing(place, version, sizes)
    copied = map_concurrently(
        lambda key: key if place.copy(copies[key], f"{version}/{key}") else None, [key for key in left if key in copies]
    )
    left = sorted(set(left) - set(copied))
    if map_groups is not None and left:
        _put_on_workers(folder, place, version, {key: sizes[key] for key in left if key != ITEM}, map_groups)
        left = _list_missing(place, version, sizes)
    total = max(1, sum(sizes.values()))
    done = sum(sizes.values()) - sum(sizes[key] for key in left)
    progress(done / total)

    def put(key: str) -> int:
        place.put(f"{version}/{key}", _rewrite_item_links(folder) if key == ITEM else folder / key)
        return sizes[key]

    for size in map_concurrently(put, left):
        done += size
        progress(done / total)


def list_file_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of all files that are put, by their paths below the folder of a scene."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts[:1])
    }


def _list_missing(place: ObjectFolder, version: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the keys of those files that are not there with their sizes."""
    there = place.list_sizes(version)
    return [key for key, size in sizes.items() if there.get(f"{version}/{key}") != size]


def _put_on_workers(
    folder: Path, place: ObjectFolder, version: str, sizes: Mapping[str, int], map_groups: MapChunks
) -> None:
    """Let workers put files of these sizes; whatever keeps them from it is logged, and left to the client."""
    target = place.subfolder(version).to_url()  # without credentials
    problems: list[str] = []
    lists = folder / _LISTS
    remove(lists)  # of a killed upload
    lists.mkdir()
    groups = list(_iter_groups(sizes))
    for number, keys in enumerate(groups):
        (lists / f"{number}.json").write_text(json.dumps(keys), encoding="utf-8")
    put_group = partial(_put_group, folder, target, lists)
    try:
        problems += filter(None, map_groups(put_group, [Index(0, number) for number in range(len(groups))]))
    except SeamlineError as error:
        problems.append(str(error))
    remove(lists)
    if problems:
        log.warning("workers cannot write to %s, the client does: %s", place, problems[0])


def _iter_groups(sizes: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Yield the keys of files, the largest first, in groups of a few or of one large one."""
    group: list[str] = []
    total = 0
    for key in sorted(sizes, key=lambda key: -sizes[key]):
        group.append(key)
        total += sizes[key]
        if len(group) == _GROUP_FILES or total >= _GROUP_BYTES:
            yield group
            group, total = [], 0
    if group:
        yield group


def _put_group(folder: Path, target: str, lists: Path, place: Index) -> str | None:
    """Put the files of a group from a worker; return in words what kept it from that, None if nothing did."""
    try:
        keys = json.loads((lists / f"{place.col}.json").read_text(encoding="utf-8"))
        objects = ObjectFolder.from_url(target)
        for _ in map_concurrently(lambda key: objects.put(key, folder / key), keys):
            pass
    except (SeamlineError, OSError) as error:
        return str(error)
    return None


def _rewrite_item_links(folder: Path) -> bytes:
    """Return the item that lies beside the files of a version, one folder deeper than the pointer."""
    item = json.loads((folder / ITEM).read_text(encoding="utf-8"))
    links = [
        link | {"href": f"../{link['href']}"} if link["href"].startswith("../") else link for link in item["links"]
    ]
    return encode_json({**item, "links": links})
