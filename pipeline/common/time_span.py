"""When a scene was taken: a moment, or the time between two moments; and how times are written and read as text."""

from __future__ import annotations

import re
from calendar import isleap, monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

FORMS = "a date, an RFC 3339 time, or START/END of them, of which END is not before START"
"""What ``TimeSpan.from_text`` takes, for messages."""
_CALENDAR_END = datetime.max.replace(tzinfo=UTC)
"""Stands for the first moment after the year 9999, which Python's times do not have."""


@dataclass(frozen=True)
class TimeSpan:
    """A moment, or the time from a first to a last moment. A moment at midnight stands for a day of unknown time.

    Attributes:
        start: the first moment, with a time zone.
        end: the last moment, with a time zone; the first one again for a moment.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"{self.start} to {self.end} has no time zone")
        if self.end < self.start:
            raise ValueError(f"{self.end} lies before {self.start}")

    @classmethod
    def at(cls, moment: datetime) -> TimeSpan:
        """Return the time span of one moment."""
        return cls(moment, moment)

    @classmethod
    def from_text(cls, text: str) -> TimeSpan:
        """Return the time in a text: a day or an RFC 3339 time; or from the first to the last moment of ``START/END``.

        Each may be a whole year or month as well, 2024-06. A time without a zone is in UTC.

        Raises:
            ValueError: it is no such text, or the end lies before the start.
        """
        first, slash, last = text.partition("/")
        start, after_first = parse_period(first)
        _, after = parse_period(last) if slash else (start, after_first)
        if not slash and len(text) >= len("2024-06-01"):
            return cls.at(start)
        end = after - timedelta(microseconds=1)
        return cls(start, end if ":" in (last if slash else first) else end.replace(microsecond=0))

    @property
    def is_moment(self) -> bool:
        """Whether it is one moment, or a day."""
        return self.start == self.end

    @property
    def is_day(self) -> bool:
        """Whether it is a day whose time is unknown."""
        return self.is_moment and self.start.astimezone(UTC).time() == time()

    def to_iso(self) -> str:
        """Return it in the form of ISO 8601; two times with a slash unless it is a moment."""
        return self.start.isoformat() if self.is_moment else f"{self.start.isoformat()}/{self.end.isoformat()}"

    def __str__(self) -> str:
        """Return it as text for people, in UTC."""
        first, last = (moment.astimezone(UTC) for moment in (self.start, self.end))
        days = first.time() == time() and (self.is_moment or last.time().replace(microsecond=0) == time(23, 59, 59))
        texts = [moment.strftime("%Y-%m-%d" if days else "%Y-%m-%d %H:%M UTC") for moment in (first, last)]
        return " to ".join(dict.fromkeys(texts))


def parse_period(text: str) -> tuple[datetime, datetime]:
    """Return the first moment of a year, month, day or RFC 3339 time, and the first moment after it.

    Raises:
        ValueError: it is none of these.
    """
    if match := re.fullmatch(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?", text):
        year, month, day = (int(part) if part else None for part in match.groups())
        start = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
        length = timedelta(days=1 if day else monthrange(start.year, start.month)[1] if month else 366)
        length -= timedelta(days=0 if month or isleap(start.year) else 1)
        return start, _add(start, length)
    if text[10:11] not in ("T", "t", " "):  # Python accepts any character between date and time
        raise ValueError(text)
    moment = to_utc(datetime.fromisoformat(text))
    return moment, _add(moment, timedelta(microseconds=1))


def _add(moment: datetime, length: timedelta) -> datetime:
    """Return the moment after a length of time, at the latest the end of the calendar."""
    return moment + min(length, _CALENDAR_END - moment)


def to_utc(moment: datetime) -> datetime:
    """Return a time in UTC; a time without a zone is taken as UTC.

    Raises:
        ValueError: In UTC it lies before the year 1 or after 9999.
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{moment} is no time in UTC") from error
