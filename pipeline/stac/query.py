"""Which scenes of a catalogue are where, when and what: a box, a time and an SQL expression over ``items.parquet``."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from tempfile import NamedTemporaryFile

import shapely
import shapely.geometry

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.layout import ITEM, ITEMS
from seamline.pipeline.stac.items import UNKNOWN_TIME, ItemDict, parse_item, read_item, rebase_hrefs
from seamline.pipeline.storage.object_store import ObjectFolder

log = logging.getLogger("seamline.query")

_TIME_LIMIT_S = 10
"""What computes longer is ended."""
_WORKER_PROGRAM = Path(__file__).with_name("query_worker.py")


@dataclass(frozen=True)
class Box:
    """Degrees of longitude and latitude (WGS 84); west > east across the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        sides = (self.west, self.south, self.east, self.north)
        fits = abs(self.west) <= 180 and abs(self.east) <= 180 and -90 <= self.south <= self.north <= 90
        if not (all(map(isfinite, sides)) and fits):
            raise _invalid_box_error(",".join(f"{side:g}" for side in sides))

    @classmethod
    def from_text(cls, text: str) -> Box:
        """``W,S,E,N``."""
        try:
            west, south, east, north = (float(side) for side in text.split(","))
        except ValueError:
            raise _invalid_box_error(text) from None
        return cls(west, south, east, north)

    @property
    def outline(self) -> shapely.Polygon | shapely.MultiPolygon:
        """A part on each side of the antimeridian, like a footprint's."""
        if self.west <= self.east:
            return shapely.box(self.west, self.south, self.east, self.north)
        return shapely.MultiPolygon(
            [shapely.box(self.west, self.south, 180, self.north), shapely.box(-180, self.south, self.east, self.north)]
        )

    @property
    def sql_condition(self) -> str:
        """Whether a row's ``bbox`` meets it; either of them may lie across the antimeridian."""
        across = f"bbox.xmin <= {self.east!r} {{}} bbox.xmax >= {self.west!r}"
        both, one = across.format("AND"), across.format("OR")
        plain, wrapped = (both, one) if self.west <= self.east else (one, "true")
        lies = f"CASE WHEN bbox.xmin <= bbox.xmax THEN {plain} ELSE {wrapped} END"
        return f"{lies} AND bbox.ymin <= {self.north!r} AND bbox.ymax >= {self.south!r}"


@dataclass(frozen=True)
class Interval:
    """A time from ``start`` on and before ``end`` (both with a time zone); None: open."""

    start: datetime | None
    end: datetime | None

    @classmethod
    def from_text(cls, text: str) -> Interval:
        """``FROM/TO`` or one time: a year, month, day (all of it) or an RFC 3339 time; ``..`` is an open end."""
        first, slash, last = text.partition("/")
        try:
            start, end = _parse_span(first), _parse_span(last if slash else first)
            found = cls(start and start[0], end and end[1])
        except (ValueError, OverflowError):
            found = None
        if found is None or (found.start and found.end and found.start >= found.end):
            raise InputError(
                "--datetime",
                got=text,
                expected="FROM/TO, each a year, month, day, RFC 3339 time or .., the first before the last",
                fix="correct it",
            )
        return found

    @property
    def sql_condition(self) -> str:
        """Whether a row's ``datetime`` lies in it; midnight sharp is a day without a time, and lies in all of it."""
        day = "datetime = date_trunc('day', datetime) AND datetime + INTERVAL 1 DAY"
        start = self.start and self.start.isoformat()
        after = [f"(datetime >= '{start}' OR {day} > '{start}')"] if start else []
        before = [f"datetime < '{self.end.isoformat()}'"] if self.end else []
        return " AND ".join([*after, *before]) or "true"


def _parse_span(text: str) -> tuple[datetime, datetime] | None:
    """The first moment of a time and the first after it."""
    if text in ("", ".."):
        return None
    if match := re.fullmatch(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", text):
        year, month, day = (int(part) if part else None for part in match.groups())
        start = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
        if day:
            return start, start + timedelta(days=1)
        end = datetime(start.year + 1, 1, 1, tzinfo=UTC)
        return start, datetime(start.year, month + 1, 1, tzinfo=UTC) if month and month < 12 else end
    if text[10:11] not in ("T", "t", " "):  # Python would take any character
        raise ValueError(text)
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment, moment + timedelta(microseconds=1)


def query_items(
    out: Path | ObjectFolder, box: Box | None = None, where: str = "", interval: Interval | None = None
) -> list[ItemDict]:
    """The items of the catalogue ``out`` that meet ``box``, lie in ``interval`` and fulfil ``where``, by id.

    ``where`` is an SQL expression over the columns of ``items.parquet``, computed by DuckDB: ``water_share > 0.05``. It
    can neither read nor write anything else, nor compute longer than ten seconds. A box meets the outline of a scene; a
    scene without one, or whose time is unknown, is in no box or interval. Hrefs of the items are absolute paths, or
    URLs. An item that is damaged is left out, and a warning names it.

    Raises:
        InputError: there is no such table, or it is damaged, or ``where`` is no such expression.
    """
    conditions = [condition.sql_condition for condition in (box, interval) if condition is not None]
    unless = [UNKNOWN_TIME] if interval is not None else []
    with _open_table(out) as table:
        found = _run_query_worker(out, table, conditions, unless, where)
    items = [item for href in found if (item := _load_item(out, href)) is not None]
    if box is None:
        return items
    outline = box.outline
    return [item for item in items if shapely.intersects(shapely.geometry.shape(item["geometry"]), outline)]


@contextmanager
def _open_table(out: Path | ObjectFolder) -> Iterator[Path]:
    """The table of items as a file."""
    if isinstance(out, Path):
        if not (out / ITEMS).is_file():
            raise _missing_table_error(out)
        yield out / ITEMS
        return
    found = out.get(ITEMS)
    if found is None:
        raise _missing_table_error(out)
    with NamedTemporaryFile(suffix=".parquet") as file:
        file.write(found.data)
        file.flush()
        yield Path(file.name)


def _missing_table_error(out: Path | ObjectFolder) -> InputError:
    there = not isinstance(out, Path) or out.exists()
    return InputError(
        f"results {out}", got=f"no {ITEMS}" if there else "no such folder",
        expected="a folder that `seamline segment` wrote to",
        fix="check the path" + ("; older results get it when the same command is given again" if there else ""),
    )  # fmt: skip


def _run_query_worker(
    out: Path | ObjectFolder, path: Path, conditions: list[str], unless: list[str], where: str
) -> list[str]:
    """The links of the rows in the table at ``path``, as ``selection.select_links``, in a process that may be ended and
    whose memory is limited.
    """
    if where != (plain := where.encode(errors="backslashreplace").decode()):
        raise _invalid_expression_error(plain, "half of a surrogate pair")  # which DuckDB does not take
    question = json.dumps({"path": str(path), "conditions": conditions, "unless": unless, "where": where})
    program = [sys.executable, "-P", str(_WORKER_PROGRAM)]
    try:
        done = subprocess.run(
            program, input=question, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=True
        )
    except subprocess.TimeoutExpired:
        raise _invalid_expression_error(where, f"not done after {_TIME_LIMIT_S} s") from None
    except subprocess.CalledProcessError as error:
        ended = f"DuckDB ended by itself, as it does without memory: {error.stderr.strip()[-100:]}"
        raise (_invalid_expression_error(where, ended) if where else _damaged_table_error(out, ended)) from None
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise _invalid_expression_error(where, answer["refused"])
    if "damaged" in answer:
        raise _damaged_table_error(out, answer["damaged"])
    return list(answer["hrefs"])


def _load_item(out: Path | ObjectFolder, href: str) -> ItemDict | None:
    """The item that a row stands for, None if it is gone or damaged; its hrefs are absolute."""
    try:
        place, item = _read_item_object(out, href) if isinstance(out, ObjectFolder) else _read_item_file(out, href)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s/%s is left out: %s", out, href.removeprefix("./"), " ".join(str(error).split())[:200])
        return None
    item = rebase_hrefs(item, place)
    own = {"rel": "self", "href": f"{place}/{ITEM}", "type": "application/geo+json"}
    return {**item, "links": [*item["links"], own]}


def _read_item_file(out: Path, href: str) -> tuple[str, ItemDict]:
    path = (out / href).resolve()
    if path.name != ITEM or not path.is_relative_to(out.resolve()):
        raise _damaged_table_error(out, f"the link {href}")
    return str(path.parent), read_item(path)


def _read_item_object(out: ObjectFolder, href: str) -> tuple[str, ItemDict]:
    parts = re.fullmatch(rf"\./([A-Za-z0-9][A-Za-z0-9._-]*)/{ITEM}", href)
    if parts is None:
        raise _damaged_table_error(out, f"the link {href}")
    found = out.get(f"{parts[1]}/{ITEM}")
    if found is None:
        raise FileNotFoundError
    return out.to_url(parts[1]), parse_item(found.data, href)


def to_item_collection(items: list[ItemDict]) -> str:
    """Items as a STAC ItemCollection, which is a GeoJSON FeatureCollection."""
    return json.dumps({"type": "FeatureCollection", "features": items}, indent=2, ensure_ascii=False)


def _invalid_box_error(got: str) -> InputError:
    sides = "W,S,E,N in degrees: W and E from -180 to 180, S and N from -90 to 90, S below N"
    return InputError("--bbox", got=got, expected=sides, fix="correct it")


def _invalid_expression_error(where: str, reason: str) -> InputError:
    said = " ".join(re.split(r"LINE \d+:|Possible solutions:", reason)[0].split())
    return InputError(
        "--where", got=f"{where} ({said})", expected=f"an SQL expression over the columns of {ITEMS}",
        fix="correct it; for example water_share > 0.05",
    )  # fmt: skip


def _damaged_table_error(out: Path | ObjectFolder, reason: object) -> InputError:
    return InputError(f"results {out}", got=f"{ITEMS} with damage ({' '.join(str(reason).split())[:200]})",
                      expected="a table of the items", fix="see what `seamline verify` says of it")  # fmt: skip
