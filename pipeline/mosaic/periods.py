"""Periods of a map: which of them a scene belongs to by the time at which it was taken."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.common.time_span import TimeSpan, parse_period

_ALL = "all"
_SEASONS = ("DJF", "MAM", "JJA", "SON")
"""Of three months each; the first begins in the December before its year."""
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_NAME = re.compile(rf"{_ALL}|[0-9]{{4}}(-[0-9]{{2}}|-({'|'.join(_SEASONS)}))?|{_DAY}_{_DAY}")


@dataclass(frozen=True)
class Period:
    """A period of a map.

    Attributes:
        name: its name: ``all``, ``2024``, ``2024-07``, ``2024-JJA`` or ``2024-05-01_2024-06-15``.
        start: its first moment, in UTC. ``None``: open, as only ``all`` is.
        end: the first moment after it.
    """

    name: str
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a period")
        if self.name == _ALL:
            if self.start or self.end:
                raise ValueError(f"period {_ALL} has no start and no end")
        elif not (self.start and self.end and self.start < self.end):
            raise ValueError(f"period {self.name}: {self.start} to {self.end}, expected a start before its end")

    @classmethod
    def from_name(cls, name: str) -> Period:
        """Return the period of a name.

        Raises:
            ValueError: no period is called so.
        """
        if name == _ALL:
            return ALL
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a period")
        first, joined, last = name.partition("_")
        if joined:
            return cls(name, parse_period(first)[0], parse_period(last)[1])
        if name[5:] in _SEASONS:
            return _make_season(int(name[:4]), _SEASONS.index(name[5:]))
        return cls(name, *_parse(name))

    def includes(self, moment: datetime) -> bool:
        """Return whether a moment lies in the period."""
        return self.start is None or self.end is None or self.start <= moment < self.end


ALL = Period(_ALL)
"""The period of all scenes, also of those of unknown time."""


@dataclass(frozen=True)
class PeriodRule:
    """The rule by which scenes are put into periods.

    Attributes:
        text: the rule as it was given: ``all``, ``year``, ``season``, ``month`` or ``FROM/TO``.
        period: the only period of the rule; None where scenes decide which ones there are.
    """

    text: str
    period: Period | None = None

    @classmethod
    def parse(cls, text: str) -> PeriodRule:
        """Return the rule of a text.

        ``FROM/TO`` are the first and the last year, month or day of the one period, both included.

        Raises:
            InputError: it is no such text, or the first lies after the last.
        """
        if text == _ALL:
            return cls(text, ALL)
        if text in ("year", "season", "month"):
            return cls(text)
        try:
            first, last = text.split("/")
            start, end = _parse(first)[0], _parse(last)[1]
            name = f"{_format_day(start)}_{_format_day(end - timedelta(days=1))}"
            return cls(text, Period(name, start, end))
        except ValueError:
            raise InputError(
                "--period",
                got=text,
                expected="all, year, season, month, or FROM/TO, each a year, month or day, the first before the last",
                fix="correct it; for example 2024-05-01/2024-06-15",
            ) from None

    def assign(self, span: TimeSpan | None) -> Period | None:
        """Return the period of a scene, which the middle of its time decides.

        Args:
            span: when the scene was taken. ``None``: unknown.

        Returns:
            The period. None if the scene is of none: its middle lies outside of ``FROM/TO``; or its time is unknown, or
            in the first or last year of the calendar, and the rule is another one than ``all``.
        """
        if self.period == ALL:
            return ALL
        if span is None:
            return None
        middle = (span.start + (span.end - span.start) / 2).astimezone(UTC)
        if self.period is not None:
            return self.period if self.period.includes(middle) else None
        with suppress(ValueError):  # it would begin before the year 1 or end after 9999
            return _find_calendar_period(self.text, middle)
        return None


def _find_calendar_period(rule: str, moment: datetime) -> Period:
    """Return the year, season or month of a moment in UTC."""
    if rule == "season":
        return _make_season(moment.year + (moment.month == 12), moment.month % 12 // 3)
    name = f"{moment.year:04}" if rule == "year" else f"{moment.year:04}-{moment.month:02}"
    return Period.from_name(name)


def _make_season(year: int, season: int) -> Period:
    """Return a season by its position in ``_SEASONS``; that of winter begins in the December before the year."""
    start = datetime(year - 1, 12, 1, tzinfo=UTC) if season == 0 else datetime(year, 3 * season, 1, tzinfo=UTC)
    return Period(f"{year:04}-{_SEASONS[season]}", start, datetime(year, 3 * season + 3, 1, tzinfo=UTC))


def _parse(text: str) -> tuple[datetime, datetime]:
    """Return the first moment of a year, month or day, and the first one after it.

    Raises:
        ValueError: it is none of these, or its end is out of the calendar.
    """
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){0,2}", text):
        raise ValueError(text)
    try:
        return parse_period(text)
    except OverflowError as error:
        raise ValueError(text) from error


def _format_day(moment: datetime) -> str:
    return moment.date().isoformat()
