"""All items of a catalogue as one table, ``items.parquet``: stac-geoparquet, for DuckDB, geopandas and GDAL.

A column is a field of the item or one of its properties; what an item does not have is null. Hrefs are relative to the
table's folder, and each item has a ``self`` link.
"""

from __future__ import annotations

import json
import posixpath
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

UNKNOWN_TIME = "seamline:datetime_unknown"
"""Property of items whose time is that of their run; the table always has this column, so that SQL may name it."""

ItemDict = dict[str, Any]

_FIRST, _LAST = ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox"), ("links", "assets")
_TIMES = ("created", "datetime", "updated")
_SELF = "self"


def read_item(path: Path) -> ItemDict:
    """The item in a file. Raises ``OSError``, and ``ValueError`` if no row of the table can be made of it."""
    return parse_item(path.read_bytes(), str(path))


def parse_item(text: bytes, path: str) -> ItemDict:
    """The item that was read from ``path``. Raises ``ValueError`` if no row of the table can be made of it."""
    try:
        item = json.loads(text.decode("utf-8"))
        if taken := {*_FIRST, *_LAST} & item["properties"].keys():
            raise ValueError(f"a property is called {min(taken)}")
        _build_row(rebase_hrefs(item, "folder"), ITEM)
        json.dumps(item, ensure_ascii=False).encode("utf-8")
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"{path} is no STAC item: {type(error).__name__}: {error}") from error
    return item  # type: ignore[no-any-return]


def write_item_table(items: Mapping[str, ItemDict], path: Path) -> None:
    """Write the table of ``items`` (by folder) in one step; without items there is none."""
    if not items:
        path.unlink(missing_ok=True)
        return
    table = encode_item_table(items)
    with atomic_write(path, shared=True) as part:
        part.write_bytes(table)


def encode_item_table(items: Mapping[str, ItemDict]) -> bytes:
    """The table of ``items`` (by folder, at least one) as a Parquet file.

    Of a column whose values are of several kinds each value stands there as JSON: an item that is unlike all others
    keeps none from being published.
    """
    packed = BytesIO()
    pq.write_table(build_item_table(items), packed, compression="zstd")
    return packed.getvalue()


def read_item_table(path: Path) -> dict[str, ItemDict]:
    """The rows of a table that was written, by folder. Raises ``OSError`` or ``ValueError`` if it is damaged."""
    return _index_by_folder(_read_table(path))


def round_trip_items(items: Mapping[str, ItemDict]) -> dict[str, ItemDict]:
    """What ``read_item_table`` yields of a table of these items."""
    return _index_by_folder(build_item_table(items)) if items else {}


def _index_by_folder(table: pa.Table) -> dict[str, ItemDict]:
    rows = [_drop_nulls(row) for row in table.to_pylist()]
    return {posixpath.basename(posixpath.dirname(_get_self_link(row))): row for row in rows}


def _drop_nulls(value: Any) -> Any:
    """Without nulls: what is null only says that another item has such a field."""
    if isinstance(value, dict):
        return {name: _drop_nulls(part) for name, part in value.items() if part is not None}
    return [_drop_nulls(part) for part in value] if isinstance(value, list) else value


def _read_table(path: Path | BytesIO, columns: list[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:  # read_table would take a part of a column out of it
            table = file.read(columns)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    if not {"links", "assets"} <= set(table.column_names):
        raise ValueError(f"{ITEMS} is no table of items")
    return table


def read_run_checksum(path: Path | BytesIO, folder: str) -> str | None:
    """The checksum of the run's record, as the table has it for the item in ``folder``; None if it has none.

    Raises ``OSError`` or ``ValueError`` if the table is not there or damaged.
    """
    rows = _read_table(path, ["links", "assets.run.file:checksum"]).to_pylist()
    own = f"./{folder}/{ITEM}"
    return next((row["assets"]["run"]["file:checksum"] for row in rows if _get_self_link(row) == own), None)


def _get_self_link(row: ItemDict) -> str:
    return next((str(link["href"]) for link in row["links"] if link["rel"] == _SELF), "")


def build_item_table(items: Mapping[str, ItemDict]) -> pa.Table:
    """The table of ``items``, which lie in folders of these names below the table's."""
    rows = [_build_row(rebase_hrefs(item, folder), f"./{folder}/{ITEM}") for folder, item in items.items()]
    properties = {UNKNOWN_TIME}.union(*rows) - {*_FIRST, *_LAST}
    names = (*_FIRST, *sorted(properties), *_LAST)
    columns = {name: _build_column(name, [row.get(name) for row in rows]) for name in names}
    wraps = any(row["bbox"] and row["bbox"]["xmin"] > row["bbox"]["xmax"] for row in rows)
    return pa.table(columns).replace_schema_metadata(_build_metadata(wraps))


def rebase_hrefs(item: ItemDict, folder: str) -> ItemDict:
    """The same item, its relative hrefs from where its ``folder`` (a name, a path with slashes, or a URL) lies."""
    scheme, _, place = folder.rpartition("://")

    def href(entry: ItemDict) -> ItemDict:
        old = entry["href"]
        if posixpath.isabs(old) or urlsplit(old).scheme:
            return entry
        new = posixpath.normpath(posixpath.join(place, old))
        if scheme:
            return {**entry, "href": f"{scheme}://{new}"}
        return {**entry, "href": new if posixpath.isabs(new) else f"./{new}"}

    assets = {key: href(asset) for key, asset in item["assets"].items()}
    return {**item, "links": [href(link) for link in item["links"]], "assets": assets}


def _build_row(item: ItemDict, href: str) -> ItemDict:
    """Properties beside the item's own fields, geometry as WKB, the box by its sides."""
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
    """Of a box in two or three dimensions."""
    flat = box if len(box) == 4 else [*box[:2], *box[3:5]] if len(box) == 6 else ()
    return {side: float(value) for side, value in zip(("xmin", "ymin", "xmax", "ymax"), flat, strict=True)}


def _stringify_link(link: ItemDict) -> ItemDict:
    """A link whose fields are all texts, since one that is unlike all others would make texts of all links."""
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
    """Null for an object without fields: Parquet has none such."""
    if isinstance(value, dict):
        return {name: _replace_empty_objects(part) for name, part in value.items()} or None
    return [_replace_empty_objects(part) for part in value] if isinstance(value, list) else value


def _build_metadata(wraps: bool) -> dict[str, str]:
    """Of GeoParquet 1.1 and stac-geoparquet 1.0.

    Readers that look for the boxes of rows compare numbers: where a box ``wraps`` around the antimeridian (west > east)
    they would miss it, so that they are not told of the boxes then and look at the geometries.
    """
    sides = {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    column = {"encoding": "WKB", "geometry_types": [], **({} if wraps else {"covering": {"bbox": sides}})}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {"geo": json.dumps(geo), "stac-geoparquet": json.dumps({"version": "1.0.0"})}
