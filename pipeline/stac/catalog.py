"""The static STAC catalogue of all scenes: ``catalog.json`` and ``items.parquet``, kept up to date without locks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pystac

from seamline.pipeline.common.layout import CATALOG, ITEM, ITEMS
from seamline.pipeline.stac.items import ItemDict, read_item, write_item_table
from seamline.pipeline.storage.atomic import atomic_write, remove_stale_parts

_FileStamp = tuple[int, int, int]
"""Time of modification in nanoseconds, inode and size of a file: changes whenever the file is rewritten."""


def write_item(item: pystac.Item, folder: Path) -> Path:
    """Write ``item.json`` of a scene's folder in one step, and return its path."""
    path = folder / ITEM
    _write_json(path, item.to_dict(include_self_link=False, transform_hrefs=False))
    return path


def update_catalog(out: Path) -> Path:
    """Write ``catalog.json`` and ``items.parquet`` of every ``item.json`` in the folders below ``out``.

    Needs no lock, which not every network file system has. Each writer looks at the items again after it has written,
    and writes again until no item is new or changed. So the last writer has seen every item as it is. Write an item
    before you call this.

    Args:
        out: the catalogue's folder.

    Returns:
        The path of ``catalog.json``.
    """
    path = out / CATALOG
    written: dict[str, _FileStamp] | None = None
    items: dict[str, tuple[_FileStamp, ItemDict]] = {}
    while (stamps := _read_stamps(out)) != written:
        items = {scene: _read_stamped_item(out, scene, stamp, items.get(scene)) for scene, stamp in stamps.items()}
        _write_json(path, build_catalog(stamps))
        write_item_table({scene: item for scene, (_, item) in items.items() if item}, out / ITEMS)
        written = stamps
    for file in (path, out / ITEMS):
        if file.exists():
            remove_stale_parts(file)
    return path


def build_catalog(scenes: Iterable[str]) -> dict[str, Any]:
    """Return the catalogue document that links the items of these scenes, by the names of their folders."""
    catalog = pystac.Catalog(
        id="seamline", title="Seamline segmentations", description="Segmented scenes, one item each."
    )
    catalog.add_link(pystac.Link("root", f"./{CATALOG}", media_type=pystac.MediaType.JSON))
    for scene in scenes:
        href = f"./{scene}/{ITEM}"
        catalog.add_link(pystac.Link("item", href, media_type=pystac.MediaType.GEOJSON, title=scene))
    return catalog.to_dict(include_self_link=False, transform_hrefs=False)  # type: ignore[no-any-return]


def is_in_catalog(out: Path, scene: str) -> bool:
    """Return whether ``catalog.json`` can be read and links the item of a scene."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        links = json.loads((out / CATALOG).read_bytes())["links"]
        return any(link["rel"] == "item" and link["href"] == f"./{scene}/{ITEM}" for link in links)
    return False


def is_catalog_whole(out: Path) -> bool:
    """Return whether ``catalog.json`` is what would be written now."""
    with suppress(OSError):
        return (out / CATALOG).read_bytes() == encode_json(build_catalog(_read_stamps(out)))
    return False


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a STAC document as it is published."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with atomic_write(path, shared=True) as part:
        part.write_bytes(encode_json(document))


def _read_stamps(out: Path) -> dict[str, _FileStamp]:
    """Return the stamps of all items by the names of their folders, in order."""
    stamps = {}
    for path in sorted(out.glob(f"*/{ITEM}")):
        with suppress(FileNotFoundError):  # the item was removed meanwhile
            status = path.stat()
            stamps[path.parent.name] = (status.st_mtime_ns, status.st_ino, status.st_size)
    return stamps


def _read_stamped_item(
    out: Path, scene: str, stamp: _FileStamp, known: tuple[_FileStamp, ItemDict] | None
) -> tuple[_FileStamp, ItemDict]:
    """Return an item with its stamp. It is read unless it is the known one.

    A damaged item is returned as an empty one. So it does not keep other scenes from being published.
    """
    if known is not None and known[0] == stamp:
        return known
    try:
        return stamp, read_item(out / scene / ITEM)
    except (OSError, ValueError):
        return stamp, {}
