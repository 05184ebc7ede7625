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
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import shapely
import shapely.errors
import shapely.geometry

from seamline.pipeline.common.layout import ITEM, ITEMS
from seamline.pipeline.storage.atomic import atomic_write

log = logging.getLogger("seamline.catalog")

UNKNOWN_TIME = "seamline:datetime_unknown"
"""Property of items whose time is that of their run. The table always has this column, so that SQL may name it."""

ItemDict = dict[str, Any]
"""A STAC item as JSON has it, or a row of the table."""

_FIRST = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox")
_LAST = ("links", "assets")
"""Fields of an item that stand before and after the columns of its properties."""
_TIMES = ("created", "datetime", "updated")
_SELF = "self"
_MOST_PROPERTIES = 1000
"""Properties of an item. A run writes two for each of at most 255 classes, and twenty."""
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


def write_item_table(items: Mapping[str, ItemDict], path: Path) -> None:
    """Write the table of ``items``, by the names of their folders, in one step; without items remove it."""
    if not items:
        path.unlink(missing_ok=True)
        return
    table = encode_item_table(items)
    with atomic_write(path, shared=True) as part:
        part.write_bytes(table)


def encode_item_table(items: Mapping[str, ItemDict]) -> bytes:
    """Return the table of ``items``, by the names of their folders (at least one), as a Parquet file."""
    buffer = BytesIO()
    pq.write_table(_build_item_table(items), buffer, compression="zstd")
    return buffer.getvalue()


def _build_item_table(items: Mapping[str, ItemDict]) -> pa.Table:
    """Return the table of ``items``, by the names of their folders, which lie beside the table.

    A column whose values are of several kinds holds each value as JSON text. So an item that differs from the others
    does not keep them from being published.
    """
    rows = [_build_row(rebase_hrefs(item, folder), f"./{folder}/{ITEM}") for folder, item in items.items()]
    names = (*_FIRST, *_choose_columns(rows), *_LAST)
    columns = {name: _build_column(name, [row.get(name) for row in rows]) for name in names}
    wraps = any(row["bbox"] and row["bbox"]["xmin"] > row["bbox"]["xmax"] for row in rows)
    return pa.table(columns).replace_schema_metadata(_build_metadata(wraps))


def _choose_columns(rows: Sequence[ItemDict]) -> list[str]:
    """Return the properties that become columns, in order: where there are too many, those of most items."""
    counts = Counter(name for row in rows for name in row if name not in {*_FIRST, *_LAST, UNKNOWN_TIME})
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if len(names) > _MOST_COLUMNS:
        log.warning(
            "%s has no columns for %d of %d properties, the rarest", ITEMS, len(names) - _MOST_COLUMNS, len(names)
        )
    return sorted([UNKNOWN_TIME, *names[:_MOST_COLUMNS]])


def read_item_table(path: Path) -> dict[str, ItemDict]:
    """Read the rows of a table by the names of the items' folders.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is damaged.
    """
    return _index_by_folder(_read_table(path))


def round_trip_items(items: Mapping[str, ItemDict]) -> dict[str, ItemDict]:
    """Return the rows that ``read_item_table`` would read from a table of these items."""
    return _index_by_folder(_build_item_table(items)) if items else {}


def read_run_checksum(path: Path | BytesIO, folder: str) -> str | None:
    """Read the checksum of a run's record as the table has it for the item in ``folder``; None if it has none.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is damaged.
    """
    rows = _read_table(path, ["links", "assets.run.file:checksum"]).to_pylist()
    href = f"./{folder}/{ITEM}"
    return next((row["assets"]["run"]["file:checksum"] for row in rows if _get_self_link(row) == href), None)


def _read_table(path: Path | BytesIO, columns: list[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:  # read_table would lift a nested field out of its column
            table = file.read(columns)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    if not {"links", "assets"} <= set(table.column_names):
        raise ValueError(f"{ITEMS} is no table of items")
    return table


def _index_by_folder(table: pa.Table) -> dict[str, ItemDict]:
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


def _build_column(name: str, values: Sequence[Any]) -> pa.Array:
    if name in _TIMES:
        return pa.array(values, pa.timestamp("us", tz="UTC"))
    if name == UNKNOWN_TIME and not any(values):
        return pa.array(values, pa.bool_())
    if name == "geometry":
        return pa.array(values, pa.binary())
    try:
        return pa.array([_replace_empty_objects(value) for value in values])
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


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
