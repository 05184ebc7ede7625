"""STAC items, and the table of all items of a catalogue: ``items.parquet``.

The table is stac-geoparquet, for DuckDB, geopandas and GDAL. A column is a field of the items or one of their
properties. What an item does not have is null. Hrefs are relative to the table's folder, and each item has a ``self``
link.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import shapely
import shapely.errors
import shapely.geometry

from seamline.pipeline.common.layout import ITEM, ITEMS
from seamline.pipeline.storage.object_store import ObjectFolder, map_concurrently

log = logging.getLogger("seamline.catalog")

UNKNOWN_TIME = "seamline:datetime_unknown"
"""Property of items of scenes of which nobody knows when they were taken."""

ItemDict = dict[str, Any]
"""A STAC item as JSON has it, or a row of the table."""

COLLECTION_ID = "seamline-segmentations"
"""Id of the collection that items are of."""

_FIRST = ("type", "stac_version", "stac_extensions", "id", "collection", "geometry", "bbox")
_LAST = ("links", "assets")
"""Fields of an item that stand before and after the columns of its properties."""
_TIMES = ("created", "datetime", "end_datetime", "start_datetime", "updated")
_ALWAYS = {UNKNOWN_TIME, "datetime", "end_datetime", "start_datetime"}
"""Columns that the table has whatever its items are, so that SQL may name them."""
_SELF = "self"
_MOST_PROPERTIES = 1000
"""Properties of an item. A run writes two for each of at most 255 classes, and twenty."""
_TEXT_COLUMNS = "seamline:text_columns"
"""Metadata of the table: names of the columns that hold their values as JSON text, a JSON list."""
_MOST_COLUMNS = 4000
"""Columns of properties. Readers of Parquet become slow with more, and beyond 20,000 they fail."""
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_item(path: Path) -> ItemDict:
    """Read an item from a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: no row of the table can be made of its content.
    """
    return parse_item(path.read_bytes(), str(path))


def parse_item(text: bytes, path: str) -> ItemDict:
    """Return the item in a JSON text that was read from ``path``.

    Raises:
        ValueError: no row of the table can be made of it.
    """
    try:
        item = json.loads(text.decode("utf-8"))
        if taken := {*_FIRST, *_LAST} & item["properties"].keys():
            raise ValueError(f"a property is called {min(taken)}")
        if (count := len(item["properties"])) > _MOST_PROPERTIES:
            raise ValueError(f"{count} properties, more than {_MOST_PROPERTIES}")
        # These fail where the table could not hold the item.
        _build_row(rebase_hrefs(item, "folder"), ITEM)
        json.dumps(item, ensure_ascii=False).encode("utf-8")
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"{path} is no STAC item: {type(error).__name__}: {error}") from error
    return item  # type: ignore[no-any-return]


def read_items(out: Path | ObjectFolder, scenes: Iterable[str]) -> dict[str, ItemDict]:
    """Return the items of scenes of a catalogue, in order. A damaged one is empty, so that it keeps no other out."""

    def read(scene: str) -> tuple[str, ItemDict | None]:
        try:
            if isinstance(out, Path):
                return scene, read_item(out / scene / ITEM)
            found = out.get(f"{scene}/{ITEM}")
            return scene, None if found is None else parse_item(found.data, scene)
        except FileNotFoundError:
            return scene, None
        except (OSError, ValueError):
            return scene, {}

    found = map(read, scenes) if isinstance(out, Path) else map_concurrently(read, scenes)
    return {scene: item for scene, item in sorted(found, key=itemgetter(0)) if item is not None}


def read_whole_items(out: Path | ObjectFolder, scenes: Iterable[str]) -> dict[str, ItemDict]:
    """Return the items of scenes of a catalogue that are whole, in order."""
    return {scene: item for scene, item in read_items(out, scenes).items() if item}


def rebase_hrefs(item: ItemDict, folder: str) -> ItemDict:
    """Return the item with its hrefs relative to the parent of ``folder``, which holds the item.

    Args:
        item: the item; its hrefs are relative to its folder.
        folder: a name, a path with slashes, or a URL. A path or URL that is absolute makes the hrefs absolute.

    Returns:
        A new item; absolute hrefs and URLs are unchanged.
    """
    scheme, _, place = folder.rpartition("://")

    def rebase(entry: ItemDict) -> ItemDict:
        old = entry["href"]
        if posixpath.isabs(old) or urlsplit(old).scheme:
            return entry
        new = posixpath.normpath(posixpath.join(place, old))
        if scheme:
            return {**entry, "href": f"{scheme}://{new}"}
        return {**entry, "href": new if posixpath.isabs(new) else f"./{new}"}

    assets = {key: rebase(asset) for key, asset in item["assets"].items()}
    return {**item, "links": [rebase(link) for link in item["links"]], "assets": assets}


def encode_table(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def build_item_table(items: Mapping[str, ItemDict]) -> pa.Table:
    """Return the table of ``items``, by the names of their folders, which lie beside the table.

    A column whose values are of several kinds holds each value as JSON text. So an item that differs from the others
    does not keep them from being published.
    """
    rows = [_build_row(rebase_hrefs(item, folder), f"./{folder}/{ITEM}") for folder, item in items.items()]
    names = (*_FIRST, *_choose_columns(rows), *_LAST)
    built = {name: _build_column(name, [row.get(name) for row in rows]) for name in names}
    table = pa.table({name: column for name, (column, _) in built.items()})
    return _describe_table(table, [name for name, (_, is_text) in built.items() if is_text])


def replace_rows(table: pa.Table, kept: Container[str], items: Mapping[str, ItemDict]) -> pa.Table | None:
    """Return a table with the rows of some items replaced, which takes little for each row that stays.

    Args:
        table: a table of items.
        kept: names of the folders of the items whose rows are kept; others are left out.
        items: items whose rows are taken in, by the names of their folders; their old rows are left out.

    Returns:
        The table that ``build_item_table`` would return for all items, its rows by the names of their folders. None
        where values would have to be written in another way than they are; then build it from the items.
    """
    folders = list_folders(table)
    if _has_text_columns(table) or not set(_FIRST) <= set(table.column_names):  # the latter of an earlier version
        return None
    rows = [row for row, folder in enumerate(folders) if folder in kept and folder not in items]
    merged, order = table.take(pa.array(rows, pa.int64())), [folders[row] for row in rows]
    if items:
        added = build_item_table(items)
        if _has_text_columns(added):
            return None
        try:
            merged = pa.concat_tables([merged, added], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column would hold values of several kinds
            return None
        order += items
    properties = sorted(
        name
        for name, column in zip(merged.column_names, merged.columns, strict=True)
        if name not in {*_FIRST, *_LAST} and (name in _ALWAYS or column.null_count < len(column))
    )
    if len(properties) > _MOST_COLUMNS:
        return None
    merged = merged.select([*_FIRST, *properties, *_LAST]).take(
        pa.array(sorted(range(len(order)), key=order.__getitem__), pa.int64())
    )
    return _describe_table(merged.combine_chunks(), [])


def list_folders(table: pa.Table) -> list[str]:
    """Return the names of the folders of a table's items, row by row."""
    return [posixpath.basename(posixpath.dirname(_get_self_link(row))) for row in table.select(["links"]).to_pylist()]


def _describe_table(table: pa.Table, text_columns: Sequence[str]) -> pa.Table:
    """Return a table with the metadata of its content. ``text_columns``: names of columns that hold JSON text."""
    boxes = (box for box in table["bbox"].to_pylist() if box)
    wraps = any(box["xmin"] > box["xmax"] for box in boxes)
    return table.replace_schema_metadata({**_build_metadata(wraps), _TEXT_COLUMNS: json.dumps(text_columns)})


def list_text_columns(table: pa.Table) -> list[str]:
    """Return the names of the columns that hold their values as JSON text."""
    return list(json.loads((table.schema.metadata or {}).get(_TEXT_COLUMNS.encode(), b"[]")))


def _has_text_columns(table: pa.Table) -> bool:
    """Return whether a column holds JSON text in place of values, or nothing says that none does (older tables)."""
    return (table.schema.metadata or {}).get(_TEXT_COLUMNS.encode()) != b"[]"


def _choose_columns(rows: Sequence[ItemDict]) -> list[str]:
    """Return the properties that become columns, in order: where there are too many, those of most items."""
    counts = Counter(name for row in rows for name in row if name not in {*_FIRST, *_LAST, *_ALWAYS})
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if len(names) > _MOST_COLUMNS:
        log.warning(
            "%s has no columns for %d of %d properties, the rarest", ITEMS, len(names) - _MOST_COLUMNS, len(names)
        )
    return sorted([*_ALWAYS, *names[:_MOST_COLUMNS]])


def read_item_table(path: Path) -> dict[str, ItemDict]:
    """Read the rows of a table by the names of the items' folders.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is damaged.
    """
    return index_rows(read_table(path))


def round_trip_items(items: Mapping[str, ItemDict]) -> dict[str, ItemDict]:
    """Return the rows that ``read_item_table`` would read from a table of these items."""
    return index_rows(build_item_table(items)) if items else {}


def read_run_checksums(path: Path | BytesIO) -> dict[str, str | None]:
    """Read the checksums of the runs' records as the table has them, by the names of the items' folders.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is damaged.
        LookupError, TypeError: it has no such column.
    """
    table = read_table(path, ["links", "assets.run.file:checksum"])
    assets = table["assets"].to_pylist()
    return {
        folder: entry and entry["run"] and entry["run"]["file:checksum"]
        for folder, entry in zip(list_folders(table), assets, strict=True)
    }


def is_readable(path: Path) -> bool:
    """Return whether a table of items is whole, as far as its end, which names its columns, tells."""
    try:
        return {"links", "assets"} <= set(pq.read_schema(path).names)
    except (OSError, ValueError, pa.ArrowException):
        return False


def read_table(path: Path | BinaryIO, columns: list[str] | None = None) -> pa.Table:
    """Read the table of items, or some of its columns.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table would lift a nested field out of its column
            table = file.read(columns)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    if not {"links", "assets"} <= set(table.column_names):
        raise ValueError(f"{ITEMS} is no table of items")
    return table


def index_rows(table: pa.Table) -> dict[str, ItemDict]:
    """Return the rows of a table, without nulls, by the names of the items' folders."""
    rows = [_drop_nulls(row) for row in table.to_pylist()]
    return {posixpath.basename(posixpath.dirname(_get_self_link(row))): row for row in rows}


def _drop_nulls(value: Any) -> Any:
    """Return a value without nulls, which only say that other items have such a field."""
    if isinstance(value, dict):
        return {name: _drop_nulls(part) for name, part in value.items() if part is not None}
    return [_drop_nulls(part) for part in value] if isinstance(value, list) else value


def _get_self_link(row: ItemDict) -> str:
    return next((str(link["href"]) for link in row["links"] if link["rel"] == _SELF), "")


def _build_row(item: ItemDict, href: str) -> ItemDict:
    """Return a row: the item's fields and properties side by side, geometry as WKB, the box by its sides."""
    geometry, box = item["geometry"], item.get("bbox")
    link = {"rel": _SELF, "href": href, "type": pystac.MediaType.GEOJSON}
    return {
        **{name: item.get(name) for name in _FIRST},
        "geometry": None if geometry is None else shapely.to_wkb(shapely.geometry.shape(geometry)),
        "bbox": None if box is None else _split_box(box),
        **{name: _parse_time(value) if name in _TIMES else value for name, value in item["properties"].items()},
        "links": [*map(_stringify_link, item["links"]), link],
        "assets": item["assets"],
    }


def _split_box(box: Sequence[float]) -> dict[str, float]:
    """Return the sides of a box in two or three dimensions, without the heights.

    Raises:
        ValueError: it has another number of sides.
    """
    flat = box if len(box) == 4 else [*box[:2], *box[3:5]] if len(box) == 6 else ()
    return {side: float(value) for side, value in zip(_SIDES, flat, strict=True)}


def _stringify_link(link: ItemDict) -> ItemDict:
    """Return a link whose fields are all text: a single other one would turn the whole column of links to text.

    Raises:
        KeyError: it is no link.
    """
    link["rel"], link["href"]
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in link.items()}


def _parse_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _build_column(name: str, values: Sequence[Any]) -> tuple[pa.Array, bool]:
    """Return a column, and whether it holds JSON text in place of values of several kinds."""
    if name in _TIMES:
        return pa.array(values, pa.timestamp("us", tz="UTC")), False
    if name == UNKNOWN_TIME and not any(values):
        return pa.array(values, pa.bool_()), False
    if name == "geometry":
        return pa.array(values, pa.binary()), False
    filled = [_replace_empty_objects(value) for value in values]
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        column = pa.array(filled)
        truths = [_count_truths(value) for value in filled]
        # Where a float comes first, Arrow takes true and false for numbers.
        if all(not count or count == _count_truths(column[row].as_py()) for row, count in enumerate(truths)):
            return column, False
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string()), True


def _count_truths(value: Any) -> int:
    """Return how often true or false occurs in a value, at any depth."""
    if isinstance(value, dict | list):
        return sum(map(_count_truths, value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, bool))


def _replace_empty_objects(value: Any) -> Any:
    """Return a value with null for every object without fields, since Parquet has no such objects."""
    if isinstance(value, dict):
        return {name: _replace_empty_objects(part) for name, part in value.items()} or None
    return [_replace_empty_objects(part) for part in value] if isinstance(value, list) else value


def _build_metadata(wraps: bool) -> dict[str, str]:
    """Return the metadata of GeoParquet 1.1 and stac-geoparquet 1.0.

    Readers compare the numbers of the boxes of rows, so that they would miss a box that ``wraps`` around the
    antimeridian (west > east). Then the metadata does not name the boxes, and readers look at the geometries.
    """
    sides = {side: ["bbox", side] for side in _SIDES}
    column = {"encoding": "WKB", "geometry_types": [], **({} if wraps else {"covering": {"bbox": sides}})}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {"geo": json.dumps(geo), "stac-geoparquet": json.dumps({"version": "1.0.0"})}
