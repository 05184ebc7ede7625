"""The static STAC catalogue of all scenes: ``catalog.json``, ``collection.json`` and ``items.parquet``, without locks.

A small catalogue is renewed for each scene that is published. A large one is renewed for many scenes at once, which
wait meanwhile (``waiting.py``), so that publishing a scene takes no longer the more scenes there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pystac

from seamline.pipeline.common.layout import CATALOG, COLLECTION, ITEM, ITEMS, STAMPS
from seamline.pipeline.stac import waiting
from seamline.pipeline.stac.items import COLLECTION_ID, UNKNOWN_TIME, is_readable, read_table
from seamline.pipeline.stac.scene_item import PROJECTION_SCHEMA
from seamline.pipeline.stac.stamped_table import FileStamp, StampedTable, read_stamp
from seamline.pipeline.storage.atomic import atomic_write, remove_stale_parts

_SUMMARIZED = ("model", "proj:code", "processing:level")
"""Properties whose different values the collection names."""


def write_item(item: pystac.Item, folder: Path) -> Path:
    """Write ``item.json`` of a scene's folder in one step, and return its path."""
    path = folder / ITEM
    _write_json(path, item.to_dict(include_self_link=False, transform_hrefs=False))
    return path


def update_catalog(out: Path, scene: str | None = None) -> Path:
    """List scenes in ``catalog.json`` and ``items.parquet``. Write an item before you call this.

    Args:
        out: the catalogue's folder.
        scene: the scene whose item was written. In a large catalogue it may wait until more are; without a scene all
            items are read, and both files are written anew.

    Returns:
        The path of ``catalog.json``.
    """
    if scene is None:
        return _renew(out, StampedTable())
    if waiting.may_wait(out) and (out / CATALOG).is_file():
        waiting.note_waiting(out, scene)
        if not waiting.must_renew(out) and is_readable(out / ITEMS):
            return out / CATALOG
    return _renew(out, StampedTable.read(out, waiting.list_scenes(waiting.list_notes(out)) | {scene}))


def list_waiting_scenes(out: Path) -> None:
    """Renew catalogue and table if scenes wait for that, or a renewal was killed."""
    if notes := waiting.list_notes(out):
        _renew(out, StampedTable.read(out, waiting.list_scenes(notes)))


def _renew(out: Path, table: StampedTable) -> Path:
    """Write catalogue, collection and table of every ``item.json`` in the folders below ``out``.

    Needs no lock, which not every network file system has. Each writer looks at the items again after it has written,
    and writes again until no item is new or changed. So the last writer has seen every item as it is. If it is killed
    before it has looked again, the next who publishes writes again; in a large catalogue its note makes sure of that.

    Args:
        out: the catalogue's folder.
        table: what is known of the table as it is there; rows of items that are unchanged since are kept.
    """
    path = out / CATALOG
    notes = [note for note in waiting.list_notes(out) if not waiting.is_at_work(note)]
    own = [waiting.note_waiting(out, "")] if waiting.may_wait(out) else []
    written: dict[str, FileStamp] | None = None
    while (stamps := _read_stamps(out)) != written:
        table = table.update(out, stamps)
        for note in own:  # which another renewal that has found it may have removed
            waiting.keep_note(out, note)
        _write_json(path, build_catalog(stamps))
        _write_json(out / COLLECTION, build_collection(table.table))
        table.write(out)
        written = stamps
    waiting.remove_notes(out, [*notes, *own])
    for file in (path, out / COLLECTION, out / ITEMS, out / STAMPS):
        if file.exists():
            remove_stale_parts(file)
    return path


def build_catalog(scenes: Iterable[str]) -> dict[str, Any]:
    """Return the catalogue document that links the items of these scenes, by the names of their folders."""
    catalog = pystac.Catalog(
        id="seamline", title="Seamline segmentations", description="Segmented scenes, one item each."
    )
    catalog.add_link(pystac.Link("root", f"./{CATALOG}", media_type=pystac.MediaType.JSON))
    catalog.add_link(pystac.Link("child", f"./{COLLECTION}", media_type=pystac.MediaType.JSON))
    for scene in scenes:
        href = f"./{scene}/{ITEM}"
        catalog.add_link(pystac.Link("item", href, media_type=pystac.MediaType.GEOJSON, title=scene))
    return catalog.to_dict(include_self_link=False, transform_hrefs=False)  # type: ignore[no-any-return]


def build_collection(table: pa.Table | None) -> dict[str, Any]:
    """Return the document of the collection that all items are of, as a STAC API takes it.

    It links no items, of which the catalogue has a list and an API its own.

    Args:
        table: the table of the items; None without any.
    """
    collection = pystac.Collection(
        id=COLLECTION_ID,
        title="Seamline segmentations",
        description="Segmented scenes: a class of each pixel, and how much of the scene each class covers.",
        license="other",  # that of the labels is their owner's to say
        extent=pystac.Extent(
            pystac.SpatialExtent([_join_boxes(table)]), pystac.TemporalExtent([list(_join_times(table))])
        ),
        summaries=pystac.Summaries(_summarize_properties(table)),
        stac_extensions=[PROJECTION_SCHEMA],
    )
    for relation in ("root", "parent"):
        collection.add_link(pystac.Link(relation, f"./{CATALOG}", media_type=pystac.MediaType.JSON))
    items = pystac.Asset(f"./{ITEMS}", "All items (stac-geoparquet)", media_type=pystac.MediaType.VND_APACHE_PARQUET)
    items.roles = ["stac-items"]
    collection.add_asset("items", items)
    document = collection.to_dict(include_self_link=False, transform_hrefs=False)
    return {**document, "item_assets": _describe_item_assets(table)}


def _join_boxes(table: pa.Table | None) -> list[float]:
    """Return the box of all items; that of the Earth where none has one, from -180° to 180° across the antimeridian."""
    boxes = (
        [box for box in table["bbox"].to_pylist() if box and all(map(isfinite, box.values()))]
        if table is not None
        else []
    )
    if not boxes:
        return [-180.0, -90.0, 180.0, 90.0]
    wraps = any(box["xmin"] > box["xmax"] for box in boxes)
    west, east = (-180.0, 180.0) if wraps else (min(b["xmin"] for b in boxes), max(b["xmax"] for b in boxes))
    return [west, min(box["ymin"] for box in boxes), east, max(box["ymax"] for box in boxes)]


def _join_times(table: pa.Table | None) -> tuple[datetime | None, datetime | None]:
    """Return the first and the last time of the items whose time is known, or else of all."""
    if table is None:
        return None, None
    first, last = (_fill_times(table, name) for name in ("start_datetime", "end_datetime"))
    unknown = table[UNKNOWN_TIME]
    if pa.types.is_boolean(unknown.type) and not pc.all(known := pc.invert(pc.fill_null(unknown, False))).as_py():
        first, last = (times.filter(known) if pc.any(known).as_py() else times for times in (first, last))
    return pc.min(first).as_py(), pc.max(last).as_py()


def _fill_times(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return the times of a column, and of ``datetime`` where it has none."""
    return pc.coalesce(table[name], table["datetime"]) if name in table.column_names else table["datetime"]


def _summarize_properties(table: pa.Table | None) -> dict[str, Any]:
    """Return the different values of some properties of the items, and the range of each class's share."""
    if table is None:
        return {}
    summaries: dict[str, Any] = {}
    for name in _SUMMARIZED:
        if name in table.column_names and pa.types.is_string(table[name].type):
            summaries[name] = sorted(pc.unique(table[name]).drop_null().to_pylist())
    for name in table.column_names:
        if name.endswith("_share") and pa.types.is_floating(table[name].type):
            least, most = pc.min(table[name]).as_py(), pc.max(table[name]).as_py()
            if least is not None and isfinite(least + most):
                summaries[name] = pystac.RangeSummary(least, most)
    return summaries


def _describe_item_assets(table: pa.Table | None) -> dict[str, Any]:
    """Return title, media type and roles of each asset that an item has."""
    if table is None or not pa.types.is_struct(table["assets"].type):
        return {}
    assets = table["assets"].combine_chunks()
    found: dict[str, Any] = {}
    for field in assets.type:
        entries = assets.field(field.name).drop_null()
        if len(entries):
            entry = entries[0].as_py()
            texts = {name: entry[name] for name in ("title", "type") if isinstance(entry.get(name), str)}
            roles = [role for role in entry.get("roles") or () if isinstance(role, str)]
            found[field.name] = texts | ({"roles": roles} if roles else {})
    return found


def is_in_catalog(out: Path, scene: str) -> bool:
    """Return whether ``catalog.json`` can be read and links the item of a scene."""
    return scene in _read_links(out)


def is_catalog_whole(out: Path) -> bool:
    """Return whether catalogue and collection are what would be written now, but for scenes that wait."""
    links, wait = _read_links(out), waiting.list_scenes(waiting.list_notes(out))
    scenes = [scene for scene in _read_stamps(out) if scene in links or scene not in wait]
    with suppress(OSError, ValueError, LookupError, TypeError):
        is_same = (out / CATALOG).read_bytes() == encode_json(build_catalog(scenes))
        return is_same and (out / COLLECTION).read_bytes() == encode_json(build_collection(read_table(out / ITEMS)))
    return False


def _read_links(out: Path) -> set[str]:
    """Return the scenes whose items ``catalog.json`` links; none if it is lost or damaged."""
    with suppress(OSError, ValueError):
        return parse_links((out / CATALOG).read_bytes())
    return set()


def parse_links(catalog: bytes) -> set[str]:
    """Return the scenes whose items a catalogue document links.

    Raises:
        ValueError: it is no catalogue document.
    """
    try:
        hrefs = [link["href"] for link in json.loads(catalog)["links"] if link["rel"] == "item"]
        return {href.removeprefix("./").removesuffix(f"/{ITEM}") for href in hrefs}
    except (LookupError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"{CATALOG} is damaged: {error}") from error


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a STAC document as it is published."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with atomic_write(path, shared=True) as part:
        part.write_bytes(encode_json(document))


def _read_stamps(out: Path) -> dict[str, FileStamp]:
    """Return the stamps of all items by the names of their folders, in order."""
    stamps = {}
    for path in sorted(out.glob(f"*/{ITEM}")):
        with suppress(FileNotFoundError):  # the item was removed meanwhile
            stamps[path.parent.name] = read_stamp(path)
    return stamps
