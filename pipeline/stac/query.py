"""Find scenes of a catalogue by a box, an interval of time and an SQL expression over ``items.parquet``."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile

import shapely
import shapely.geometry

from seamline.pipeline.common.classes import format_count
from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.extras import require_extras
from seamline.pipeline.common.layout import ITEM, ITEMS, find_mistaken_folder
from seamline.pipeline.stac.extent import Box, Interval
from seamline.pipeline.stac.items import (
    UNKNOWN_TIME,
    ItemDict,
    build_item_table,
    encode_table,
    list_folders,
    parse_item,
    read_item,
    read_table,
    read_whole_items,
    rebase_hrefs,
    replace_rows,
)
from seamline.pipeline.stac.waiting import list_notes, list_scenes
from seamline.pipeline.storage.object_store import ObjectFolder

log = logging.getLogger("seamline.query")

_TIME_LIMIT_S = 10
"""Seconds after which the program that computes an expression is ended."""
_WORKER_PROGRAM = Path(__file__).with_name("query_worker.py")


def query_items(
    out: Path | ObjectFolder, box: Box | None = None, where: str = "", interval: Interval | None = None
) -> list[ItemDict]:
    """Return the items of a catalogue that meet a box, lie in an interval and fulfil an expression, ordered by id.

    An item that is damaged is left out, and a warning names it. With an interval another one says how many scenes of
    unknown time are left out.

    Args:
        out: the catalogue's folder.
        box: the outline of the scene must meet it. Scenes without an outline do not.
        where: SQL expression over the columns of ``items.parquet``, computed by DuckDB: ``water_share > 0.05``. It can
            neither read nor write anything else, nor compute longer than ten seconds.
        interval: the scene must have been taken in it, or in a time that it meets. Unknown times do not.

    Returns:
        Items whose hrefs are absolute paths or URLs.

    Raises:
        InputError: there is no such table, or it is damaged, or ``where`` is no such expression, or DuckDB is missing.
    """
    require_extras("seamline query", "query")
    with open_item_table(out) as table:
        hrefs = select_links(out, table, box, interval, where)
    items = [item for href in hrefs if (item := _load_item(out, href)) is not None]
    if box is None:
        return items
    outline = box.outline
    return [item for item in items if shapely.intersects(shapely.geometry.shape(item["geometry"]), outline)]


def to_item_collection(items: list[ItemDict]) -> str:
    """Return items as a STAC ItemCollection, which is a GeoJSON FeatureCollection."""
    return json.dumps({"type": "FeatureCollection", "features": items}, indent=2, ensure_ascii=False)


@contextmanager
def open_item_table(out: Path | ObjectFolder, stale: Collection[str] = ()) -> Iterator[Path]:
    """Yield the path of the table of items, of a temporary copy for object storage or where scenes wait for rows.

    Args:
        out: the catalogue's folder.
        stale: scenes whose items are read as if they waited.

    Raises:
        InputError: there is no table, or it is damaged and scenes wait for rows.
    """
    scenes = list_scenes(list_notes(out)) | set(stale)
    if isinstance(out, Path):
        if not (out / ITEMS).is_file():
            raise _missing_table_error(out)
        if not scenes:
            yield out / ITEMS
            return
        content = (out / ITEMS).read_bytes()
    else:
        table = out.get(ITEMS)
        if table is None:
            raise _missing_table_error(out)
        content = table.data
    with NamedTemporaryFile(suffix=".parquet") as file:
        file.write(_add_waiting(out, content, scenes) if scenes else content)
        file.flush()
        yield Path(file.name)


def _add_waiting(out: Path | ObjectFolder, content: bytes, scenes: set[str]) -> bytes:
    """Return a table with the rows that scenes wait for, made of their items."""
    try:
        table = read_table(BytesIO(content))
    except ValueError as error:
        raise damaged_table_error(out, error) from None
    folders = set(list_folders(table))
    merged = replace_rows(table, folders - scenes, read_whole_items(out, scenes))
    if merged is None:  # the rows of others change, too
        merged = build_item_table(read_whole_items(out, folders | scenes))
    return encode_table(merged)


def select_links(
    out: Path | ObjectFolder, table: Path, box: Box | None, interval: Interval | None, where: str
) -> list[str]:
    """Select rows of a table as ``query_items`` does, in a process that can be ended and whose memory is limited.

    Args:
        out: the catalogue's folder.
        table: its table of items, as ``open_item_table`` yields it.
        box: the box of a row must meet it.
        interval: the time of a row must meet it.
        where: SQL expression over the columns, or an empty text.

    Returns:
        Links of the items relative to the catalogue's folder, ordered by id.

    Raises:
        InputError: ``where`` is no such expression, or the table is damaged.
    """
    # DuckDB does not take half of a surrogate pair.
    if where != (plain := where.encode(errors="backslashreplace").decode()):
        raise _invalid_expression_error(plain, "half of a surrogate pair")
    question = {
        "path": str(table),
        "place": "true" if box is None else box.sql_condition,
        "time": "" if interval is None else interval.sql_condition,
        "where": where,
    }
    program = [sys.executable, "-P", str(_WORKER_PROGRAM)]
    try:
        done = subprocess.run(
            program, input=json.dumps(question), capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=True
        )
    except subprocess.TimeoutExpired:
        raise _invalid_expression_error(where, f"not done after {_TIME_LIMIT_S} s") from None
    except subprocess.CalledProcessError as error:
        reason = f"DuckDB ended by itself, as it does without memory: {error.stderr.strip()[-100:]}"
        raise (_invalid_expression_error(where, reason) if where else damaged_table_error(out, reason)) from None
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise _invalid_expression_error(where, answer["refused"])
    if "damaged" in answer:
        raise damaged_table_error(out, answer["damaged"])
    if count := answer["undated"]:
        log.warning(
            "left out: %s of unknown time; --where '\"%s\"' finds them",
            format_count(count, "scene"),
            UNKNOWN_TIME,
        )
    return list(answer["hrefs"])


def _load_item(out: Path | ObjectFolder, href: str) -> ItemDict | None:
    """Return the item of a row, with absolute hrefs; None if it is gone or damaged."""
    try:
        folder, item = _read_item_object(out, href) if isinstance(out, ObjectFolder) else _read_item_file(out, href)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s/%s is left out: %s", out, href.removeprefix("./"), " ".join(str(error).split())[:200])
        return None
    item = rebase_hrefs(item, folder)
    self_link = {"rel": "self", "href": f"{folder}/{ITEM}", "type": "application/geo+json"}
    return {**item, "links": [*item["links"], self_link]}


def _read_item_file(out: Path, href: str) -> tuple[str, ItemDict]:
    """Return the path of a scene's folder and its item."""
    path = (out / href).resolve()
    if path.name != ITEM or not path.is_relative_to(out.resolve()):
        raise damaged_table_error(out, f"the link {href}")
    return str(path.parent), read_item(path)


def _read_item_object(out: ObjectFolder, href: str) -> tuple[str, ItemDict]:
    """Return the URL of a scene's folder and its item."""
    parts = re.fullmatch(rf"\./([A-Za-z0-9][A-Za-z0-9._-]*)/{ITEM}", href)
    if parts is None:
        raise damaged_table_error(out, f"the link {href}")
    item = out.get(f"{parts[1]}/{ITEM}")
    if item is None:
        raise FileNotFoundError
    return out.to_url(parts[1]), parse_item(item.data, href)


def _missing_table_error(out: Path | ObjectFolder) -> InputError:
    folder_exists = not isinstance(out, Path) or out.exists()
    return InputError(
        f"results {out}",
        got=f"no {ITEMS}" if folder_exists else "no such folder",
        expected="a folder that `seamline segment` wrote to",
        fix=(find_mistaken_folder(out) if isinstance(out, Path) else "check the address")
        + ("; older results get it when the same command is given again" if folder_exists else ""),
    )


def _invalid_expression_error(where: str, reason: str) -> InputError:
    summary = " ".join(re.split(r"LINE \d+:|Possible solutions:", reason)[0].split())
    return InputError(
        "--where",
        got=f"{where} ({summary})",
        expected=f"an SQL expression over the columns of {ITEMS}",
        fix="correct it; for example water_share > 0.05",
    )


def damaged_table_error(out: Path | ObjectFolder, reason: object) -> InputError:
    """Return the error of a table of items in which something is wrong."""
    return InputError(
        f"results {out}",
        got=f"{ITEMS} with damage ({' '.join(str(reason).split())[:200]})",
        expected="a table of the items",
        fix="see what `seamline verify` says of it",
    )
