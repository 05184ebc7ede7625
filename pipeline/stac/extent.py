"""Where and when: a box and an interval of time, as the command line and URLs give them, and as SQL conditions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite

import shapely

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan, parse_period


@dataclass(frozen=True)
class Box:
    """A box in degrees of longitude and latitude (WGS 84); west > east across the antimeridian.

    Attributes:
        west: from -180 to 180.
        south: from -90 to 90.
        east: from -180 to 180.
        north: from -90 to 90, not below ``south``.
    """

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        sides = (self.west, self.south, self.east, self.north)
        is_on_earth = abs(self.west) <= 180 and abs(self.east) <= 180 and -90 <= self.south <= self.north <= 90
        if not (all(map(isfinite, sides)) and is_on_earth):
            raise _invalid_box_error(",".join(f"{side:g}" for side in sides))

    @classmethod
    def from_text(cls, text: str) -> Box:
        """Return the box of a text ``W,S,E,N``.

        Raises:
            InputError: it is no such text.
        """
        try:
            west, south, east, north = (float(side) for side in text.split(","))
        except ValueError:
            raise _invalid_box_error(text) from None
        return cls(west, south, east, north)

    @property
    def outline(self) -> shapely.Polygon | shapely.MultiPolygon:
        """The box as polygons: like a footprint, one part on each side of the antimeridian."""
        if self.west <= self.east:
            return shapely.box(self.west, self.south, self.east, self.north)
        return shapely.MultiPolygon(
            [shapely.box(self.west, self.south, 180, self.north), shapely.box(-180, self.south, self.east, self.north)]
        )

    @property
    def sql_condition(self) -> str:
        """Condition that the ``bbox`` of a row meets the box; both may lie across the antimeridian."""
        across = f"bbox.xmin <= {self.east!r} {{}} bbox.xmax >= {self.west!r}"
        both, one = across.format("AND"), across.format("OR")
        plain, wrapped = (both, one) if self.west <= self.east else (one, "true")
        meets = f"CASE WHEN bbox.xmin <= bbox.xmax THEN {plain} ELSE {wrapped} END"
        return f"{meets} AND bbox.ymin <= {self.north!r} AND bbox.ymax >= {self.south!r}"


@dataclass(frozen=True)
class Interval:
    """An interval of time, both ends with a time zone.

    Attributes:
        start: its first moment. ``None``: open.
        end: the first moment after it. ``None``: open.
    """

    start: datetime | None
    end: datetime | None

    @classmethod
    def from_text(cls, text: str) -> Interval:
        """Return the interval of a text ``FROM/TO`` or of one time.

        Each is a year, a month or a day (all of it), an RFC 3339 time, or ``..`` for an open end.

        Raises:
            InputError: it is no such text, or the interval ends before it starts.
        """
        first, slash, last = text.partition("/")
        try:
            start, end = (
                None if part in ("", "..") else parse_period(part) for part in (first, last if slash else first)
            )
            interval = cls(start and start[0], end and end[1])
        except ValueError:
            interval = None
        if interval is None or (interval.start and interval.end and interval.start >= interval.end):
            raise InputError(
                "--datetime",
                got=text,
                expected="FROM/TO, each a year, month, day, RFC 3339 time or .., the first before the last",
                fix="correct it",
            )
        return interval

    def includes(self, span: TimeSpan) -> bool:
        """Return whether any moment of a time span lies in the interval, as ``sql_condition`` says."""
        slack = timedelta(days=1, microseconds=-1) if span.is_day else timedelta()
        return (self.start is None or self.start - span.end <= slack) and (self.end is None or span.start < self.end)

    @property
    def sql_condition(self) -> str:
        """Condition that any moment of the time of a row lies in the interval.

        Midnight sharp in ``datetime`` stands for a day whose time is unknown.
        """
        conditions = []
        if self.start:
            day = "end_datetime IS NULL AND datetime = date_trunc('day', datetime) AND datetime + INTERVAL 1 DAY"
            start = self.start.isoformat()
            conditions.append(f"(coalesce(end_datetime, datetime) >= '{start}' OR {day} > '{start}')")
        if self.end:
            conditions.append(f"coalesce(start_datetime, datetime) < '{self.end.isoformat()}'")
        return " AND ".join(conditions) or "true"


def _invalid_box_error(got: str) -> InputError:
    sides = "W,S,E,N in degrees: W and E from -180 to 180, S and N from -90 to 90, S below N"
    return InputError("--bbox", got=got, expected=sides, fix="correct it")
